"""Encode Prompt with Concepts: CLIP Text Encode that also records where the words of concepts are."""

from __future__ import annotations

import re
from typing import Any

from comfy_api.latest import io, ui

from ..cones_ops.errors import ConesError
from ..cones_ops.masks.concept_mask import ConceptMask
from ..cones_ops.models.phrases import OWN_WORDS, PHRASE, OwnWords, class_word_apart
from .host.inputs import ALIASES, CATEGORY, USING, connected_masks, mask_inputs
from .host.notices import warn
from .host.text.encode import EncodedPrompt, encode_prompt
from .host.text.token_positions import ConceptWords, phrase


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
            search_aliases=[
                *ALIASES,
                *USING,
                "clip text encode",
                "prompt",
                "text encode",
                "own tokens",
                "trigger word",
            ],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint, as for CLIP Text Encode."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip=(
                        'What to draw. Name a concept by its identifier and class word, as in "a sks cat". Weights '
                        "such as (sks cat:1.2) and plurals also work. Brackets around a concept say which words are "
                        "its own, as in [a sks dog with a red collar]; the text encoder does not get them."
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
                        'Concepts that have no mask yet, such as "sks cat" before a search. Write the identifier '
                        'first; separate several concepts by commas, semicolons, "and" or new lines.'
                    ),
                ),
                io.Combo.Input(
                    "own_tokens",
                    options=list(OWN_WORDS),
                    default=PHRASE,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Which tokens count as the concept's own. phrase (recommended): also the words after the class "
                        'word that say what it wears or where it is ("a sks cat on the left"); the report prints '
                        "them. Masks that were found by their phrase always use it; other masks follow this setting, "
                        "where phrase means identifier + class word for them. With the end tokens, a mask changes the "
                        "whole picture, not only its subject."
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
        rules = {(mask.identifier, mask.class_word): rule_for(mask, own_tokens) for mask in connected_masks(masks)}
        wanted = [*rules, *(concept for concept in concept_words(concepts) if concept not in rules)]
        texts = [line for line in text.splitlines() if line.strip()] if prompt_per_line else [text]
        prompts = [encode_prompt(clip, line, wanted, own_tokens, rules) for line in texts]
        if not prompts:
            raise ConesError("prompt_per_line is on, but no line of the text has words; write one caption per picture")
        reports = [token_report(prompt, concept) for prompt in prompts for concept in prompt.positions]
        if notes := [note for _, note in reports if note]:
            warn("\n".join(dict.fromkeys(notes)))
        report = "\n".join(line if note in ("", line) else f"{line}\n{note}" for line, note in reports)
        conditioning = [entry for prompt in prompts for entry in prompt.conditioning]
        return io.NodeOutput(conditioning, report, ui=ui.PreviewText(report))


def rule_for(mask: ConceptMask, own_tokens: OwnWords) -> OwnWords:
    """Which words are a mask's own: as it was found; one whose file says nothing follows the node, but for phrases."""
    return mask.own_words if mask.own_words != OWN_WORDS[0] or own_tokens == PHRASE else own_tokens


def concept_words(concepts: str) -> list[ConceptWords]:
    """(identifier, class word) of each concept in "sks cat, zwx robot"; quotes around them do not count."""
    names = re.split(r"[,;\n]|\band\b", re.sub('["\u201c\u201d]', " ", concepts), flags=re.IGNORECASE)
    words = [name.split(maxsplit=1) for name in names if name.split()]
    return [(parts[0], " ".join(parts[1:]).strip()) for parts in words]


def token_report(prompt: EncodedPrompt, concept: ConceptWords) -> tuple[str, str]:
    """A concept's own words in a prompt and where their tokens are; what to look at there, "" if nothing."""
    text, tokens, name = prompt.text.text, prompt.tokens, phrase(concept)
    positions = ", ".join(str(position) for position in tokens.positions[concept].tolist())
    if not positions:
        line = f'not in the prompt: {name}. Write it in "{text}"'
        return line, line
    line = f'{name}: tokens {positions} of {prompt.length} ("{tokens.own_words[concept]}") in "{text}"'
    if not concept[1]:
        return line, f'Write a class word, as in "{name} cat": {name} has no class word'
    if class_word_apart(prompt.text, *concept, tokens.rules[concept]):
        return (
            line,
            f'Write "{name}": "{concept[0]}" stands without "{concept[1]}" behind it in "{text}" and acts alone',
        )
    return line, ""
