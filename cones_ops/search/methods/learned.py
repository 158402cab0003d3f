"""`learned`: a real-valued score s per weight decides whether it is on (s > 1/2); gradients pass straight through.

All weights start on. With a = theta * dL/dtheta at the masked weights and v its running mean,
s <- clamp(s - 0.01 c (1 - i/K) (v / rms - sparsity), 0, 1), rms = RMS of a at step 0: a weight whose shrinking lowers
the loss loses score until it is shut, and returns when that turns. The loss is always that of a binary mask, so sets
are found that help together; single-weight estimates (taylor) cannot see those. From a given start, rms is that of the
untouched weights if it is larger: near a minimum gradients are noise, and steps in units of it would be huge.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..host_model import HostModel, Key
from ..progress import Progress
from ..ranks import ranks_of
from ..settings import SampleLoss, SearchSettings, Step, measured, root_mean_square


def learned(
    model: HostModel,
    sample_loss: SampleLoss,
    settings: SearchSettings,
    progress: Progress | None = None,
    *,
    start: Iterable[tuple[Key, Tensor]] | None = None,
) -> dict[Key, Tensor]:
    """Scores >= 0 where the weight ended shut. start: s to begin with, in [0, 1], by key; default 1, nothing shut."""
    s = {name: model.new_statistic(weight).fill_(1) for name, weight in sorted(model.weights.items())}
    for name, value in start or ():
        s[name].copy_(value)
    v = {name: model.new_statistic(score).zero_() for name, score in s.items()}
    pushed = {name: model.new_statistic(score).zero_() for name, score in s.items()}
    progress, tensors = progress or Progress(), {"s": s, "v": v, "pushed": pushed}

    def left_on() -> dict[Key, Tensor]:
        return {name: score > 0.5 for name, score in s.items()}

    first, numbers = progress.resumed("search", tensors)
    rms, ranks = numbers.get("rms", 0.0), ranks_of(model)
    if start and not first:
        rms = root_mean_square(measured(model, sample_loss(0), None)[1], ranks)
    for i in range(first, settings.steps):
        with progress.keeping("search", i, tensors, rms=rms):
            loss, a = measured(model, sample_loss(i), left_on())
        rms = max(rms, root_mean_square(a, ranks)) if i == 0 else rms
        pace = 0.01 * settings.rate * (1 - i / settings.steps)
        for name in s:
            v[name].lerp_(a[name], 1 - settings.momentum)
            push = pace * (v[name] / rms - settings.sparsity)
            s[name].sub_(push).clamp_(0, 1)
            pushed[name].add_(push)
        progress.step(Step(i + 1, settings.steps, loss, "search", left_on), tensors, rms=rms)
    return {name: score.copy_(_ranked(score, pushed[name])) for name, score in s.items()}


def _ranked(s: Tensor, pushed: Tensor) -> Tensor:
    """1/2 - s; entries clamped at an end are ordered among themselves, beyond it, by all that pushed them there."""
    tie = pushed / (1 + pushed.abs())  # (-1, 1)
    return 0.5 - s + torch.where(s == 0, tie + 1, 0) + torch.where(s == 1, tie - 1, 0)
