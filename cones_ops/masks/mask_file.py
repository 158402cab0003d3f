"""Concept mask files: one `.safetensors` per concept, pickle-free, the same bytes for the same mask.

Tensors: `<weight name without .weight>.index`, coded by index_coding (version 1, still read: int32 positions). Metadata
(strings): ModelSpec 1.0.1 keys, `cones.*` for the mask's own fields, `cones.search.*` for its provenance. Loading
validates everything and names what is wrong; metadata of other programs is left alone. Nothing is overwritten unless
asked, and a write happens whole or not at all.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import ConesError, listed
from ..models.phrases import OWN_WORDS
from .concept_mask import ConceptMask
from .mask_header import MOST_WEIGHTS, SEARCH, checked_metadata, crc32_of, key_of, metadata_of, shapes_of
from .rice_coding import CodedIndices, encode_index
from .whole_files import IfExists, write_whole

log = logging.getLogger("cones")

MOST_HEADER = 2**24  # bytes
MOST_THUMBNAIL = 100_000  # bytes; programs that list models read headers up to 1 MB


def save_mask(
    mask: ConceptMask,
    path: str | Path,
    if_exists: IfExists = "error",
    cover: bytes | None = None,
    thumbnail: bytes | None = None,
) -> Path:
    """Write `mask` to `path` (must end in .safetensors); returns where it is, which "number" may have changed.

        save_mask(result.mask, "concept_masks/sks-dog.safetensors", "overwrite")

    if_exists: "error" refuses a name that is taken, by a cover too; "overwrite" replaces file and cover; "number" takes
    the next free of `name-2`, `name-3`, .... Of several savers of one new name exactly one gets it. cover: a PNG's
    bytes, written beside it as `<name>.png`; one that cannot be written is logged, as the mask matters more.
    thumbnail: a small JPEG's bytes, which go into the file's metadata.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ConesError(f"{path.name}: a concept mask is saved as .safetensors; use a name that ends so")
    if thumbnail is not None and len(thumbnail) > MOST_THUMBNAIL:
        raise ConesError(f"a thumbnail of {len(thumbnail)} bytes; at most {MOST_THUMBNAIL} fit in a file's header")
    if if_exists == "error" and cover is not None and path.with_suffix(".png").exists():
        raise ConesError(f"{path.with_suffix('.png').name} exists already; choose another name, or allow overwriting")
    outdated_cover = if_exists == "overwrite" and cover is None and _has_cover(path)
    tensors = {key_of(name): encode_index(i, prod(mask.shapes[name])) for name, i in mask.index.items()}
    content = stable_bytes(tensors, metadata_of(mask, tensors, thumbnail))
    path = write_whole(path, content, if_exists, ".png" if cover is not None else "")
    try:
        if cover is not None:
            write_whole(path.with_suffix(".png"), cover, "overwrite" if if_exists == "overwrite" else "error")
        elif outdated_cover:
            path.with_suffix(".png").unlink(missing_ok=True)
    except (ConesError, OSError) as error:
        log.warning("%s is saved, but its cover is not: %s", path.name, error)
    return path


def save_mask_anyhow(
    mask: ConceptMask,
    path: str | Path,
    if_exists: IfExists = "error",
    cover: bytes | None = None,
    thumbnail: bytes | None = None,
) -> tuple[Path, str]:
    """`save_mask` of a search's result, which must not be lost: (where the mask is, what went wrong, "" if nothing).

    Where `path` cannot be written, or its name is taken by now, the next number is tried, then a short name there, in
    the working folder and in the folder for temporary files. ConesError, the first, if nothing can be written at all.
    """
    path = Path(path)
    try:
        return save_mask(mask, path, if_exists, cover, thumbnail), ""
    except ConesError as error:
        first = error
    words = re.sub(r"[^\w-]+", "-", f"{mask.identifier}-{mask.class_word}")[:40].strip("-") or "concept"
    name = f"{words}.safetensors"
    for file in (path.with_suffix(".safetensors"), path.with_name(name), Path(name), Path(gettempdir()) / name):
        with suppress(ConesError):
            saved = save_mask(mask, file, "number", cover, thumbnail)
            return saved, f"{first}. The mask is kept as {saved}"
    raise first


