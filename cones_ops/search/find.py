"""Find one concept's neurons: loss -> search -> ranking -> density chosen on held-out noise -> ConceptMask.

Search, `progressive`'s stopping and the choice of density use three separate streams of noise, all from one seed. The
model is borrowed: it is as before afterwards, also when the loss fails or `on_step` raises to cancel. If nothing lowers
the held-out loss, the mask is empty and says so; only a user who fixes the density can get a mask that does not help.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..errors import ConesError
from ..masks.concept_mask import ConceptMask
from ..masks.fingerprint import fingerprint
from .density import GRID, DensityCurve, density_curve
from .estimate import Estimate, OnEstimate, estimate
from .host_model import HostModel, Multiplier
from .methods import METHODS
from .objective import Examples, concept_implanting_loss, denoised_draws, draw, per_draw_loss
from .ranking import from_ranking
from .settings import Evaluate, OnStep, SampleLoss, SearchSettings, Step, recommended, share_shut

log = logging.getLogger("cones")

_SEARCH, _STOPPING, _CHOOSING = range(3)  # streams of noise
_OWN_DENSITY = ("learned", "progressive")  # methods that end with a set of their own
_PARTS = (0.7, 0.8, 0.9, 1.0)  # of that set: its gain falls off steeply below, so look closely there


@dataclass(frozen=True)
class SearchResult:
    """A mask, how its density was chosen, the loss of each step, the scores of all searched entries, seconds taken.

    `estimate` is what was measured before the first step, where somebody wanted to hear it.
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


@dataclass(frozen=True)
class Task:
    """What to implant into which model: L_con as the search and the choice of density draw it."""

    model: HostModel
    subject: Examples
    prior: Examples | None
    prior_weight: float
    distill: bool  # the prior compares with the frozen model instead of the prior's pictures

    def __post_init__(self) -> None:
        if self.prior is None and (self.distill or self.model.where == "everywhere"):
            raise ConesError(
                f"a search {self.model.where} without a prior, distill={self.distill}: give class pictures, or any "
                "pictures with the class caption to distil from, or search at own tokens without distill"
            )
        if not 0.0 <= self.prior_weight < float("inf"):
            raise ConesError(f"prior weight {self.prior_weight}; expected 0 or more")


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
    on_step: OnStep | None = None,
    on_estimate: OnEstimate | None = None,
) -> SearchResult:
    """Search with `settings` (default: `recommended(model.where)`), then shut `density`, or as many as helps (None).

    `prior`: class pictures and captions; with `distill`, any pictures (the subject's will do) under the class caption.
    It may be left out at own tokens only, where other prompts cannot change. `on_step` may raise to cancel.
    `on_estimate`: hears, before the first step, what the search will need; it costs two gradients on small batches.
    """
    started = time.monotonic()
    settings = settings or recommended(model.where)
    task = Task(model, subject, prior, prior_weight, distill)
    history: list[float] = []
    with torch.inference_mode(False), torch.enable_grad():
        expected = estimate(model, partial(sample_loss, task), settings) if on_estimate else None
        if on_estimate and expected:
            on_estimate(expected)
        stopping = held_out_loss(task, settings, _STOPPING) if settings.method == "progressive" else None
        method, record = METHODS[settings.method], _recording(history, on_step)
        scores = method(model, sample_loss(task, settings), settings, on_step=record, held_out=stopping)
        own = share_shut(scores) if settings.method in _OWN_DENSITY else 0.0
        grid = (*GRID, *(own * part for part in _PARTS)) if own else GRID
        curve = density_curve(scores, held_out_loss(task, settings), grid, fixed=density, on_step=on_step)
        mask = from_ranking(
            scores,
            curve.chosen,
            identifier=identifier,
            class_word=class_word,
            where=model.where,
            fingerprint=fingerprint(model.weights),
            provenance=_provenance(task, settings, curve, density),
        )
    if not curve.helps:
        log.warning("'%s %s': density %g does not lower the held-out loss", identifier, class_word, curve.chosen)
    return SearchResult(mask, curve, history, scores, time.monotonic() - started, expected)


def sample_loss(task: Task, settings: SearchSettings) -> SampleLoss:
    """Step k's batch of L_con as a closure; the same for every method with the same seed."""

    def at(k: int) -> Callable[[], Tensor]:
        generator = generator_of(settings.seed, _SEARCH, k)
        ours = draw(task.subject, settings.batch, generator)
        if task.prior is None:
            return lambda: concept_implanting_loss(task.model, task.subject, ours)
        theirs = draw(task.prior, settings.batch, generator)
        target = denoised_draws(task.model, task.prior, theirs) if task.distill else None
        prior, weight = task.prior, task.prior_weight
        return lambda: concept_implanting_loss(task.model, task.subject, ours, prior, theirs, weight, target)

    return at


def held_out_loss(task: Task, settings: SearchSettings, stream: int = _CHOOSING) -> Evaluate:
    """L_con of `settings.held_out` fixed draws the search never sees, (B,), as a function of the multiplier."""
    model, generator = task.model, generator_of(settings.seed, stream, 0)
    ours = draw(task.subject, settings.held_out, generator).split(settings.batch)
    theirs = draw(task.prior, settings.held_out, generator).split(settings.batch) if task.prior else []
    targets = [denoised_draws(model, task.prior, d) if task.distill else None for d in theirs] if task.prior else []

    @torch.no_grad()
    def evaluate(multiplier: Multiplier | None) -> Tensor:
        with model.multiplied(multiplier):
            loss = torch.cat([per_draw_loss(model, task.subject, draws) for draws in ours])
            for i, draws in enumerate(theirs):
                assert task.prior is not None
                rows = slice(i * settings.batch, i * settings.batch + len(draws.which))
                loss[rows] += task.prior_weight * per_draw_loss(model, task.prior, draws, targets[i])
        return loss

    return evaluate


def generator_of(seed: int, stream: int, step: int) -> torch.Generator:
    """A CPU generator for one batch; streams and steps are independent of each other."""
    state = np.random.SeedSequence((seed, stream, step)).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))


def _recording(history: list[float], on_step: OnStep | None) -> OnStep:
    def record(step: Step) -> None:
        history.append(step.loss)
        if on_step:
            on_step(step)

    return record


def _provenance(task: Task, settings: SearchSettings, curve: DensityCurve, fixed: float | None) -> dict[str, str]:
    at = curve.chosen_at
    facts = asdict(settings) | {
        "pictures": len(task.subject.latents),
        "prior": "none" if task.prior is None else "distilled" if task.distill else "class pictures",
        "prior_weight": task.prior_weight,
        "density_chosen": "on held-out noise" if fixed is None else "by the user",
        "held_out_before": f"{curve.losses[0]:.6g}",
        "held_out_after": f"{curve.losses[at]:.6g}",
        "held_out_gain": f"{curve.gains[at]:.6g}",
        "held_out_standard_error": f"{curve.standard_errors[at]:.6g}",
        "found": "yes" if curve.helps else "no density helps" if fixed is None else "no gain at this density",
    }
    return {name: str(value) for name, value in facts.items()}
