"""The one boundary between the library and a host (diffusers, ComfyUI): what a search needs of a model, and no more.

Names are canonical (see concept_mask), latents are the model's internal ones, noise levels are k-diffusion sigmas and
`denoise` returns denoised latents. A host lends its model: after every call it is exactly as before, also on errors.
A model offers each target once per concept, keyed by (concept, name); a single search has concept 0 alone. A multiplier
M replaces each weight theta by theta * M; with `where` "own tokens" it does so for the K and V of that concept's own
tokens only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from ..masks.concept_mask import Where
from .statistics_store import NewStatistic

Key = tuple[int, str]  # concept, from 0, and the target's canonical name
Multiplier = Mapping[Key, Tensor]  # numbers, or bool: True = as it is, False = shut


class HostModel(Protocol):
    """A model with its targets chosen. B = rows of a batch."""

    @property
    def weights(self) -> Mapping[Key, Tensor]:
        """Each target's untouched weight, fp32; never written to by the library."""

    @property
    def new_statistic(self) -> NewStatistic:
        """Where a search keeps a statistic for each entry of a weight."""

    @property
    def where(self) -> Where:
        """Where multipliers act."""

    def fingerprint(self) -> str:
        """Identifies the base weights of the targets, without patches that happen to be on the model."""

    def sketch(self) -> str:
        """Tells the same base weights in another storage format, see masks/fingerprint.py."""

    def sigma_at(self, percent: Tensor) -> Tensor:
        """Noise level (B,) at `percent` (B,) of the sampling: 0 = most noise, 1 = none."""

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """The noisy input x for clean latents; latents + sigma * noise unless the model mixes otherwise (flow)."""

    def output_scale(self, sigma: Tensor) -> Tensor:
        """d denoised / d network output, (B,): turns an error of `denoised` into one of the network's output."""

    def denoise(self, x: Tensor, sigma: Tensor, conditioning: Sequence[Any]) -> Tensor:
        """Denoised latents of `x`, with one opaque conditioning per row. Differentiable inside `gradients`."""

    def multiplied(self, multiplier: Multiplier | None) -> AbstractContextManager[None]:
        """Inside, each named target acts as theta * multiplier; None and keys left out change nothing."""

    def gradients(self, loss: Callable[[], Tensor]) -> tuple[Tensor, dict[Key, Tensor]]:
        """Run `loss` with gradients enabled: its detached value and dL/d(effective weight) per target, fp32.

        The mapping is the caller's, who takes tensors out of it to free them.
        """
