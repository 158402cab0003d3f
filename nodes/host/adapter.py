"""Masks that act everywhere, as patches on a clone of a ModelPatcher, never on the user's own model.

A masked entry becomes theta * f, where f is the product of (1 - strength) over the masks that hold it. Masks that
follow each other on one parameter are folded into a single patch whose factors are multiplied in a fixed order, so
any order of masks, in one node or in a chain of nodes, gives the same bits. Patches of other nodes (LoRA) keep their
place in the host's list. Quantised parameters get a weight wrapper instead: a patch would make the host requantise
the whole tensor. Strength 0, or no masks, adds nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from ...cones_ops.errors import ConesError
from .parameters import is_quantised

Part = tuple[Tensor, float]  # (sorted unique flat index, factor)
SPARSE = 64  # below one masked entry in so many, sorting is faster than a look at every entry


def merged(parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
    """One (index, factor) for many; factors on the same entry are multiplied smallest first, for any order of parts.

    A single number for a factor is that of all entries; if it is 0, an entry may be there more than once.
    """
    values = {value for _, value in parts}
    if len(parts) == 1 or values == {0.0}:  # shut by several is shut: no need to look for entries that they share
        index = parts[0][0] if len(parts) == 1 else torch.cat([one for one, _ in parts])
        return index, torch.tensor(values.pop(), dtype=torch.float32)
    ordered = sorted((part for part in parts if part[0].numel()), key=lambda part: part[1])
    reach = max((int(index[-1]) + 1 for index, _ in ordered), default=0)
    if sum(index.numel() for index, _ in ordered) * SPARSE < reach:
        index = torch.unique(torch.cat([part[0] for part in ordered]))
        return index, multiplied(ordered, index.numel(), lambda one: torch.searchsorted(index, one)).float()
    held = torch.zeros(reach, dtype=torch.bool)  # a look at every entry takes less time than sorting
    for one, _ in ordered:
        held.index_fill_(0, one, True)
    index = held.nonzero().flatten()
    return index, multiplied(ordered, reach, lambda one: one)[index].float()


def multiplied(ordered: Sequence[Part], size: int, place: Callable[[Tensor], Tensor]) -> Tensor:
    """Products of the factors at each of `size` places, fp64."""
    factor = torch.ones(size, dtype=torch.float64)
    for index, value in ordered:
        factor[place(index)] *= value
    return factor


def scale_entries(weight: Tensor, index: Tensor, factor: Tensor) -> Tensor:
    """weight[index] *= factor in fp32, in place, also for weights that are not contiguous (views of fused weights)."""
    index = index.to(weight.device)
    factor = factor.to(weight.device)
    if weight.is_contiguous() and not factor.any():
        weight.view(-1).index_fill_(0, index, 0.0)
        return weight
    where: Any = index if weight.is_contiguous() else torch.unravel_index(index, weight.shape)
    flat = weight.view(-1) if weight.is_contiguous() else weight
    scaled = torch.where(factor == 0, 0.0, flat[where].float() * factor)  # exactly 0, whatever it was
    flat[where] = scaled.to(weight.dtype)
    return weight


class SparseMask(WeightAdapterBase):  # type: ignore[misc]
    """The patch: weights = (index int64 CPU, factor fp32 CPU, shape), as `merged` gives them from `parts`."""

    name = "cones"

    def __init__(self, loaded_keys: set[str], weights: tuple[Tensor, Tensor, tuple[int, ...]]) -> None:
        self.loaded_keys = loaded_keys
        self.weights = weights
        self.parts: tuple[Part, ...] = ()

    @classmethod
    def folded(cls, parts: Sequence[Part], shape: tuple[int, ...]) -> SparseMask:
        """The patch that applies all parts."""
        index, factor = merged(parts)
        patch = cls(set(), (index, factor, tuple(shape)))
        patch.parts = tuple(parts)
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
        index, factor, shape = self.weights
        if tuple(weight.shape) != tuple(shape):
            raise ConesError(
                f"{key}: the concept mask is for shape {tuple(shape)} but the weight now has {tuple(weight.shape)}; "
                "put Apply Concept Masks before the node that changes this weight's shape"
            )
        if strength == 0:
            return weight
        return scale_entries(weight, index, factor if strength == 1 else 1 + (factor - 1) * strength)

    def bypass_forward(self, org_forward: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A mask changes the weight itself; there is no side path that could do the same."""
        raise ConesError("a concept mask cannot be used in bypass mode; use Apply Concept Masks on the model instead")


class SparseMaskFn:
    """The weight wrapper for quantised parameters: out of place, on the weight as the layer is about to use it."""

    def __init__(self, parts: Sequence[Part], shape: tuple[int, ...]) -> None:
        self.parts = tuple(parts)
        self.shape = tuple(shape)
        self.index, self.factor = merged(parts)

    def __call__(self, weight: Tensor) -> Tensor:
        if tuple(weight.shape) != self.shape:
            raise ConesError(f"the concept mask is for shape {self.shape} but the weight has {tuple(weight.shape)}")
        return scale_entries(weight.clone(memory_format=torch.contiguous_format), self.index, self.factor)

    def move_to(self, device: Any) -> int:
        """Keep the index where the layer runs; returns its bytes (the host asks on load)."""
        self.index = self.index.to(device)
        self.factor = self.factor.to(device)
        return int(self.index.nbytes + self.factor.nbytes)


def add_parts(clone: Any, parts: Mapping[str, Sequence[Part]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Fold each key's parts into the masks that already end its list, or append a new entry."""
    patches = {}
    for key in sorted(parts):
        if is_quantised(clone, key):
            add_wrapper(clone, key, parts[key], shapes[key])
            continue
        entries, new = list(clone.patches.get(key, [])), parts[key]
        if entries and isinstance(entries[-1][1], SparseMask) and entries[-1][0] == 1.0 and entries[-1][2] == 1.0:
            new = [*entries.pop()[1].parts, *new]
            clone.patches[key] = entries
        patches[key] = SparseMask.folded(new, shapes[key])
    accepted = clone.add_patches(patches)  # once: the host goes through the whole model each time
    assert sorted(accepted) == list(patches)  # parameter_shapes has just listed them


def add_wrapper(clone: Any, key: str, parts: Sequence[Part], shape: tuple[int, ...]) -> None:
    """The same for a quantised parameter."""
    wrappers = list(clone.weight_wrapper_patches.get(key, []))
    if wrappers and isinstance(wrappers[-1], SparseMaskFn):
        parts = [*wrappers.pop().parts, *parts]
        clone.weight_wrapper_patches[key] = wrappers
    clone.add_weight_wrapper(key, SparseMaskFn(parts, shape))
