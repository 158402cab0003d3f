"""Keep Concepts Apart and See Concepts on a real server: strength 0 and removal change no bit, regions do."""

from __future__ import annotations

import numpy as np
from support.prompts import node, toy_picture

MASKS = {"first": "toy-sks-cat.safetensors", "second": "toy-zwx-robot.safetensors"}


def pair(strength=None):
    """Two concepts in one picture of four steps; strength: of Keep Concepts Apart, None without the node."""
    masks = {name: node("ConesLoadConceptMask", mask_name=file) for name, file in MASKS.items()}
    both = {"mask_1": ["first", 0], "mask_2": ["second", 0]}
    text = "a sks cat on the left and a zwx robot on the right on paper"
    prompt = masks | {"applied": node("ConesApplyConceptMasks", model=["world", 0], **both)}
    model = ["applied", 0]
    if strength is not None:
        prompt["apart"] = node("ConesKeepApart", model=model, things="paper", strength=strength)
        prompt["seen"] = node(
            "ConesSeeConcepts", images=["decode", 0], model=["apart", 0], concept="", show="attention", threshold=0.4
        )
        model = ["apart", 0]
    positive = node("ConesEncodePrompt", clip=["world", 1], text=text, **both)
    return prompt | toy_picture(model, positive=positive, steps=4, cfg=3.0)


def test_strength_zero_and_removal_change_no_bit(server):
    without = server.run(pair()).image("show")
    at_zero = server.run(pair(0.0))
    assert np.array_equal(at_zero.image("show"), without)
    assert "sks cat, zwx robot, paper" in at_zero.text("seen") and at_zero.image("seen").std() > 0
    assert not np.array_equal(server.run(pair(1.0)).image("show"), without)
    assert np.array_equal(server.run(pair()).image("show"), without)
