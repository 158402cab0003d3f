"""Find one concept's neurons: loss -> search -> ranking -> density chosen on held-out noise -> ConceptMask.

Search and choice of density use separate streams of noise, all from one seed. The model is borrowed: it is as before
afterwards, also when the loss fails or `on_step` raises to cancel. If nothing lowers the held-out loss, the mask is
empty and says so; only a user who fixes the density can get a mask that does not help.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from ..errors import ConesError
from ..masks.concept_mask import ConceptMask
from ..models.phrases import OWN_WORDS, OwnWords
from .density import GRID, DensityCurve, density_curve
from .estimate import Estimate, OnEstimate, estimate
from .host_model import HostModel
from .methods import METHODS
from .objective import Examples, Term, held_out_loss, sample_loss
from .progress import Progress
from .ranking import from_ranking
from .ranks import ranks_of
from .resume import Resume, model_inputs, state_of
from .settings import OnStep, SearchSettings, recommended, share_shut

log = logging.getLogger("cones")

_SEARCH, _CHOOSING = 0, 2  # streams of noise
_SHARES = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0)  # of the set that `learned` ends with, the densities to choose from


@dataclass(frozen=True)
class SearchResult:
    """A mask, how its density was chosen, the loss of each step, the scores of all searched entries, seconds taken.

    `estimate` is what was measured before the first step, where the caller asked for it.
    """

    mask: ConceptMask
    curve: DensityCurve
    history: list[float]
    scores: dict[str, Tensor]
    seconds: float
    estimate: Estimate | None = None

    @property
    def found(self) -> bool:
        """Whether the mask lowers the held-out loss. If not, it is empty, unless the user fixed its density."""
        return self.curve.helps


def find_concept_neurons(
    model: HostModel,
    subject: Examples,
    prior: Examples | None = None,
    *,
    identifier: str,
    class_word: str,
    settings: SearchSettings | None = None,
    density: float | None = None,
    prior_weight: float = 1.0,
    distill: bool = False,
    own_words: OwnWords = OWN_WORDS[0],
    provenance: Mapping[str, str] | None = None,
    on_step: OnStep | None = None,
    on_estimate: OnEstimate | None = None,
    resume: Resume | None = None,
) -> SearchResult:
    """Search with `settings` (default: `recommended(model.where)`), then shut `density`, or as many as helps (None).

        result = find_concept_neurons(model, Examples(latents, conditioning), identifier="sks", class_word="dog")
        save_mask(result.mask, "sks-dog.safetensors")

    `prior`: class pictures and captions; with `distill`, any pictures (the subject's will do) under the class caption.
    It may be left out at own tokens only, where other prompts cannot change. `own_words`: the rule by which the
    caller found the own tokens of `subject`; the mask keeps it. `provenance`: further facts for the mask.
    `on_step` may raise to cancel. `on_estimate` hears, before the first step, what the search will need; it costs two
    gradients on small batches. `resume`: from `resuming`, for a search that may be stopped and called again. Both are
    ignored where several processes share the search (ranks.py).
    """
    started = time.monotonic()
    settings = settings or recommended(model.where)
    terms = _terms(model, subject, prior, prior_weight, distill)
    inputs = (terms, settings, density)
    ranks = ranks_of(model)
    if ranks.size > 1:  # which would resume at different steps; and the estimate's batches are too small to share
        resume = on_estimate = None
    progress = Progress(on_step, state_of(resume, "find", *model_inputs(model), *inputs) if resume else None)
    with torch.inference_mode(False), torch.enable_grad():
        expected = None
        if on_estimate:
            densities = (1 + len(_SHARES) if settings.method == "learned" else len(GRID)) if density is None else 2
            expected = estimate(model, partial(sample_loss, model, terms, _SEARCH), settings, densities)
            on_estimate(expected)
        batches = sample_loss(model, terms, _SEARCH, settings)
        scores = progress.scores(model, lambda: METHODS[settings.method](model, batches, settings, progress))
        shut = share_shut(scores, ranks) if settings.method == "learned" else 0.0
        grid = (0.0, *(shut * share for share in _SHARES)) if shut else GRID
        held_out = held_out_loss(model, terms, _CHOOSING, settings)
        curve = density_curve(scores, held_out, grid, fixed=density, progress=progress, ranks=ranks)
        by_name = {name: score for (_, name), score in scores.items()}
        mask = from_ranking(
            by_name,
            curve.chosen,
            ranks,
            identifier=identifier,
            class_word=class_word,
            where=model.where,
            fingerprint=model.fingerprint(),
            sketch=model.sketch(),
            own_words=own_words if model.where == "own tokens" else OWN_WORDS[0],
            provenance=_provenance(terms, prior_weight, settings, curve, density) | dict(provenance or {}),
        )
    if not curve.helps:
        log.warning("'%s %s': density %g does not lower the held-out loss", identifier, class_word, curve.chosen)
    return SearchResult(mask, curve, progress.history, by_name, time.monotonic() - started, expected)


def _terms(
    model: HostModel, subject: Examples, prior: Examples | None, prior_weight: float, distill: bool
) -> list[Term]:
    """The subject's term and the prior's, where there is one."""
    if prior is None and (distill or model.where == "everywhere"):
        raise ConesError(
            f"a search {model.where} without a prior, distill={distill}: give class pictures, or any "
            "pictures with the class caption to distil from, or search at own tokens without distill"
        )
    if not 0.0 <= prior_weight < float("inf"):
        raise ConesError(f"prior weight {prior_weight}; expected 0 or more")
    return [Term(subject), *([Term(prior, prior_weight, distill)] if prior else [])]


def _provenance(
    terms: Sequence[Term], prior_weight: float, settings: SearchSettings, curve: DensityCurve, fixed: float | None
) -> dict[str, str]:
    chosen, prior = curve.chosen_at, terms[1] if len(terms) > 1 else None
    facts = asdict(settings) | {
        "pictures": len(terms[0].examples.latents),
        "prior": "none" if prior is None else "distilled" if prior.distilled else "class pictures",
        "prior_weight": prior_weight,
        "density_chosen": "on held-out noise" if fixed is None else "by the user",
        "held_out_before": f"{curve.losses[0]:.6g}",
        "held_out_after": f"{curve.losses[chosen]:.6g}",
        "held_out_gain": f"{curve.gains[chosen]:.6g}",
        "held_out_standard_error": f"{curve.standard_errors[chosen]:.6g}",
        "found": "yes" if curve.helps else "no density helps" if fixed is None else "no gain at this density",
    }
    return {name: str(value) for name, value in facts.items()}
