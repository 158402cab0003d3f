"""Masks that act everywhere, as patches on a clone of a ModelPatcher, never on the user's own model.

A masked entry becomes theta * f, where f is the product of (1 - strength) over the masks that hold it. Masks that
follow each other on one parameter are folded into a single patch whose factors are multiplied in a fixed order, so
any order of masks, in one node or in a chain of nodes, gives the same bits. Patches of other nodes (LoRA) keep their
place in the host's list. Quantised parameters get a weight wrapper instead: a patch would make the host requantise
the whole tensor. Strength 0, or no masks, adds nothing at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from comfy.patcher_extension import CallbacksMP
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from ....cones_ops.errors import ConesError
from ..parameters import is_quantised
from .exact_weights import make_weight_exact
from .lost_masks import warn_where_lost
from .sparse_entries import MaskEntries, compact, scale_entries


class SparseMask(WeightAdapterBase):  # type: ignore[misc]
    """The patch: weights = (where, factor, shape), as sparse_entries.py has them, from `entries`."""

    name = "cones"

    def __init__(self, loaded_keys: set[str], weights: tuple[Tensor, Tensor | None, tuple[int, ...]]) -> None:
        self.loaded_keys = loaded_keys
        self.weights = weights
        self.entries: tuple[MaskEntries, ...] = ()

    @classmethod
    def folded(cls, entries: Sequence[MaskEntries], shape: tuple[int, ...]) -> SparseMask:
        """The patch that applies the entries of all masks."""
        patch = cls(set(), (*compact([part.scaled_index() for part in entries], prod(shape)), tuple(shape)))
        patch.entries = tuple(entries)
        return patch

    def calculate_shape(self, key: Any) -> None:
        """A mask never changes a shape."""
        return None

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Any,
        intermediate_dtype: Any = torch.float32,
        original_weight: Any = None,
    ) -> Tensor:
        """Scale the masked entries of weight in place; strength below 1 (hooks, merges) weakens the mask."""
        where, factor, shape = self.weights
        if tuple(weight.shape) != tuple(shape):
            raise ConesError(
                f"{key}: the concept mask is for shape {tuple(shape)}, but the weight now has {tuple(weight.shape)}; "
                "put Apply Concept Masks before the node that changes this weight's shape"
            )
        if strength == 0:
            return weight
        if strength != 1:
            factor = 1 + ((torch.zeros(()) if factor is None else factor) - 1) * strength
        return scale_entries(weight, where, factor)

    def bypass_forward(self, org_forward: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A mask changes the weight itself; there is no side path that could do the same."""
        raise ConesError("a concept mask cannot be used in bypass mode; use Apply Concept Masks on the model instead")


class SparseMaskFn:
    """The weight wrapper for quantised parameters: out of place, on the weight as the layer is about to use it."""

    def __init__(self, entries: Sequence[MaskEntries], shape: tuple[int, ...]) -> None:
        self.entries = tuple(entries)
        self.shape = tuple(shape)
        self.where, self.factor = compact([part.scaled_index() for part in entries], prod(shape))

    def __call__(self, weight: Tensor) -> Tensor:
        if tuple(weight.shape) != self.shape:
            raise ConesError(
                f"the concept mask is for shape {self.shape}, but the weight has {tuple(weight.shape)}; put Apply "
                "Concept Masks before the node that changes this weight's shape"
            )
        return scale_entries(weight.clone(memory_format=torch.contiguous_format), self.where, self.factor)

    def move_to(self, device: Any) -> int:
        """Keep the positions where the layer runs; returns their bytes (the host asks on load)."""
        self.where = self.where.to(device)
        self.factor = None if self.factor is None else self.factor.to(device)
        return int(self.where.nbytes + (0 if self.factor is None else self.factor.nbytes))


def add_patches(
    clone: Any, entries: Mapping[str, Sequence[MaskEntries]], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Fold each key's entries into the masks that already end its list of patches, or append a new patch."""
    patches = {}
    for key in sorted(entries):
        if is_quantised(clone, key):
            add_wrapper(clone, key, entries[key], shapes[key])
            continue
        before, new = list(clone.patches.get(key, [])), entries[key]
        if before and isinstance(before[-1][1], SparseMask) and before[-1][0] == 1.0 and before[-1][2] == 1.0:
            new = [*before.pop()[1].entries, *new]
            clone.patches[key] = before
        patches[key] = SparseMask.folded(new, shapes[key])
    accepted = clone.add_patches(patches)  # once: the host goes through the whole model each time
    assert sorted(accepted) == list(patches)  # parameter_shapes has just listed them
    clone.remove_callbacks_with_key(CallbacksMP.ON_LOAD, SparseMask.name)  # of a node before this one
    clone.add_callback_with_key(CallbacksMP.ON_LOAD, SparseMask.name, make_exact)


def make_exact(patcher: Any, *_: Any) -> None:
    """The host's ON_LOAD: weights whose one patch is a mask, made from the untouched ones and kept in little memory."""
    for key, patches in patcher.patches.items():
        alone = len(patches) == 1 and isinstance(patches[0][1], SparseMask)
        if alone and (patches[0][0], *patches[0][2:]) == (1.0, 1.0, None, None):
            make_weight_exact(patcher, key, *patches[0][1].weights[:2])


def add_wrapper(clone: Any, key: str, entries: Sequence[MaskEntries], shape: tuple[int, ...]) -> None:
    """The same for a quantised parameter."""
    wrappers = list(clone.weight_wrapper_patches.get(key, []))
    if wrappers and isinstance(wrappers[-1], SparseMaskFn):
        entries = [*wrappers.pop().entries, *entries]
        clone.weight_wrapper_patches[key] = wrappers
    clone.add_weight_wrapper(key, SparseMaskFn(entries, shape))
    warn_where_lost(clone)
