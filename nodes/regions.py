"""Keep Concepts Apart, where each concept of a prompt stays in a region of its own, and See Concepts, which shows where
the words of a prompt looked while a picture was drawn, and gives masks of what they drew.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..cones_ops.errors import ConesError
from ..cones_ops.guidance.attention_maps import THRESHOLD, masks_of
from ..cones_ops.guidance.overlay import density, overlay
from ..cones_ops.reports.figures import labelled_grid
from .host.guidance.keep_apart import keep_apart
from .host.guidance.recording import mean_over_prompts, settings_of
from .host.inputs import ALIASES, CATEGORY, LOOK, as_image, as_pixels, comma_separated, drawn, preview

ATTENTION, REGIONS = "attention", "regions"


class ConesKeepApart(io.ComfyNode):  # type: ignore[misc]
    """A clone that reads attention in the first steps and biases it afterwards; no weight is touched."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesKeepApart",
            display_name="Keep Concepts Apart",
            category=CATEGORY,
            description=(
                "Keeps the concepts of a prompt in separate regions of the picture, so that their looks do not mix. In "
                "the first tenth of the steps the node reads where each concept looks; afterwards each concept stays "
                "in its own region. Prompts must come from Encode Prompt with Concepts or Prompt with Concepts. "
                "Sampling takes almost no extra time. Connect the model to See Concepts to see the regions."
            ),
            search_aliases=[*ALIASES, "regional", "regions", "attention mask", "bleeding", "freefuse"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model to sample with, such as that of Apply Concept Masks. It is not changed.",
                ),
                io.String.Input(
                    "things",
                    default="",
                    tooltip=(
                        "The other things in the prompt, as written there and separated by commas, such as "
                        '"mug, tree". They get regions too, so that they do not take the looks of a concept. '
                        "Concepts need not be listed."
                    ),
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    tooltip=(
                        "How strongly concepts are kept to their regions, from 0 to 1. 0: not at all, the picture "
                        "stays the same bit for bit, but See Concepts still shows where words look. 1: completely."
                    ),
                ),
                io.Mask.Input(
                    "regions",
                    optional=True,
                    tooltip=(
                        "Regions drawn by hand in place of those that are read: a batch with one mask for each entry "
                        'of things, in the same order. List the concepts in things too, as in "sks cat, zwx robot".'
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The model for the sampler, and for See Concepts after the picture is finished.",
                )
            ],
        )

    @classmethod
    def execute(cls, model: Any, things: str, strength: float, regions: Tensor | None = None) -> io.NodeOutput:
        return io.NodeOutput(keep_apart(model, tuple(comma_separated(things)), strength, regions))


class ConesSeeConcepts(io.ComfyNode):  # type: ignore[misc]
    """Maps of the latest run of a model with Keep Concepts Apart."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesSeeConcepts",
            display_name="See Concepts",
            category=LOOK,
            description=(
                "Shows where each concept, and each thing named in Keep Concepts Apart, looked in a finished picture, "
                "and gives masks of them, for inpainting and detailers. The maps come from the sampling that drew the "
                "picture; nothing is computed again."
            ),
            search_aliases=[*ALIASES, "attention map", "heat map", "daam", "segmentation", "inpaint mask", "visualize"],
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The finished pictures, from VAE Decode after the sampler."),
                io.Model.Input(
                    "model",
                    tooltip="The model that drew them: the output of Keep Concepts Apart (strength 0 also records).",
                ),
                io.String.Input(
                    "concept",
                    default="",
                    tooltip=(
                        'Which concept or thing to show, such as "sks cat". Empty: all of them; the masks then come '
                        "in the order of the report."
                    ),
                ),
                io.Combo.Input(
                    "show",
                    options=[ATTENTION, REGIONS],
                    default=ATTENTION,
                    tooltip=(
                        "attention: where the words looked, on average over all steps. regions: the regions in which "
                        "Keep Concepts Apart kept them."
                    ),
                ),
                io.Float.Input(
                    "threshold",
                    default=THRESHOLD,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    tooltip=(
                        "What belongs to a mask, from 0 to 1: everything above this share of the map's range. Higher: "
                        "smaller masks."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="overview",
                    tooltip="The maps over the pictures, with their names, in one colour scale.",
                ),
                io.Mask.Output(
                    display_name="masks", tooltip="A mask for each concept and picture, of the pictures' size."
                ),
                io.String.Output(display_name="report", tooltip="What the masks show, in their order."),
            ],
        )

    @classmethod
    def execute(
        cls, images: Tensor, model: Any, concept: str = "", show: str = ATTENTION, threshold: float = THRESHOLD
    ) -> io.NodeOutput:
        names, maps = recorded_maps(model, len(images), concept, show)
        masks = masks_of(maps, images.shape[1:3], threshold).float().transpose(0, 1).flatten(0, 1)  # (C * B, H, W)
        report = f"{len(masks)} masks, {len(images)} for each of: {', '.join(names)}"
        figure, problem = drawn(lambda: overview(as_pixels(images), names, maps))
        report = "\n".join(filter(None, (report, problem)))
        return io.NodeOutput(as_image(figure), masks, report, ui=preview(cls, as_image(figure), report))


def recorded_maps(model: Any, count: int, concept: str, show: str) -> tuple[list[str], Tensor]:
    """Names (C,) and maps (B, C, h, w) of the latest run of a model that drew `count` pictures."""
    settings = settings_of(model)
    if settings is None:
        raise ConesError("this model records nothing; connect the output of Keep Concepts Apart, and sample with it")
    recording = settings.recording
    if not recording.prompts:
        raise ConesError(
            "this model has recorded no picture: sample with it first, with a prompt from Encode Prompt with Concepts "
            "that names a concept or one of the things"
        )
    maps, regions = mean_over_prompts(recording.prompts)
    if show == REGIONS:
        if regions is None:
            raise ConesError("no regions acted in the latest run (strength 0, or one thing alone); show attention")
        maps = regions.expand(len(maps), -1, -1, -1)
    if len(maps) != count:
        raise ConesError(
            f"{count} images, but the latest run of this model drew {len(maps)}; connect the pictures of that run"
        )
    present = torch.stack([prompt.present for prompt in recording.prompts]).any(dim=0).tolist()
    wanted = " ".join(concept.split()).casefold()
    chosen = [k for k, name in enumerate(recording.names) if present[k] and wanted in ("", name.casefold())]
    if not chosen:
        raise ConesError(f"the latest run has no {concept!r}; it has {', '.join(recording.names)}")
    return [recording.names[k] for k in chosen], maps[:, chosen]


def overview(pictures: np.ndarray, names: list[str], maps: Tensor) -> np.ndarray:
    """A row for each picture (B, H, W, 3) uint8: itself, then each map over it."""
    values = density(maps)
    top = float(values.max())
    cells, labels = [], []
    for picture, of_picture in zip(pictures, values, strict=True):
        cells += [picture, *(overlay(picture, part, top) for part in of_picture)]
        labels += ["picture", *names]
    return labelled_grid(cells, labels, 1 + len(names))
