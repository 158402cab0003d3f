"""shut_: the one in-place edit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cones_ops import ConesError, shut_


def bits(weight: torch.Tensor) -> bytes:
    return weight.contiguous().numpy().tobytes()


def test_by_hand() -> None:
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert shut_(weight, torch.tensor([1, 2]), 0.25) is weight
    assert weight.tolist() == [[1, 1.5], [2.25, 4]]


def test_weights_that_are_not_contiguous() -> None:
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).t()  # [[1, 3], [2, 4]]
    assert shut_(weight, torch.tensor([1])).tolist() == [[1, 0], [2, 4]]


floats = st.lists(st.floats(width=32), min_size=1, max_size=12)


@given(floats, st.data(), st.floats(0, 1))
def test_invariants(values: list[float], data: st.DataObject, strength: float) -> None:
    index = torch.tensor(sorted(data.draw(st.sets(st.integers(0, len(values) - 1)))), dtype=torch.int64)
    weight = torch.tensor(values)
    assert bits(shut_(weight.clone(), index, 0.0)) == bits(weight)  # also nan, inf and -0
    assert bits(shut_(weight.clone(), index[:0], strength)) == bits(weight)
    once = shut_(weight.clone(), index)
    assert bits(shut_(once.clone(), index)) == bits(once)
    assert (once[index] == 0).all()
    others = torch.ones(len(values), dtype=torch.bool)
    others[index] = False
    assert bits(shut_(weight.clone(), index, strength)[others]) == bits(weight[others])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_keeps_the_type(dtype: torch.dtype) -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2, dtype=dtype))
    shut_(weight, torch.tensor([3]), 0.5)
    assert weight.dtype == dtype and weight.tolist() == [[1, 1], [1, 0.5]] and weight.requires_grad


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ConesError, match="index up to 4 but the weight has 4 entries"):
        shut_(torch.ones(2, 2), torch.tensor([4]))
    for strength in ("nan", "inf", "1.5", "-1"):
        with pytest.raises(ConesError, match=f"strength {strength} is not from 0 to 1"):
            shut_(torch.ones(2), torch.tensor([0]), float(strength))
