"""Pictures laid side by side: where every pixel comes from, captions, and what is refused."""

from __future__ import annotations

import pytest
import torch

from cones_ops.errors import ConesError
from cones_ops.images.collages import collage, collages, layout_caption


def flat(value: float, height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.full((1, height, width), value)


def test_two_pictures_share_one_of_the_same_size():
    laid = collage([flat(1.0), flat(2.0)], columns=2, zoom=0.5)
    assert laid.shape == (1, 8, 8)
    assert (laid[:, :, :4] == 1).all() and (laid[:, :, 4:] == 2).all()


def test_four_pictures_fill_the_corners_row_by_row():
    laid = collage([flat(float(k)) for k in range(4)], columns=2)
    corners = [laid[0, 0, 0], laid[0, 0, -1], laid[0, -1, 0], laid[0, -1, -1]]
    assert [float(one) for one in corners] == [0, 1, 2, 3]


def test_what_is_missing_is_the_pictures_edge_and_what_is_too_much_is_cut_around_the_middle():
    row = torch.arange(8.0).expand(1, 8, 8)  # columns 0 .. 7
    tall = collage([row, row], columns=2, zoom=1.0)  # width 8 into 4: columns 2 .. 5
    assert tall[0, 0].tolist() == [2, 3, 4, 5, 2, 3, 4, 5]
    edge = collage([flat(3.0), flat(3.0)], columns=2, zoom=0.25)  # 2 x 2 in a cell of 4 x 8
    assert torch.allclose(edge, torch.tensor(3.0))


def test_odd_sides_keep_the_size():
    assert collage([flat(1.0, 9, 9)] * 2, columns=2).shape == (1, 9, 9)


@pytest.mark.parametrize(
    ("pictures", "zoom", "message"),
    [
        ([flat(1.0)] * 3, 0.5, "3 pictures in 2 columns"),
        ([flat(1.0), flat(1.0, 4, 4)], 0.5, "a collage of sizes"),
        ([flat(1.0)] * 2, 0.0, "at zoom 0"),
        ([], 0.5, "0 pictures in 2 columns"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(pictures, zoom, message):
    with pytest.raises(ConesError, match=message):
        collage(pictures, 2, zoom)


def test_every_thing_stands_at_every_place_and_short_batches_go_round():
    first, second = torch.stack([flat(1.0), flat(2.0), flat(3.0)]), flat(9.0)[None]
    pictures, captions = collages([first, second], ["a sks star", "a zwx heart"], zoom=0.5)
    assert pictures.shape == (6, 1, 8, 8)
    assert pictures[:, 0, 0, 0].tolist() == [1, 2, 3, 9, 9, 9]
    assert pictures[:, 0, 0, -1].tolist() == [9, 9, 9, 1, 2, 3]
    assert captions[:2] == ["a sks star on the left and a zwx heart on the right", "a sks star and a zwx heart"]
    assert captions[3:5] == ["a zwx heart and a sks star", "a zwx heart on the left and a sks star on the right"]
    placed = collages([first, second], ["a sks star", "a zwx heart"], zoom=0.5, forms=["places"])[1]
    assert len(set(placed)) == 2 and all(" on the left and " in caption for caption in placed)


def test_the_fourth_corner_of_three_is_empty():
    batches = [flat(float(k))[None] for k in (1, 2, 3)]
    pictures, captions = collages(batches, ["a", "b", "c"], empty=flat(7.0)[None])
    assert len(pictures) == 3 and pictures[0, 0, -1, -1] == 7
    assert captions == [
        "top left a , top right b , bottom left c",
        "b , c , a",
        "top left c , top right a , bottom left b",
    ]
    assert collages(batches, ["a", "b", "c"])[0][0, 0, -1, -1] == 1  # else the first thing's first pixel


def test_captions_and_batches_belong_together():
    assert layout_caption(["a dog"]) == "a dog"
    assert layout_caption(["a dog", "a cat"], "sides") == "a dog left and a cat right"
    assert layout_caption(["a", "b", "c", "d"], "sides") == "a top left , b top right , c bottom left , d bottom right"
    with pytest.raises(ConesError, match="1 to 4"):
        layout_caption(["a"] * 5)
    with pytest.raises(ConesError, match="a phrase each"):
        collages([flat(1.0)[None]] * 2, ["a"])
    with pytest.raises(ConesError, match="2 to 4"):
        collages([flat(1.0)[None]], ["a"])
