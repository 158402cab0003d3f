"""Tune the concept masks of several subjects together, from where their own searches left them.

The paper's "collaborative capturing": some more steps of `learned` from the given masks on a joint loss, which is the
sum of each subject's own loss, of the loss of pictures that show the subjects together (if there are any) and of the
prior. Every concept keeps a mask of its own, so that they can still be used apart. A tuned set is returned only if it
lowers the held-out joint loss; the given masks are not changed.

Hosts that act at own tokens offer each target once per concept, under the name `slot(k, name)`. Everywhere the masks
act as their union (`UnionModel`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import ConesError, listed
from ..masks.concept_mask import ConceptMask, Where, multiplier
from .density import SURE, paired
from .estimate import OnEstimate, estimate
from .find import generator_of
from .host_model import HostModel, Multiplier
from .methods.learned import learned
from .objective import Examples, denoised_draws, draw, per_draw_loss
from .settings import OnStep, SearchSettings

NEAR = 0.1  # scores start this far from the threshold, so that few steps can change a mask
_SEARCH, _CHOOSING = 10, 11  # streams of noise, other than a single search's


def slot(k: int, name: str) -> str:
    """The name of a target as concept k (from 0) sees it."""
    return f"{k}/{name}"


def slot_of(key: str) -> tuple[int, str]:
    """The inverse of `slot`."""
    k, name = key.split("/", 1)
    return int(k), name


def tuning(seed: int = 0) -> SearchSettings:
    """Settings that worked for joint steps (docs/results/quality.md): larger moves than a new search, and fewer."""
    return SearchSettings(steps=200, batch=8, seed=seed, rate=20.0, sparsity=0.1)


@dataclass(frozen=True)
class TuneResult:
    """One mask per concept; the joint loss before and after on held-out noise; the loss of each step; seconds."""

    masks: tuple[ConceptMask, ...]
    before: float
    after: float  # of the tuned masks, also when the given ones are returned
    gain: float  # mean of before - after, paired
    standard_error: float  # of the gain
    history: list[float]
    seconds: float

    @property
    def tuned(self) -> bool:
        """Whether the steps lowered the held-out loss by two standard errors. If not, the masks are those given."""
        return self.gain > SURE * self.standard_error


class UnionModel:
    """Several concepts on a host that acts everywhere: a weight is shut where any concept's mask shuts it."""

    where: Where = "everywhere"

    def __init__(self, model: HostModel, concepts: int) -> None:
        self._model = model
        self._factors: Multiplier = {}
        self.weights: Mapping[str, Tensor] = {
            slot(k, name): weight for k in range(concepts) for name, weight in model.weights.items()
        }
        self.sigma_at, self.noised, self.output_scale = model.sigma_at, model.noised, model.output_scale
        self.denoise, self.room = model.denoise, model.room

    @contextmanager
    def multiplied(self, multiplier: Multiplier | None) -> Iterator[None]:
        """Inside, each weight acts as theta times the product of its concepts' multipliers."""
        union: dict[str, Tensor] = {}
        for key, factor in (multiplier or {}).items():
            name = slot_of(key)[1]
            union[name] = union[name] * factor if name in union else factor
        before, self._factors = self._factors, multiplier or {}
        try:
            with self._model.multiplied(union):
                yield
        finally:
            self._factors = before

    def gradients(self, loss: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The chain rule: what a concept's multiplier can change is what the others leave on."""
        value, gradient = self._model.gradients(loss)
        found = {}
        for key in self.weights:
            name = slot_of(key)[1]
            others = [f for other, f in self._factors.items() if slot_of(other)[1] == name and other != key]
            found[key] = gradient[name]
            if others:
                left_on = torch.stack(others).prod(dim=0)
                found[key] = torch.mul(gradient[name], left_on, out=self.room(gradient[name]))
        return value, found


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
) -> TuneResult:
    """Joint steps on `masks`, one per concept, with `subjects` in the same order; `together`: pictures of them all.

    model: offers every target once per concept (`slot`). prior: pictures under class captions whose denoised latents
    must stay those of the untouched model; needed everywhere, useless at own tokens. `on_step` may raise to cancel.
    `on_estimate`: hears, before the first step, what the steps will need.
    """
    started = time.monotonic()
    _check(model, masks, subjects, prior)
    terms = [(one, 1.0, False) for one in (*subjects, *([together] if together else []))]
    if prior is not None:
        terms.append((prior, prior_weight, True))
    history: list[float] = []

    def record(step: Any) -> None:
        history.append(step.loss)
        if on_step:
            on_step(step)

    with torch.inference_mode(False), torch.enable_grad():
        if on_estimate:
            on_estimate(estimate(model, partial(_sample_loss, model, terms), settings))
        given = {slot(k, n): multiplier(m, n) > 0 for k, m in enumerate(masks) for n in m.shapes}
        start = ((key, 0.5 - NEAR + 2 * NEAR * on) for key, on in given.items())
        scores = learned(model, _sample_loss(model, terms, settings), settings, on_step=record, start=start)
        tuned = {key: score < 0 for key, score in scores.items()}
        held_out = _held_out(model, terms, settings)
        before, after = held_out(given), held_out(tuned)
    gain, error = paired(before - after)
    done = TuneResult(
        tuple(masks), float(before.mean()), float(after.mean()), gain, error, history, time.monotonic() - started
    )
    return replace(done, masks=tuple(_tuned(k, m, tuned, done) for k, m in enumerate(masks))) if done.tuned else done


