"""What the example workflows are put together from: prompts, samplers, pictures without and with masks."""

from __future__ import annotations

from typing import Any

from workflow_graph import Graph, Output

MASKS = ("toy-sks-star", "toy-zwx-heart", "toy-sks-star-everywhere", "toy-mfj-circle-everywhere")
SAMPLER = {"sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
TOY = {"seed": 7, "steps": 20, "cfg": 3.0}
SD15 = {"seed": 7, "steps": 25, "cfg": 7.0}


def prompt(graph: Graph, at: tuple[int, int], title: str, clip: Output, text: Output | str) -> Output:
    return graph.add("CLIPTextEncode", at, (340, 110), title, clip=clip, text=text)[0]


def encoded(
    graph: Graph, at: tuple[int, int], title: str, clip: Output, text: Output | str, **inputs: Output | str | bool
) -> Output:
    """Encode Prompt with Concepts."""
    return graph.add("ConesEncodePrompt", at, (340, 360), title, clip=clip, text=text, **inputs)[0]


def samples(
    graph: Graph, at: tuple[int, int], model: Output, inputs: dict[str, Output], vae: Output, **settings: Any
) -> Output:
    """KSampler and VAE Decode, one below the other; returns the pictures."""
    title = settings.pop("title")
    sampler = graph.add("KSampler", at, (300, 270), title, model=model, **inputs, **settings, **SAMPLER)
    return graph.add("VAEDecode", (at[0], at[1] + 330), (300, 50), samples=sampler[0], vae=vae)[0]


def enlarged(graph: Graph, at: tuple[int, int], pictures: Output) -> Output:
    """64 pixels are small on a canvas: four times larger, pixel by pixel."""
    return graph.add("ImageScaleBy", at, (300, 82), image=pictures, upscale_method="nearest-exact", scale_by=4.0)[0]


def without_and_with(
    graph: Graph, left: int, models: tuple[Output, Output], inputs: dict[str, Output], vae: Output, **settings: Any
) -> None:
    """The same noise and prompt through two models, side by side for the eye; the second is saved."""
    what = settings.pop("what")
    for top, model, word in ((0, models[0], "Without"), (660, models[1], "With")):
        title = f"{word} {what}"
        pictures = samples(graph, (left, top), model, inputs, vae, title=title, **settings)
        if settings == TOY:
            pictures = enlarged(graph, (left, top + 440), pictures)
        show = {"filename_prefix": f"cones/{graph.name}"} if word == "With" else {}
        kind = "SaveImage" if show else "PreviewImage"
        graph.add(kind, (left + 360, top), (560, 600), title, images=pictures, **show)
