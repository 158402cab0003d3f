"""The prompts of a search: lines that were meant as captions, captions without the concept, prompts for a part only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.nodes.host.search.find import own_token_facts
from cones_concept_neurons.nodes.host.text.captions import captioned
from cones_concept_neurons.nodes.host.text.token_positions import KEY, TokenPositions
from support.small_models import SKS, ZWX

import nodes

NAME = "blocks.0.attn2.to_k.weight"


def encoded(text: str, positions: Any = None) -> list[Any]:
    """A CONDITIONING as Encode Prompt with Concepts makes it."""
    tensor = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(len(text)))
    return [[tensor, {KEY: TokenPositions(tensor, positions or {}, text=text)}]]


def test_a_line_for_each_picture_without_prompt_per_line_is_refused():
    prompt = encoded("a sks star\na heart and a sks star\n\nsks stars")
    with pytest.raises(
        ConesError, match=r'prompt of the subject pictures has 3 lines that name "sks star".*turn on prompt_per_line'
    ):
        captioned("subject", prompt, 3, [SKS])
    with pytest.raises(ConesError, match='pictures has 2 lines that name "sks star" or "zwx heart"'):
        captioned("together", encoded("a sks star\na zwx heart"), 2, [SKS, ZWX])


def test_another_number_of_lines_is_a_warning(caplog):
    prompt = encoded("a sks star\na sks star on a beach\na circle")
    assert captioned("subject", prompt, 3, [SKS]) == {"subject": prompt}
    assert 'has 2 lines that name "sks star" and is encoded as one prompt for 3 pictures' in caplog.text


@pytest.mark.parametrize("text", ["a sks star\non white", "a sks star,\na circle", ""])
def test_one_line_that_names_the_concept_is_a_prompt_of_several_lines(text, caplog):
    captioned("subject", encoded(text), 2, [SKS])
    captioned("subject", encoded(text), 1, [SKS])
    captioned("subject", encoded(text) + encoded("a sks star\na sks star"), 2, [SKS])  # captions of several lines
    assert not caplog.text


def test_the_caption_without_the_concept_is_named():
    own = {SKS: torch.tensor([1, 2])}
    captions = captioned("subject", encoded("a sks star", own) + encoded("a red star", {SKS: own[SKS][:0]}), 2, [SKS])
    message = r"caption 2 of the subject pictures \('a red star'\) has no own tokens of \"sks star\""
    with pytest.raises(ConesError, match=message):
        own_token_facts(captions, SKS, [NAME], [NAME])


def test_a_prompt_that_acts_in_a_part_only_is_refused():
    prompt = encoded("a sks star")
    timed = nodes.ConditioningSetTimestepRange().set_range(prompt, 0.0, 0.6)[0]
    whole = nodes.ConditioningSetTimestepRange().set_range(prompt, 0.0, 1.0)[0]
    area = nodes.ConditioningSetArea().append(prompt, 32, 64, 0, 0, 1.0)[0]
    masked = nodes.ConditioningSetMask().append(prompt, torch.ones(8, 8), "default", 1.0)[0]
    for limited, node in ((timed, "Set Timestep Range"), (area, "Set Area"), (masked, "Set Mask")):
        with pytest.raises(ConesError, match=rf"subject conditioning acts in a part only \(Conditioning \({node}\)\)"):
            captioned("subject", limited, 1, [SKS])
    assert captioned("subject", whole, 1, [SKS]) == {"subject": whole}


def test_a_prompt_of_zeros_is_refused():
    zeroed = nodes.ConditioningZeroOut().zero_out(encoded("a sks star"))[0]
    with pytest.raises(ConesError, match="text of the subject conditioning is all zero"):
        captioned("subject", zeroed, 1, [SKS])
