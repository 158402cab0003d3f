"""Keep Concepts Apart: each concept of a prompt, and each other thing named here, stays in a region of its own."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from .host.guidance.keep_apart import keep_apart
from .inputs import ALIASES, CATEGORY


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
                        '"circle, tree". They get regions too, so that they do not take the looks of a concept. '
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
                        'of things, in the same order. List the concepts in things too, as in "sks star, zwx heart".'
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
        words = tuple(" ".join(thing.split()) for thing in things.replace("\n", ",").split(",") if thing.strip())
        return io.NodeOutput(keep_apart(model, words, strength, regions))
