"""A concept mask and a MODEL -> a LoRA file in the host's loras folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....cones_ops.errors import ConesError, listed
from ....cones_ops.masks.concept_mask import ConceptMask
from ....cones_ops.masks.lora_file import check_exportable, export_text, lora_tensors, save_lora
from ....cones_ops.models.weight_names import weight_and_rows
from ..apply.apply_masks import check_base, check_fit
from ..parameters import PREFIX, base_weight, is_quantised, parameter_shapes
from .folders import name_of, wanted_path

FOLDER = "loras"


def export_lora(model: Any, mask: ConceptMask, name: str, overwrite: bool, apply_anyway: bool) -> tuple[str, str]:
    """(name under which LoRA loaders list the file, report). The model is only read."""
    check_exportable(mask)
    check_fit(mask, parameter_shapes(model))
    check_base(model, mask, apply_anyway, {})
    weights = {weight_and_rows(target)[0] for target in mask.index}
    if packed := [weight for weight in weights if is_quantised(model, PREFIX + weight)]:
        raise ConesError(
            f"{listed(packed)} are quantised, and adding a LoRA would quantise them again; export with the checkpoint "
            "in 16 or 32 bit, or use Apply Concept Masks, which is exact for quantised weights too"
        )
    tensors = lora_tensors(mask, lambda weight: base_weight(model, PREFIX + weight))
    path: Path = save_lora(mask, tensors, wanted_path(name, FOLDER), "overwrite" if overwrite else "number")
    return name_of(path, FOLDER), export_text(mask, path)
