"""Concept masks for tests: by hand, random ones, and MASK and its file, changed or as earlier versions wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cones_ops import read_mask_metadata, save_mask
from cones_ops.masks.concept_mask import ConceptMask
from cones_ops.masks.rice_coding import encode_index

Shapes = Mapping[str, tuple[int, ...]]
SHAPES = {"b.to_v.weight": (2, 3), "a.to_k.weight": (4, 1)}
MASK = ConceptMask(
    {"a.to_k.weight": torch.tensor([0, 3]), "b.to_v.weight": torch.tensor([5])},
    SHAPES,
    identifier="sks",
    class_word="star",
    where="own tokens",
    fingerprint="abc",
    provenance={"method": "learned", "seed": "7", "date": "2026-01-31"},
)


def make_mask(positions: Mapping[str, Sequence[int]], shapes: Shapes, *fields: str, **more: Any) -> ConceptMask:
    """A mask with the neurons at these positions of each weight; the fields are ConceptMask's."""
    index = {name: torch.tensor(entries, dtype=torch.int64) for name, entries in positions.items()}
    return ConceptMask(index, shapes, *fields, **more)


def random_mask(shapes: Shapes, seed: int, density: float, *fields: str, **more: Any) -> ConceptMask:
    """A mask with each entry of the weights a neuron by chance."""
    generator = torch.Generator().manual_seed(seed)
    index = {
        name: (torch.rand(shape, generator=generator) < density).flatten().nonzero().flatten()
        for name, shape in shapes.items()
    }
    return ConceptMask(index, shapes, *fields, **more)


def rewritten(path: Path, tensors: dict | None = None, **meta: str | None) -> Path:
    """A saved MASK with some tensors and metadata replaced (None removes)."""
    save_mask(MASK, path)
    all_meta = {k: v for k, v in (read_mask_metadata(path) | meta).items() if v is not None}
    save_file(load_file(path) if tensors is None else tensors, path, all_meta)
    return path


def version_1(path: Path, tensors: dict, **meta: str) -> Path:
    """A file as version 1 wrote it: int32 positions, no checksum."""
    metadata = {
        "modelspec.title": "sks star",
        "cones.format_version": "1",
        "cones.shapes": '{"a.to_k.weight": [4, 1], "b.to_v.weight": [2, 3]}',
        "cones.identifier": "sks",
        "cones.class_word": "star",
        "cones.where": "own tokens",
        "cones.fingerprint": "abc",
        "cones.count": "3",
        "cones.size": "10",
        "cones.search.method": "learned",
        "cones.search.seed": "7",
        "cones.search.date": "2026-01-31",
    }
    save_file(tensors, path, metadata | meta)
    return path


def version_2(path: Path, crc32: str = "a83995fc") -> Path:
    """MASK as version 2 wrote it, with a checksum over the indices alone, worked out by version 2."""
    version_1(path, {}, **{"cones.format_version": "2", "cones.crc32": crc32})
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({"a.to_k.index": coded([0, 3], 4), "b.to_v.index": coded([5], 6)}, path, metadata)
    return path


def int32(*positions: int) -> torch.Tensor:
    return torch.tensor(positions, dtype=torch.int32)


def coded(positions: list[int], size: int) -> torch.Tensor:
    return encode_index(torch.tensor(positions), size)


def fields(mask: ConceptMask) -> tuple:
    return mask.shapes, mask.identifier, mask.class_word, mask.where, mask.fingerprint, mask.provenance
