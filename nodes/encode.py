"""Encode Prompt with Concepts: CLIP Text Encode that also records where the words of concepts are."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..cones_ops.errors import ConesError
from ..cones_ops.masks.concept_mask import ConceptMask
from ..cones_ops.models.own_tokens import OWN_WORDS, OwnWords
from .host.notices import warn
from .host.text.encode import EncodedPrompt, encode_prompt
from .host.text.token_positions import ConceptWords, phrase
from .inputs import ALIASES, CATEGORY, connected_masks, mask_inputs


class ConesEncodePrompt(io.ComfyNode):  # type: ignore[misc]
    """The stock encoding, bit for bit, with the positions of own tokens beside it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesEncodePrompt",
            display_name="Encode Prompt with Concepts",
            category=CATEGORY,
            description=(
                "Encodes a prompt like CLIP Text Encode, and records which tokens name a concept (its own tokens), so "
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
                        'What to draw. Name a concept by its identifier and class word, as in "a sks star". Weights '
                        "such as (sks star:1.2) and plurals also work."
                    ),
                ),
                *mask_inputs(
                    "A concept mask: the node looks for its words (identifier and class word) in the text. The order "
                    "does not matter."
                ),
                io.String.Input(
                    "concepts",
                    default="",
                    optional=True,
                    tooltip=(
                        'Concepts that have no mask yet, such as "sks star" before a search. Write the identifier '
                        "first; separate several concepts by commas."
                    ),
                ),
                io.Combo.Input(
                    "own_tokens",
                    options=list(OWN_WORDS),
                    default=OWN_WORDS[0],
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Which tokens count as the concept's own; with more tokens, a mask changes more. Use the same "
                        "setting for searching and for sampling. With the end tokens, a mask changes the whole "
                        "picture, not only its subject."
                    ),
                ),
                io.Boolean.Input(
                    "prompt_per_line",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "On: each line is a separate prompt, such as one caption per picture for Find Concept Neurons. "
                        "Off: the whole text is one prompt."
                    ),
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="The same as from CLIP Text Encode, for KSampler, Find Concept Neurons and other nodes.",
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
        wanted = [(mask.identifier, mask.class_word) for mask in connected_masks(masks)] + concept_words(concepts)
        texts = [line for line in text.splitlines() if line.strip()] if prompt_per_line else [text]
        prompts = [encode_prompt(clip, line, wanted, own_tokens) for line in texts]
        if not prompts:
            raise ConesError("prompt_per_line is on, but no line of the text has words; write one caption per picture")
        reports = [token_report(prompt, concept) for prompt in prompts for concept in prompt.positions]
        if missing := [line for line, found in reports if not found]:
            warn("\n".join(missing))
        report = "\n".join(line for line, _ in reports)
        conditioning = [entry for prompt in prompts for entry in prompt.conditioning]
        return io.NodeOutput(conditioning, report, ui=ui.PreviewText(report))


def concept_words(concepts: str) -> list[ConceptWords]:
    """(identifier, class word) of each concept in "sks star, zwx heart"."""
    phrases = [phrase.split(maxsplit=1) for phrase in concepts.replace("\n", ",").split(",") if phrase.strip()]
    return [(words[0], words[1] if len(words) > 1 else "") for words in phrases]


def token_report(prompt: EncodedPrompt, concept: ConceptWords) -> tuple[str, bool]:
    """Where a concept's tokens are in a prompt, in words, and whether there are any."""
    positions = ", ".join(str(position) for position in prompt.positions[concept].tolist())
    if not positions:
        return f'not in the prompt: {phrase(concept)} (the prompt is "{prompt.text}")', False
    return f'{phrase(concept)}: tokens {positions} of {prompt.length} in "{prompt.text}"', True