Terms = Sequence[tuple[Examples, float, bool]]  # pictures, weight, whether the untouched model is the example


def _sample_loss(model: HostModel, terms: Terms, settings: SearchSettings) -> Callable[[int], Callable[[], Tensor]]:
    """Step k's batch of the joint loss, `batch` rows a term, as a closure."""

    def at(k: int) -> Callable[[], Tensor]:
        generator = generator_of(settings.seed, _SEARCH, k)
        draws = [(one, draw(one, settings.batch, generator), weight, frozen) for one, weight, frozen in terms]
        parts = [(e, d, w, denoised_draws(model, e, d) if frozen else None) for e, d, w, frozen in draws]
        return lambda: torch.stack([w * per_draw_loss(model, e, d, t).mean() for e, d, w, t in parts]).sum()

    return at


def _held_out(model: HostModel, terms: Terms, settings: SearchSettings) -> Callable[[Multiplier], Tensor]:
    """The joint loss of `held_out` fixed draws a term, (held_out,), as a function of the multiplier."""
    generator = generator_of(settings.seed, _CHOOSING, 0)
    parts = []
    for one, weight, frozen in terms:
        for i, draws in enumerate(draw(one, settings.held_out, generator).split(settings.batch)):
            target = denoised_draws(model, one, draws) if frozen else None
            parts.append((i * settings.batch, one, draws, weight, target))

    @torch.no_grad()
    def evaluate(multiplier: Multiplier) -> Tensor:
        loss = torch.zeros(settings.held_out, dtype=torch.float64)
        with model.multiplied(multiplier):
            for first, one, draws, weight, target in parts:
                loss[first : first + len(draws.which)] += weight * per_draw_loss(model, one, draws, target).cpu()
        return loss

    return evaluate


def _tuned(k: int, mask: ConceptMask, multipliers: Multiplier, result: TuneResult) -> ConceptMask:
    """A concept's mask as the steps left it, its provenance saying so."""
    index = {name: (multipliers[slot(k, name)] == 0).reshape(-1).nonzero().reshape(-1).cpu() for name in mask.shapes}
    told = {
        "tuned_with": str(len(result.masks) - 1),
        "tuned_steps": str(len(result.history)),
        "joint_held_out_before": f"{result.before:.6g}",
        "joint_held_out_after": f"{result.after:.6g}",
    }
    return replace(mask, index=index, provenance={**mask.provenance, **told})


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
    expected = {slot(k, name): shape for k, mask in enumerate(masks) for name, shape in mask.shapes.items()}
    if wrong := sorted(key for key in {*shapes, *expected} if shapes.get(key) != expected.get(key)):
        raise ConesError(f"masks and model disagree on {listed(wrong)}; search all masks on the same targets and model")
