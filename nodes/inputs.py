"""What the nodes share: the socket type of a concept mask, categories, search words."""

from __future__ import annotations

from typing import get_args

from comfy_api.latest import io

from ..cones_ops.masks.concept_mask import Where

WHERES: tuple[Where, ...] = get_args(Where)[::-1]  # own tokens first: what users should try first
ConceptMaskSocket = io.Custom("CONES_CONCEPT_MASK")  # a ConceptMask: plain data, CPU tensors and strings
CATEGORY = "Cones"
ALIASES = [
    *("cones", "concept neurons", "personalization", "personalisation", "subject", "custom subject", "multi concept"),
    *("dreambooth", "lora alternative", "textual inversion", "custom diffusion"),
]
