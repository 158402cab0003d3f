"""The example workflows that start from a finished picture: image to image, and a thing swapped for a subject."""

from __future__ import annotations

from typing import Any

from workflow_graph import Graph, Node, Output
from workflow_pieces import MASKS, TOY, encoded, enlarged, load_masks, prompt, sampler_inputs, samples

STOCK = {"sampler_name": "euler", "scheduler": "normal"}


def image_to_image() -> Graph:
    """A picture of another thing, drawn over with a concept."""
    graph = Graph("image-to-image")
    graph.note((0, 0), (340, 380), "Image to image")
    world = graph.add("ConesToyWorld", (0, 480))
    mask = load_masks(graph, (0, 640), MASKS[0])[0]
    applied = graph.add("ConesApplyConceptMasks", (0, 860), model=world[0], mask_1=mask[0])
    before = prompt(graph, (420, 0), "The picture to start from", world[1], "a red star on a white background")
    inputs = sampler_inputs(graph, (420, 220), before, world[1])
    pictures = first_pictures(graph, {"model": world[0], **inputs}, world[2])
    text = "a sks star on a white background"
    positive = encoded(graph, (420, 600), "What to draw over it", world[1], text, mask_1=mask[0])
    latents = graph.add("VAEEncode", (840, 1000), pixels=pictures, vae=world[2])
    again = {"model": applied[0], "positive": positive, "negative": inputs["negative"], "latent_image": latents[0]}
    drawn_over(graph, again, world[2], 0.8)
    graph.group("A model, a concept", [world, mask, applied])
    return graph


def swap_a_thing() -> Graph:
    """A thing in a finished picture, found by See Concepts, redrawn as a concept; the rest stays."""
    graph = Graph("swap-a-thing")
    graph.note((0, 0), (340, 380), "Swap a thing for a concept")
    world = graph.add("ConesToyWorld", (0, 480))
    mask = load_masks(graph, (0, 640), MASKS[0])[0]
    applied = graph.add("ConesApplyConceptMasks", (0, 860), model=world[0], mask_1=mask[0])
    recorder = {"model": world[0], "things": "star", "strength": 0.0}
    watched = graph.add("ConesKeepApart", (420, 1180), "Record where words look", **recorder)
    text = "a {} on the left and a blue circle on the right on a white background"
    before = encoded(graph, (420, 0), "The picture to start from", world[1], text.format("red star"))
    inputs = sampler_inputs(graph, (420, 420), before, world[1])
    pictures = first_pictures(graph, {"model": watched[0], **inputs}, world[2])
    looks = graph.add("ConesSeeConcepts", (840, 1260), images=pictures, model=watched[0], concept="star")
    grown = graph.add("GrowMask", (840, 1760), mask=looks[1], expand=6, tapered_corners=True)
    positive = encoded(graph, (420, 760), "What to draw there", world[1], text.format("sks star"), mask_1=mask[0])
    latents = graph.add("VAEEncode", (840, 1000), pixels=pictures, vae=world[2])
    masked = graph.add("SetLatentNoiseMask", (840, 1110), samples=latents[0], mask=grown[0])
    again = {"model": applied[0], "positive": positive, "negative": inputs["negative"], "latent_image": masked[0]}
    drawn_over(graph, again, world[2], 1.0)
    graph.group("A model, a concept", [world, mask, applied])
    return graph


def first_pictures(graph: Graph, inputs: dict[str, Any], vae: Output) -> Output:
    """The pictures to start from, also shown."""
    pictures = samples(graph, (840, 0), "The picture to start from", inputs, vae)
    shown = enlarged(graph, (840, 440), pictures)
    graph.add("PreviewImage", (840, 580), "The picture to start from", (340, 340), images=shown)
    return pictures


def drawn_over(graph: Graph, inputs: dict[str, Any], vae: Output, denoise: float) -> Node:
    """The second sampler and its saved pictures."""
    sampler = graph.add("KSampler", (1280, 0), "Draw over it", **inputs, **TOY, **STOCK, denoise=denoise)
    decoded = graph.add("VAEDecode", (1280, 330), samples=sampler[0], vae=vae)
    shown = enlarged(graph, (1280, 440), decoded[0])
    prefix = f"cones/{graph.name}"
    return graph.add("SaveImage", (1640, 0), "With the concept", (560, 600), images=shown, filename_prefix=prefix)
