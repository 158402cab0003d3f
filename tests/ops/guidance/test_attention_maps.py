"""Where groups of tokens look: shares by hand, grids, and which layers are recorded."""

from __future__ import annotations

import math

import pytest
import torch

from cones_ops.errors import ConesError
from cones_ops.guidance.attention_maps import AttentionMaps, attention_to, grid_of, normalised


def test_a_pixels_attention_is_shared_among_groups() -> None:
    query = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).expand(1, 1, 2, 2)  # two pixels, one head, D = 2
    logits = torch.tensor([math.log(1), math.log(2), math.log(5)])  # 1 : 2 : 5 of the first pixel, alike of the second
    key = torch.stack([logits * math.sqrt(2), torch.zeros(3)], dim=1).expand(1, 1, 3, 2)
    groups = torch.tensor([[[True, False, False], [False, True, True]]])
    shares = attention_to(query, key, groups)
    assert torch.allclose(shares, torch.tensor([[[1 / 8, 1 / 3], [7 / 8, 2 / 3]]]), atol=1e-6)


def test_heads_are_averaged_and_a_mask_counts() -> None:
    query, key = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 4, 2)
    groups = torch.tensor([[[True, False, False, False]]])
    hidden = torch.tensor([0.0, 0.0, -torch.inf, -torch.inf]).expand(1, 1, 1, 4)
    assert attention_to(query, key, groups).item() == pytest.approx(1 / 4)
    assert attention_to(query, key, groups, hidden).item() == pytest.approx(1 / 2)
    query[0, 1] = 1.0
    key[0, 1, 0] = 100.0  # the second head looks at the first token alone
    assert attention_to(query, key, groups).item() == pytest.approx((1 / 4 + 1) / 2)


@pytest.mark.parametrize("hidden", [None, 0])
def test_more_groups_than_channels_get_the_shares_of_a_plain_softmax(hidden: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 3, n, 2, generator=generator) for n in (4, 5))  # two rows, three heads, D = 2
    groups = torch.eye(5, dtype=torch.bool).expand(2, 5, 5)  # each of five tokens is a group
    mask, logits = None, torch.einsum("bhnd,bhsd->bhns", query, key) / math.sqrt(2)
    if hidden is not None:
        mask = torch.zeros(1, 1, 4, 5)
        mask[..., hidden] = -torch.inf
        logits[..., hidden] = -torch.inf
    shares = attention_to(query, key, groups, mask)
    assert torch.allclose(shares, logits.softmax(dim=-1).mean(dim=1).transpose(1, 2), atol=1e-6)
    assert torch.equal(shares[:, 1:2], attention_to(query, key, groups[:, 1:2], mask))  # as it is by itself


@pytest.mark.parametrize(
    ("pixels", "size", "grid"),
    [
        (64 * 64, (64, 64), (64, 64)),
        (16 * 16, (64, 64), (16, 16)),
        (38 * 26, (152, 104), (38, 26)),
        (12 * 7, (45, 27), (12, 7)),  # halves are rounded up: 45 -> 23 -> 12, 27 -> 14 -> 7
        (77, (64, 64), None),
    ],
)
def test_the_grid_of_a_layer(pixels: int, size: tuple[int, int], grid: tuple[int, int] | None) -> None:
    assert grid_of(pixels, *size) == grid


def test_normalised_maps_are_means_over_neighbours_that_sum_to_one() -> None:
    maps = torch.zeros(1, 2, 3, 3)
    maps[0, 0, 1, 1] = 36.0
    # 4 neighbours at a corner, 6 at an edge, 9 in the middle: 9, 6, 4, in all 4 * 9 + 4 * 6 + 4 = 64
    expected = torch.tensor([[9.0, 6, 9], [6, 4, 6], [9, 6, 9]]) / 64
    assert torch.allclose(normalised(maps), torch.stack([expected, torch.zeros(3, 3)])[None])


def test_the_finest_layers_are_averaged_and_too_fine_ones_left_out() -> None:
    maps = AttentionMaps(finest=16)
    with pytest.raises(ConesError, match="no attention was recorded"):
        maps.mean()
    maps.add(torch.full((1, 1, 4), 9.0), (2, 2))
    assert not maps.wants(64) and maps.wants(16) and maps.wants(4)
    maps.add(torch.full((1, 1, 16), 1.0), (4, 4))
    assert not maps.wants(4)
    maps.add(torch.full((1, 1, 16), 2.0), (4, 4))
    assert torch.equal(maps.mean(), torch.full((1, 1, 4, 4), 1.5))


def test_where_every_layer_is_too_fine_the_coarsest_is_recorded_from_the_second_step_on() -> None:
    maps = AttentionMaps(finest=16)
    assert not maps.wants(256) and not maps.wants(64) and not maps.wants(256)
    maps.end_step()
    assert maps.wants(64) and not maps.wants(256)
