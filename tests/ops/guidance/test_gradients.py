"""Losses on attention maps, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from cones_ops.guidance.gradients import attend_and_excite, divergence, entropy, focus

APART = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 1.0]]]])  # two tokens that look at two places


def test_divergence_is_nought_for_equal_and_one_for_disjoint_maps() -> None:
    densities = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    members = torch.tensor([[[True, False, True]], [[True, True, False]], [[True, False, False]]])[:, 0]
    assert divergence(densities.expand(3, -1, -1), members).tolist() == pytest.approx([0.0, 1.0, 0.0], abs=1e-6)
    assert entropy(torch.tensor([0.5, 0.5])).item() == pytest.approx(math.log(2))


def test_focus_is_small_where_concepts_look_apart_and_their_tokens_together() -> None:
    maps = torch.cat([APART, APART], dim=1)  # tokens 0 and 2 look left, 1 and 3 right
    together, mixed = torch.tensor([[0, 1, 0, 1]]), torch.tensor([[0, 0, 1, 1]])
    assert focus(maps, together).item() == pytest.approx(0.0, abs=1e-6)
    assert focus(maps, mixed).item() == pytest.approx(1.0, abs=1e-6)
    assert focus(maps, torch.tensor([[0, -1, 0, -1]])).item() == pytest.approx(0.0, abs=1e-6)  # one concept alone


def test_attend_and_excite_sees_the_most_neglected_concept() -> None:
    maps = torch.tensor([[[[0.8, 0.8, 0.8]], [[0.1, 0.1, 0.1]], [[0.1, 0.1, 0.1]], [[0.0, 0.0, 0.0]]]])
    assert attend_and_excite(maps, torch.tensor([[0, 1, 1, -1]])).item() == pytest.approx(0.8)  # 1 - (0.1 + 0.1)
    assert attend_and_excite(maps, torch.tensor([[0, -1, -1, -1]])).item() == pytest.approx(0.2)


def test_gradients_reach_the_maps() -> None:
    maps = (APART * 0.8 + 0.05).requires_grad_()
    for loss in (attend_and_excite, focus):
        (gradient,) = torch.autograd.grad(loss(maps, torch.tensor([[0, 1]])).sum(), maps)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0
