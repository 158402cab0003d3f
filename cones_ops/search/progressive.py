"""`progressive`: shut a few weights, score again at the shut weights, shut more, until the held-out loss stops falling.

Rounds are nested (what is shut stays shut) and densities grow geometrically up to `densest`; the steps are shared out
evenly among the rounds. It stops after two rounds without a new lowest held-out loss and returns to the best round.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..concept_mask import Shapes, flatten, unflatten
from ..hostmodel import HostModel
from .settings import Evaluate, OnStep, SampleLoss, SearchSettings, Step, measured, root_mean_square

SPARSEST = 0.005  # density of the first round, as a share of the last one's
PATIENCE = 2


def progressive(
    model: HostModel,
    sample_loss: SampleLoss,
    settings: SearchSettings,
    *,
    on_step: OnStep | None = None,
    held_out: Evaluate | None = None,
) -> dict[str, Tensor]:
    """Scores: weights shut in earlier rounds first, all >= 0; weights never shut negative, by their last score."""
    shapes = {name: tuple(weight.shape) for name, weight in sorted(model.weights.items())}
    rounds = min(settings.rounds, settings.steps)
    shut_in = torch.zeros_like(flatten(model.weights))  # the round, from 1; 0 = still on
    score = torch.zeros_like(shut_in)  # of the last round in which the weight was on
    best, best_round, stale, rms = _held_out_loss(held_out, shapes, shut_in), 0, 0, 0.0
    for r in range(1, rounds + 1):
        fresh = torch.zeros_like(shut_in)
        for k in range((r - 1) * settings.steps // rounds, r * settings.steps // rounds):
            loss, a = measured(model, sample_loss(k), unflatten((shut_in == 0).float(), shapes))
            rms = rms or root_mean_square(a)
            fresh += flatten(a)
            if on_step:
                on_step(Step(k + 1, settings.steps, loss, "search"))
        score = torch.where(shut_in == 0, fresh, score)
        if not _shut_more(shut_in, score, r, _density(r, rounds, settings.densest)):
            continue
        now, stale = _held_out_loss(held_out, shapes, shut_in), stale + 1
        if held_out is None or now < best:
            best, best_round, stale = now, r, 0
        if stale == PATIENCE:
            break
    tie = score / (score.abs() + rms)  # (-1, 1)
    scores = torch.where((shut_in > 0) & (shut_in <= best_round), 2 * (rounds - shut_in) + 1 + tie, tie - 1.5)
    return unflatten(scores, shapes)


def _density(r: int, rounds: int, densest: float) -> float:
    return densest * float(SPARSEST ** ((rounds - r) / max(rounds - 1, 1)))


def _shut_more(shut_in: Tensor, score: Tensor, r: int, density: float) -> bool:
    """Mark the best entries still on, if their score says shrinking helps, up to `density`; whether there were any."""
    more = round(density * shut_in.numel()) - int((shut_in > 0).sum())
    top = torch.topk(score.masked_fill(shut_in > 0, 0), max(more, 0))
    chosen = top.indices[top.values > 0]
    shut_in[chosen] = r
    return chosen.numel() > 0


def _held_out_loss(held_out: Evaluate | None, shapes: Shapes, shut_in: Tensor) -> float:
    if held_out is None:
        return float("inf")
    loss = held_out(unflatten((shut_in == 0).float(), shapes))
    return float(loss.mean())
