"""The parts that the example workflows share: loaders, prompts, samplers, rows of pictures to compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow_graph import Graph, Node, Output, Pair

MASKS = ("toy-sks-star", "toy-zwx-heart", "toy-sks-star-everywhere", "toy-mfj-circle-everywhere")
SAMPLER = {"sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
TOY = {"seed": 7, "steps": 20, "cfg": 3.0}
SD15 = {"seed": 7, "steps": 25, "cfg": 7.0}
Inputs = Mapping[str, Any]


def load_masks(graph: Graph, position: Pair, *names: str, gap: int = 190) -> list[Node]:
    """Load Concept Mask for each name, one below the other."""
    return [
        graph.add("ConesLoadConceptMask", (position[0], position[1] + gap * k), mask_name=f"{name}.safetensors")
        for k, name in enumerate(names)
    ]


def prompt(graph: Graph, position: Pair, title: str, clip: Output, text: Output | str) -> Output:
    return graph.add("CLIPTextEncode", position, title, clip=clip, text=text)[0]


def encoded(graph: Graph, position: Pair, title: str, clip: Output, text: Output | str, **inputs: Any) -> Output:
    """Encode Prompt with Concepts."""
    return graph.add("ConesEncodePrompt", position, title, clip=clip, text=text, **inputs)[0]


def empty_latents(graph: Graph, position: Pair, count: int, side: int = 64) -> Output:
    return graph.add("EmptyLatentImage", position, width=side, height=side, batch_size=count)[0]


def sampler_inputs(
    graph: Graph, position: Pair, positive: Output, clip: Output, negative: str = "", side: int = 64, count: int = 4
) -> dict[str, Output]:
    """The prompts and the empty latents of a KSampler; position: of the negative prompt, the latents are below it."""
    title = "Negative" if negative else "Negative (empty)"
    return {
        "positive": positive,
        "negative": prompt(graph, position, title, clip, negative),
        "latent_image": empty_latents(graph, (position[0], position[1] + 180), count, side),
    }


def samples(graph: Graph, position: Pair, title: str, inputs: Inputs, vae: Output, settings: Inputs = TOY) -> Output:
    """KSampler and VAE Decode, one below the other; returns the pictures."""
    sampler = graph.add("KSampler", position, title, **inputs, **settings, **SAMPLER)
    return graph.add("VAEDecode", (position[0], position[1] + 330), samples=sampler[0], vae=vae)[0]


def enlarged(graph: Graph, position: Pair, pictures: Output) -> Output:
    """64 pixels are small on a canvas: four times larger, pixel by pixel."""
    return graph.add("ImageScaleBy", position, image=pictures, upscale_method="nearest-exact", scale_by=4.0)[0]


def rows_to_compare(
    graph: Graph, left: int, rows: Mapping[str, Inputs], inputs: Inputs, vae: Output, settings: Inputs = TOY
) -> None:
    """A row of pictures for each title, with its own sampler inputs beside the common ones; all but the first saved."""
    for k, (title, changed) in enumerate(rows.items()):
        top = 660 * k
        pictures = samples(graph, (left, top), title, {**inputs, **changed}, vae, settings)
        if settings == TOY:
            pictures = enlarged(graph, (left, top + 440), pictures)
        kind, prefix = ("SaveImage", {"filename_prefix": f"cones/{graph.name}"}) if k else ("PreviewImage", {})
        graph.add(kind, (left + 360, top), title, (560, 600), images=pictures, **prefix)
