"""The own tokens of some rows of a batch, grouped by the masks that own them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..text.token_positions import PromptRows


@dataclass(frozen=True)
class OwnTokens:
    """Own tokens of some rows of a batch: rows [start, stop), positions (n,), how many of them which masks own."""

    uuid: Any
    start: int
    stop: int
    positions: Tensor
    owners: tuple[tuple[int, tuple[int, ...]], ...]  # (how many of the positions in turn, numbers of masks)
    spans: tuple[tuple[int, int, int], ...]  # consecutive positions: (first, how many, where among all positions)

    def of(self, tensor: Tensor, before: int = 0) -> Tensor:
        """The own tokens' entries of a (B, before + L, anything): (stop - start, n, anything)."""
        return tensor[self.start : self.stop, self.positions + before]


def own_tokens(rows: PromptRows, device: torch.device) -> OwnTokens:
    """Every own position of the rows once, those that the same masks own together."""
    owners: dict[int, list[int]] = {}
    for k, own in enumerate(rows.positions):
        for position in own.tolist():
            owners.setdefault(position, []).append(k)
    groups: dict[tuple[int, ...], list[int]] = {}
    for position in sorted(owners):
        groups.setdefault(tuple(owners[position]), []).append(position)
    positions = list(chain.from_iterable(groups.values()))
    firsts = [k for k, position in enumerate(positions) if k == 0 or position != positions[k - 1] + 1]
    ends = [*firsts[1:], len(positions)]
    spans = tuple((positions[k], end - k, k) for k, end in zip(firsts, ends, strict=True))
    sizes = tuple((len(group), masks) for masks, group in groups.items())
    return OwnTokens(rows.uuid, rows.start, rows.stop, torch.tensor(positions, device=device), sizes, spans)
