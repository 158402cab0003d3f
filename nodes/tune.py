"""Tune Concept Masks Together: joint steps on masks that were found separately."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from comfy_api.latest import io, ui

from ..cones_ops.errors import ConesError
from ..cones_ops.masks.concept_mask import ConceptMask
from ..cones_ops.reports.text import tuning_text
from ..cones_ops.search.joint import tuning
from .host.inputs import ALIASES, CATEGORY, ConceptMaskSocket, training_inputs
from .host.notices import tell
from .host.search.example_inputs import joined_latents, joined_prompts, only
from .host.search.progress import SearchProgress
from .host.search.tune import TuneInputs, tune

SLOTS = 4


class ConesTuneConceptMasks(io.ComfyNode):  # type: ignore[misc]
    """Some joint steps on several masks; the model is borrowed and given back unchanged."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        settings = tuning()
        slots = [entry for k in range(1, SLOTS + 1) for entry in slot(k)]
        return io.Schema(
            node_id="ConesTuneConceptMasks",
            display_name="Tune Concept Masks Together",
            category=CATEGORY,
            description=(
                "Trains concept masks that were found separately for some joint steps, so that one picture can show "
                "all their subjects. Each concept keeps its own mask. Connect pictures that show the subjects together "
                "(Lay Pictures Side by Side makes them); without them, only masks that act everywhere improve."
            ),
            search_aliases=[
                *ALIASES,
                "joint tuning",
                "collaborative capturing",
                "multi subject",
                "multi concept",
                "fine-tune",
            ],
            is_input_list=True,
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that the masks were found on, without Apply Concept Masks before it."
                ),
                *slots[:6],
                io.Latent.Input(
                    "together_latents",
                    optional=True,
                    tooltip=(
                        "Pictures that show all subjects together, from VAE Encode; Lay Pictures Side by Side makes "
                        "them from pictures of each subject. They teach the masks to share a picture."
                    ),
                ),
                io.Conditioning.Input(
                    "together_conditioning",
                    optional=True,
                    tooltip=(
                        "The prompts of together_latents, one for all pictures or one per picture (prompt_per_line), "
                        "from Encode Prompt with Concepts with all masks connected."
                    ),
                ),
                *slots[6:],
                io.Conditioning.Input(
                    "class_conditioning",
                    optional=True,
                    tooltip=(
                        "Not used for own tokens. Required for everywhere: the prompts without identifiers; the joint "
                        "steps try to keep their pictures as they are. Join several with Conditioning (Combine)."
                    ),
                ),
                *training_inputs(
                    settings.steps,
                    settings.batch,
                    "Noisy pictures per step, of each subject and of the subjects together. More need more memory and "
                    f"time; the benchmark used {settings.batch}.",
                ),
            ],
            outputs=[
                *[
                    ConceptMaskSocket.Output(
                        display_name=f"mask_{k}",
                        tooltip=f"mask_{k} after tuning, or unchanged if the joint loss did not fall (see the report).",
                    )
                    for k in range(1, SLOTS + 1)
                ],
                io.String.Output(display_name="report", tooltip="What the joint steps changed, in words."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: list[Any],
        steps: list[int],
        batch: list[int],
        prior_weight: list[float],
        seed: list[int],
        together_latents: list[Any] | None = None,
        together_conditioning: list[Any] | None = None,
        class_conditioning: list[Any] | None = None,
        **slots: list[Any],
    ) -> io.NodeOutput:
        choice = SimpleNamespace(**only(model=model, steps=steps, batch=batch, prior_weight=prior_weight, seed=seed))
        used, subjects = connected(slots)
        if (together_latents is None) != (together_conditioning is None):
            raise ConesError("together_latents and together_conditioning belong together; connect both or neither")
        both = (joined_latents(together_latents), joined_prompts(together_conditioning))
        settings = replace(tuning(choice.seed), steps=choice.steps, batch=choice.batch)
        progress = SearchProgress()
        result = tune(
            choice.model,
            subjects,
            None if together_latents is None else both,
            joined_prompts(class_conditioning),
            settings,
            choice.prior_weight,
            progress,
            progress.expect,
        )
        masks: list[ConceptMask | None] = [None] * SLOTS
        for k, mask in zip(used, result.masks, strict=True):
            masks[k - 1] = mask
        report = tuning_text(result, [subject.mask for subject in subjects])
        tell(report.splitlines()[0])
        return io.NodeOutput(*masks, report, ui=ui.PreviewText(report))


def slot(k: int) -> list[io.Input]:
    """One mask with the pictures and prompts of its subject."""
    optional = k > 2
    return [
        ConceptMaskSocket.Input(f"mask_{k}", optional=optional, tooltip="A concept mask to tune, found on this model."),
        io.Latent.Input(
            f"latents_{k}",
            optional=optional,
            tooltip=f"Pictures of the subject of mask_{k}, a batch or a list, as in Find Concept Neurons.",
        ),
        io.Conditioning.Input(
            f"conditioning_{k}",
            optional=optional,
            tooltip=(
                f"The prompt of latents_{k}, from Encode Prompt with Concepts. Better: one prompt per picture, which "
                "also names the other things in it (prompt_per_line)."
            ),
        ),
    ]


def connected(slots: dict[str, list[Any]]) -> tuple[list[int], list[TuneInputs]]:
    """The numbers of the slots in use and what is connected there; ConesError for a slot that is half connected."""
    used, subjects = [], []
    for k in range(1, SLOTS + 1):
        mask = slots.get(f"mask_{k}") or [None]
        parts = {
            "mask": only(**{f"mask_{k}": mask})[f"mask_{k}"],
            "latents": joined_latents(slots.get(f"latents_{k}")),
            "conditioning": joined_prompts(slots.get(f"conditioning_{k}")),
        }
        missing = [f"{name}_{k}" for name, value in parts.items() if value is None]
        if not missing:
            used.append(k)
            subjects.append(TuneInputs(**parts))
        elif len(missing) < len(parts):
            raise ConesError(
                f"{' and '.join(missing)} not connected; connect the mask, latents and conditioning of each concept"
            )
    return used, subjects
