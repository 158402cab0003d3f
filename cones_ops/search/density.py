"""How many neurons to shut: the density is chosen on held-out noise, never by an absolute tau.

For each density of a grid the top of the ranking is shut and the loss measured on the same draws as for density 0, so
differences are paired. Chosen is the sparsest density within 5 % of the best gain, among those whose gain exceeds two
paired standard errors; if there is none, 0: no density helps, and shutting would be harm or luck.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from ..errors import ConesError
from .host_model import Key
from .progress import Progress
from .ranking import Ranking
from .ranks import ALONE, Ranks
from .settings import Evaluate, Step

# shares of the searched entries: .01 % to 30 %, four or five to a decade
GRID = (0.0, *(round(0.0001 * 3000 ** (i / 15), 6) for i in range(16)))
NEAR_BEST = 0.95
SURE = 2.0  # paired standard errors


@dataclass(frozen=True)
class DensityCurve:
    """Held-out loss by density, sparsest first; densities[0] = 0 is the untouched model. `chosen` is one of them."""

    densities: tuple[float, ...]
    counts: tuple[int, ...]
    losses: tuple[float, ...]
    gains: tuple[float, ...]  # mean of (loss at 0 - loss), paired
    standard_errors: tuple[float, ...]  # of the gains
    chosen: float

    @property
    def chosen_at(self) -> int:
        """Position of the chosen density."""
        return self.densities.index(self.chosen)

    @property
    def helps(self) -> bool:
        """Whether the chosen density lowers the held-out loss by more than two standard errors."""
        return self.gains[self.chosen_at] > SURE * self.standard_errors[self.chosen_at]


def density_curve(
    scores: Mapping[Key, Tensor],
    evaluate: Evaluate,
    grid: Sequence[float] = GRID,
    *,
    fixed: float | None = None,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> DensityCurve:
    """Measure every density of `grid` and 0, and choose one of them; `fixed` is taken instead, and alone measured."""
    ranking = Ranking(scores, ranks)
    size = ranking.size
    densities = tuple(grid) if fixed is None else (fixed,)
    if wrong := [density for density in densities if not 0.0 <= density <= 1.0]:
        raise ConesError(f"densities {wrong} are not shares between 0 and 1")
    counts = sorted({0, *(round(density * size) for density in densities)})
    progress = progress or Progress()
    done, numbers = progress.resumed("choose", {"scores": scores})
    losses = [torch.tensor(loss, dtype=torch.float64) for loss in numbers.get("losses", [])]
    for i, count in enumerate(counts[done:], done):
        on = {key: ~shut for key, shut in ranking.top(count).items()} if count else None
        with progress.keeping("choose", i, {"scores": scores}, losses=[loss.tolist() for loss in losses]):
            losses.append(_finite(evaluate(on), count / size))
        progress.step(
            Step(i + 1, len(counts), float(losses[-1].mean()), "choose"),
            {"scores": scores},
            losses=[loss.tolist() for loss in losses],
        )
    gains, errors = zip(*(paired(losses[0] - loss) for loss in losses), strict=True)
    chosen = counts[_choose(gains, errors)] if fixed is None else round(fixed * size)
    means = tuple(float(loss.mean()) for loss in losses)
    return DensityCurve(tuple(n / size for n in counts), tuple(counts), means, gains, errors, chosen / size)


def _choose(gains: Sequence[float], errors: Sequence[float]) -> int:
    sure = [i for i, (gain, error) in enumerate(zip(gains, errors, strict=True)) if gain > SURE * error]
    if not sure:
        return 0
    best = max(gains[i] for i in sure)
    return next(i for i in sure if gains[i] >= NEAR_BEST * best)


def paired(gain: Tensor) -> tuple[float, float]:
    """Mean and standard error of paired differences (B,)."""
    if gain.numel() < 2:
        raise ConesError(f"{gain.numel()} held-out draws; at least 2 are needed to tell a gain from luck")
    return float(gain.mean()), float(gain.std()) / gain.numel() ** 0.5


def _finite(loss: Tensor, density: float) -> Tensor:
    if not isfinite(float(loss.sum())):
        raise ConesError(
            f"the held-out loss is not finite at density {density:.4%}; are latents and conditioning in range?"
        )
    return loss.detach().cpu().double()
