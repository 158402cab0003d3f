"""The toy world in ComfyUI's own LoRA trainer, as its node loads it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from support.prompts import node, toy_picture

from cones_ops.laboratory.comfyui.workflow import input_specs


@pytest.mark.slow
def test_the_toy_world_trains_a_lora_that_changes_the_picture(server: Any) -> None:
    """Two steps of Train LoRA with the settings that the host proposes, on pictures of a subject."""
    specs = dict(input_specs(server.object_info()["TrainLoraNode"]))
    settings = {name: options["default"] for name, (_, options, _) in specs.items() if "default" in options}
    changes = {"steps": 2, "batch_size": 2, "learning_rate": 0.01, "training_dtype": "fp32", "lora_dtype": "fp32"}
    prompt = {
        **toy_picture(["trained", 0]),
        "subject": node("ConesToySubject", subject="sks", pictures=2, seed=0),
        "latents": node("VAEEncode", pixels=["subject", 0], vae=["world", 2]),
        "train": node(
            "TrainLoraNode", model=["world", 0], latents=["latents", 0], positive=["text", 0], **settings | changes
        ),
        "trained": node("LoraModelLoader", model=["world", 0], lora=["train", 0], strength_model=1.0, bypass=False),
        "save": node("SaveLoRA", lora=["train", 0], prefix="loras/toy", steps=["train", 2]),
    }
    trained = server.run(prompt).image("show")
    assert not np.array_equal(trained, server.run(toy_picture(["world", 0])).image("show"))
    (file,) = (server.base / "output" / "loras").glob("toy_2_steps_*.safetensors")
    tensors = load_file(file)
    assert any("attn2" in name for name in tensors) and all(tensor.isfinite().all() for tensor in tensors.values())
