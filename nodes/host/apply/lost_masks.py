"""Says where a merged or saved model loses masks: those at own tokens, and those on quantised weights, are no part of
the weights.

The host takes the weights of a ModelPatcher by two of its methods and calls nothing of ours meanwhile. So a clone with
such masks answers for itself: with a warning, and then as its class does. Clones of it do the same.
"""

from __future__ import annotations

import weakref
from typing import Any

from comfy.patcher_extension import CallbacksMP

from ..notices import warn

KEY = "cones_lost_masks"
WHY = "masks at their own tokens, and masks on quantised weights, are not part of the weights"


def warn_where_lost(patcher: Any) -> None:
    """Let a clone with masks, and its own clones, warn when another node merges or saves its weights."""
    patcher.remove_callbacks_with_key(CallbacksMP.ON_CLONE, KEY)
    patcher.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, lambda _, clone: watch(clone))
    watch(patcher)


def watch(patcher: Any) -> None:
    """Put the two methods on one ModelPatcher, which they do not keep alive."""
    reference = weakref.ref(patcher)

    def get_key_patches(filter_prefix: str | None = None) -> Any:
        this = reference()
        if filter_prefix is not None:  # without one, the host asks for its own hooks
            warn(
                f"Merge the models first, then use Apply Concept Masks: merging loses concept masks of this model, "
                f"because {WHY}"
            )
        return type(this).get_key_patches(this, filter_prefix)

    def state_dict_for_saving(*state_dicts: Any, **more: Any) -> Any:
        this = reference()
        warn(
            f"Save the masks too, with Save Concept Mask: the saved file does not hold concept masks of this model, "
            f"because {WHY}. Apply them to the saved model; or choose where = everywhere, for weights that are not "
            "quantised"
        )
        return type(this).state_dict_for_saving(this, *state_dicts, **more)

    patcher.get_key_patches, patcher.state_dict_for_saving = get_key_patches, state_dict_for_saving


def merges(patcher: Any) -> int:
    """How many weights other models have been merged into, each merge counted."""
    return sum(isinstance(patch[1], list) for patches in patcher.patches.values() for patch in patches)
