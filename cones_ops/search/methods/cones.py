"""`cones`: Algorithm 1 of the paper, as far as it is known, in multiplier form theta_k = M_k * theta, M_0 = 1.

score += theta_k * g_k,  M_{k+1} = M_k - rho * M_k * (theta_k * g_k),  g_k = dL/dtheta_k: signed accumulation while each
weight shrinks along its own descent. The literal rho = 2e-5 is below float resolution, so rho is set from the first
step: in all steps together the 99th percentile of |theta * g| moves M by `shrink`. Accumulators are fp32. M stays
within [0, 2], which the paper does not say, so that no weight changes sign or runs away.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import ConesError
from ..host_model import HostModel, Key
from ..progress import Progress
from ..ranks import ranks_of
from ..settings import SampleLoss, SearchSettings, Step, measured, root_mean_square

SAMPLE = 1_000_000  # entries the percentile is taken from


def cones(
    model: HostModel,
    sample_loss: SampleLoss,
    settings: SearchSettings,
    progress: Progress | None = None,
) -> dict[Key, Tensor]:
    """Scores = mean of theta_k * dL/dtheta_k over the steps; positive = shrinking helps."""
    if (size := ranks_of(model).size) > 1:
        raise ConesError(f"the method cones cannot be shared by {size} processes; use learned, or one process")
    multiplier = {name: model.new_statistic(weight).fill_(1) for name, weight in sorted(model.weights.items())}
    score = {name: model.new_statistic(m).zero_() for name, m in multiplier.items()}
    progress, tensors = progress or Progress(), {"multiplier": multiplier, "score": score}
    first, numbers = progress.resumed("search", tensors)
    rho = numbers.get("rho", 0.0)
    for k in range(first, settings.steps):
        with progress.keeping("search", k, tensors, rho=rho):
            loss, a = measured(model, sample_loss(k), multiplier)
        rho = rho or _step_size(a, settings)
        for name, m in multiplier.items():
            theta_g = m * a[name]  # theta_k * g_k
            score[name].add_(theta_g, alpha=1 / settings.steps)
            m.sub_(rho * m * theta_g).clamp_(0, 2)
        progress.step(Step(k + 1, settings.steps, loss, "search", lambda: multiplier), tensors, rho=rho)
    return score


def _step_size(a: dict[Key, Tensor], settings: SearchSettings) -> float:
    rms = root_mean_square(a)  # also refuses a vanishing gradient
    every = max(1, sum(t.numel() for t in a.values()) // SAMPLE)
    sample, first = [], 0
    for t in a.values():
        sample.append(t.reshape(-1)[first::every].abs())
        first = (first - t.numel()) % every
    typical = float(torch.quantile(torch.cat(sample), 0.99)) or rms
    return settings.shrink / (settings.steps * typical)
