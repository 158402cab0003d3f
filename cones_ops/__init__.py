"""Concept neurons of diffusion models (Cones, ICML 2023): find them, keep them, shut them.

`find_concept_neurons` finds a `ConceptMask` through a host's `HostModel`, `tune_concept_masks` tunes several
together; `save_mask` and `load_mask` keep them; `union`, `intersection`, `difference` and `restrict` combine masks;
hosts put them on models with `shut_`.
"""

from .errors import ConesError
from .masks.concept_mask import ConceptMask, Where, difference, empty, intersection, restrict, union
from .masks.fingerprint import fingerprint
from .masks.mask_file import load_mask, read_mask_metadata, save_mask, save_mask_anyhow
from .masks.shut import shut_
from .models.targets import TARGET_CHOICES, TargetChoice, select_targets
from .search.density import DensityCurve
from .search.find import SearchResult, find_concept_neurons
from .search.host_model import HostModel
from .search.joint import TuneResult, tune_concept_masks, tuning
from .search.methods import METHODS
from .search.objective import Examples
from .search.ranking import from_ranking
from .search.resume import Resume, digest, resuming
from .search.settings import SearchSettings, Step, recommended

__all__ = [
    "METHODS",
    "TARGET_CHOICES",
    "ConceptMask",
    "ConesError",
    "DensityCurve",
    "Examples",
    "HostModel",
    "Resume",
    "SearchResult",
    "SearchSettings",
    "Step",
    "TargetChoice",
    "TuneResult",
    "Where",
    "difference",
    "digest",
    "empty",
    "find_concept_neurons",
    "fingerprint",
    "from_ranking",
    "intersection",
    "load_mask",
    "read_mask_metadata",
    "recommended",
    "restrict",
    "resuming",
    "save_mask",
    "save_mask_anyhow",
    "select_targets",
    "shut_",
    "tune_concept_masks",
    "tuning",
    "union",
]
