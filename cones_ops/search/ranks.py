"""One search on several processes (ranks): each computes a share of every batch and keeps the statistics of its layers.

All ranks draw the same noise and take every n-th row of a batch, so losses and gradients, summed over the ranks, are
those of one process up to the rounding of sums. `SharedModel` shows a search the weights of this rank's layers only:
what it keeps for each weight is split. A multiplier is sent to all ranks, a gradient is summed where its layer belongs.
The ranks are those of `torch.distributed`, whose group the caller has made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from ..errors import ConesError
from ..masks.concept_mask import Where
from .host_model import HostModel, Key, Multiplier
from .statistics_store import NewStatistic

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """This process, and how many share the search."""

    rank: int = 0
    size: int = 1

    def rows(self, count: int) -> slice:
        """This rank's rows of a batch; ConesError where there is none."""
        if count < self.size:
            raise ConesError(f"a batch of {count} on {self.size} processes; use a larger batch, or fewer processes")
        return slice(self.rank, None, self.size)

    def summed_(self, tensor: Tensor) -> Tensor:
        """The tensor, summed over the ranks in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def total(self, number: float) -> float:
        """A number summed over the ranks."""
        return float(self.summed_(torch.tensor(number, dtype=torch.float64))) if self.size > 1 else number

    def merged(self, values: Mapping[Any, Value]) -> dict[Any, Value]:
        """The entries of all ranks, by key in order."""
        parts: list[Any] = [values]
        if self.size > 1:
            parts = [None] * self.size
            dist.all_gather_object(parts, dict(values))
        return dict(sorted((key, value) for part in parts for key, value in part.items()))


ALONE = Ranks()


def ranks_of(model: HostModel) -> Ranks:
    """The ranks that share a model's search."""
    return model.ranks if isinstance(model, SharedModel) else ALONE


class SharedModel:
    """A model whose search is shared: a HostModel with the weights of this rank's layers."""

    def __init__(self, model: HostModel, ranks: Ranks) -> None:
        self._model, self.ranks = model, ranks
        self.owner = owners(model.weights, ranks.size)
        mine = (key for key, rank in self.owner.items() if rank == ranks.rank)
        self.weights: Mapping[Key, Tensor] = {key: model.weights[key] for key in mine}
        if not self.weights:
            raise ConesError(f"{len(self.owner)} weights for {ranks.size} processes; use fewer processes")

    @property
    def new_statistic(self) -> NewStatistic:
        return self._model.new_statistic

    @property
    def where(self) -> Where:
        return self._model.where

    def fingerprint(self) -> str:
        return self._model.fingerprint()

    def sketch(self) -> str:
        return self._model.sketch()

    def sigma_at(self, percent: Tensor) -> Tensor:
        return self._model.sigma_at(percent)

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return self._model.noised(latents, noise, sigma)

    def output_scale(self, sigma: Tensor) -> Tensor:
        return self._model.output_scale(sigma)

    def denoise(self, x: Tensor, sigma: Tensor, conditioning: Sequence[Any]) -> Tensor:
        return self._model.denoise(x, sigma, conditioning)

    @contextmanager
    def multiplied(self, multiplier: Multiplier | None) -> Iterator[None]:
        """On all ranks at once, each with the multiplier of its own layers."""
        with self._model.multiplied(self._of_all(multiplier) if multiplier else None):
            yield

    def _of_all(self, multiplier: Multiplier) -> dict[Key, Tensor]:
        whole = {}
        for key, rank in self.owner.items():
            weight = self._model.weights[key]
            mine = rank == self.ranks.rank
            sent = multiplier[key].to(torch.uint8) if mine else weight.new_empty(weight.shape, dtype=torch.uint8)
            dist.broadcast(sent, src=rank)
            whole[key] = sent.bool()
        return whole

    def gradients(self, loss: Callable[[], Tensor]) -> tuple[Tensor, dict[Key, Tensor]]:
        """Loss and gradients summed over the ranks; of the gradients those of this rank's layers."""
        value, gradient = self._model.gradients(loss)
        for key, rank in self.owner.items():
            part = gradient[key].contiguous()
            dist.reduce(part, dst=rank)
            if rank == self.ranks.rank:
                gradient[key] = part
            else:
                del gradient[key]
        return self.ranks.summed_(value), gradient


def owners(weights: Mapping[Key, Tensor], size: int) -> dict[Key, int]:
    """The rank of each weight, in order of keys; large weights first, each to the rank that has least."""
    held, owner = [0] * size, {}
    for key in sorted(weights, key=lambda key: (-weights[key].numel(), key)):
        rank = held.index(min(held))
        owner[key] = rank
        held[rank] += weights[key].numel()
    return dict(sorted(owner.items()))
