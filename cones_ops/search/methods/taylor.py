"""`taylor`: the naive reading, score = mean of theta * dL/dtheta at the untouched weights.

A first-order estimate of what shutting one weight does, used far outside its range; our experiments find it close to
useless as a set. It is here as the honest baseline.
"""

from __future__ import annotations

from torch import Tensor

from ..host_model import HostModel, Key
from ..progress import Progress
from ..settings import SampleLoss, SearchSettings, Step, measured


def taylor(
    model: HostModel,
    sample_loss: SampleLoss,
    settings: SearchSettings,
    progress: Progress | None = None,
) -> dict[Key, Tensor]:
    """Scores positive where shrinking the weight alone lowers the loss."""
    score = {name: model.new_statistic(weight).zero_() for name, weight in sorted(model.weights.items())}
    progress = progress or Progress()
    first, _ = progress.resumed("search", {"score": score})
    for k in range(first, settings.steps):
        with progress.keeping("search", k, {"score": score}):
            loss, a = measured(model, sample_loss(k), None)
        for name in score:
            score[name].add_(a[name], alpha=1 / settings.steps)
        progress.step(Step(k + 1, settings.steps, loss, "search"), {"score": score})
    return score
