"""Find Concept Neurons: pictures of a subject and its prompt -> the concept mask that makes the model draw it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..cones_ops.masks.concept_mask import Where
from ..cones_ops.models.targets import TARGET_CHOICES
from ..cones_ops.reports.text import density_figure, layer_table, summary_text
from ..cones_ops.search.methods import METHODS
from ..cones_ops.search.settings import recommended
from .host.files.model_info import base_facts
from .host.search.find import SearchInputs, search
from .host.search.progress import SearchProgress
from .inputs import ALIASES, CATEGORY, WHERES, ConceptMaskSocket


class ConesFindConceptNeurons(io.ComfyNode):  # type: ignore[misc]
    """Borrow a model, search, give the model back unchanged."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesFindConceptNeurons",
            display_name="Find Concept Neurons",
            category=CATEGORY,
            description=(
                "Finds the few cross-attention weights (concept neurons) that, when shut, make the model draw the "
                "subject of your pictures. Needs 4-5 pictures and a prompt with a rare identifier, through Encode "
                "Prompt with Concepts. The model itself is not changed."
            ),
            search_aliases=[*ALIASES, "train", "train lora", "fine-tune", "learn subject", "find neurons"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "The model to search in: SD 1.x, SD 2.x, SDXL, SD 3, Flux, Qwen-Image, the toy world and "
                        "others (docs/reference/models.md lists them). It is borrowed and given back unchanged."
                    ),
                ),
                io.Latent.Input(
                    "subject_latents",
                    tooltip=(
                        "The subject's pictures, all of one size, encoded with VAE Encode as one batch: 4-5 of it "
                        "alone; at own tokens better with some 24 beside other things too (Lay Pictures Side by Side)."
                    ),
                ),
                io.Conditioning.Input(
                    "subject_conditioning",
                    tooltip=(
                        'The subject\'s prompt with its identifier, such as "a sks star", through Encode Prompt with '
                        "Concepts: one for all pictures, or one per picture (prompt_per_line there), in their order."
                    ),
                ),
                io.Latent.Input(
                    "class_latents",
                    optional=True,
                    tooltip=(
                        "Not used at own tokens. Everywhere: optional pictures of the class (any stars), encoded with "
                        "VAE Encode. Without them the unchanged model is the example."
                    ),
                ),
                io.Conditioning.Input(
                    "class_conditioning",
                    optional=True,
                    tooltip=(
                        "Not used at own tokens, where other prompts cannot change. Everywhere: needed, the prompt "
                        'without the identifier, such as "a star", which must stay as it is.'
                    ),
                ),
                io.String.Input(
                    "identifier",
                    default="sks",
                    tooltip='The rare word that names the subject in the prompt, such as "sks"; written into the mask.',
                ),
                io.String.Input(
                    "class_word",
                    default="star",
                    tooltip='What kind of thing the subject is, such as "star" or "dog"; written into the mask.',
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="learned",
                    tooltip=(
                        "learned: a score per weight, trained (best). cones: the paper's Algorithm 1. taylor: one "
                        "look, the plain baseline."
                    ),
                ),
                io.Combo.Input(
                    "targets",
                    options=list(TARGET_CHOICES),
                    default=TARGET_CHOICES[0],
                    tooltip=(
                        "Which projections are searched: text K and V (cross-attention, the default), one of them, or "
                        "self-attention too."
                    ),
                ),
                io.Float.Input(
                    "density",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.0001,
                    round=0.000001,
                    tooltip=(
                        "Share of the searched weights to shut, 0 to 1; higher shuts more (0.04 = 4 %). 0 = choose the "
                        "sparsest that helps on held-out noise (recommended)."
                    ),
                ),
                io.Int.Input(
                    "steps",
                    default=300,
                    min=1,
                    max=10000,
                    tooltip=(
                        "How many batches the search looks at; more takes longer in proportion. The benchmark in "
                        "docs/results/quality.md was made with 300."
                    ),
                ),
                io.Int.Input(
                    "batch",
                    default=8,
                    min=1,
                    max=256,
                    tooltip=(
                        "Noisy pictures per step: 8 at own tokens, 16 everywhere. More needs more memory and time, "
                        "less finds less."
                    ),
                ),
                io.Float.Input(
                    "prior_weight",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip=(
                        "Everywhere: how much keeping the class prompt as it was counts against drawing the subject: 0 "
                        "= nothing, 1 = as much, higher = more. Not used at own tokens."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the noise. The same seed and inputs find the same neurons.",
                ),
                io.Combo.Input(
                    "where",
                    options=list(WHERES),
                    default=WHERES[0],
                    optional=True,
                    tooltip=(
                        "own tokens: the neurons are shut only for the words that name the subject; every other word "
                        "and prompt stays as it was, several masks can be loaded without spoiling each other, "
                        "and a step costs half. everywhere: as in the paper, the weights are shut for every word."
                    ),
                ),
            ],
            outputs=[
                ConceptMaskSocket.Output(
                    display_name="concept_mask",
                    tooltip="The concept neurons; empty if shutting no share of weights helps (the report says so).",
                ),
                io.Image.Output(
                    display_name="curve", tooltip="Held-out loss by share of weights shut, with the chosen share."
                ),
                io.String.Output(
                    display_name="report", tooltip="What was found, in words, and a table of neurons per layer."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        subject_latents: Any,
        subject_conditioning: Any,
        identifier: str,
        class_word: str,
        method: Any,
        targets: Any,
        density: float,
        steps: int,
        batch: int,
        prior_weight: float,
        seed: int,
        class_latents: Any = None,
        class_conditioning: Any = None,
        where: Where = WHERES[0],
    ) -> io.NodeOutput:
        inputs = SearchInputs(
            subject_latents, subject_conditioning, class_latents, class_conditioning, identifier, class_word
        )
        settings = replace(recommended(where, method, seed), steps=steps, batch=batch)
        progress = SearchProgress()
        facts = base_facts(model, subject_latents)
        fixed = density or None
        result = search(model, inputs, targets, settings, fixed, prior_weight, progress, where, progress.expect, facts)
        figure = density_figure(result)
        progress.finish(figure)
        curve = torch.from_numpy(figure).float().div(255)[None]  # (1, H, W, 3)
        report = f"{summary_text(result)}\n\n{layer_table(result.mask)}"
        shown = ui.PreviewImage(curve, cls=cls).as_dict() | ui.PreviewText(summary_text(result)).as_dict()
        return io.NodeOutput(result.mask, curve, report, ui=shown)
