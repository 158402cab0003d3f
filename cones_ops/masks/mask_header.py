"""The header of a concept mask file: what it says of the mask, and whether that can be believed.

`cones.*` are the mask's own fields, `cones.search.*` its provenance; `modelspec.*`, `ss_*` and `ssmd_*` tell other
programs what the file is. Version 3: `cones.sketch`, and a checksum that covers all of these strings and the indices
(version 2: the indices alone; version 1: nothing). `cones.own_words` is there where the mask's own tokens are not its
identifier and class word.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path

from torch import Tensor

from ..errors import ConesError, listed
from ..models.phrases import OWN_WORDS
from .concept_mask import ConceptMask

FORMAT_VERSION = "3"
_FIELDS = ("format_version", "shapes", "identifier", "class_word", "where", "fingerprint", "count", "size")
_VERSIONS = {"1": _FIELDS, "2": (*_FIELDS, "crc32"), "3": (*_FIELDS, "sketch", "crc32")}
_OPTIONAL = {"cones.own_words"}  # of masks with another rule than the first; older programs refuse them
SEARCH = "cones.search."
OURS = ("cones.", "modelspec.", "ss_", "ssmd_cover_images")  # under the checksum; other programs may add other keys
MOST_WEIGHTS = 20_000
LONGEST_NAME = 1000
MOST_ENTRIES = 2**31 - 1  # of one weight


def key_of(name: str) -> str:
    """The key of a weight's index among the tensors of a file."""
    return name.removesuffix(".weight") + ".index"


def metadata_of(mask: ConceptMask, tensors: Mapping[str, Tensor], thumbnail: bytes | None = None) -> dict[str, str]:
    """What a file's header says of the mask, its coded tensors and its small picture."""
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
        "cones.sketch": mask.sketch,
    }
    if mask.own_words != OWN_WORDS[0]:
        meta["cones.own_words"] = mask.own_words
    if "date" in facts:
        meta["modelspec.date"] = facts["date"]
    if phrase:
        meta |= {"ss_output_name": phrase, "ss_tag_frequency": json.dumps({"concept": {phrase: 1}})}
    if "base_model_version" in facts:
        meta["ss_base_model_version"] = facts["base_model_version"]
    meta |= _embedded(thumbnail) | {SEARCH + key: value for key, value in facts.items()}
    return meta | {"cones.crc32": crc32_of(tensors, meta)}


def _embedded(thumbnail: bytes | None) -> dict[str, str]:
    """A thumbnail where ModelSpec has it, and where ComfyUI's model library looks."""
    if thumbnail is None:
        return {}
    text = base64.b64encode(thumbnail).decode()
    return {"modelspec.thumbnail": f"data:image/jpeg;base64,{text}", "ssmd_cover_images": json.dumps([text])}


def crc32_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The checksum that the metadata's version asks for, as 8 hexadecimal digits.

    CRC-32 of our strings (from version 3 on), then of the names and bytes of all tensors, each in the order of names.
    """
    crc = 0
    if metadata["cones.format_version"] != "2":
        ours = {key: text for key, text in metadata.items() if key.startswith(OURS) and key != "cones.crc32"}
        kinds = {key: [str(tensor.dtype), *tensor.shape] for key, tensor in tensors.items()}
        crc = zlib.crc32(json.dumps([ours, kinds], sort_keys=True).encode())
    for key in sorted(tensors):
        crc = zlib.crc32(tensors[key].numpy().data, zlib.crc32(key.encode(), crc))
    return f"{crc:08x}"


def checked_metadata(path: Path, metadata: Mapping[str, str] | None) -> dict[str, str]:
    """The metadata of a mask file; ConesError unless it has every field of its version, and no other."""
    meta = dict(metadata or {})
    version = meta.get("cones.format_version")
    if version is None:
        raise ConesError(f"{path.name}: not a concept mask (no cones.format_version); a LoRA or a checkpoint, perhaps?")
    if version not in _VERSIONS:
        reads = ", ".join(_VERSIONS)
        raise ConesError(f"{path.name}: format version {version}, this program reads {reads}; please update")
    known = {f"cones.{field}" for field in _VERSIONS[version]}
    if missing := known - set(meta):
        raise ConesError(f"{path.name}: metadata without {listed(missing)}; the file may be damaged")
    own = {key for key in meta if key.startswith("cones.") and not key.startswith(SEARCH)}
    if unknown := own - known - _OPTIONAL:
        raise ConesError(f"{path.name}: unknown metadata {listed(unknown)}; the file may be from a newer version")
    return meta


def shapes_of(text: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the searched weights from `cones.shapes`."""
    try:
        shapes = json.loads(text)
    except (ValueError, RecursionError):
        raise ConesError("cones.shapes is not JSON; the file may be damaged") from None
    if not isinstance(shapes, dict):
        raise ConesError("cones.shapes does not map names to shapes; the file may be damaged")
    if len(shapes) > MOST_WEIGHTS:
        raise ConesError(f"cones.shapes has {len(shapes)} weights; no model has more than {MOST_WEIGHTS}")
    if bad := [name for name in shapes if len(name) > LONGEST_NAME or not name.isprintable()]:
        raise ConesError(f"cones.shapes has names that no weight has: {listed(map(ascii, bad))}")
    if bad := [name for name, shape in shapes.items() if not _is_shape(shape)]:
        raise ConesError(f"cones.shapes is not a list of positive sides for {listed(bad)}; the file may be damaged")
    return {name: tuple(shape) for name, shape in shapes.items()}


def _is_shape(shape: object) -> bool:
    """Whether it is a list of sides, of no more entries than a weight can have."""
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(side) is int for side in shape):
        return False
    return all(0 < side <= MOST_ENTRIES for side in shape) and prod(shape) <= MOST_ENTRIES