def load_mask(path: str | Path) -> ConceptMask:
    """Read and validate a concept mask; ConesError names what is wrong with the file.

    both = union(load_mask("sks-dog.safetensors"), load_mask("zwx-cat.safetensors"))
    """
    path = Path(path)
    with _opened(path) as file:
        meta = checked_metadata(path, file.metadata())
        coded = _tensors(path, file)
    try:
        shapes = shapes_of(meta["cones.shapes"])
        index = _indices(coded, shapes, meta["cones.format_version"])
        mask = ConceptMask(
            index,
            shapes,
            identifier=meta["cones.identifier"],
            class_word=meta["cones.class_word"],
            where=meta["cones.where"],  # type: ignore[arg-type]  # ConceptMask checks it
            fingerprint=meta["cones.fingerprint"],
            sketch=meta.get("cones.sketch", ""),
            own_words=meta.get("cones.own_words", OWN_WORDS[0]),  # type: ignore[arg-type]
            provenance={key[len(SEARCH) :]: value for key, value in meta.items() if key.startswith(SEARCH)},
        )
    except ConesError as error:
        raise ConesError(f"{path.name}: {error}") from None
    for field in ("count", "size"):
        if meta[f"cones.{field}"] != str(getattr(mask, field)):
            said, has = meta[f"cones.{field}"], getattr(mask, field)
            raise ConesError(f"{path.name}: says {field} {said} but has {has}; the file may be damaged")
    if "cones.crc32" in meta and meta["cones.crc32"] != crc32_of(coded, meta):
        raise ConesError(f"{path.name}: not as it was saved (its checksum differs); it is damaged, so fetch it again")
    return mask


def read_mask_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a concept mask file, from its header only (other programs' keys included)."""
    path = Path(path)
    with _opened(path) as file:
        return checked_metadata(path, file.metadata())


def stable_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A .safetensors file's bytes, the same for the same contents (the library's own header has no fixed order)."""
    raw = save(dict(tensors), dict(metadata))
    length = int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + raw[8 + length :]


def _has_cover(path: Path) -> bool:
    """Whether the mask file at `path`, if there is one, was saved with a picture of its own."""
    try:
        return "modelspec.thumbnail" in read_mask_metadata(path)
    except ConesError:
        return False


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; every way in which it is none is a ConesError."""
    try:
        if not path.is_file():
            raise ConesError(f"{path}: no such file")
        with path.open("rb") as raw:
            header = int.from_bytes(raw.read(8), "little")
        if header > MOST_HEADER:
            raise ConesError(f"{path.name}: not a readable safetensors file (header of {header} bytes); is it whole?")
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ConesError(f"{path.name}: not a readable safetensors file ({error}); is it whole?") from None


def _tensors(path: Path, file: Any) -> dict[str, Tensor]:
    """All tensors by name, which must be bytes or int32 in a row, as no other is an index."""
    keys = sorted(file.keys())
    if len(keys) > MOST_WEIGHTS:
        raise ConesError(f"{path.name}: {len(keys)} tensors, which no concept mask has; is it another file?")
    kinds = {key: file.get_slice(key).get_dtype() for key in keys}
    if other := [key for key, kind in kinds.items() if kind not in ("U8", "I32")]:
        seen = f"{listed(other)} of type {kinds[other[0]]}"
        raise ConesError(f"{path.name}: {seen}, expected U8 (I32 in version 1); the file may be damaged")
    return {key: file.get_tensor(key) for key in keys}


def _indices(coded: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], version: str) -> Mapping[str, Tensor]:
    names = {key_of(name): name for name in shapes}
    if unknown := set(coded) - set(names):
        raise ConesError(f"tensors that belong to no searched weight: {listed(unknown)}")
    by_name = {names[key]: tensor for key, tensor in coded.items()}
    if version != "1":
        return CodedIndices(by_name, {name: prod(shapes[name]) for name in by_name})
    if other := [name for name, tensor in by_name.items() if tensor.dtype != torch.int32]:
        kind = by_name[other[0]].dtype
        raise ConesError(f"index of type {kind}, expected torch.int32, in {listed(other)}; the file may be damaged")
    return by_name
