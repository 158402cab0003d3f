"""Tune the concept masks of several subjects together, from where their own searches left them.

The paper's "collaborative capturing": some more steps of `learned` from the masks as they are, on a joint loss, the sum
of each subject's own loss, of the loss of pictures that show the subjects together (if there are any) and of the prior.
Every concept keeps a mask of its own, so that they can still be used apart. A tuned set is returned only if it lowers
the held-out joint loss; the masks passed in are not changed. At own tokens each concept has targets of its own in the
model; everywhere the masks act as their union (`UnionModel`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..errors import ConesError, listed
from ..masks.concept_mask import ConceptMask, Where, multiplier
from .density import SURE, paired
from .estimate import OnEstimate, estimate
from .host_model import HostModel, Key, Multiplier
from .methods.learned import learned
from .objective import Examples, Term, held_out_loss, sample_loss
from .progress import Progress
from .resume import Resume, model_inputs, state_of
from .settings import OnStep, SearchSettings

_SEARCH, _CHOOSING = 10, 11  # streams of noise, other than a single search's


def tuning(seed: int = 0) -> SearchSettings:
    """Settings that worked for joint steps (docs/results/quality.md): fewer than a new search's."""
    return SearchSettings(steps=200, batch=8, seed=seed)


@dataclass(frozen=True)
class TuneResult:
    """One mask per concept; the joint loss before and after on held-out noise; the loss of each step; seconds."""

    masks: tuple[ConceptMask, ...]
    before: float
    after: float  # of the tuned masks, also when the original ones are returned
    gain: float  # mean of before - after, paired
    standard_error: float  # of the gain
    history: list[float]
    seconds: float

    @property
    def tuned(self) -> bool:
        """Whether the steps lowered the held-out loss by two standard errors. If not, the masks are the original."""
        return self.gain > SURE * self.standard_error


class UnionModel:
    """Several concepts on a host that acts everywhere: a weight is shut where any concept's mask shuts it."""

    where: Where = "everywhere"

    def __init__(self, model: HostModel, concepts: int) -> None:
        self._model = model
        self._factors: Multiplier = {}
        self.weights: Mapping[Key, Tensor] = {
            (concept, name): weight for concept in range(concepts) for (_, name), weight in model.weights.items()
        }
        self.sigma_at, self.noised, self.output_scale = model.sigma_at, model.noised, model.output_scale
        self.denoise, self.new_statistic = model.denoise, model.new_statistic
        self.fingerprint, self.sketch = model.fingerprint, model.sketch

    @contextmanager
    def multiplied(self, multiplier: Multiplier | None) -> Iterator[None]:
        """Inside, each weight acts as theta times the product of its concepts' multipliers."""
        union: dict[Key, Tensor] = {}
        for (_, name), factor in (multiplier or {}).items():
            union[0, name] = union[0, name] * factor if (0, name) in union else factor
        before, self._factors = self._factors, multiplier or {}
        try:
            with self._model.multiplied(union):
                yield
        finally:
            self._factors = before

    def gradients(self, loss: Callable[[], Tensor]) -> tuple[Tensor, dict[Key, Tensor]]:
        """The chain rule: what a concept's multiplier can change is what the others leave on."""
        value, by_name = self._model.gradients(loss)
        gradients = {}
        for key in self.weights:
            gradient = by_name[0, key[1]]
            others = [factor for other, factor in self._factors.items() if other[1] == key[1] and other != key]
            if others:
                left_on = torch.stack(others).prod(dim=0)
                gradient = torch.mul(gradient, left_on, out=self.new_statistic(gradient))
            gradients[key] = gradient
        return value, gradients


