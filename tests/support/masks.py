"""Concept masks for tests: by hand, and random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cones_ops.masks.concept_mask import ConceptMask

Shapes = Mapping[str, tuple[int, ...]]


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
