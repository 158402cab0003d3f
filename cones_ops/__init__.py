"""Concept neurons of diffusion models (Cones, ICML 2023): find them, keep them, shut them."""

from .concept_mask import ConceptMask
from .errors import ConesError

__all__ = ["ConceptMask", "ConesError"]
