"""Concept mask files: one `.safetensors` per concept, pickle-free, the same bytes for the same mask.

Tensors: `<weight name without .weight>.index`, coded by index_coding (version 1, still read: int32 positions). Metadata
(strings): ModelSpec 1.0.1 keys, `cones.*` for the mask's own fields, `cones.search.*` for its provenance. Loading
validates everything and names what is wrong; metadata of other programs is left alone. Nothing is overwritten unless
asked, and a write happens whole or not at all.
"""

from __future__ import annotations

import base64
import json
import os
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import ConesError, listed
from .concept_mask import ConceptMask
from .rice_coding import CodedIndices, encode_index

FORMAT_VERSION = "2"
_FIELDS = ("format_version", "shapes", "identifier", "class_word", "where", "fingerprint", "count", "size")
_VERSIONS = {"1": _FIELDS, "2": (*_FIELDS, "crc32")}
_SEARCH = "cones.search."
MOST_THUMBNAIL = 100_000  # bytes; programs that list models read headers up to 1 MB


def save_mask(
    mask: ConceptMask,
    path: str | Path,
    overwrite: bool = False,
    cover: bytes | None = None,
    thumbnail: bytes | None = None,
) -> Path:
    """Write `mask` to `path` (must end in .safetensors), and `cover`, a PNG's bytes, beside it as `<name>.png`.

        save_mask(result.mask, "concept_masks/sks-dog.safetensors", overwrite=True)

    thumbnail: a small JPEG's bytes, which go into the file's metadata.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ConesError(f"{path.name}: a concept mask is saved as .safetensors; use a name that ends so")
    picture = path.with_suffix(".png")
    taken = [p.name for p in (path, picture) if p.exists() and (p == path or cover is not None)]
    if taken and not overwrite:
        raise ConesError(f"{listed(taken)} exists already; choose another name, or allow overwriting")
    if thumbnail is not None and len(thumbnail) > MOST_THUMBNAIL:
        raise ConesError(f"a thumbnail of {len(thumbnail)} bytes; at most {MOST_THUMBNAIL} fit in a file's header")
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {_key(name): encode_index(i, prod(mask.shapes[name])) for name, i in mask.index.items()}
    write_whole(path, stable_bytes(tensors, _metadata(mask, _crc32(tensors)) | _embedded(thumbnail)))
    if cover is not None:
        write_whole(picture, cover)
    return path


def load_mask(path: str | Path) -> ConceptMask:
    """Read and validate a concept mask; ConesError names what is wrong with the file.

    both = union(load_mask("sks-dog.safetensors"), load_mask("zwx-cat.safetensors"))
    """
    path = Path(path)
    with _opened(path) as file:
        meta = _checked_metadata(path, file.metadata())
        coded = {key: file.get_tensor(key) for key in sorted(file.keys())}
    try:
        shapes = _shapes(meta["cones.shapes"])
        index = _indices(coded, shapes, meta["cones.format_version"])
        mask = ConceptMask(
            index,
            shapes,
            identifier=meta["cones.identifier"],
            class_word=meta["cones.class_word"],
            where=meta["cones.where"],  # type: ignore[arg-type]  # ConceptMask checks it
            fingerprint=meta["cones.fingerprint"],
            provenance={key[len(_SEARCH) :]: value for key, value in meta.items() if key.startswith(_SEARCH)},
        )
    except ConesError as error:
        raise ConesError(f"{path.name}: {error}") from None
    for field in ("count", "size"):
        if meta[f"cones.{field}"] != str(getattr(mask, field)):
            said, has = meta[f"cones.{field}"], getattr(mask, field)
            raise ConesError(f"{path.name}: says {field} {said} but has {has}; the file may be damaged")
    if "cones.crc32" in meta and meta["cones.crc32"] != _crc32(coded):
        raise ConesError(f"{path.name}: the indices are not those that were saved; the file is damaged, fetch it again")
    return mask


def read_mask_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a concept mask file, from its header only (other programs' keys included)."""
    path = Path(path)
    with _opened(path) as file:
        return _checked_metadata(path, file.metadata())


