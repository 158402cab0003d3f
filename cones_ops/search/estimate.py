"""What a search will need, measured on one and two noisy pictures before it starts: memory beyond the model, and time.

What a step keeps for its backward pass grows by the same bytes with every picture of the batch, and its time by the
same seconds, so two small passes tell them; one goes before them, so that kernels are warm. Noise is that of step 0, so
nothing is drawn from the search's own. Bytes count each storage that autograd saves once, without parameters;
short-lived scratch memory is not in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .host_model import HostModel
from .settings import SampleLoss, SearchSettings

BYTES = {"learned": 24, "cones": 16, "taylor": 12}  # per searched weight: it, its gradient, scores


@dataclass(frozen=True)
class Estimate:
    """Before the first step: bytes kept for the backward pass, bytes of statistics, seconds of a step, steps."""

    kept: int
    statistics: int
    seconds_per_step: float
    steps: int
    seconds_choosing: float = 0.0  # of the density, after the steps

    def __str__(self) -> str:
        choosing = f" and {duration(self.seconds_choosing)} to choose the density" if self.seconds_choosing else ""
        searching = self.seconds_per_step * self.steps
        return (
            f"about {duration(searching + self.seconds_choosing)} in all: "
            f"{self.seconds_per_step:.2g} s a step, {duration(searching)} for {self.steps} steps{choosing}; "
            f"memory beyond the model: {self.kept / 1e6:,.0f} MB for the backward pass, "
            f"{self.statistics / 1e6:,.0f} MB for the statistics"
        )


def duration(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def estimate(
    model: HostModel,
    sample_loss: Callable[[SearchSettings], SampleLoss],
    settings: SearchSettings,
    densities: int = 0,
) -> Estimate:
    """Three gradients on small batches, with nothing multiplied, and one loss if so many densities will be measured.

    sample_loss: of settings with another batch.
    """
    measured_gradient(model, sample_loss(replace(settings, batch=1))(0))
    single, of_one = measured_gradient(model, sample_loss(replace(settings, batch=1))(0))
    double, of_two = measured_gradient(model, sample_loss(replace(settings, batch=2))(0))
    searched = sum(weight.numel() for weight in model.weights.values())
    kept = max(single, single + (settings.batch - 1) * (double - single))
    choosing = densities * settings.held_out * _seconds_of_a_row(sample_loss, settings) if densities else 0.0
    seconds = of_one + (settings.batch - 1) * max(0.0, of_two - of_one)
    return Estimate(kept, BYTES[settings.method] * searched, seconds, settings.steps, choosing)


@torch.no_grad()
def _seconds_of_a_row(sample_loss: Callable[[SearchSettings], SampleLoss], settings: SearchSettings) -> float:
    """What a held-out row costs: a loss without its gradient."""
    loss = sample_loss(replace(settings, batch=2))(0)
    began = time.perf_counter()
    float(loss())
    return (time.perf_counter() - began) / 2


OnEstimate = Callable[[Estimate], None]


def measured_gradient(model: HostModel, loss: Callable[[], Tensor]) -> tuple[int, float]:
    """(most bytes saved for the backward pass at one time, seconds) of one gradient."""
    with saved_bytes() as saved:
        began = time.perf_counter()
        value, _ = model.gradients(loss)
        float(value)  # a GPU has finished when the number is here
        return saved.most, time.perf_counter() - began


class SavedBytes:
    """Bytes held now, and the most at one time."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.holders: dict[int, int] = {}

    def hold(self, key: int, size: int) -> None:
        self.holders[key] = self.holders.get(key, 0) + 1
        if self.holders[key] == 1:
            self.now += size
            self.most = max(self.most, self.now)

    def release(self, key: int, size: int) -> None:
        self.holders[key] -= 1
        if not self.holders[key]:
            del self.holders[key]
            self.now -= size


class Held:
    """What autograd holds in place of a tensor; its storage counts for as long."""

    def __init__(self, tensor: Tensor, saved: SavedBytes) -> None:
        storage = tensor.untyped_storage()
        self.tensor, self.saved, self.key, self.size = tensor, saved, storage.data_ptr(), storage.nbytes()
        saved.hold(self.key, self.size)

    def __del__(self) -> None:
        self.saved.release(self.key, self.size)


@contextmanager
def saved_bytes(known: frozenset[int] = frozenset()) -> Iterator[SavedBytes]:
    """Counts what autograd saves inside, but parameters and storages whose data_ptr is in `known`."""
    saved = SavedBytes()

    def pack(tensor: Tensor) -> Tensor | Held:
        if isinstance(tensor, torch.nn.Parameter):
            return tensor
        tensor = tensor.detach()  # an output that is saved with its graph keeps the graph, and so itself, for ever
        own = not tensor.numel() or tensor.untyped_storage().data_ptr() in known
        return tensor if own else Held(tensor, saved)

    def unpack(held: Tensor | Held) -> Tensor:
        return held.tensor if isinstance(held, Held) else held

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield saved
