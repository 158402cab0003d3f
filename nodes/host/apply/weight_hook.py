"""A concept mask as one of the host's weight hooks: it acts in the conditionings that carry it, as its keyframes say.

The host registers hooks when sampling begins; only then is the model known, and the mask is checked against it. The
patch is that of weight_patch.py: entries times 1 - strength, in place. A hook writes a whole weight, which would round
every entry of a quantised one, so those are refused.
"""

from __future__ import annotations

from typing import Any

import comfy.hooks

from ....cones_ops.errors import ConesError, listed
from ....cones_ops.masks.concept_mask import ConceptMask, check_strength, why_empty
from ..parameters import PREFIX, is_quantised, parameter_shapes
from .apply_masks import check_base, check_fit, entries_of
from .weight_patch import SparseMask


class ConceptMaskHook(comfy.hooks.WeightHook):  # type: ignore[misc]
    """The host makes hooks without arguments when it clones them; see `mask_hooks`."""

    def __init__(self) -> None:
        super().__init__()
        self.mask: ConceptMask | None = None
        self.need_weight_init = False
        self.weights_clip: dict[str, Any] = {}

    def clone(self) -> ConceptMaskHook:
        """A hook that counts as the same one."""
        other: ConceptMaskHook = super().clone()
        other.mask = self.mask
        return other

    def add_hook_patches(self, model: Any, model_options: Any, target_dict: Any, registered: Any) -> Any:
        """The host's; ConesError for a mask that does not belong to this model, a quantised one, or a strength."""
        if target_dict.get("target") != comfy.hooks.EnumWeightTarget.Model:
            return False
        assert self.mask
        for keyframe in self.hook_keyframe.keyframes:
            strength = round(self._strength_model * keyframe.strength, 6)  # the host may have interpolated it
            check_strength(strength, f"strength times that of the keyframe at {keyframe.start_percent:g},")
        shapes = parameter_shapes(model)
        check_fit(self.mask, shapes)
        check_base(model, self.mask, False, {})
        self.weights = {}
        for weight, entries in entries_of(self.mask, 1.0, shapes):
            before = self.weights.get(PREFIX + weight)
            self.weights[PREFIX + weight] = SparseMask.folded(
                [*(before.entries if before else ()), entries], shapes[weight]
            )
        if packed := [key for key in sorted(self.weights) if is_quantised(model, key)]:
            raise ConesError(
                f"{listed(packed)} are quantised, and a hook would round all their entries again; use Apply Concept "
                "Masks, or the model in fp16, bf16 or fp8"
            )
        return super().add_hook_patches(model, model_options, target_dict, registered)


def mask_hooks(mask: ConceptMask, strength: float, previous: Any = None) -> Any:
    """HOOKS: the previous ones (not changed) and the mask's. strength: 1 shuts the neurons, 0 adds no hook.

    ConesError for a mask that acts at own tokens, or is empty, and for a strength that is not from 0 to 1.
    """
    check_strength(strength)
    group = comfy.hooks.HookGroup() if previous is None else previous.clone()
    if mask.where != "everywhere":
        raise ConesError(
            "the concept mask acts at its own tokens, and so already differs from prompt to prompt; use Apply Concept "
            "Masks with prompts from Encode Prompt with Concepts (Set Area, Set Mask and Set Timestep Range work with "
            "it)"
        )
    if mask.count == 0:
        raise ConesError(f"the concept mask is empty: {why_empty(mask)}")
    if strength:
        hook = ConceptMaskHook()
        hook.mask, hook._strength_model, hook._strength_clip = mask, float(strength), 0.0
        group.add(hook)
    return group
