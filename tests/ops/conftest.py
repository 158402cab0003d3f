"""A complete host small enough to differentiate by hand: denoised = (1 - skip) * V K c + skip * x, for one vector c.

Conditioning is a pair (c, own): own tells whether these are the concept's own tokens. Latents are (n, 1, 1), sigma is
1 - percent / 2, and the network output is eps: d denoised / d output = -sigma.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from cones_ops.masks.fingerprint import fingerprint, sketch
from cones_ops.search.statistics_store import NewStatistic, in_memory

K, V = "block.attn2.to_k.weight", "block.attn2.to_v.weight"


class ToyHost:
    def __init__(self, k: Tensor, v: Tensor, where: str = "everywhere", skip: float = 0.0) -> None:
        self.weights = {(0, K): k, (0, V): v}
        self.where = where
        self.new_statistic: NewStatistic = in_memory
        self.skip = skip
        self.effective = self.weights  # what own rows use
        self.multiplied_by: Mapping[tuple[int, str], Tensor] | None = None
        self.denoised_rows = 0

    def fingerprint(self) -> str:
        return fingerprint({name: weight for (_, name), weight in self.weights.items()})

    def sketch(self) -> str:
        return sketch({name: weight for (_, name), weight in self.weights.items()})

    def sigma_at(self, percent: Tensor) -> Tensor:
        return 1 - percent / 2

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return latents + sigma.reshape(-1, 1, 1, 1) * noise

    def output_scale(self, sigma: Tensor) -> Tensor:
        return -sigma

    def denoise(self, x: Tensor, sigma: Tensor, conditioning: Sequence[tuple[Tensor, bool]]) -> Tensor:
        assert len(x) == len(sigma) == len(conditioning)
        self.denoised_rows += len(x)
        rows = []
        for c, own in conditioning:
            weights = self.effective if own or self.where == "everywhere" else self.weights
            rows.append(weights[0, V] @ (weights[0, K] @ c))
        return (1 - self.skip) * torch.stack(rows).reshape(x.shape) + self.skip * x

    @contextmanager
    def multiplied(self, multiplier: Mapping[tuple[int, str], Tensor] | None) -> Iterator[None]:
        assert self.multiplied_by is None, "the library must not nest multipliers"
        m = multiplier or {}
        self.effective = {name: w * m[name] if name in m else w for name, w in self.weights.items()}
        self.multiplied_by = m
        try:
            yield
        finally:
            self.effective, self.multiplied_by = self.weights, None

    def gradients(self, loss: Callable[[], Tensor]) -> tuple[Tensor, dict[tuple[int, str], Tensor]]:
        before = self.effective
        self.effective = {name: w.detach().clone().requires_grad_() for name, w in before.items()}
        try:
            with torch.enable_grad():
                value = loss()
            grads = torch.autograd.grad(value, list(self.effective.values()), allow_unused=True)
        finally:
            taps, self.effective = self.effective, before
        pairs = zip(taps.items(), grads, strict=True)
        return value.detach(), {name: torch.zeros_like(w) if g is None else g for (name, w), g in pairs}


@pytest.fixture
def toy_host() -> type[ToyHost]:
    """The class; call it with two weights."""
    return ToyHost


@pytest.fixture
def names() -> tuple[str, str]:
    """Names of the toy host's K and V."""
    return K, V


@pytest.fixture
def keys(names: tuple[str, str]) -> tuple[tuple[int, str], ...]:
    """The same as the toy host's only concept has them."""
    return tuple((0, name) for name in names)
