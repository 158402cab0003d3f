"""Concept neurons of diffusion models (Cones, ICML 2023): find them, keep them, shut them.

`find_concept_neurons(model, ...)` finds a `ConceptMask` through a host's `HostModel`; `save_mask` and `load_mask` keep
it; `union`, `intersection`, `difference` and `restrict` combine masks; hosts put them on models with `shut_`.
"""

from .concept_mask import ConceptMask, Where, difference, empty, from_ranking, intersection, restrict, union
from .errors import ConesError
from .find import SearchResult, find_concept_neurons
from .fingerprint import fingerprint
from .hostmodel import HostModel
from .loss import Examples
from .mask_file import load_mask, read_mask_metadata, save_mask
from .search import METHODS, SearchSettings, Step, recommended
from .shut import shut_
from .targets import TARGET_CHOICES, TargetChoice, select_targets
from .threshold import DensityCurve

__all__ = [
    "METHODS",
    "TARGET_CHOICES",
    "ConceptMask",
    "ConesError",
    "DensityCurve",
    "Examples",
    "HostModel",
    "SearchResult",
    "SearchSettings",
    "Step",
    "TargetChoice",
    "Where",
    "difference",
    "empty",
    "find_concept_neurons",
    "fingerprint",
    "from_ranking",
    "intersection",
    "load_mask",
    "read_mask_metadata",
    "recommended",
    "restrict",
    "save_mask",
    "select_targets",
    "shut_",
    "union",
]
