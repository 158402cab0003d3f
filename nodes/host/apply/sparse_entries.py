"""Which entries of one weight concept masks scale, and by how much, in little memory.

`where` says which: int32 positions (int64 in huge weights), or uint8, one bit for every entry of the weight, the lowest
first, which is less and faster from one entry in `DENSE` on. `factor` says by how much: None shuts them, fp32 () scales
all alike, fp32 (n,) one by one (with positions only). Everything is done on bit patterns, so that what is not masked
keeps every bit in every format, and a shut entry is +0, whatever it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard

import numpy as np
import torch
from torch import Tensor

from ....cones_ops.masks.concept_mask import ConceptMask

ScaledIndex = tuple[Tensor, float]  # (sorted unique flat index, factor)
Scaled = tuple[Tensor, "Tensor | None"]  # (where, factor)
SPARSE = 64  # below one masked entry in so many, sorting is faster than a look at every entry
DENSE = 8
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an entry


@dataclass(frozen=True)
class MaskEntries:
    """The entries of one mask in one of the model's weights: those of its target `name`, which begins at `first`."""

    mask: ConceptMask
    name: str
    first: int
    factor: float

    def scaled_index(self) -> ScaledIndex:
        """Positions in the weight; computed on each call, because masks from files keep them coded."""
        index = self.mask.index[self.name].cpu()
        return index + self.first if self.first else index, self.factor


def merged(parts: Sequence[ScaledIndex]) -> tuple[Tensor, Tensor]:
    """One (index, factor) for many; factors on the same entry are multiplied smallest first, for any order of parts.

    A factor () holds for all entries; if it is 0, an entry may occur more than once.
    """
    values = {value for _, value in parts}
    if len(parts) == 1 or values == {0.0}:  # shut by several is shut: no need to look for entries that they share
        index = parts[0][0] if len(parts) == 1 else torch.cat([index for index, _ in parts])
        return index, torch.tensor(values.pop(), dtype=torch.float32)
    ordered = sorted((part for part in parts if part[0].numel()), key=lambda part: part[1])
    reach = max((int(index[-1]) + 1 for index, _ in ordered), default=0)
    if sum(index.numel() for index, _ in ordered) * SPARSE < reach:
        union = torch.unique(torch.cat([index for index, _ in ordered]))
        return union, multiplied(ordered, union.numel(), lambda index: torch.searchsorted(union, index)).float()
    union = held_by(ordered, reach).nonzero().flatten()  # a look at every entry takes less time than sorting
    return union, multiplied(ordered, reach, lambda index: index)[union].float()


def multiplied(ordered: Sequence[ScaledIndex], size: int, place: Callable[[Tensor], Tensor]) -> Tensor:
    """Products of the factors at each of `size` places, fp64."""
    factor = torch.ones(size, dtype=torch.float64)
    for index, value in ordered:
        factor[place(index)] *= value
    return factor


def held_by(parts: Sequence[ScaledIndex], size: int) -> Tensor:
    """Whether any of the parts has it, for each of `size` entries."""
    held = torch.zeros(size, dtype=torch.bool)
    for index, _ in parts:
        held.index_fill_(0, index, True)
    return held


def compact(parts: Sequence[ScaledIndex], size: int) -> Scaled:
    """(where, factor) of all parts together, on the CPU, in a weight of `size` entries."""
    values = {value for _, value in parts}
    alike = len(parts) == 1 or values == {0.0}
    factor = None if values == {0.0} else torch.tensor(values.pop(), dtype=torch.float32) if alike else None
    if alike and sum(index.numel() for index, _ in parts) * DENSE >= size:
        return torch.from_numpy(np.packbits(held_by(parts, size).numpy(), bitorder="little")), factor
    index, factors = merged(parts)
    return index.to(torch.int32 if size < 2**31 else torch.int64), factor if alike else factors


def scale_entries(weight: Tensor, where: Tensor, factor: Tensor | None) -> Tensor:
    """Multiply the entries in fp32, in place, also in weights that are not contiguous (views of fused weights)."""
    if factor is None:
        put(weight, where, 0)
        return weight
    factor, bits = factor.to(weight.device), taken(weight, where)
    scaled = torch.where(factor == 0, 0.0, bits.view(weight.dtype).float() * factor)  # exactly 0, whatever it was
    put(weight, where, scaled.to(weight.dtype).view(bits.dtype))
    return weight


def taken(weight: Tensor, where: Tensor) -> Tensor:
    """The bit patterns of the entries, (n,), in the order of `where`."""
    chosen, bits = selector(where, weight), weight.view(BITS[weight.element_size()])
    if is_flat(chosen):
        return bits.view(-1)[chosen]
    if isinstance(chosen, Tensor) and chosen.device.type == "cpu":  # numpy takes a quarter of torch's time
        return torch.from_numpy(np.compress(chosen.view(-1).numpy(), bits.detach().numpy()))
    return bits[chosen]


def put(weight: Tensor, where: Tensor, values: Tensor | Literal[0]) -> None:
    """Give the entries bit patterns, in place; the reverse of `taken`."""
    chosen, bits = selector(where, weight), weight.view(BITS[weight.element_size()])
    if isinstance(values, Tensor):
        (bits.view(-1) if is_flat(chosen) else bits)[chosen] = values.to(weight.device)
    elif is_flat(chosen):
        bits.view(-1).index_fill_(0, chosen, values)
    elif isinstance(chosen, Tensor):
        bits.masked_fill_(chosen, values)
    else:
        bits[chosen] = values


def is_flat(chosen: Tensor | tuple[Tensor, ...]) -> TypeGuard[Tensor]:
    """Whether a `selector` picks from the weight as one row."""
    return isinstance(chosen, Tensor) and chosen.dtype == torch.int64


def selector(where: Tensor, weight: Tensor) -> Tensor | tuple[Tensor, ...]:
    """What picks the entries: bool of the weight's shape; int64 flat; or one int64 per axis, if not contiguous."""
    where = where.to(weight.device)
    if where.dtype == torch.uint8:
        shifts = torch.arange(8, dtype=torch.uint8, device=where.device)
        held = ((where[:, None] >> shifts) & 1).view(torch.bool).view(-1)
        return held[: weight.numel()].view(weight.shape)
    index = where.long()
    return index if weight.is_contiguous() else torch.unravel_index(index, weight.shape)
