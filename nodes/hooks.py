"""Create Hook Concept Mask: a concept for one prompt, region or stretch of the sampling."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.apply.weight_hook import hook_of
from .inputs import ALIASES, CATEGORY, ConceptMaskSocket


class ConesConceptMaskHook(io.ComfyNode):  # type: ignore[misc]
    """Goes where the host's own Create Hook nodes go."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesConceptMaskHook",
            display_name="Create Hook Concept Mask",
            category=CATEGORY,
            is_experimental=True,
            description=(
                "A concept mask for single prompts: connect the hooks to Cond Set Props or Cond Pair Set Props, "
                "with a region, a timestep range or Set Hook Keyframes. Only for masks that act everywhere. "
                "Experimental, as hooks are in ComfyUI: each group of prompts runs by itself, so sampling is slower, "
                "and with low VRAM a LoRA on the same weights is added after the hook."
            ),
            search_aliases=[*ALIASES, "hook", "schedule", "keyframes", "regional"],
            inputs=[
                ConceptMaskSocket.Input(
                    "mask", tooltip="A concept mask that acts everywhere; it must have been found on the model in use."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    tooltip=(
                        "How far the neurons are shut, 0 to 1: 0 = not at all, higher = more, 1 = completely. "
                        "Keyframes multiply it."
                    ),
                ),
                io.Hooks.Input(
                    "prev_hooks",
                    optional=True,
                    tooltip="Hooks to go with it: LoRA or other concept masks. Nothing: this one alone.",
                ),
            ],
            outputs=[
                io.Hooks.Output(
                    display_name="hooks",
                    tooltip="For Cond Set Props, Cond Pair Set Props, Set Hook Keyframes and further hooks.",
                )
            ],
        )

    @classmethod
    def execute(cls, mask: Any, strength: float, prev_hooks: Any = None) -> io.NodeOutput:
        return io.NodeOutput(hook_of(mask, strength, prev_hooks))