def _metadata(mask: ConceptMask, crc32: str) -> dict[str, str]:
    facts = mask.provenance
    phrase = f"{mask.identifier} {mask.class_word}".strip()
    meta = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{facts.get('architecture', 'unknown')}/concept-mask",
        "modelspec.implementation": "cones_ops",
        "modelspec.title": phrase or "concept mask",
        "modelspec.resolution": facts.get("resolution", "unknown"),
        "modelspec.trigger_phrase": phrase,
        "modelspec.description": f"Concept neurons of '{phrase}': {mask.count} of {mask.size} ({mask.density:.3%}).",
        "cones.format_version": FORMAT_VERSION,
        "cones.shapes": json.dumps(mask.shapes, sort_keys=True, separators=(",", ":")),
        "cones.identifier": mask.identifier,
        "cones.class_word": mask.class_word,
        "cones.where": mask.where,
        "cones.fingerprint": mask.fingerprint,
        "cones.count": str(mask.count),
        "cones.size": str(mask.size),
        "cones.crc32": crc32,
    }
    if "date" in facts:
        meta["modelspec.date"] = facts["date"]
    if phrase:
        meta |= {"ss_output_name": phrase, "ss_tag_frequency": json.dumps({"concept": {phrase: 1}})}
    if "base_model_version" in facts:
        meta["ss_base_model_version"] = facts["base_model_version"]
    return meta | {_SEARCH + key: value for key, value in facts.items()}


def _embedded(thumbnail: bytes | None) -> dict[str, str]:
    """A thumbnail where ModelSpec has it, and where ComfyUI's model library looks."""
    if thumbnail is None:
        return {}
    text = base64.b64encode(thumbnail).decode()
    return {"modelspec.thumbnail": f"data:image/jpeg;base64,{text}", "ssmd_cover_images": json.dumps([text])}


def stable_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A .safetensors file's bytes, the same for the same contents (the library's own header has no fixed order)."""
    raw = save(dict(tensors), dict(metadata))
    length = int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + raw[8 + length :]


def _crc32(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of the names and bytes of all tensors, in the order of their names, as 8 hexadecimal digits."""
    crc = 0
    for key in sorted(tensors):
        crc = zlib.crc32(tensors[key].numpy().data, zlib.crc32(key.encode(), crc))
    return f"{crc:08x}"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise ConesError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except SafetensorError as error:
        raise ConesError(f"{path.name}: not a readable safetensors file ({error}); is it whole?") from None


def _checked_metadata(path: Path, metadata: Mapping[str, str] | None) -> dict[str, str]:
    meta = dict(metadata or {})
    version = meta.get("cones.format_version")
    if version is None:
        raise ConesError(f"{path.name}: not a concept mask (no cones.format_version); a LoRA or a checkpoint, perhaps?")
    if version not in _VERSIONS:
        reads = " and ".join(_VERSIONS)
        raise ConesError(f"{path.name}: format version {version}, this program reads {reads}; please update")
    known = {f"cones.{field}" for field in _VERSIONS[version]}
    if missing := known - set(meta):
        raise ConesError(f"{path.name}: metadata without {listed(missing)}; the file may be damaged")
    own = {key for key in meta if key.startswith("cones.") and not key.startswith(_SEARCH)}
    if unknown := own - known:
        raise ConesError(f"{path.name}: unknown metadata {listed(unknown)}; the file may be from a newer version")
    return meta


def _shapes(text: str) -> dict[str, tuple[int, ...]]:
    try:
        shapes = json.loads(text)
    except ValueError:
        raise ConesError("cones.shapes is not JSON; the file may be damaged") from None
    if not isinstance(shapes, dict):
        raise ConesError("cones.shapes does not map names to shapes; the file may be damaged")
    if bad := [name for name, shape in shapes.items() if not _is_shape(shape)]:
        raise ConesError(f"cones.shapes is not a list of positive sides for {listed(bad)}; the file may be damaged")
    return {name: tuple(shape) for name, shape in shapes.items()}


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list) and all(type(side) is int and side > 0 for side in shape)


def _indices(coded: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], version: str) -> Mapping[str, Tensor]:
    names = {_key(name): name for name in shapes}
    if unknown := set(coded) - set(names):
        raise ConesError(f"tensors that belong to no searched weight: {listed(unknown)}")
    by_name = {names[key]: tensor for key, tensor in coded.items()}
    if version != "1":
        return CodedIndices(by_name, {name: prod(shapes[name]) for name in by_name})
    if other := [name for name, tensor in by_name.items() if tensor.dtype != torch.int32]:
        kind = by_name[other[0]].dtype
        raise ConesError(f"index of type {kind}, expected torch.int32, in {listed(other)}; the file may be damaged")
    return by_name


def _key(name: str) -> str:
    return name.removesuffix(".weight") + ".index"
