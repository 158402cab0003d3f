"""Regions and the bias on attention logits, by hand."""

from __future__ import annotations

import pytest
import torch

from cones_ops.errors import ConesError
from cones_ops.guidance.regions import Bias, at_grid, competing, logit_bias, regions

GROUPS = torch.tensor([[[True, False, False], [False, True, False], [False, False, False]]])  # two of three in the text


def test_a_row_competes_if_two_groups_have_tokens() -> None:
    one_group = GROUPS & torch.tensor([True, False, False])
    assert competing(torch.cat([GROUPS, one_group, GROUPS & False])).tolist() == [True, False, False]


def test_each_pixel_belongs_to_the_largest_normalised_map() -> None:
    left = torch.tensor([[4.0, 4, 0, 0, 0, 0]] * 3)
    right = torch.tensor([[0.0, 0, 0, 0, 0.1, 0.1]] * 3)  # much weaker, and the strongest there
    absent = torch.ones(3, 6)
    result = regions(torch.stack([left, right, absent])[None], GROUPS)
    # after 3x3 means the left map reaches to column 2, the right one to column 3
    assert result[0, 0].tolist() == [[1, 1, 1, 0, 0, 0]] * 3
    assert result[0, 1].tolist() == [[0, 0, 0, 1, 1, 1]] * 3
    assert not result[0, 2].any()


def test_regions_at_other_grids() -> None:
    coverage = torch.tensor([[[[1.0, 0, 0, 0], [1, 1, 0, 0]]]])
    assert at_grid(coverage, (2, 4)) is coverage
    assert at_grid(coverage, (1, 2)).tolist() == [[[[0.75, 0.0]]]]
    finer = at_grid(coverage, (4, 8))
    assert finer.shape == (1, 1, 4, 8) and finer[0, 0, 3, 0] == 1 and finer[0, 0, 0, 7] == 0


def test_the_bias_is_added_inside_and_taken_away_outside() -> None:
    coverage = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]).view(1, 3, 1, 3)
    bias = logit_bias(coverage, GROUPS, Bias())
    # by pixel: the first group's token, the second's, one of nobody
    assert bias.tolist() == [[[1, -5, 0], [-5, 1, 0], [-2, -5, 0]]]


def test_a_token_of_two_groups_is_inside_where_one_of_them_is() -> None:
    groups = torch.tensor([[[True], [True]]])
    coverage = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).view(1, 2, 1, 3)
    assert logit_bias(coverage, groups, Bias()).flatten().tolist() == [1, 1, -5]


def test_strength_scales_both_sides_of_the_bias() -> None:
    assert Bias.of(0.0) == Bias(0.0, 0.0) and Bias.of(0.5) == Bias(0.5, -2.5) and Bias.of(1.0) == Bias(1.0, -5.0)
    for strength in (-0.1, 1.5, float("nan")):
        with pytest.raises(ConesError, match="between 0"):
            Bias.of(strength)
