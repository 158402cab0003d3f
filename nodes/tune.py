"""Tune Concept Masks Together, and the pictures for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui

from ..cones_ops.errors import ConesError
from ..cones_ops.images.collages import ZOOM, collages
from ..cones_ops.masks.concept_mask import ConceptMask
from ..cones_ops.reports.text import tuning_text
from ..cones_ops.search.joint import tuning
from .host.search.progress import SearchProgress
from .host.search.tune import TuneInputs, tune
from .inputs import ALIASES, CATEGORY, ConceptMaskSocket

SLOTS = 4


class ConesTuneConceptMasks(io.ComfyNode):  # type: ignore[misc]
    """Some joint steps on several masks; the model is borrowed and given back unchanged."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        settings = tuning()
        slots: list[Any] = []
        for k in range(1, SLOTS + 1):
            optional = k > 2
            slots += [
                ConceptMaskSocket.Input(
                    f"mask_{k}", optional=optional, tooltip="A concept mask to tune, found on this model."
                ),
                io.Latent.Input(
                    f"latents_{k}",
                    optional=optional,
                    tooltip="Pictures of its subject, through VAE Encode, as in Find Concept Neurons.",
                ),
                io.Conditioning.Input(
                    f"conditioning_{k}",
                    optional=optional,
                    tooltip=(
                        "Their prompt, or better one prompt per picture that names what else is in it "
                        "(prompt_per_line), through Encode Prompt with Concepts."
                    ),
                ),
            ]
        return io.Schema(
            node_id="ConesTuneConceptMasks",
            display_name="Tune Concept Masks Together",
            category=CATEGORY,
            description=(
                "Some joint steps on concept masks that were found apart, so that their subjects come out in one "
                "picture. Each concept keeps a mask of its own. Give it pictures that show the subjects together (Lay "
                "Pictures Side by Side makes them); without those only masks everywhere gain anything."
            ),
            search_aliases=[*ALIASES, "joint tuning", "collaborative capturing", "multi subject", "fine-tune", "train"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model the masks were found on, without Apply Concept Masks before it."
                ),
                *slots[:6],
                io.Latent.Input(
                    "together_latents",
                    optional=True,
                    tooltip=(
                        "Pictures that show all subjects, through VAE Encode: Lay Pictures Side by Side makes them of "
                        "pictures of each. They are what teaches the masks to share a picture."
                    ),
                ),
                io.Conditioning.Input(
                    "together_conditioning",
                    optional=True,
                    tooltip=(
                        "The prompts of those pictures, one for all or one per picture (prompt_per_line), through "
                        "Encode Prompt with Concepts with all masks connected."
                    ),
                ),
                *slots[6:],
                io.Conditioning.Input(
                    "class_conditioning",
                    optional=True,
                    tooltip=(
                        "Not used at own tokens. Everywhere: needed, the prompts without identifiers, which must stay "
                        "as they are; several through Conditioning (Combine)."
                    ),
                ),
                io.Int.Input(
                    "steps",
                    default=settings.steps,
                    min=1,
                    max=10000,
                    tooltip=(
                        "How many joint steps; more take longer in proportion. The benchmark in "
                        "docs/results/quality.md was made with 200."
                    ),
                ),
                io.Int.Input(
                    "batch",
                    default=settings.batch,
                    min=1,
                    max=256,
                    tooltip=(
                        "Noisy pictures of each subject, and of them together, per step; the benchmark's is 8. More "
                        "needs more memory and time."
                    ),
                ),
                io.Float.Input(
                    "prior_weight",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip=(
                        "Everywhere: how much keeping the class prompts as they were counts: 0 = nothing, 1 = as much "
                        "as the subjects, higher = more. Not used at own tokens."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the noise. The same seed and inputs give the same masks.",
                ),
            ],
            outputs=[
                *[
                    ConceptMaskSocket.Output(
                        display_name=f"mask_{k}",
                        tooltip="The tuned mask of this slot; as it was if the joint loss did not fall (see report).",
                    )
                    for k in range(1, SLOTS + 1)
                ],
                io.String.Output(display_name="report", tooltip="What the joint steps changed, in words."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        steps: int,
        batch: int,
        prior_weight: float,
        seed: int,
        together_latents: Any = None,
        together_conditioning: Any = None,
        class_conditioning: Any = None,
        **slots: Any,
    ) -> io.NodeOutput:
        used, subjects = connected(slots)
        if (together_latents is None) != (together_conditioning is None):
            raise ConesError("together_latents and together_conditioning belong together; connect both, or neither")
        together = None if together_latents is None else (together_latents, together_conditioning)
        settings = replace(tuning(seed), steps=steps, batch=batch)
        progress = SearchProgress()
        result = tune(model, subjects, together, class_conditioning, settings, prior_weight, progress, progress.expect)
        masks: list[ConceptMask | None] = [None] * SLOTS
        for k, mask in zip(used, result.masks, strict=True):
            masks[k - 1] = mask
        report = tuning_text(result, [one.mask for one in subjects])
        return io.NodeOutput(*masks, report, ui=ui.PreviewText(report))


def connected(slots: dict[str, Any]) -> tuple[list[int], list[TuneInputs]]:
    """The numbers of the slots in use and what is connected there; ConesError for a slot that is half connected."""
    used, subjects = [], []
    for k in range(1, SLOTS + 1):
        parts = {name: slots.get(f"{name}_{k}") for name in ("mask", "latents", "conditioning")}
        missing = [f"{name}_{k}" for name, value in parts.items() if value is None]
        if not missing:
            used.append(k)
            subjects.append(TuneInputs(**parts))
        elif len(missing) < len(parts):
            raise ConesError(
                f"{' and '.join(missing)} not connected; a concept needs its mask, latents and conditioning"
            )
    return used, subjects


class ConesLayPictures(io.ComfyNode):  # type: ignore[misc]
    """Pictures of single things -> pictures of them together, with captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        slots: list[Any] = []
        for k in range(1, SLOTS + 1):
            slots += [
                io.Image.Input(
                    f"images_{k}",
                    optional=k > 2,
                    tooltip="Pictures of one thing alone in the middle, all of one size. Shorter batches go round.",
                ),
                io.String.Input(
                    f"phrase_{k}",
                    default="a sks star" if k == 1 else "a star" if k == 2 else "",
                    optional=k > 2,
                    tooltip='What they show, as it stands in a prompt: "a sks star", "a dog".',
                ),
            ]
        return io.Schema(
            node_id="ConesLayPictures",
            display_name="Lay Pictures Side by Side",
            category=CATEGORY,
            description=(
                "Makes pictures of 2 to 4 things together out of pictures of each, every thing at every place in turn, "
                "and their captions. For Tune Concept Masks Together, and to show Find Concept Neurons a subject "
                "beside other things."
            ),
            search_aliases=[*ALIASES, "collage", "cut mix", "stitch", "grid", "augment"],
            inputs=[
                *slots,
                io.Float.Input(
                    "zoom",
                    default=ZOOM,
                    min=0.1,
                    max=1.0,
                    step=0.05,
                    tooltip=(
                        "Scale of each picture, 0.1 to 1. 0.5 shows whole pictures, two in a row; higher cuts their "
                        "sides off, lower fills with their edges."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The pictures, of the first batch's size."),
                io.String.Output(
                    display_name="captions",
                    tooltip="A caption per picture and line, for Encode Prompt with Concepts with prompt_per_line.",
                ),
            ],
        )

    @classmethod
    def execute(cls, zoom: float, **slots: Any) -> io.NodeOutput:
        batches, phrases = [], []
        for k in range(1, SLOTS + 1):
            images, words = slots.get(f"images_{k}"), (slots.get(f"phrase_{k}") or "").strip()
            if images is None:
                continue
            if not words:
                raise ConesError(f'images_{k} has no phrase; write what the pictures show, such as "a dog"')
            batches.append(images[..., :3].permute(0, 3, 1, 2))  # (n, 3, H, W)
            phrases.append(words)
        laid, captions = collages(batches, phrases, zoom)
        return io.NodeOutput(laid.permute(0, 2, 3, 1).contiguous(), "\n".join(captions))
