"""Which entries have the highest scores: exact, weight by weight, without sorting or copying them all.

Read as whole numbers, fp32 numbers keep their order once the lower 31 bits of the negative ones are inverted. Counting
these keys by their upper 16 bits, and those of one bin by the lower 16, tells the lowest key chosen (radix selection).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import ConesError, listed
from ..masks.concept_mask import ConceptMask
from .host_model import Key
from .ranks import ALONE, Ranks

_BITS = 16
_BINS = 1 << _BITS


class Ranking:
    """All entries of `scores`, highest first; ties in the order of keys and positions. ConesError if not finite.

    ranks: the processes that have the scores of other keys; all of them do the same at the same time.
    """

    def __init__(self, scores: Mapping[Key, Tensor], ranks: Ranks = ALONE) -> None:
        if not scores:
            raise ConesError("there are no scores to rank; was any target searched?")
        if bad := [key[1] for key, score in scores.items() if not bool(torch.isfinite(score).all())]:
            raise ConesError(f"scores are not finite in {listed(bad)}; the loss or its gradient overflowed")
        self.scores, self._ranks = dict(sorted(scores.items())), ranks
        self.size = round(ranks.total(sum(score.numel() for score in self.scores.values())))
        self._upper = ranks.summed_(_counts((_keys(score) >> _BITS) + _BINS // 2 for score in self.scores.values()))

    def top(self, count: int) -> dict[Key, Tensor]:
        """The `count` first: True where an entry is one of them, in the shape of each weight."""
        top = {
            key: torch.zeros(score.shape, dtype=torch.bool, device=score.device) for key, score in self.scores.items()
        }
        if count <= 0:
            return top
        lowest, ties = self._lowest(min(count, self.size))
        equal = {}
        for key, chosen in top.items():
            keys = _keys(self.scores[key])
            torch.gt(keys, lowest, out=chosen.view(-1))
            equal[key] = (keys == lowest).nonzero().reshape(-1)
        for key, number in self._ranks.merged({key: len(positions) for key, positions in equal.items()}).items():
            if key in top:
                top[key].view(-1)[equal[key][: max(0, ties)]] = True
            ties -= number
        return top

    def _lowest(self, count: int) -> tuple[int, int]:
        """The lowest key among the first `count`, and how many of those have it."""
        upper, count = _bin_of(self._upper, count)
        upper -= _BINS // 2
        inside = (keys[keys >> _BITS == upper] for keys in map(_keys, self.scores.values()))
        lower, ties = _bin_of(self._ranks.summed_(_counts(keys & (_BINS - 1) for keys in inside)), count)
        return (upper << _BITS) + lower, ties


def from_ranking(scores: Mapping[str, Tensor], density: float, ranks: Ranks = ALONE, **fields: Any) -> ConceptMask:
    """The share `density` of all entries with the highest scores; `fields` are ConceptMask's other fields.

    ranks: as of `Ranking`; each gets the whole mask.
    """
    if not 0.0 <= density <= 1.0:
        raise ConesError(f"density {density} is not a share between 0 and 1")
    ranking = Ranking({(0, name): score for name, score in scores.items()}, ranks)
    top = ranking.top(round(density * ranking.size))
    index = {name: chosen.reshape(-1).nonzero().reshape(-1).cpu() for (_, name), chosen in top.items()}
    shapes = {name: tuple(score.shape) for name, score in scores.items()}
    return ConceptMask(ranks.merged(index), ranks.merged(shapes), **fields)


def _keys(score: Tensor) -> Tensor:
    """int32 (n,) in the order of the scores (...); both zeros are alike."""
    bits = (score.reshape(-1).float() + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _counts(parts: Iterable[Tensor]) -> Tensor:
    """How often each number from 0 comes in all parts together, (bins,)."""
    counts = torch.zeros(_BINS, dtype=torch.int64)
    for part in parts:
        counts += torch.bincount(part, minlength=_BINS).cpu()
    return counts


def _bin_of(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin of the entry of this rank from the highest, from 1, and its rank inside the bin."""
    down = counts.flip(0).cumsum(0)
    k = int(torch.searchsorted(down, rank))
    return len(counts) - 1 - k, rank - int(down[k] - counts[len(counts) - 1 - k])
