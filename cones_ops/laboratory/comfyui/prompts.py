"""Prompts in API form for a ComfyUI server, written by hand."""

from __future__ import annotations

from typing import Any

from .workflow import Prompt


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node of a prompt; an input is a value or the output [node id, slot] of another node."""
    return {"class_type": class_type, "inputs": inputs}


def toy_picture(model: list[Any], text: str = "a sks cat in the snow", positive: Any = None, **sampling: Any) -> Prompt:
    """Sample one picture of 96x96 of the toy world with a model, by default in two steps without guidance; node "show"
    shows it. `positive` takes the place of the stock encoding of the text.
    """
    settings = {"seed": 3, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return {
        "world": node("ConesToyWorld"),
        "text": positive or node("CLIPTextEncode", clip=["world", 1], text=text),
        "negative": node("CLIPTextEncode", clip=["world", 1], text=""),
        "empty": node("EmptyLatentImage", width=96, height=96, batch_size=1),
        "sampler": node(
            "KSampler",
            model=model,
            positive=["text", 0],
            negative=["negative", 0],
            latent_image=["empty", 0],
            **settings | sampling,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["world", 2]),
        "show": node("PreviewImage", images=["decode", 0]),
    }
