"""What the nodes share: the socket type of a concept mask, categories, search words."""

from __future__ import annotations

from comfy_api.latest import io

ConceptMaskSocket = io.Custom("CONES_CONCEPT_MASK")  # a ConceptMask: plain data, CPU tensors and strings
CATEGORY = "Cones"
ALIASES = ["cones", "concept neurons", "personalization", "subject", "dreambooth", "lora alternative"]
