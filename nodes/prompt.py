"""Prompt with Concepts: one node between a checkpoint loader and a sampler, with concepts named by tags in the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io, ui

from ..cones_ops.errors import ConesError
from ..cones_ops.masks.concept_mask import ConceptMask
from .encode import token_report
from .host.apply.apply_masks import apply_masks
from .host.files.folders import folder_times
from .host.guidance import keep_apart as regions
from .host.inputs import ALIASES, CATEGORY, SLOTS, USING, ConceptMaskSocket, apply_anyway_input, connected_masks
from .host.notices import warn
from .host.text.encode import encode_prompt
from .host.text.tagged_prompts import paths_of_tags, read_tags, tagged_files


class ConesPromptWithConcepts(io.ComfyNode):  # type: ignore[misc]
    """Loads, applies and encodes in one: what the tags of the text name."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesPromptWithConcepts",
            display_name="Prompt with Concepts",
            category=CATEGORY,
            description=(
                "Write the name of a saved concept in the prompt, as in: a photo of <concept:rex> next to "
                "<concept:people/tom:0.8> on a beach. The node loads each concept, applies it to the model and puts "
                "its words into the prompt. Without tags and masks it does what CLIP Text Encode does."
            ),
            search_aliases=[
                *ALIASES,
                *USING,
                "clip text encode",
                "prompt",
                "text encode",
                "trigger word",
                "lora loader",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model that the concepts were found on, with or without LoRA."),
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint, as for CLIP Text Encode."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip=(
                        "What to draw. <concept:name> names a file in models/concept_masks; <concept:name:0.8> also "
                        "gives its strength, from 0 to 1. Upper and lower case are the same, and the folder may be "
                        "left out. The words of the concept, such as sks dog, are written in the place of the tag."
                    ),
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    optional=True,
                    tooltip="What not to draw. Tags work here too.",
                ),
                io.Autogrow.Input(
                    "masks",
                    template=io.Autogrow.TemplateNames(
                        ConceptMaskSocket.Input(
                            "mask",
                            tooltip=(
                                "A concept mask that has no file yet. It is applied at strength 1; name it in the text "
                                "by its words, such as sks dog."
                            ),
                        ),
                        names=[f"mask_{i}" for i in range(1, SLOTS + 1)],
                        min=0,
                    ),
                    optional=True,
                    tooltip=(
                        "Optional: concept masks that have no file yet. They are applied at strength 1; name them in "
                        "the text by their words, such as sks dog."
                    ),
                ),
                apply_anyway_input(
                    "Off: stop if a concept was found on other base weights. On: apply it anyway, with a warning in "
                    "the log."
                ),
                io.Boolean.Input(
                    "keep_apart",
                    default=True,
                    optional=True,
                    tooltip=(
                        "On: where the text names two concepts or more, each stays in a region of its own, as with "
                        "Keep Concepts Apart. Off: their looks may mix. No effect on other texts."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the concepts, for a sampler."),
                io.Conditioning.Output(display_name="positive", tooltip="The encoded text, for a sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="The encoded negative text, for a sampler."),
                io.String.Output(display_name="text", tooltip="The text with the words of the concepts in it."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        text: str,
        negative: str = "",
        masks: Mapping[str, ConceptMask | None] | None = None,
        apply_anyway: bool = False,
        keep_apart: bool = True,
    ) -> io.NodeOutput:
        prompts = read_tags([text, negative])
        connected = connected_masks(masks or {})
        applied = [*((mask, strength) for _, mask, strength in prompts.masks), *((mask, 1.0) for mask in connected)]
        rules = {(mask.identifier, mask.class_word): mask.own_words for mask, _ in applied}
        positive, other = (encode_prompt(clip, prompt, list(rules), rules=rules) for prompt in prompts.texts)
        reports = {concept: token_report(positive, concept) for concept in rules}
        here = [line for concept, (line, _) in reports.items() if len(positive.positions[concept])]
        elsewhere = {c for c in rules if len(other.positions[c]) and not len(positive.positions[c])}
        if notes := [note for concept, (_, note) in reports.items() if note and concept not in elsewhere]:
            warn("\n".join(notes))
        files = [f"{file}: strength {strength:g}" for file, _, strength in prompts.masks]
        report = "\n".join([prompts.texts[0], *files, *here, *notes])
        patched = apply_masks(model, applied, apply_anyway) if applied else model
        if keep_apart and len(here) > 1:
            patched = regions.keep_apart(patched, ())
        return io.NodeOutput(
            patched, positive.conditioning, other.conditioning, prompts.texts[0], ui=ui.PreviewText(report)
        )

    @classmethod
    def validate_inputs(cls, text: str | None = None, negative: str | None = None, masks: object = None) -> bool | str:
        """Before the queue starts: every tag names a file. A connected text is None here and checked later; the host
        passes sockets that grow, whether asked or not."""
        try:
            tagged_files([prompt for prompt in (text, negative) if prompt is not None])
        except ConesError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, text: str | None = None, negative: str | None = "", **_: Any) -> Any:
        """Load again when a file has changed; where a text is connected, and so unknown here, when any may have."""
        if text is None or negative is None:
            return folder_times()
        try:
            files = [path.stat() for path in paths_of_tags([text, negative])]
        except ConesError:
            return ""
        return [(facts.st_mtime_ns, facts.st_size) for facts in files]
