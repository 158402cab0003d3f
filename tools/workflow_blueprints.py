"""The subgraphs of the templates, which are also blueprints: the frontend offers each like a node.

tools/build_examples.py writes subgraphs/*.json from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow_graph import Output, Pair
from workflow_pieces import empty_latents, encoded, enlarged, samples
from workflow_subgraph import Subgraph


def two_samplers(graph: Subgraph, rows: Mapping[str, Mapping[str, Any]], vae: Output) -> None:
    """A sampler for each title, with its own inputs, from the same noise."""
    side, count = graph.input("side"), graph.input("pictures")
    common = {"latent_image": empty_latents(graph, (420, -180), count, side), "seed": graph.input("seed")}
    times, pictures = graph.input("enlarge"), []
    for k, (title, inputs) in enumerate(rows.items()):
        drawn = samples(graph, (840, 520 * k), title, {**common, **inputs}, vae)
        pictures.append(enlarged(graph, (1200, 520 * k), drawn, times))
    side_by_side(graph, (1560, 0), *pictures)


def side_by_side(graph: Subgraph, position: Pair, before: Output, after: Output) -> None:
    """The outputs of a subgraph that changes pictures: before, after, and both as one picture each."""
    joined = {"image1": before, "image2": after, "direction": "right", "match_image_size": True}
    pairs = graph.add("ImageStitch", position, **joined, spacing_width=8, spacing_color="white")
    graph.output(before=before, after=after, pairs=pairs[0])


def without_and_with() -> Subgraph:
    """One prompt, one noise: the model as it is, and with a concept."""
    graph = Subgraph("Draw without and with a concept", 100, description="One prompt from one noise, twice.")
    model, clip, vae = (graph.input(name) for name in ("model", "clip", "vae"))
    mask, text = graph.input("concept_mask"), graph.input("text")
    inputs = {"model": model, "clip": clip, "text": text, "masks.mask_1": mask}
    prompts = graph.add("ConesPromptWithConcepts", (420, 0), **inputs)
    both = {"positive": prompts[1], "negative": prompts[2]}
    rows = {"Without": {"model": model, **both}, "With": {"model": prompts[0], **both}}
    two_samplers(graph, rows, vae)
    return graph


def two_prompts() -> Subgraph:
    """Two encoded prompts, one noise."""
    graph = Subgraph("Draw two prompts from one noise", 200, description="Two prompts, each with its model, one noise.")
    names = ("model", "positive", "negative")
    rows = {title: {name: graph.input(f"{name}_{k}") for name in names} for k, title in ((1, "First"), (2, "Second"))}
    two_samplers(graph, rows, graph.input("vae"))
    return graph


def encode_pictures() -> Subgraph:
    """Pictures and captions as a search takes them."""
    graph = Subgraph("Encode pictures and captions", 300, description="Pictures and a caption each, for a search.")
    clip, vae, images = (graph.input(name) for name in ("clip", "vae", "images"))
    captions, concepts = graph.input("captions"), graph.input("concepts")
    latents = graph.add("VAEEncode", (0, 0), pixels=images, vae=vae)
    prompts = encoded(graph, (0, 130), "", clip, captions, concepts=concepts, prompt_per_line=True)
    graph.output(latents=latents[0], conditioning=prompts)
    return graph


def first_pictures() -> Subgraph:
    """Pictures of a plain prompt, to be changed."""
    graph = Subgraph("Draw the pictures to change", 400, description="Pictures of a prompt without concepts.")
    model, clip, vae = (graph.input(name) for name in ("model", "clip", "vae"))
    text = graph.input("text")
    prompts = {
        "positive": encoded(graph, (0, 0), "What to draw", clip, text),
        "negative": encoded(graph, (0, 420), "Negative (empty)", clip, ""),
    }
    latents = empty_latents(graph, (0, 840), 4)
    graph.output(pictures=samples(graph, (420, 0), "", {"model": model, **prompts, "latent_image": latents}, vae))
    return graph


def redraw() -> Subgraph:
    """What is inside a mask, drawn anew as a prompt says."""
    graph = Subgraph("Redraw inside a mask", 500, description="Draws the masked part of pictures anew; the rest stays.")
    model, positive, negative, vae = (graph.input(name) for name in ("model", "positive", "negative", "vae"))
    pictures, mask = graph.input("pictures"), graph.input("mask")
    grown = graph.add("GrowMask", (0, 0), mask=mask, expand=graph.input("room"), tapered_corners=True)
    latents = graph.add("VAEEncode", (0, 160), pixels=pictures, vae=vae)
    masked = graph.add("SetLatentNoiseMask", (0, 280), samples=latents[0], mask=grown[0])
    inputs = {"model": model, "positive": positive, "negative": negative, "latent_image": masked[0]}
    inputs |= {"seed": graph.input("seed"), "denoise": graph.input("denoise")}
    drawn = samples(graph, (420, 0), "Draw over it", inputs, vae)
    times = graph.input("enlarge")
    large = [enlarged(graph, (780, 120 * k), images, times) for k, images in enumerate((pictures, drawn))]
    side_by_side(graph, (1140, 0), *large)
    return graph


def tune_two() -> Subgraph:
    """Two masks, pictures of each subject -> the masks tuned for use in one picture."""
    description = "Some joint steps on two concept masks, so that both subjects appear in one picture."
    graph = Subgraph("Tune two concepts together", 600, description=description)
    model, clip, vae = (graph.input(name) for name in ("model", "clip", "vae"))
    masks = {f"mask_{k}": graph.input(f"mask_{k}") for k in (1, 2)}
    inputs, slots = dict(masks), {}
    for k in (1, 2):
        top = 560 * (k - 1)
        slots[f"images_{k}"] = graph.input(f"images_{k}")
        latents = graph.add("VAEEncode", (0, top), pixels=slots[f"images_{k}"], vae=vae)
        words = {"text": graph.input(f"captions_{k}"), "mask_1": masks[f"mask_{k}"], "prompt_per_line": True}
        inputs[f"latents_{k}"] = latents[0]
        inputs[f"conditioning_{k}"] = encoded(graph, (0, top + 120), f"What pictures {k} show", clip, **words)
        slots[f"phrase_{k}"] = graph.input(f"phrase_{k}")
    laid = graph.add("ConesLayPictures", (420, 0), **slots, zoom=graph.input("zoom"))
    inputs["together_latents"] = graph.add("VAEEncode", (420, 370), pixels=laid[0], vae=vae)[0]
    captions = encoded(graph, (420, 490), "A caption per picture", clip, laid[1], prompt_per_line=True, **masks)
    inputs |= {"together_conditioning": captions, "steps": graph.input("steps")}
    tuned = graph.add("ConesTuneConceptMasks", (840, 0), model=model, **inputs)
    graph.output(mask_1=tuned[0], mask_2=tuned[1], report=tuned[4], pictures_of_both=laid[0])
    return graph


BLUEPRINTS = (encode_pictures, without_and_with, redraw, tune_two)
