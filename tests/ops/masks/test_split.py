"""A mask in parts: every neuron in one group, labels, what is kept of the whole."""

from __future__ import annotations

import pytest
import torch
from support.masks import make_mask

from cones_ops import ConceptMask, ConesError, union
from cones_ops.masks.concept_mask import same_neurons
from cones_ops.masks.split import GROUPS, LEFT, split

IN, OUT = (
    "input_blocks.1.1.transformer_blocks.0.attn2.to_{}.weight",
    "output_blocks.2.1.transformer_blocks.0.attn2.to_{}.weight",
)
EMPTY = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture
def mask() -> ConceptMask:
    """1 neuron in K and 2 in V of the input block, none in the middle, 5 in V of the output block."""
    index = {IN.format("k"): [3], IN.format("v"): [0, 7], OUT.format("v"): [1, 2, 3, 4, 5]}
    shapes = {name: (2, 4) for name in (*index, EMPTY, OUT.format("k"))}
    return make_mask(index, shapes, "sks", "star", "own tokens", "f" * 64, {"method": "learned"})


SIZES = {"block": [3, 5], "K and V": [1, 7], "third of the model": [3, 5], "block, K and V": [1, 2, 5]}


@pytest.mark.parametrize("by", GROUPS)
def test_the_groups_are_the_mask(mask: ConceptMask, by: str) -> None:
    parts = list(split(mask, by, whole=False).values())
    assert [part.count for part in parts] == SIZES[by]
    assert same_neurons(union(*parts), mask)
    for part in parts:
        assert part.shapes == mask.shapes and part.fingerprint == mask.fingerprint
        assert (part.identifier, part.class_word, part.where) == ("sks", "star", "own tokens")


def test_labels_in_the_order_of_depth(mask: ConceptMask) -> None:
    assert list(split(mask, "block")) == ["all: 8 (100%)", "input block 1: 3 (38%)", "output block 2: 5 (62%)"]
    assert list(split(mask, "K and V", whole=False)) == ["K: 1 (12%)", "V: 7 (88%)"]
    assert list(split(mask, "third of the model", whole=False)) == ["first third: 3 (38%)", "last third: 5 (62%)"]


def test_all_but_a_group(mask: ConceptMask) -> None:
    rest = split(mask, "block", LEFT[1], whole=False)
    assert list(rest) == ["all but input block 1: 5 (62%)", "all but output block 2: 3 (38%)"]
    assert rest["all but input block 1: 5 (62%)"].names == [OUT.format("v")]


def test_a_group_that_is_everything_leaves_nothing(mask: ConceptMask) -> None:
    only = ConceptMask({OUT.format("v"): torch.tensor([1])}, mask.shapes)
    assert split(only, "block", LEFT[1], whole=False) == {}


def test_bad_input(mask: ConceptMask) -> None:
    with pytest.raises(ConesError, match="empty"):
        split(ConceptMask({}, mask.shapes))
    with pytest.raises(ConesError, match="score quartile"):
        split(mask, "score quartile")  # type: ignore[arg-type]
