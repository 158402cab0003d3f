"""Prompt with Concepts on a server: the picture of the nodes it stands for, bit for bit, and errors before a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cones_concept_neurons.cones_ops.laboratory.comfyui.server import PromptRefusedError
from cones_concept_neurons.cones_ops.laboratory.comfyui.workflow import Prompt
from support.prompts import node, toy_picture
from support.server import failed

SHIPPED = Path(__file__).absolute().parents[3] / "concept_masks"
SKS, ZWX = "toy-sks-cat", "toy-zwx-robot"
SETTINGS = {"seed": 5, "steps": 4, "cfg": 3.0}


@pytest.fixture(scope="module", autouse=True)
def rex(server: Any) -> None:
    """A mask of a user's own, in a subfolder: the shipped robot."""
    folder = server.base / "models" / "concept_masks" / "people"
    folder.mkdir(exist_ok=True)
    shutil.copy(SHIPPED / f"{ZWX}.safetensors", folder / "Rex.safetensors")


def one_node(text: str, negative: str = "", **inputs: Any) -> Prompt:
    """Text to picture with this node alone between the checkpoint and the sampler."""
    prompt = toy_picture(["prompt", 0], **SETTINGS)
    del prompt["text"], prompt["negative"]
    prompt["sampler"]["inputs"] |= {"positive": ["prompt", 1], "negative": ["prompt", 2]}
    arguments = {"model": ["world", 0], "clip": ["world", 1], "text": text, "negative": negative, **inputs}
    return {
        **prompt,
        "prompt": node("ConesPromptWithConcepts", **arguments),
        "words": node("PreviewAny", source=["prompt", 3]),
    }


def four_nodes(text: str, strengths: dict[str, float]) -> Prompt:
    """The same with Load, Apply, Encode and, for several concepts, Keep Concepts Apart."""
    loads = {name: node("ConesLoadConceptMask", mask_name=f"{name}.safetensors") for name in strengths}
    masks = {f"mask_{i}": [name, 0] for i, name in enumerate(strengths, 1)}
    values = {f"strength_{i}": strength for i, strength in enumerate(strengths.values(), 1)}
    encode = node("ConesEncodePrompt", clip=["world", 1], text=text, **masks)
    apply = node("ConesApplyConceptMasks", model=["world", 0], **masks, **values)
    apart = node("ConesKeepApart", model=["apply", 0], things="", strength=1.0)
    model = "apart" if len(strengths) > 1 else "apply"
    return {**toy_picture([model, 0], positive=encode, **SETTINGS), **loads, "apply": apply, "apart": apart}


def test_a_prompt_without_tags_is_bit_identical_to_the_stock_nodes(server):
    ours = server.run(one_node("a red cat, (a blue mug:1.2)"))
    stock = server.run(toy_picture(["world", 0], "a red cat, (a blue mug:1.2)", **SETTINGS))
    assert np.array_equal(ours.image("show"), stock.image("show"))
    assert ours.text("words") == "a red cat, (a blue mug:1.2)"


@pytest.mark.parametrize(
    ("text", "words", "strengths"),
    [
        ("a <concept:toy-sks-cat>", "a sks cat", {SKS: 1.0}),
        (
            "a <concept:TOY-SKS-CAT:0.4> on the left and a <concept:rex> on the right",
            "a sks cat on the left and a zwx robot on the right",
            {SKS: 0.4, ZWX: 1.0},
        ),
    ],
)
def test_tags_draw_what_load_apply_and_encode_draw(server, text, words, strengths):
    ours, theirs = server.run(one_node(text)), server.run(four_nodes(words, strengths))
    plain = server.run(toy_picture(["world", 0], words, **SETTINGS)).image("show")
    assert ours.text("words") == words
    assert np.array_equal(ours.image("show"), theirs.image("show"))
    assert np.abs(ours.image("show").astype(int) - plain).max() > 20
    assert all(f"strength {strength:g}" in ours.text("prompt") for strength in strengths.values())


def test_keep_apart_acts_on_two_concepts_alone(server):
    two = "a <concept:toy-sks-cat> on the left and a <concept:rex> on the right"
    on, off = (server.run(one_node(two, keep_apart=value)).image("show") for value in (True, False))
    assert not np.array_equal(on, off)
    on, off = (server.run(one_node("a <concept:rex>", keep_apart=value)).image("show") for value in (True, False))
    assert np.array_equal(on, off)


def test_strength_0_and_tags_in_the_negative_text(server):
    plain = server.run(toy_picture(["world", 0], "a sks cat", **SETTINGS)).image("show")
    assert np.array_equal(server.run(one_node("a <concept:toy-sks-cat:0>")).image("show"), plain)
    against = server.run(one_node("a red cat", negative="a <concept:people/rex>"))
    assert "not in the prompt" not in against.text("prompt")
    stock = server.run(one_node("a red cat", negative="a zwx robot")).image("show")
    assert not np.array_equal(against.image("show"), stock)


def test_a_connected_mask_is_named_by_its_words(server):
    load = {"load": node("ConesLoadConceptMask", mask_name=f"{SKS}.safetensors")}
    mask = {"masks.mask_1": ["load", 0]}
    connected = server.run({**one_node("a sks cat", **mask), **load})
    tagged = server.run(one_node("a <concept:toy-sks-cat>"))
    assert np.array_equal(connected.image("show"), tagged.image("show"))
    unnamed = server.run({**one_node("a red cat", **mask), **load})
    assert "not in the prompt: sks cat" in unnamed.text("prompt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a <concept:toy-sks-stat>", "the nearest names are: toy-sks-cat"),
        ("a <concept:rex:2>", "write a number from 0 to 1"),
        ("a <concept:rex", "has no end"),
        ("a <concept:rex:0.5> and <concept:rex>", "give it the same one everywhere"),
    ],
)
def test_broken_tags_are_refused_before_the_prompt_runs(server, text, message):
    with pytest.raises(PromptRefusedError) as refused:
        server.queue(one_node(text))
    assert message in str(refused.value)


def test_a_connected_text_is_checked_when_it_is_there(server):
    string = {"string": node("PrimitiveStringMultiline", value="a <concept:nobody>")}
    run = failed(server, {**one_node(["string", 0]), **string})
    assert run.node_id == "prompt" and 'no concept "nobody"' in run.error


def test_a_replaced_file_is_loaded_again(server):
    path = server.base / "models" / "concept_masks" / "changing.safetensors"
    shutil.copy(SHIPPED / f"{SKS}.safetensors", path)
    assert server.run(one_node("a <concept:changing>")).text("words") == "a sks cat"
    string = {"string": node("PrimitiveStringMultiline", value="a <concept:changing>")}
    assert server.run({**one_node(["string", 0]), **string}).text("words") == "a sks cat"
    replacement = path.with_suffix(".new")
    shutil.copy(SHIPPED / f"{ZWX}.safetensors", replacement)
    replacement.replace(path)
    assert server.run(one_node("a <concept:changing>")).text("words") == "a zwx robot"
    assert server.run({**one_node(["string", 0]), **string}).text("words") == "a zwx robot"
