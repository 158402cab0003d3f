"""Encode Prompt with Concepts: CLIP Text Encode that also tells where the words of concepts are."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..cones_ops.errors import ConesError
from ..cones_ops.masks.concept_mask import ConceptMask
from ..cones_ops.models.own_tokens import OWN_WORDS, OwnWords
from .host.notices import warn
from .host.text.encode import EncodedPrompt, encode_prompt
from .host.text.token_positions import Concept, phrase
from .inputs import ALIASES, CATEGORY, ConceptMaskSocket

SLOTS = 8


class ConesEncodePrompt(io.ComfyNode):  # type: ignore[misc]
    """The stock encoding, bit for bit, with the places of own tokens beside it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        slots = [
            ConceptMaskSocket.Input(
                f"mask_{i}",
                optional=True,
                tooltip="A concept mask whose words (identifier and class word) may be in the text. Any order.",
            )
            for i in range(1, SLOTS + 1)
        ]
        return io.Schema(
            node_id="ConesEncodePrompt",
            display_name="Encode Prompt with Concepts",
            category=CATEGORY,
            description=(
                "Encodes a prompt like CLIP Text Encode, and remembers which of its tokens are a concept's own, so "
                "that masks at own tokens act there and nowhere else. Use it for the subject's prompt of Find Concept "
                "Neurons and for every prompt that names a concept."
            ),
            search_aliases=[*ALIASES, "clip text encode", "prompt", "text encode", "own tokens", "trigger word"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint, as for CLIP Text Encode."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip=(
                        'What to draw. Name a concept by identifier and class word, as in "a sks star"; weights such '
                        "as (sks star:1.2) and plurals are understood."
                    ),
                ),
                *slots,
                io.String.Input(
                    "concepts",
                    default="",
                    optional=True,
                    tooltip=(
                        'Concepts without a mask, identifier first: "sks star", several separated by commas. For a '
                        "search, where there is no mask yet."
                    ),
                ),
                io.Combo.Input(
                    "own_tokens",
                    options=list(OWN_WORDS),
                    default=OWN_WORDS[0],
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Which tokens count as the concept's own; with more of them a mask changes more. Use the same "
                        "for searching and for sampling. With the end tokens a mask reaches the whole picture, not "
                        "only its subject."
                    ),
                ),
                io.Boolean.Input(
                    "prompt_per_line",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Each line is a prompt of its own: one caption per picture for Find Concept Neurons. Off: the "
                        "text is one prompt."
                    ),
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip=(
                        "The same as CLIP Text Encode gives, for KSampler, Find Concept Neurons and conditioning nodes."
                    ),
                ),
                io.String.Output(display_name="report", tooltip="Which tokens belong to which concept."),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip: Any,
        text: str,
        concepts: str = "",
        own_tokens: OwnWords = OWN_WORDS[0],
        prompt_per_line: bool = False,
        **masks: ConceptMask | None,
    ) -> io.NodeOutput:
        given = [mask for i in range(1, SLOTS + 1) if (mask := masks.get(f"mask_{i}")) is not None]
        wanted = [*((mask.identifier, mask.class_word) for mask in given), *named(concepts)]
        texts = [one for one in text.splitlines() if one.strip()] if prompt_per_line else [text]
        prompts = [encode_prompt(clip, one, wanted, own_tokens) for one in texts]
        if not prompts:
            raise ConesError("prompt_per_line is on, but the text has no line; write one caption per picture")
        told = [(len(places) > 0, line(one, concept)) for one in prompts for concept, places in one.positions.items()]
        if missing := [said for found, said in told if not found]:
            warn("\n".join(missing))
        report = "\n".join(said for _, said in told)
        conditioning = [entry for prompt in prompts for entry in prompt.conditioning]
        return io.NodeOutput(conditioning, report, ui=ui.PreviewText(report))


def named(concepts: str) -> list[Concept]:
    """(identifier, class word) of each concept in "sks star, zwx heart"."""
    words = [one.split(maxsplit=1) for one in concepts.replace("\n", ",").split(",") if one.strip()]
    return [(one[0], one[1] if len(one) > 1 else "") for one in words]


def line(prompt: EncodedPrompt, concept: Concept) -> str:
    """Where a concept's tokens are in a prompt, or that they are not."""
    name, places = phrase(concept), ", ".join(str(int(one)) for one in prompt.positions[concept])
    told = f"{name}: tokens {places} of {prompt.length}" if places else f"not in the prompt: {name},"
    return f'{told} in "{prompt.text}"'
