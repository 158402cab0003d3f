"""Figures: sizes that a node's preview can show, colours, and that what is drawn is the mask's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.masks import random_mask

from cones_ops import ConceptMask, ConesError
from cones_ops.reports.compare import names_of
from cones_ops.reports.figures import COLOURS, labelled_grid, layer_figure, overlap_figure
from cones_ops.reports.text import inspection_text

NAME = "{}.1.transformer_blocks.{}.attn2.to_{}.weight"
FIELDS = {"where": "own tokens", "fingerprint": "0" * 64}


def shapes(depth: int) -> dict[str, tuple[int, int]]:
    blocks = ("input_blocks.1", "middle_block", "output_blocks.3")
    return {NAME.format(block, k, part): (16, 8) for block in blocks for k in range(depth) for part in "kv"}


def mask(seed: int = 0, depth: int = 1, parts: str = "kv", identifier: str = "sks") -> ConceptMask:
    mask = random_mask(shapes(depth), seed, 0.1, identifier, "star", **FIELDS)
    return replace(mask, index={name: entries for name, entries in mask.index.items() if name[-8] in parts})


def has(figure: np.ndarray, colour: str) -> bool:
    rgb = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return bool((np.abs(figure.astype(int) - rgb).max(axis=-1) <= 2).sum() > 100)


@pytest.mark.parametrize("depth", [1, 10])
def test_layers(depth: int) -> None:
    figure = layer_figure(mask(depth=depth))
    assert figure.dtype == np.uint8 and figure.shape == (540, 640, 3)
    assert has(figure, COLOURS["K"]) and has(figure, COLOURS["V"])
    assert not has(figure, COLOURS["picture K"])


def test_what_is_not_there_is_not_drawn() -> None:
    assert not has(layer_figure(mask(parts="k"))[200:], COLOURS["V"])
    empty = layer_figure(ConceptMask({}, shapes(1), "sks", "star"))
    assert not has(empty[200:], COLOURS["K"])


def test_a_mask_without_weights_is_refused() -> None:
    with pytest.raises(ConesError, match="no weights"):
        layer_figure(ConceptMask({}, {}))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4, 8])
def test_overlaps(count: int) -> None:
    masks = [mask(seed, identifier=f"m{seed}") for seed in range(count)]
    figure = overlap_figure(masks, names_of(masks))
    assert figure.dtype == np.uint8 and figure.shape[1:] == (640, 3) and 500 < figure.shape[0] < 1000
    assert not np.array_equal(figure, overlap_figure(masks[::-1], names_of(masks[::-1])))


def test_grid() -> None:
    red, blue = (np.full((64, 64, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    grid = labelled_grid([red, blue, red], ["one", "a long label of several words", "three"], columns=2, side=128)
    assert grid.shape[1] == 272 and grid.shape[0] > 2 * 128
    areas = [(grid == colour).all(axis=-1) for colour in ((255, 0, 0), (0, 0, 255))]
    assert areas[0].sum() > 1.5 * areas[1].sum() > 5000
    assert np.nonzero(areas[1])[1].min() > 130  # in the second column


@pytest.mark.parametrize("labels", [[], ["one", "two"]])
def test_a_grid_needs_a_label_for_each_picture(labels: list[str]) -> None:
    with pytest.raises(ConesError, match="one label for each"):
        labelled_grid([np.zeros((8, 8, 3), np.uint8)], labels)


def test_inspection_in_words() -> None:
    name, other = NAME.format("output_blocks.3", 0, "k"), NAME.format("middle_block", 0, "v")
    index = {name: torch.tensor([0, 1, 2]), other: torch.tensor([5])}
    told = {"method": "learned", "steps": "300", "pictures": "5", "held_out_before": "0.4", "held_out_after": "0.3"}
    text = inspection_text(ConceptMask(index, shapes(1), "sks", "star", "everywhere", "ab" * 32, told))
    assert text.splitlines() == [
        "sks star: 4 of 768 searched neurons (0.521%), acting everywhere",
        "Most lie in output block 3 (75%), middle block (25%); none in input block 1",
        "K: 3 neurons (75%), 0.78% of its weights; V: 1 neurons (25%), 0.26% of its weights",
        "Found by learned, 300 steps, 5 pictures",
        "Held-out loss 0.4 -> 0.3",
        "For base weights abababababab",
    ]
