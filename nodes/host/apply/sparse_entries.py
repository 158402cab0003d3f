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

Part = tuple[Tensor, float]  # (sorted unique flat index, factor)
Scaled = tuple[Tensor, "Tensor | None"]  # (where, factor)
SPARSE = 64  # below one masked entry in so many, sorting is faster than a look at every entry
DENSE = 8
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an entry


@dataclass(frozen=True)
class Share:
    """What one mask has in one of the model's weights: its target `name`, whose first entry there is `first`."""

    mask: ConceptMask
    name: str
    first: int
    factor: float

    def part(self) -> Part:
        """Positions in the weight; made anew for each call, as masks from files keep them coded."""
        index = self.mask.index[self.name].cpu()
        return index + self.first if self.first else index, self.factor


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
    index = held_by(ordered, reach).nonzero().flatten()  # a look at every entry takes less time than sorting
    return index, multiplied(ordered, reach, lambda one: one)[index].float()


def multiplied(ordered: Sequence[Part], size: int, place: Callable[[Tensor], Tensor]) -> Tensor:
    """Products of the factors at each of `size` places, fp64."""
    factor = torch.ones(size, dtype=torch.float64)
    for index, value in ordered:
        factor[place(index)] *= value
    return factor


def held_by(parts: Sequence[Part], size: int) -> Tensor:
    """Whether any of the parts has it, for each of `size` entries."""
    held = torch.zeros(size, dtype=torch.bool)
    for index, _ in parts:
        held.index_fill_(0, index, True)
    return held


def compact(parts: Sequence[Part], size: int) -> Scaled:
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
    at, raw = chosen(where, weight), weight.view(BITS[weight.element_size()])
    if flat(at):
        return raw.view(-1)[at]
    if isinstance(at, Tensor) and at.device.type == "cpu":  # numpy takes a quarter of torch's time
        return torch.from_numpy(np.compress(at.view(-1).numpy(), raw.detach().numpy()))
    return raw[at]


def put(weight: Tensor, where: Tensor, bits: Tensor | Literal[0]) -> None:
    """Give the entries bit patterns, in place; the reverse of `taken`."""
    at, raw = chosen(where, weight), weight.view(BITS[weight.element_size()])
    if isinstance(bits, Tensor):
        (raw.view(-1) if flat(at) else raw)[at] = bits.to(weight.device)
    elif flat(at):
        raw.view(-1).index_fill_(0, at, bits)
    elif isinstance(at, Tensor):
        raw.masked_fill_(at, bits)
    else:
        raw[at] = bits


def flat(at: Tensor | tuple[Tensor, ...]) -> TypeGuard[Tensor]:
    """Whether what `chosen` gave picks from the weight as one row."""
    return isinstance(at, Tensor) and at.dtype == torch.int64


def chosen(where: Tensor, weight: Tensor) -> Tensor | tuple[Tensor, ...]:
    """What picks the entries: bool of the weight's shape; int64 flat; or one int64 an axis, if it is not contiguous."""
    where = where.to(weight.device)
    if where.dtype == torch.uint8:
        shifts = torch.arange(8, dtype=torch.uint8, device=where.device)
        held = ((where[:, None] >> shifts) & 1).view(torch.bool).view(-1)
        return held[: weight.numel()].view(weight.shape)
    index = where.long()
    return index if weight.is_contiguous() else torch.unravel_index(index, weight.shape)
