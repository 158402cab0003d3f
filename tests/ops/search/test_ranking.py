"""The order of scores: by hand, and beside a stable sort of them all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cones_ops import ConesError, from_ranking
from cones_ops.search.ranking import Ranking


def test_the_highest_come_first_and_ties_in_the_order_of_names_and_positions() -> None:
    scores = {"b.weight": torch.tensor([3.0, 1.0]), "a.weight": torch.tensor([[2.0], [3.0], [-5.0]])}
    ranking = Ranking(
        {(0, name): score for name, score in scores.items()}
    )  # in order: a[1] = 3, b[0] = 3, a[0] = 2, b[1] = 1, a[2] = -5
    assert {name: top.tolist() for (_, name), top in ranking.top(3).items()} == {
        "a.weight": [[True], [True], [False]],
        "b.weight": [True, False],
    }
    assert ranking.top(1)[0, "a.weight"].tolist() == [[False], [True], [False]]
    assert [sum(int(top.sum()) for top in ranking.top(n).values()) for n in range(6)] == [0, 1, 2, 3, 4, 5]
    mask = from_ranking(scores, 0.4)
    assert {name: index.tolist() for name, index in mask.index.items()} == {"a.weight": [1], "b.weight": [0]}
    assert from_ranking(scores, 0.0).count == 0 and from_ranking(scores, 1.0).count == 5


@pytest.mark.parametrize("kind", ["spread", "tied", "zeros of both signs", "subnormal"])
def test_it_is_the_order_of_a_stable_sort(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(100, 37, generator=generator), torch.randn(501, generator=generator)
    change = {"tied": Tensor.round, "zeros of both signs": lambda x: 0 * x, "subnormal": lambda x: x * 1e-42}
    a, b = (change.get(kind, lambda x: x)(one) for one in (a, b))
    order = torch.sort(torch.cat([a.reshape(-1), b]), descending=True, stable=True).indices
    ranking = Ranking({(1, "a"): b, (0, "b"): a})
    for count in (0, 1, 2, 77, 1800, 2000, 3700, 4200, 4201):
        expected = torch.zeros(4201, dtype=torch.bool)
        expected[order[:count]] = True
        top = ranking.top(count)
        assert torch.equal(torch.cat([top[0, "b"].reshape(-1), top[1, "a"]]), expected), count


def test_what_cannot_be_ranked_is_named() -> None:
    with pytest.raises(ConesError, match="not finite in a"):
        Ranking({(0, "a"): torch.tensor([float("nan")])})
    with pytest.raises(ConesError, match="no scores"):
        Ranking({})
    with pytest.raises(ConesError, match="density 2"):
        from_ranking({"a": torch.ones(1)}, 2)
