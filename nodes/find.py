"""Find Concept Neurons: pictures of a subject and its prompt -> the concept mask that makes the model draw it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from comfy_api.latest import io

from ..cones_ops.masks.concept_mask import Where
from ..cones_ops.models.targets import TARGET_CHOICES
from ..cones_ops.reports.figures import density_figure
from ..cones_ops.reports.text import layer_table, summary_text
from ..cones_ops.search.methods import METHODS
from ..cones_ops.search.settings import recommended
from .host.files.model_info import base_facts, usual_settings
from .host.inputs import (
    ALIASES,
    CATEGORY,
    TEACHING,
    WHERES,
    ConceptMaskSocket,
    as_image,
    drawn,
    preview,
    sample_input,
    training_inputs,
    where_input,
)
from .host.samples import Samples, without_text
from .host.search.example_inputs import joined_latents, joined_prompts, only
from .host.search.find import SearchInputs, search
from .host.search.progress import SearchProgress


class ConesFindConceptNeurons(io.ComfyNode):  # type: ignore[misc]
    """Borrow a model, search, give the model back unchanged."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesFindConceptNeurons",
            display_name="Find Concept Neurons",
            category=CATEGORY,
            description=(
                "Finds the few cross-attention weights (concept neurons) that make the model draw the subject of your "
                "pictures when they are shut. Needs 4-5 pictures and a prompt with a rare identifier, from Encode "
                "Prompt with Concepts. The model itself is not changed."
            ),
            search_aliases=[*ALIASES, *TEACHING, "fine-tune", "find neurons"],
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "The model to search: SD 1.x, SD 2.x, SDXL, SD 3, Flux, Qwen-Image, the toy world and others "
                        "(docs/reference/models.md lists them). The search leaves it unchanged."
                    ),
                ),
                *subject_inputs(),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="learned",
                    advanced=True,
                    tooltip=(
                        "learned: trains a score for every weight (best). cones: Algorithm 1 of the paper. taylor: "
                        "scores the unchanged model only (a simple baseline)."
                    ),
                ),
                io.Combo.Input(
                    "targets",
                    options=list(TARGET_CHOICES),
                    default=TARGET_CHOICES[0],
                    advanced=True,
                    tooltip=(
                        "Which projections to search: text K and V (cross-attention, the default), only one of them, "
                        "or self-attention too."
                    ),
                ),
                io.Float.Input(
                    "density",
                    display_name="density (0 = automatic)",
                    advanced=True,
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.0001,
                    round=0.000001,
                    tooltip=(
                        "0 (recommended): the search chooses the smallest share of the weights that helps on held-out "
                        "noise. Above 0, up to 1: shut this share; 0.04 is 4 %."
                    ),
                ),
                *training_inputs(
                    300,
                    8,
                    "Noisy pictures per step: 8 for own tokens, 16 for everywhere. More need more memory and time; "
                    "with fewer, the search finds less.",
                ),
                where_input(
                    WHERES,
                    "own tokens: the neurons are shut only for the words that name the subject. All other words and "
                    "prompts stay as they were, several masks can be loaded without disturbing each other, and a step "
                    "takes half as long. everywhere: the weights are shut for every word, as in the paper.",
                ),
                sample_input(0),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Only for sample pictures: the VAE of the checkpoint. Without it they are coarse previews.",
                ),
            ],
            outputs=[
                ConceptMaskSocket.Output(
                    display_name="concept_mask",
                    tooltip=(
                        "The concept neurons. The mask is empty if shutting no share of the weights helps; the report "
                        "then says so."
                    ),
                ),
                io.Image.Output(
                    display_name="curve",
                    tooltip="The held-out loss for each share of weights shut, with the chosen share marked.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="The result in words: first what to type in a prompt; last the neurons of each layer.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        subject_latents: list[Any],
        subject_conditioning: list[Any],
        class_latents: list[Any] | None = None,
        class_conditioning: list[Any] | None = None,
        where: Sequence[Where] = WHERES[:1],
        **others: list[Any],
    ) -> io.NodeOutput:
        choice = SimpleNamespace(**{"sample_every": 0, "vae": None} | only(where=where, **others))
        latents = joined_latents(subject_latents)
        inputs = SearchInputs(
            latents,
            joined_prompts(subject_conditioning),
            joined_latents(class_latents),
            joined_prompts(class_conditioning),
            choice.identifier,
            choice.class_word,
        )
        settings = replace(
            recommended(choice.where, choice.method, choice.seed), steps=choice.steps, batch=choice.batch
        )
        progress = SearchProgress()
        result = search(
            choice.model,
            inputs,
            choice.targets,
            settings,
            choice.density or None,
            choice.prior_weight,
            progress,
            choice.where,
            progress.expect,
            base_facts(choice.model, latents),
            samples_of(choice, inputs, progress),
        )
        figure, trouble = drawn(lambda: density_figure(result))
        summary = "\n\n".join(filter(None, (summary_text(result), trouble)))
        progress.finish(figure, summary)
        curve = as_image(figure)
        report = f"{summary}\n\n{layer_table(result.mask)}"
        return io.NodeOutput(result.mask, curve, report, ui=preview(cls, curve, summary))


def samples_of(choice: SimpleNamespace, inputs: SearchInputs, progress: SearchProgress) -> Samples | None:
    """The sample pictures that the user wants during the search."""
    if not choice.sample_every:
        return None
    negative = without_text(inputs.subject_conditioning)
    cfg, class_prompt = usual_settings(choice.model)[1], (inputs.class_conditioning or [])[:1]
    return Samples(choice.sample_every, cfg, negative, progress.show, choice.seed, class_prompt, choice.vae)


def subject_inputs() -> list[io.Input]:
    """The subject's and the class's examples, and the words that name the subject."""
    return [
        io.Latent.Input(
            "subject_latents",
            tooltip=(
                "Pictures of the subject from VAE Encode, as one batch or as a list in any sizes: 4-5 of the subject "
                "alone. For own tokens, some 24 more that show it beside other things help (Lay Pictures Side by "
                "Side). With Set Latent Noise Mask, the marked parts alone count."
            ),
        ),
        io.Conditioning.Input(
            "subject_conditioning",
            tooltip=(
                'The prompt with the identifier, such as "a sks cat", from Encode Prompt with Concepts: one for all '
                "pictures, or one per picture in the same order (prompt_per_line there, or a list of captions)."
            ),
        ),
        io.Latent.Input(
            "class_latents",
            optional=True,
            tooltip=(
                "Not used for own tokens. Optional for everywhere: pictures of the class (any cats), from VAE Encode. "
                "Without them, the unchanged model serves as the example."
            ),
        ),
        io.Conditioning.Input(
            "class_conditioning",
            optional=True,
            tooltip=(
                "For own tokens only shown in sample pictures, because other prompts cannot change there. Required for "
                'everywhere: the prompt without the identifier, such as "a cat"; the search tries to keep its '
                "pictures as they are."
            ),
        ),
        io.String.Input(
            "identifier",
            default="sks",
            tooltip='The rare word that names the subject in the prompt, such as "sks". The mask keeps it.',
        ),
        io.String.Input(
            "class_word",
            default="cat",
            tooltip='What kind of thing the subject is, such as "cat" or "mug". The mask keeps it.',
        ),
    ]
