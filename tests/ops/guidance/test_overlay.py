"""Maps over pictures: one colour scale for all."""

from __future__ import annotations

import numpy as np
import torch

from cones_ops.guidance.overlay import RAMP, density, overlay


def test_maps_are_measured_by_their_own_mean() -> None:
    maps = torch.tensor([[[[1.0, 3.0]], [[10.0, 30.0]], [[0.0, 0.0]]]])
    assert torch.equal(density(maps), torch.tensor([[[[0.5, 1.5]], [[0.5, 1.5]], [[0.0, 0.0]]]]))


def test_colours_go_from_zero_to_the_top_over_a_grey_picture() -> None:
    picture = np.full((2, 4, 3), (30, 60, 90), np.uint8)  # grey 60
    low = overlay(picture, torch.zeros(1, 2), 3.0)
    middle, high = overlay(picture, torch.full((1, 2), 1.5), 3.0), overlay(picture, torch.full((1, 2), 7.0), 3.0)
    for result, colour in ((low, RAMP[0]), (middle, RAMP[2]), (high, RAMP[4])):
        assert result.shape == (2, 4, 3) and np.array_equal(result[0, 0], np.round(24 + 0.6 * colour))
