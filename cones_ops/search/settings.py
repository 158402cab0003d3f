"""What all search methods share: settings, the types of their arguments, one measured step.

A method is `method(model, sample_loss, settings, progress) -> scores`, one score per searched entry:
higher = shut first, >= 0 = the method itself would shut it. `sample_loss(k)` draws step k's batch and returns its loss
as a closure; call it while nothing is multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import ConesError
from ..masks.concept_mask import Where
from .host_model import HostModel, Key, Multiplier
from .ranks import ALONE, Ranks

MethodName = Literal["learned", "cones", "taylor"]
Phase = Literal["search", "choose"]
Evaluate = Callable[[Multiplier | None], Tensor]
SampleLoss = Callable[[int], Callable[[], Tensor]]


@dataclass(frozen=True)
class Step:
    """Progress: `step` of `total` done in this phase; `loss` of the batch, or of the density tried.

    multiplier: gives what the weights are multiplied with after this step; None where a method changes none of them.
    """

    step: int
    total: int
    loss: float
    phase: Phase
    multiplier: Callable[[], Multiplier] | None = None


OnStep = Callable[[Step], None]


@dataclass(frozen=True)
class SearchSettings:
    """Settings of every method; `recommended` has what the benchmark found best."""

    method: MethodName = "learned"
    steps: int = 300
    batch: int = 16
    seed: int = 0
    held_out: int = 64  # paired draws for choosing the density
    rate: float = 0.1  # learned: Adam's, of the gates' u; falls to 0
    sparsity: float = 0.03  # learned: constant pull towards leaving a weight on, in RMS gradients
    momentum: float = 0.9  # learned: Adam's
    shrink: float = 0.2  # cones: how far the 99th percentile of |theta * dL/dtheta| moves its weight in the whole run

    def __post_init__(self) -> None:
        if self.method not in get_args(MethodName):
            raise ConesError(f"method {self.method!r} is not known; choose one of {', '.join(get_args(MethodName))}")
        wrong = [f"{n}={getattr(self, n)}" for n in ("steps", "batch") if getattr(self, n) < 1]
        wrong += [f"held_out={self.held_out}"] * (self.held_out < 2) + [f"seed={self.seed}"] * (self.seed < 0)
        wrong += [f"{n}={getattr(self, n)}" for n in ("rate", "shrink") if not 0 < getattr(self, n) < float("inf")]
        wrong += [f"momentum={self.momentum}"] * (not 0 <= self.momentum < 1)
        wrong += [f"sparsity={self.sparsity}"] * (not isfinite(self.sparsity))
        if wrong:
            raise ConesError(f"search settings out of range: {', '.join(wrong)}")


def recommended(where: Where, method: MethodName = "learned", seed: int = 0) -> SearchSettings:
    """The benchmark's winners (docs/results/quality.md)."""
    return SearchSettings(method, batch=8 if where == "own tokens" else 16, seed=seed)


def measured(
    model: HostModel, loss: Callable[[], Tensor], multiplier: Multiplier | None
) -> tuple[float, dict[Key, Tensor]]:
    """The loss at theta_k = theta * multiplier, and theta * dL/dtheta_k per key; None is multiplier 1."""
    with model.multiplied(multiplier):
        value, gradient = model.gradients(loss)
    if not isfinite(float(value)):
        raise ConesError(f"the loss is {float(value)}; are latents and conditioning those of this model, in range?")
    weights = model.weights
    assert set(gradient) == set(weights), "a host returns a gradient for each of its targets"
    products = {}
    for key, weight in sorted(weights.items()):  # one layer's copy at a time
        products[key] = torch.mul(weight, gradient.pop(key).to(weight), out=model.new_statistic(weight))
    return float(value), products


def share_shut(scores: Mapping[Key, Tensor], ranks: Ranks = ALONE) -> float:
    """The density a method itself would choose: the share of scores >= 0, of all ranks."""
    shut = sum(int((score >= 0).sum()) for score in scores.values())
    return ranks.total(shut) / ranks.total(sum(score.numel() for score in scores.values()))


def root_mean_square(tensors: Mapping[Key, Tensor], ranks: Ranks = ALONE) -> float:
    """Over all entries of all tensors of all ranks; ConesError when there is no gradient or it is not finite."""
    total = ranks.total(sum(float(t.square().sum()) for t in tensors.values()))
    rms: float = (total / ranks.total(sum(t.numel() for t in tensors.values()))) ** 0.5
    if not 0.0 < rms < float("inf"):
        raise ConesError(f"the gradient of the searched weights is {rms}; does the conditioning reach them?")
    return rms
