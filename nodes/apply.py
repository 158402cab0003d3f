"""Apply concept masks to a model as a whole, or as hooks to single prompts.

Apply Concept Masks has eight slots, each with its own strength and switch; for more, chain the node: the order of
masks, within one node or along a chain, never changes a bit of the result.
"""

from __future__ import annotations

from typing import Any, Literal

from comfy_api.latest import io

from ..cones_ops.errors import ConesError
from ..cones_ops.masks.concept_mask import ConceptMask, Where, why_empty
from .host.apply.apply_masks import apply_masks
from .host.apply.weight_hook import mask_hooks
from .host.inputs import (
    ALIASES,
    CATEGORY,
    SLOTS,
    USING,
    WHERES,
    ConceptMaskSocket,
    apply_anyway_input,
    strength_input,
    where_input,
)

AS_FOUND = "as found"


class ConesApplyConceptMasks(io.ComfyNode):  # type: ignore[misc]
    """Patches on a clone; the loaded model is never edited."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesApplyConceptMasks",
            display_name="Apply Concept Masks",
            category=CATEGORY,
            description=(
                "Shuts the neurons of one or several concepts, so that the model draws them when the prompt names "
                "them. Masks at own tokens need prompts from Encode Prompt with Concepts; with all other prompts the "
                "model draws as before. The order of masks does not matter. Put this node after LoRA loaders. "
                "Sampling takes almost no extra time."
            ),
            search_aliases=[*ALIASES, *USING, "compose", "multi subject", "apply mask"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "The model that the masks were found on, with or without LoRA. It is not changed; the output "
                        "is a patched copy."
                    ),
                ),
                *(entry for i in range(1, SLOTS + 1) for entry in slot(i)),
                apply_anyway_input(
                    "Off: stop if a mask was found on other base weights. On: apply it anyway, with a warning in the "
                    "log."
                ),
                where_input(
                    [AS_FOUND, *WHERES],
                    "as found: each mask acts where it was searched for. own tokens: each mask acts only at the words "
                    "that name its concept, in prompts from Encode Prompt with Concepts. everywhere: the weights "
                    "themselves are shut, for every word and prompt.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The model with the concepts, for a sampler or more patches."
                )
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, apply_anyway: bool = False, where: Where | Literal["as found"] = AS_FOUND, **slots: Any
    ) -> io.NodeOutput:
        masks: list[tuple[ConceptMask, float]] = []
        for i in range(1, SLOTS + 1):
            mask, strength = slots.get(f"mask_{i}"), slots.get(f"strength_{i}", 1.0)
            if mask is None or strength == 0 or not slots.get(f"enabled_{i}", True):
                continue
            if mask.count == 0:
                raise ConesError(f"mask_{i} is empty: {why_empty(mask)}, or turn off enabled_{i}")
            masks.append((mask, strength))
        return io.NodeOutput(apply_masks(model, masks, apply_anyway, None if where == AS_FOUND else where))


def slot(i: int) -> list[io.Input]:
    """One mask with its strength and its switch."""
    return [
        ConceptMaskSocket.Input(
            f"mask_{i}",
            optional=True,
            tooltip="A concept mask (neurons, not an image mask) to apply. For more than eight, chain a second node.",
        ),
        strength_input(
            f"strength_{i}",
            f"How far the neurons of mask_{i} are shut, from 0 to 1. 0: not at all, the picture stays the same bit "
            "for bit. 1: completely.",
            optional=True,
            advanced=i > 2,
        ),
        io.Boolean.Input(
            f"enabled_{i}",
            default=True,
            optional=True,
            advanced=i > 2,
            tooltip=f"On: mask_{i} is applied. Off: mask_{i} is ignored.",
        ),
    ]


class ConesConceptMaskHook(io.ComfyNode):  # type: ignore[misc]
    """A concept for one prompt, region or stretch of the sampling, connected like the host's own hooks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesConceptMaskHook",
            display_name="Create Hook Concept Mask",
            category=CATEGORY,
            is_experimental=True,
            description=(
                "Applies a concept mask to single prompts: connect the hooks to Cond Set Props or Cond Pair Set "
                "Props, with a region, a timestep range or Set Hook Keyframes. Works only with masks that act "
                "everywhere. Experimental, like hooks in ComfyUI: each group of prompts runs separately, so sampling "
                "is slower, and with low VRAM a LoRA on the same weights is added after the hook."
            ),
            search_aliases=[*ALIASES, "hook", "schedule", "keyframes", "regional"],
            inputs=[
                ConceptMaskSocket.Input(
                    "mask", tooltip="A concept mask that acts everywhere. It must have been found on the model in use."
                ),
                strength_input(
                    "strength",
                    "How far the neurons are shut, from 0 to 1. 0: not at all. 1: completely. Keyframes multiply this "
                    "value.",
                ),
                io.Hooks.Input(
                    "prev_hooks",
                    optional=True,
                    tooltip="Optional: hooks to combine with this one, such as LoRA or other concept masks.",
                ),
            ],
            outputs=[
                io.Hooks.Output(
                    display_name="hooks",
                    tooltip="For Cond Set Props, Cond Pair Set Props, Set Hook Keyframes and other hook nodes.",
                )
            ],
        )

    @classmethod
    def execute(cls, mask: ConceptMask, strength: float, prev_hooks: Any = None) -> io.NodeOutput:
        return io.NodeOutput(mask_hooks(mask, strength, prev_hooks))
