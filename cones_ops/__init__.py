"""Concept neurons of diffusion models (Cones, ICML 2023): find them, keep them, shut them.

`find_concept_neurons` finds a `ConceptMask` through a host's `HostModel`, `tune_concept_masks` tunes several
together; `save_mask` and `load_mask` keep them; `union`, `intersection`, `difference` and `restrict` combine masks;
hosts put them on models with `shut_`.
"""

from .concept_mask import ConceptMask, Where, difference, empty, intersection, restrict, union
from .errors import ConesError
from .find import SearchResult, find_concept_neurons
from .fingerprint import fingerprint
from .hostmodel import HostModel
from .loss import Examples
from .mask_file import load_mask, read_mask_metadata, save_mask
from .ranking import from_ranking
from .search import METHODS, SearchSettings, Step, recommended
from .shut import shut_
from .targets import TARGET_CHOICES, TargetChoice, select_targets
from .threshold import DensityCurve
from .together import TuneResult, tune_concept_masks, tuning

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
    "TuneResult",
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
    "tune_concept_masks",
    "tuning",
    "union",
]
