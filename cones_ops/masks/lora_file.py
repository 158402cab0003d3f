"""A concept mask that acts everywhere, exported as a LoRA file for one base: what every LoRA loader can load.

For each weight with neurons the file has `diffusion_model.<weight>.diff`, a dense delta: -theta at the neurons and 0
elsewhere, in the weight's own precision, so that base + delta is exactly 0 there. It is right for these base weights
alone, and as large as all weights with neurons together; a concept mask is a fraction of that and checks its base.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConesError
from ..models.weight_names import weight_and_rows
from .concept_mask import ConceptMask
from .mask_file import stable_bytes
from .whole_files import IfExists, write_whole

PREFIX = "diffusion_model."
PRECISIONS = (torch.float16, torch.bfloat16, torch.float32)


def lora_tensors(mask: ConceptMask, weight_of: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Key of a LoRA file -> delta. weight_of: the base weight by its canonical name, whole also where K and V share it.

    ConesError for an empty mask, one that acts at its own tokens, or weights of another shape.
    """
    check_exportable(mask)
    deltas: dict[str, Tensor] = {}
    for name, index in mask.index.items():
        weight_name, rows = weight_and_rows(name)
        first_row = rows.start or 0
        weight = weight_of(weight_name).detach().cpu()
        if (
            weight.ndim != 2
            or first_row + mask.shapes[name][0] > weight.shape[0]
            or weight.shape[1] != mask.shapes[name][1]
        ):
            raise ConesError(
                f"{weight_name}: the mask is for shape {mask.shapes[name]} but the weight has {tuple(weight.shape)}; "
                "give the base model the mask was found on"
            )
        kept = weight if weight.dtype in PRECISIONS else weight.to(torch.float16)  # fp8 is exact in it
        delta = deltas.setdefault(key_of(weight_name), torch.zeros_like(kept, memory_format=torch.contiguous_format))
        positions = index + first_row * weight.shape[1]
        delta.view(-1)[positions] = -kept.reshape(-1)[positions]
    return deltas


def key_of(weight_name: str) -> str:
    """The key of a weight's delta in a LoRA file."""
    return f"{PREFIX}{weight_name.removesuffix('.weight')}.diff"


def check_exportable(mask: ConceptMask) -> None:
    """ConesError unless a LoRA can do what the mask does."""
    who = f"{mask.identifier} {mask.class_word}".strip() or "the concept mask"
    if mask.where != "everywhere":
        raise ConesError(
            f"'{who}' acts at its own tokens, and a LoRA acts for every word: the file would not do what the mask "
            "does. Use Apply Concept Masks, or search with where = everywhere and export that mask"
        )
    if mask.count == 0:
        raise ConesError(f"'{who}' has no neurons, so there is nothing to export; see the report of its search")


def save_lora(mask: ConceptMask, tensors: dict[str, Tensor], path: Path, if_exists: IfExists = "error") -> Path:
    """Write the file, whole or not at all; returns where it is, which "number" may have changed (see save_mask)."""
    if path.suffix != ".safetensors":
        raise ConesError(f"{path.name}: a LoRA is saved as .safetensors; use a name that ends so")
    return write_whole(path, stable_bytes(tensors, _metadata(mask)), if_exists)


def export_text(mask: ConceptMask, path: Path) -> str:
    """What was written, and what to know about it."""
    return (
        f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, for {mask.count:,} neurons of "
        f"'{mask.identifier} {mask.class_word}'. It is dense, and for base weights "
        f"{mask.fingerprint[:12] or 'unknown'} alone: a LoRA loader does not check that. Strength 1 shuts the "
        "neurons as Apply Concept Masks does; a LoRA loaded beside it adds to weights that the mask would shut."
    )


def _metadata(mask: ConceptMask) -> dict[str, str]:
    phrase = f"{mask.identifier} {mask.class_word}".strip()
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{mask.provenance.get('architecture', 'unknown')}/lora",
        "modelspec.implementation": "cones_ops",
        "modelspec.title": phrase or "concept mask",
        "modelspec.resolution": mask.provenance.get("resolution", "unknown"),
        "modelspec.trigger_phrase": phrase,
        "modelspec.description": f"Shuts the {mask.count} concept neurons of '{phrase}'; exported from a concept mask.",
        "cones.exported_fingerprint": mask.fingerprint,
    }
