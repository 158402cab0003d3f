"""The parts that the templates share: loaders, prompts, samplers, pictures to compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow_graph import Graph, Node, Output, Pair

TOGETHER = ("toy-sks-cat", "toy-zwx-robot", "toy-qpd-rocket", "toy-vbn-mushroom")  # tuned to share a picture
MASKS = (*TOGETHER, "toy-sks-cat-everywhere")
SIDE, ZOOM = 96, 1.0  # of the toy world's pictures, and of collages of them
PAIR = {"side": SIDE, "pictures": 2, "seed": 7, "enlarge": 4.0}
SAMPLER = {"sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
TOY = {"seed": 7, "steps": 20, "cfg": 3.0}
SD15 = {"seed": 7, "steps": 25, "cfg": 7.0}
NOTE_WIDTH = 500
Inputs = Mapping[str, Any]


def load_masks(graph: Graph, position: Pair, *names: str, gap: int = 190) -> list[Node]:
    """Load Concept Mask for each name, one below the other."""
    return [
        graph.add("ConesLoadConceptMask", (position[0], position[1] + gap * k), mask_name=f"{name}.safetensors")
        for k, name in enumerate(names)
    ]


def encoded(graph: Graph, position: Pair, title: str, clip: Output, text: Output | str, **inputs: Any) -> Output:
    """Encode Prompt with Concepts."""
    return graph.add("ConesEncodePrompt", position, title, clip=clip, text=text, **inputs)[0]


def empty_latents(
    graph: Graph, position: Pair, count: Output | int, side: Output | int = SIDE, width: int = 340
) -> Output:
    """Empty latents of square pictures; width: of the node."""
    return graph.add("EmptyLatentImage", position, size=(width, 110), width=side, height=side, batch_size=count)[0]


def samples(graph: Graph, position: Pair, title: str, inputs: Inputs, vae: Output, settings: Inputs = TOY) -> Output:
    """KSampler and VAE Decode, one below the other; returns the pictures."""
    sampler = graph.add("KSampler", position, title, **{**SAMPLER, **settings, **inputs})
    return graph.add("VAEDecode", (position[0], position[1] + 330), samples=sampler[0], vae=vae)[0]


def enlarged(graph: Graph, position: Pair, pictures: Output, times: Output | float = 4.0) -> Output:
    """96 pixels are small on a canvas: several times larger, pixel by pixel."""
    return graph.add("ImageScaleBy", position, image=pictures, upscale_method="nearest-exact", scale_by=times)[0]


def compared(graph: Graph, position: Pair, size: Pair, title: str, before: Output, after: Output) -> Node:
    """Two pictures under a slider."""
    return graph.add("ImageCompare", position, title, size, image_a=before, image_b=after)


def saved(graph: Graph, position: Pair, size: Pair, pictures: Output, title: str = "") -> Node:
    return graph.add("SaveImage", position, title, size, images=pictures, filename_prefix="cones/picture")
