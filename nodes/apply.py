"""Apply Concept Masks: a model and any number of masks -> a model that draws those concepts.

Eight slots, each with its own strength and switch; for more, chain the node: the order of masks, within one node or
along a chain, never changes a bit of the result.
"""

from __future__ import annotations

from typing import Any, Literal

from comfy_api.latest import io

from ..cones_ops.errors import ConesError
from ..cones_ops.masks.concept_mask import ConceptMask, Where
from .host.apply.apply_masks import apply_masks
from .inputs import ALIASES, CATEGORY, WHERES, ConceptMaskSocket

SLOTS = 8
AS_FOUND = "as found"


class ConesApplyConceptMasks(io.ComfyNode):  # type: ignore[misc]
    """Patches on a clone; the loaded model is never edited."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        slots: list[io.Input] = []
        for i in range(1, SLOTS + 1):
            slots += [
                ConceptMaskSocket.Input(
                    f"mask_{i}",
                    optional=True,
                    tooltip=(
                        "A concept mask (neurons, not an image mask) to apply. Chain a second node for more than eight."
                    ),
                ),
                io.Float.Input(
                    f"strength_{i}",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    optional=True,
                    advanced=i > 2,
                    tooltip=(
                        f"How far the neurons of mask_{i} are shut, 0 to 1: 0 = not at all, the same picture bit for "
                        "bit; higher = more; 1 = completely."
                    ),
                ),
                io.Boolean.Input(
                    f"enabled_{i}",
                    default=True,
                    optional=True,
                    advanced=i > 2,
                    tooltip=f"On: mask_{i} is applied. Off: as if it were not connected.",
                ),
            ]
        return io.Schema(
            node_id="ConesApplyConceptMasks",
            display_name="Apply Concept Masks",
            category=CATEGORY,
            description=(
                "Shuts the neurons of one or several concepts, so that the model draws them when the prompt names "
                "them. Masks at their own tokens need prompts from Encode Prompt with Concepts and leave every other "
                "prompt as it was. The order of masks does not matter. Put it after LoRA loaders. Sampling costs "
                "next to nothing extra."
            ),
            search_aliases=[*ALIASES, "compose", "multi subject", "apply mask"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "The model the masks were found on, with or without LoRA. It is not edited; the output is a "
                        "patched copy."
                    ),
                ),
                *slots,
                io.Boolean.Input(
                    "apply_anyway",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Off: stop when a mask was found on other base weights. On: apply it all the same, with a "
                        "warning in the log."
                    ),
                ),
                io.Combo.Input(
                    "where",
                    options=[AS_FOUND, *WHERES],
                    default=AS_FOUND,
                    optional=True,
                    tooltip=(
                        "as found: each mask acts where it was searched for. own tokens: only at the words that name "
                        "it, in prompts from Encode Prompt with Concepts. everywhere: the weights themselves are "
                        "shut, for every word and prompt."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The model with the concepts, for a sampler or further patches."
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
                raise ConesError(
                    f"mask_{i} is empty: its search found no share of weights that helps. See the search's report, "
                    f"or switch enabled_{i} off"
                )
            masks.append((mask, strength))
        return io.NodeOutput(apply_masks(model, masks, apply_anyway, None if where == AS_FOUND else where))
