"""The density is chosen on paired held-out losses."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from cones_ops import ConesError, Step
from cones_ops.search.density import GRID, density_curve
from cones_ops.search.progress import Progress

SCORES = {
    (0, "a"): torch.tensor([5.0, 1.0]),
    (0, "b"): torch.tensor([[4.0, 2.0], [3.0, 0.0]]),
}  # order a0 b0 b2 b1 a1 b3
NOISE = torch.tensor([-1.0, 0.0, 1.0])  # of the draws: the same at every density, so it cancels


def told(by_count: dict[int, list[float]], seen: list | None = None):
    """An evaluator that returns the loss told for a number of shut entries."""

    def evaluate(multiplier: dict[tuple[int, str], Tensor] | None) -> Tensor:
        off = {n: (m == 0) for (_, n), m in (multiplier or {}).items()}
        if seen is not None:
            seen.append({n: m.tolist() for n, m in off.items()})
        return NOISE + torch.tensor(by_count[sum(int(m.sum()) for m in off.values())])

    return evaluate


def same(loss: float) -> list[float]:
    return [loss, loss, loss]


SIXTHS = [i / 6 for i in range(5)]


def test_sparsest_within_five_percent_of_the_best_gain() -> None:
    seen: list = []
    losses = {0: same(10), 1: same(8.2), 2: same(6.1), 3: same(6.0), 4: same(7)}  # gains 1.8, 3.9, 4, 3
    curve = density_curve(SCORES, told(losses, seen), SIXTHS)
    assert curve.counts == (0, 1, 2, 3, 4) and curve.chosen == 2 / 6 and curve.chosen_at == 2  # 3.9 >= .95 * 4
    assert curve.gains == pytest.approx((0, 1.8, 3.9, 4, 3)) and curve.losses[2] == pytest.approx(6.1)
    assert curve.standard_errors == pytest.approx((0, 0, 0, 0, 0), abs=1e-6) and curve.helps
    assert seen[0] == {}  # density 0 is the model itself
    assert seen[2] == {"a": [True, False], "b": [[True, False], [False, False]]}
    assert seen[3] == {"a": [True, False], "b": [[True, False], [True, False]]}


def test_a_gain_within_two_standard_errors_is_none() -> None:
    # gains of the three draws 0, 1, 2: mean 1, standard error 1 / sqrt(3) = .577, and 1 < 2 * .577
    losses = {0: same(10), 1: [10, 9, 8], 2: same(11)}
    curve = density_curve(SCORES, told(losses), [0, 1 / 6, 2 / 6])
    assert curve.standard_errors[1] == pytest.approx(3**-0.5)
    assert curve.chosen == 0 and not curve.helps


def test_a_sure_gain_is_chosen_before_a_larger_unsure_one() -> None:
    losses = {0: same(10), 1: same(9.5), 2: [10, 9, 8]}
    assert density_curve(SCORES, told(losses), [1 / 6, 2 / 6]).chosen == 1 / 6


def test_a_fixed_density_is_taken_and_alone_measured() -> None:
    curve = density_curve(SCORES, told({0: same(10), 3: same(12)}), [1 / 6], fixed=0.5)
    assert curve.counts == (0, 3) and curve.chosen == 0.5 and curve.gains[curve.chosen_at] == -2 and not curve.helps


def test_progress_and_refusals() -> None:
    steps: list[Step] = []
    density_curve(SCORES, told({0: same(10), 1: same(9)}), [1 / 6], progress=Progress(steps.append))
    assert steps == [Step(1, 2, 10.0, "choose"), Step(2, 2, 9.0, "choose")]
    with pytest.raises(ConesError, match=r"densities \[1.5\]"):
        density_curve(SCORES, told({}), [1.5])
    with pytest.raises(ConesError, match=r"not finite at density 16\.6667%"):
        density_curve(SCORES, told({0: same(10), 1: same(float("nan"))}), [1 / 6])
    with pytest.raises(ConesError, match="1 held-out draws"):
        density_curve(SCORES, lambda _: torch.ones(1), [0.5])


def test_the_grid_is_logarithmic_from_a_ten_thousandth_to_thirty_percent() -> None:
    assert GRID[0] == 0 and GRID[1] == 0.0001 and GRID[-1] == 0.3
    ratios = [after / before for before, after in pairwise(GRID[1:])]
    assert max(ratios) < 1.8 and min(ratios) > 1.6
