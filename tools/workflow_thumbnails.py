"""The thumbnails of the templates: what a run of each template gives, with a few words below each picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from workflow_graph import Graph
from workflow_pieces import SIDE

from cones_ops.hosts.diffusers.pictures import pixels_of
from cones_ops.laboratory.comfyui.prompts import node
from cones_ops.laboratory.comfyui.server import Server
from cones_ops.laboratory.comfyui.workflow import Prompt
from cones_ops.reports.figures import labelled_grid
from cones_ops.toy_world.subjects import subject_named

SHOWN, PATIENCE = 200, 3600  # pixels of a picture, seconds that a run may take
BEFORE_AFTER = {
    "4": ("four concepts, mixed", "kept apart"),
    "5": ("a red cat", "swapped for a concept"),
    "6": ("a sks cat, before", "after"),
}
EXAMPLE = node("ConesLoadConceptMask", mask_name="toy-sks-cat.safetensors")
Labelled = dict[str, np.ndarray]


def only(prompt: Prompt, class_type: str) -> str:
    """The id of the only node of a class."""
    (node_id,) = [node_id for node_id, entry in prompt.items() if entry["class_type"] == class_type]
    return node_id


def thumbnail(server: Server, object_info: dict[str, Any], graph: Graph) -> np.ndarray:
    """Run a template; the picture (H, W, 3) uint8 that shows what it does.

    An example mask, which came from the same search, takes the place of the searches of the templates 3 and 6.
    """
    prompt, number = graph.api(object_info), graph.name[0]
    if number == "2":
        return server.run(prompt, PATIENCE).image(only(prompt, "ConesTeachConcept"))
    if number == "6":
        prompt[only(prompt, "ConesSaveConceptMask")] = EXAMPLE
        del prompt[only(prompt, "ConesFindConceptNeurons")]
    if number in BEFORE_AFTER:
        views = server.run(prompt, PATIENCE).outputs[only(prompt, "ImageCompare")]
        pictures = [server.image(views[f"{side}_images"][0]) for side in "ab"]
        return in_a_row(dict(zip(BEFORE_AFTER[number], pictures, strict=True)))
    return in_a_row({"1": tagged, "3": from_photos, "7": as_app}[number](server, prompt))


def in_a_row(pictures: Labelled) -> np.ndarray:
    return labelled_grid(list(pictures.values()), list(pictures), columns=len(pictures), side=SHOWN)


def drawn(server: Server, prompt: Prompt, text: str) -> np.ndarray:
    """The first picture of a text."""
    prompt[only(prompt, "ConesPromptWithConcepts")]["inputs"]["text"] = text
    return server.run(prompt, PATIENCE).images(only(prompt, "SaveImage"))[0]


def tagged(server: Server, prompt: Prompt) -> Labelled:
    """The same words without and with the tag."""
    texts = {"without: a sks cat": "a sks cat", "a <concept:toy-sks-cat>": "a <concept:toy-sks-cat>"}
    return {label: drawn(server, prompt, f"{text} on paper") for label, text in texts.items()}


def as_app(server: Server, prompt: Prompt) -> Labelled:
    texts = {name: f"a <concept:toy-{name}> on paper" for name in ("zwx-robot", "sks-cat")}
    labels = ("App: write a prompt,", "press Run")
    return {label: drawn(server, prompt, text) for label, text in zip(labels, texts.values(), strict=True)}


def from_photos(server: Server, prompt: Prompt) -> Labelled:
    """With the toy world in the place of the checkpoint, and pictures of a toy subject as photos."""
    photos = [pixels_of(picture) for picture in subject_named("zwx").reference_pictures(4)[0]]
    prompt[only(prompt, "CheckpointLoaderSimple")] = node("ConesToyWorld")
    prompt[only(prompt, "ConesTeachConcept")] = node("ConesLoadConceptMask", mask_name="toy-zwx-robot.safetensors")
    del prompt[only(prompt, "LoadImageDataSetFromFolder")]
    prompt[only(prompt, "EmptyLatentImage")]["inputs"] |= {"width": SIDE, "height": SIDE}
    prompt[only(prompt, "KSampler")]["inputs"] |= {"cfg": 3.0, "steps": 20}
    text = "a zwx robot on paper"
    return {"a folder of photos": quartered(photos), "a concept to draw": drawn(server, prompt, text)}


def quartered(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Four pictures as one."""
    first, second, third, fourth = pictures
    return np.concatenate([np.concatenate([first, second], 1), np.concatenate([third, fourth], 1)])
