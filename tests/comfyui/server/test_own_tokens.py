"""Own tokens on a real server, shipped toy world: inert without their words, with them as the diffusers host draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cones_concept_neurons.cones_ops.laboratory.sampling import sample
from cones_concept_neurons.cones_ops.masks.concept_mask import ConceptMask
from cones_concept_neurons.cones_ops.masks.mask_file import load_mask, save_mask
from cones_concept_neurons.cones_ops.toy_world.bundle import load_pipeline
from support.prompts import node, toy_picture
from support.server import events

MASKS = ("toy-sks-cat", "toy-zwx-robot", "random-qpd", "random-vbn")
SEED, STEPS, GUIDANCE = 11, 20, 3.0


def prompt(text: str, masks: tuple[str, ...], stock: bool = False, steps: int = STEPS) -> dict[str, dict[str, Any]]:
    """Text to picture with masks applied, and named to Encode Prompt with Concepts (or the stock node instead)."""
    loaded = {name: node("ConesLoadConceptMask", mask_name=f"{name}.safetensors") for name in masks}
    inputs = {f"mask_{k}": [name, 0] for k, name in enumerate(masks, 1)}
    encode = node("CLIPTextEncode", clip=["world", 1], text=text)
    if not stock:
        encode = node("ConesEncodePrompt", clip=["world", 1], text=text, **inputs)
    return {
        **loaded,
        **toy_picture(["apply", 0], positive=encode, seed=SEED, steps=steps, cfg=GUIDANCE),
        "apply": node("ConesApplyConceptMasks", model=["world", 0], **inputs),
        "report": node("PreviewAny", source=["text", 1] if not stock else ["world", 1]),
    }


@pytest.fixture(scope="module")
def masks(server: Any) -> dict[str, ConceptMask]:
    """The two shipped masks, and two random ones of other concepts, all at own tokens."""
    from pathlib import Path

    shipped = Path(__file__).parents[3] / "concept_masks"
    found = {name: load_mask(shipped / f"{name}.safetensors") for name in MASKS[:2]}
    like, generator = found[MASKS[0]], torch.Generator().manual_seed(6)
    for name, class_word in zip(MASKS[2:], ("rocket", "mushroom"), strict=True):
        index = {n: torch.randperm(i.numel(), generator=generator)[:500].sort().values for n, i in like.index.items()}
        identifier = name.removeprefix("random-")
        found[name] = ConceptMask(index, like.shapes, identifier, class_word, "own tokens", like.fingerprint)
        save_mask(found[name], server.base / "models" / "concept_masks" / f"{name}.safetensors", "overwrite")
    assert all(mask.where == "own tokens" for mask in found.values())
    return found


@pytest.mark.parametrize("text", ["a cat on the left and a blue mug on the right", "a robot"])
def test_prompts_without_the_words_are_bit_identical(server, masks, text):
    vanilla = server.run(prompt(text, (), steps=6)).image("show")
    for count in (1, 2, 4):
        run = server.run(prompt(text, MASKS[:count], steps=6))
        assert np.array_equal(run.image("show"), vanilla)
        assert run.text("report").count("not in the prompt") == count


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a sks cat on paper", MASKS[:1]),
        ("a sks cat on the left and a zwx robot on the right on paper", MASKS[:2]),
        ("two sks cats and a blue mug", MASKS),
    ],
)
def test_the_diffusers_host_gives_the_same_picture(server, masks, text, names):
    pictures = sample(
        load_pipeline(), [text], [(masks[name], 1.0) for name in names], seeds=[SEED], steps=STEPS, guidance=GUIDANCE
    )
    expected = (pictures[0].movedim(0, -1) * 255).round().numpy()
    found = server.run(prompt(text, names)).image("show").astype(np.float32)
    vanilla = server.run(prompt(text, ())).image("show").astype(np.float32)
    difference = np.abs(found - expected)
    assert difference.mean() < 1.0 and difference.max() < 8.0
    assert np.abs(found - vanilla).mean() > 4.0


def test_a_plain_prompt_and_missing_words_are_told(server, masks):
    before = len(server.log())
    plain = server.run(prompt("a sks cat", MASKS[:1], stock=True, steps=3)).image("show")
    assert np.array_equal(plain, server.run(prompt("a sks cat", (), stock=True, steps=3)).image("show"))
    warnings = [line for line in server.log()[before:].splitlines() if "has no effect in this run" in line]
    assert len(warnings) == 1 and "sks cat" in warnings[0] and "Encode Prompt with Concepts" in warnings[0]
    with events(server) as messages:
        server.queue(prompt("a zwx robot again", MASKS[:2], steps=2))
        for kind, data in messages:
            if kind == "executing" and data.get("node") is None:
                break
    assert 'not in the prompt: sks cat. Write it in "a zwx robot again"' in server.log()


def test_where_can_be_chosen_against_the_file(server, masks):
    text = "a cat"
    vanilla = server.run(prompt(text, (), steps=4)).image("show")
    everywhere = prompt(text, MASKS[:1], steps=4)
    everywhere["apply"]["inputs"]["where"] = "everywhere"
    assert not np.array_equal(server.run(everywhere).image("show"), vanilla)
