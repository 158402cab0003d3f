"""The templates, described once; tools/build_examples.py writes the files.

A template opens with all of it in view, so its nodes lie within WIDTH x HEIGHT: then words are drawn at the zoom that
a window of 1280 x 720 gives. Tests check that the files in workflows/ are what is described here, and run them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workflow_blueprints import BLUEPRINTS, encode_pictures, first_pictures, redraw, two_prompts, without_and_with
from workflow_graph import Graph, Node
from workflow_pieces import (
    MASKS,
    NOTE_WIDTH,
    PAIR,
    SAMPLER,
    SD15,
    TOGETHER,
    TOY,
    compared,
    empty_latents,
    enlarged,
    saved,
)

ROOT = Path(__file__).absolute().parent.parent
WIDTH, HEIGHT = 1660, 910  # of a template, from the leftmost to the rightmost node, title bars included
MIDDLE = NOTE_WIDTH + 40  # left edge of what is beside the note


def draw_a_saved_concept() -> Graph:
    """The pack in one node: saved concepts named in the prompt."""
    graph = Graph("1 - Draw a saved concept")
    graph.note((0, 0), (NOTE_WIDTH, 460), "Draw a saved concept")
    draw(graph)
    return graph


def concept_app() -> Graph:
    """The same graph as an App with three fields."""
    graph = Graph("7 - Draw a concept.app")
    graph.note((0, 0), (NOTE_WIDTH, 460), "Draw a concept, as an App")
    prompts, latents, sampler, pictures = draw(graph)
    graph.as_app([(prompts, "text"), (latents, "batch_size"), (sampler, "seed")], [pictures])
    return graph


def draw(graph: Graph) -> tuple[Node, Node, Node, Node]:
    """Toy World, a prompt with a tag, a sampler: the nodes of the prompt, latents, sampler and pictures."""
    world = graph.add("ConesToyWorld", (0, 510), size=(NOTE_WIDTH, 90))
    text = f"a <concept:{MASKS[0]}> on paper"
    prompts = graph.add("ConesPromptWithConcepts", (MIDDLE, 0), model=world[0], clip=world[1], text=text)
    latents = empty_latents(graph, (MIDDLE, 460), 4, width=360)
    inputs = {"model": prompts[0], "positive": prompts[1], "negative": prompts[2], "latent_image": latents}
    sampler = graph.add("KSampler", (MIDDLE, 610), size=(360, 270), **inputs, **TOY, **SAMPLER)
    decoded = graph.add("VAEDecode", (940, 0), samples=sampler[0], vae=world[2])
    pictures = saved(graph, (940, 130), (700, 750), enlarged(graph, (1340, 0), decoded[0]))
    return prompts, latents.node, sampler, pictures


def teach_a_concept() -> Graph:
    """Pictures -> a saved concept, and what it draws, in one node."""
    graph = Graph("2 - Teach a concept")
    graph.note((0, 0), (NOTE_WIDTH, 420), "Teach a concept")
    world = graph.add("ConesToyWorld", (0, 470), size=(NOTE_WIDTH, 90))
    subject = graph.add("ConesToySubject", (0, 600), size=(NOTE_WIDTH, 280), subject="hta", pictures=5, beside=0)
    graph.add(
        "ConesTeachConcept", (MIDDLE, 0), size=(760, 880), model=world[0], clip=world[1], vae=world[2],
        images=subject[0], class_word=subject[4], name="my-first-concept", if_exists="overwrite",
    )  # fmt: skip
    return graph


def teach_from_photos() -> Graph:
    """A checkpoint and a folder of photos -> a saved concept, and a picture with it."""
    graph = Graph("3 - Teach from your own photos")
    graph.note((0, 0), (NOTE_WIDTH, 570), "Teach from your own photos")
    model = graph.add("CheckpointLoaderSimple", (0, 620), size=(NOTE_WIDTH, 100))
    photos = graph.add("LoadImageDataSetFromFolder", (0, 770), size=(NOTE_WIDTH, 60), folder="my-photos")
    concept = graph.add(
        "ConesTeachConcept", (MIDDLE, 0), size=(400, 880), model=model[0], clip=model[1], vae=model[2],
        images=photos[0], class_word="dog", name="my-dog", if_exists="overwrite", identifier="sks",
    )  # fmt: skip
    text = {"text": "a photo of a sks dog on a beach", "negative": "blurry, deformed"}
    inputs = {"model": model[0], "clip": model[1], "masks.mask_1": concept[0], **text}
    prompts = graph.add("ConesPromptWithConcepts", (980, 0), size=(300, 420), **inputs)
    latents = empty_latents(graph, (980, 460), 1, 512, width=300)
    inputs = {"model": prompts[0], "positive": prompts[1], "negative": prompts[2], "latent_image": latents}
    sampler = graph.add("KSampler", (980, 610), size=(300, 270), **inputs, **SD15, **SAMPLER)
    decoded = graph.add("VAEDecode", (1320, 0), size=(320, 50), samples=sampler[0], vae=model[2])
    saved(graph, (1320, 100), (320, 780), decoded[0])
    return graph


def four_concepts() -> Graph:
    """Four concepts in one prompt, kept apart and not."""
    graph = Graph("4 - Four concepts in one picture")
    graph.note((0, 0), (NOTE_WIDTH, 460), "Four concepts in one picture")
    world = graph.add("ConesToyWorld", (0, 650), size=(NOTE_WIDTH, 90))
    corners = ("top left", "top right", "bottom left", "bottom right")
    words = ", ".join(f"a <concept:{name}> at the {corner}" for name, corner in zip(TOGETHER, corners, strict=True))
    text = graph.add("PrimitiveStringMultiline", (0, 510), "What to draw", (NOTE_WIDTH, 110), value=f"{words} on paper")
    inputs, drawn = {"model": world[0], "clip": world[1], "text": text[0]}, {}
    for k, (title, apart) in enumerate((("Looks may mix", False), ("Kept apart", True)), start=1):
        position = (MIDDLE, 460 * (k - 1))
        prompts = graph.add("ConesPromptWithConcepts", position, title, keep_apart=apart, **inputs)
        drawn |= {f"model_{k}": prompts[0], f"positive_{k}": prompts[1], f"negative_{k}": prompts[2]}
    pictures = graph.add_subgraph(two_prompts(), (940, 0), (300, 300), vae=world[2], **drawn, **{**PAIR, "seed": 4})
    compared(graph, (1280, 0), (360, 420), "Before | after", pictures[0], pictures[1])
    saved(graph, (1280, 460), (360, 420), pictures[2], "Side by side")
    return graph


def swap_a_thing() -> Graph:
    """A thing in a finished picture, found by See Concepts, redrawn as a concept; the rest stays."""
    graph = Graph("5 - Swap a thing in a picture")
    graph.note((0, 0), (NOTE_WIDTH, 460), "Swap a thing in a picture")
    world = graph.add("ConesToyWorld", (0, 510), size=(NOTE_WIDTH, 90))
    recorder = {"model": world[0], "things": "cat", "strength": 0.0}
    watched = graph.add("ConesKeepApart", (0, 640), "Record where words look", (NOTE_WIDTH, 150), **recorder)
    text = "a {} on the left and a blue mug on the right on paper"
    inputs = {"model": watched[0], "clip": world[1], "vae": world[2], "text": text.format("red cat")}
    before = graph.add_subgraph(first_pictures(), (MIDDLE, 0), (360, 200), **inputs)
    seen = {"images": before[0], "model": watched[0], "concept": "cat"}
    place = graph.add("ConesSeeConcepts", (MIDDLE, 240), size=(360, 640), **seen)
    words = {"text": text.format(f"<concept:{MASKS[0]}>")}
    prompts = graph.add("ConesPromptWithConcepts", (940, 0), model=world[0], clip=world[1], **words)
    inputs = {"model": prompts[0], "positive": prompts[1], "negative": prompts[2], "vae": world[2]}
    inputs |= {"pictures": before[0], "mask": place[1], "room": 9, "seed": 7, "denoise": 1.0, "enlarge": 4.0}
    pictures = graph.add_subgraph(redraw(), (940, 460), (360, 420), **inputs)
    compared(graph, (1340, 0), (310, 420), "Before | after", pictures[0], pictures[1])
    saved(graph, (1340, 460), (310, 420), pictures[2], "Side by side")
    return graph


def find_step_by_step() -> Graph:
    """Encode, find, save, inspect, and draw without and with the concept, each step a node."""
    graph = Graph("6 - Find a concept step by step")
    graph.note((0, 0), (NOTE_WIDTH, 420), "Find a concept step by step")
    world = graph.add("ConesToyWorld", (0, 470), size=(NOTE_WIDTH, 90))
    subject = graph.add("ConesToySubject", (0, 600), size=(NOTE_WIDTH, 280), subject="sks", pictures=30, beside=24)
    inputs = {"clip": world[1], "vae": world[2], "images": subject[0], "captions": subject[5], "concepts": subject[6]}
    encoded = graph.add_subgraph(encode_pictures(), (MIDDLE, 0), (400, 230), **inputs)
    search = graph.add(
        "ConesFindConceptNeurons", (MIDDLE, 270), size=(400, 610), model=world[0], subject_latents=encoded[0],
        subject_conditioning=encoded[1], identifier=subject[3], class_word=subject[4],
    )  # fmt: skip
    mask = graph.add(
        "ConesSaveConceptMask", (980, 0), size=(320, 150), concept_mask=search[0], name=MASKS[0], if_exists="overwrite",
    )  # fmt: skip
    inputs = {"model": world[0], "clip": world[1], "vae": world[2], "concept_mask": mask[0]}
    words = {"text": "a sks cat on paper"}
    pictures = graph.add_subgraph(without_and_with(), (980, 190), (320, 420), **inputs, **words, **PAIR)
    compared(graph, (1340, 0), (310, 420), "Before | after", pictures[0], pictures[1])
    saved(graph, (1340, 460), (310, 420), pictures[2], "Side by side")
    return graph


WORKFLOWS: tuple[Callable[[], Graph], ...] = (
    *(draw_a_saved_concept, teach_a_concept, teach_from_photos, four_concepts, swap_a_thing, find_step_by_step),
    concept_app,
)


def files(object_info: dict[str, Any]) -> dict[Path, str]:
    """Path -> text of every template and blueprint."""
    graphs = {ROOT / "workflows": [make() for make in WORKFLOWS]}
    graphs[ROOT / "subgraphs"] = [make().blueprint() for make in BLUEPRINTS]
    return {
        folder / f"{graph.name}.json": json.dumps(graph.workflow(object_info), indent=1, ensure_ascii=False) + "\n"
        for folder, entries in graphs.items()
        for graph in entries
    }