def tune_concept_masks(
    model: HostModel,
    masks: Sequence[ConceptMask],
    subjects: Sequence[Examples],
    together: Examples | None = None,
    prior: Examples | None = None,
    *,
    settings: SearchSettings,
    prior_weight: float = 1.0,
    on_step: OnStep | None = None,
    on_estimate: OnEstimate | None = None,
    resume: Resume | None = None,
) -> TuneResult:
    """Joint steps on `masks`, one per concept, with `subjects` in the same order; `together`: pictures of them all.

        result = tune_concept_masks(model, [dog, cat], [dog_pictures, cat_pictures], both, settings=tuning())
        dog, cat = result.masks

    model: offers every target once per concept. prior: pictures under class captions whose denoised latents must stay
    those of the untouched model; needed everywhere, useless at own tokens. `on_step` may raise to cancel.
    `on_estimate` hears, before the first step, what the steps will need. `resume`: from
    `resuming`, for steps that may be stopped and called again.
    """
    started = time.monotonic()
    _check(model, masks, subjects, prior)
    terms = [Term(examples) for examples in (*subjects, *([together] if together else []))]
    if prior is not None:
        terms.append(Term(prior, prior_weight, distilled=True))
    inputs = (terms, settings, [(mask.shapes, mask.index) for mask in masks] if resume else None)
    progress = Progress(on_step, state_of(resume, "tune", *model_inputs(model), *inputs) if resume else None)
    with torch.inference_mode(False), torch.enable_grad():
        if on_estimate:
            on_estimate(estimate(model, partial(sample_loss, model, terms, _SEARCH), settings, densities=2))
        on_before = {(k, name): multiplier(mask, name) > 0 for k, mask in enumerate(masks) for name in mask.shapes}
        batches = sample_loss(model, terms, _SEARCH, settings)
        scores = progress.scores(model, lambda: learned(model, batches, settings, progress, start=on_before.items()))
        on_after = {key: score < 0 for key, score in scores.items()}
        held_out = held_out_loss(model, terms, _CHOOSING, settings)
        before, after = held_out(on_before), held_out(on_after)
    gain, error = paired(before - after)
    result = TuneResult(
        tuple(masks),
        float(before.mean()),
        float(after.mean()),
        gain,
        error,
        progress.history,
        time.monotonic() - started,
    )
    if not result.tuned:
        return result
    return replace(result, masks=tuple(_tuned(k, mask, on_after, result) for k, mask in enumerate(masks)))


def _tuned(concept: int, mask: ConceptMask, multipliers: Multiplier, result: TuneResult) -> ConceptMask:
    """A concept's mask as the steps left it, its provenance saying so."""
    index = {name: (multipliers[concept, name] == 0).reshape(-1).nonzero().reshape(-1).cpu() for name in mask.shapes}
    facts = {
        "tuned_with": str(len(result.masks) - 1),
        "tuned_steps": str(len(result.history)),
        "joint_held_out_before": f"{result.before:.6g}",
        "joint_held_out_after": f"{result.after:.6g}",
    }
    return replace(mask, index=index, provenance={**mask.provenance, **facts})


def _check(
    model: HostModel, masks: Sequence[ConceptMask], subjects: Sequence[Examples], prior: Examples | None
) -> None:
    if len(masks) < 2 or len(masks) != len(subjects):
        raise ConesError(f"{len(masks)} masks and {len(subjects)} subjects; give two masks or more, pictures for each")
    if wrong := [mask.identifier for mask in masks if mask.where != model.where]:
        raise ConesError(f"{listed(wrong)}: not found {model.where}, where the model acts; tune masks of one place")
    if model.where == "everywhere" and prior is None:
        raise ConesError("joint steps everywhere without a prior; give pictures with class captions")
    shapes = {key: tuple(weight.shape) for key, weight in model.weights.items()}
    expected = {(k, name): shape for k, mask in enumerate(masks) for name, shape in mask.shapes.items()}
    if wrong := sorted({key[1] for key in {*shapes, *expected} if shapes.get(key) != expected.get(key)}):
        raise ConesError(f"masks and model disagree on {listed(wrong)}; search all masks on the same targets and model")
