"""`progressive`: shut a few weights, score again at the shut weights, shut more, until the held-out loss stops falling.

Rounds are nested (what is shut stays shut) and densities grow geometrically up to `densest`; the steps are shared out
evenly among the rounds. It stops after two rounds without a new lowest held-out loss and returns to the best round.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..host_model import HostModel, Key
from ..ranking import Ranking
from ..settings import Evaluate, OnStep, SampleLoss, SearchSettings, Step, measured, root_mean_square

SPARSEST = 0.005  # density of the first round, as a share of the last one's
PATIENCE = 2


def progressive(
    model: HostModel,
    sample_loss: SampleLoss,
    settings: SearchSettings,
    *,
    on_step: OnStep | None = None,
    held_out: Evaluate | None = None,
) -> dict[Key, Tensor]:
    """Scores: weights shut in earlier rounds first, all >= 0; weights never shut negative, by their last score."""
    rounds = min(settings.rounds, settings.steps)
    weights = sorted(model.weights.items())
    shut_in = {name: model.new_statistic(weight).zero_() for name, weight in weights}  # the round, from 1; 0 = still on
    score = {
        name: model.new_statistic(weight).zero_() for name, weight in weights
    }  # of the last round in which it was on
    fresh = {name: model.new_statistic(weight).zero_() for name, weight in weights}
    best, best_round, stale, rms = _held_out_loss(held_out, shut_in), 0, 0, 0.0
    for r in range(1, rounds + 1):
        on = _still_on(shut_in)
        for k in range((r - 1) * settings.steps // rounds, r * settings.steps // rounds):
            loss, a = measured(model, sample_loss(k), on)
            rms = rms or root_mean_square(a)
            for name, total in fresh.items():
                total.add_(a.pop(name))
            if on_step:
                on_step(Step(k + 1, settings.steps, loss, "search"))
        for name, total in fresh.items():
            score[name].copy_(torch.where(on[name], total, score[name]))
            total.zero_()
        if not _shut_more(shut_in, score, r, _density(r, rounds, settings.densest)):
            continue
        now, stale = _held_out_loss(held_out, shut_in), stale + 1
        if held_out is None or now < best:
            best, best_round, stale = now, r, 0
        if stale == PATIENCE:
            break
    for name, shut in shut_in.items():
        tie = score[name] / (score[name].abs() + rms)  # (-1, 1)
        kept = (shut > 0) & (shut <= best_round)
        score[name].copy_(torch.where(kept, 2 * (rounds - shut) + 1 + tie, tie - 1.5))
    return score


def _density(r: int, rounds: int, densest: float) -> float:
    return densest * float(SPARSEST ** ((rounds - r) / max(rounds - 1, 1)))


def _shut_more(shut_in: Mapping[Key, Tensor], score: Mapping[Key, Tensor], r: int, density: float) -> bool:
    """Mark the best entries still on, if their score says shrinking helps, up to `density`; whether there were any."""
    on = Ranking({name: torch.where(shut == 0, score[name], 0) for name, shut in shut_in.items()})
    more = round(density * on.size) - sum(int(shut.count_nonzero()) for shut in shut_in.values())
    found = 0
    for name, top in on.top(more).items():
        chosen = top & (on.scores[name] > 0)
        shut_in[name][chosen] = r
        found += int(chosen.sum())
    return found > 0


def _still_on(shut_in: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
    return {name: shut == 0 for name, shut in shut_in.items()}


def _held_out_loss(held_out: Evaluate | None, shut_in: Mapping[Key, Tensor]) -> float:
    return float("inf") if held_out is None else float(held_out(_still_on(shut_in)).mean())
