"""`learned`: each weight has a gate g = sigmoid(u / T) that multiplies it; Adam learns u while the temperature T falls.

All gates start mostly open. With a = theta * dL/dtheta at the gated weights, which is dL/dg, and rms = RMS of a at step
0, Adam descends (a / rms - sparsity) g (1 - g) / T. T falls from WARM to COLD, so that every gate ends open or shut and
the last losses are those of a binary mask; a weight is shut where u < 0. `sparsity` pulls every gate open, so only
weights that help by more than that end shut. Sets are found that help together; single-weight estimates (taylor) cannot
see those. From given masks, the gates start at them and cooler, and rms is that of the untouched weights if it is
larger: near a minimum gradients are noise, and steps in units of it would be huge.

Relaxed gates with a falling temperature are those of the concrete distribution (Maddison et al. 2017, arXiv
1611.00712; Louizos et al. 2018, arXiv 1712.01312), without its noise.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..host_model import HostModel, Key
from ..progress import Progress
from ..ranks import ranks_of
from ..settings import SampleLoss, SearchSettings, Step, measured, root_mean_square

OPEN = 1.0  # u of an open gate at the start
WARM, FROM_MASKS, COLD = 1.0, 0.3, 0.1  # temperatures: first, first where masks are given, last
SQUARES, SMALL = 0.99, 1e-3  # Adam: decay of the mean square, what is added to its root, in units of rms


def learned(
    model: HostModel,
    sample_loss: SampleLoss,
    settings: SearchSettings,
    progress: Progress | None = None,
    *,
    start: Iterable[tuple[Key, Tensor]] | None = None,
) -> dict[Key, Tensor]:
    """Scores >= 0 where the weight ended shut. start: which weights are on to begin with, by key; default all."""
    u = {name: model.new_statistic(weight).fill_(OPEN) for name, weight in sorted(model.weights.items())}
    for name, on in start or ():
        u[name].copy_(torch.where(on, OPEN, -OPEN))
    mean = {name: model.new_statistic(score).zero_() for name, score in u.items()}
    square = {name: model.new_statistic(score).zero_() for name, score in u.items()}
    progress, tensors = progress or Progress(), {"u": u, "mean": mean, "square": square}

    def left_on() -> dict[Key, Tensor]:
        return {name: score > 0 for name, score in u.items()}

    first, numbers = progress.resumed("search", tensors)
    rms, ranks = numbers.get("rms", 0.0), ranks_of(model)
    warm = FROM_MASKS if start else WARM
    if start and not first:
        rms = root_mean_square(measured(model, sample_loss(0), None)[1], ranks)
    for i in range(first, settings.steps):
        done = i / settings.steps
        temperature = warm * (COLD / warm) ** done
        gates = {name: torch.sigmoid(score / temperature) for name, score in u.items()}
        with progress.keeping("search", i, tensors, rms=rms):
            loss, a = measured(model, sample_loss(i), gates)
        rms = max(rms, root_mean_square(a, ranks)) if i == 0 else rms
        for name, gate in gates.items():
            slope = a[name].div_(rms).sub_(settings.sparsity).mul_(gate * (1 - gate) / temperature)
            mean[name].lerp_(slope, 1 - settings.momentum)
            square[name].lerp_(slope.square_(), 1 - SQUARES)
            root = square[name].div(1 - SQUARES ** (i + 1)).sqrt_().add_(SMALL)
            u[name].addcdiv_(mean[name], root, value=-settings.rate * (1 - done) / (1 - settings.momentum ** (i + 1)))
        progress.step(Step(i + 1, settings.steps, loss, "search", left_on), tensors, rms=rms)
    return {name: score.neg_() for name, score in u.items()}
