"""The concept-implanting loss L_con = L_subject + prior_weight * L_prior (paper section 3; prior as in DreamBooth).

Each term is the mean squared error of the network's output over pictures x0, noise and noise levels sigma:
L = mean(((denoised(x, sigma) - x0) / c)^2), c = d denoised / d output, which is the eps-, v- or flow loss as the model
has it. A prior without class pictures compares with the frozen model's own denoised latents instead of x0.
Noise is drawn on the CPU, so every host and device sees the same; nothing here touches the model's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConesError
from .host_model import HostModel

FIRST, LAST = 0.02, 0.98  # percent of sampling; the very ends say little and are numerically delicate


@dataclass(frozen=True)
class Examples:
    """Clean latents (n, C, H, W) in the model's internal space, with n conditionings or one for all."""

    latents: Tensor
    conditioning: Sequence[Any]

    def __post_init__(self) -> None:
        n = len(self.latents) if self.latents.ndim else 0
        if self.latents.ndim < 3 or n == 0:
            raise ConesError(
                f"latents of shape {tuple(self.latents.shape)}; expected (pictures, channels, height, width)"
            )
        if len(self.conditioning) not in (1, n):
            raise ConesError(f"{len(self.conditioning)} conditionings for {n} pictures; give one for all, or {n}")


@dataclass(frozen=True)
class Draws:
    """B fixed rows of a loss: which picture (B,), percent of sampling (B,), noise (B, C, H, W); all on the CPU."""

    which: Tensor
    percent: Tensor
    noise: Tensor

    def split(self, rows: int) -> list[Draws]:
        """The same draws in mini-batches of at most `rows`."""
        fields = (torch.split(field, rows) for field in (self.which, self.percent, self.noise))
        return [Draws(*parts) for parts in zip(*fields, strict=True)]


def draw(examples: Examples, count: int, generator: torch.Generator) -> Draws:
    """`count` draws from `generator` (CPU): pictures in turn in random order, percent stratified, Gaussian noise."""
    if count < 1:
        raise ConesError(f"{count} draws; at least 1 is needed")
    n = len(examples.latents)
    rounds = [torch.randperm(n, generator=generator) for _ in range(-(-count // n))]
    within = torch.rand(count, generator=generator)
    strata = torch.randperm(count, generator=generator)
    percent = FIRST + (LAST - FIRST) * (strata + within) / count
    noise = torch.randn((count, *examples.latents.shape[1:]), generator=generator)
    return Draws(torch.cat(rounds)[:count], percent, noise)


def per_draw_loss(model: HostModel, examples: Examples, draws: Draws, target: Tensor | None = None) -> Tensor:
    """Loss of each draw, (B,). `target` (B, C, H, W) replaces the clean latents, for distillation."""
    x0, denoised, sigma = _denoised(model, examples, draws)
    c = model.output_scale(sigma).to(denoised).reshape(-1, *[1] * (denoised.ndim - 1))  # (B, 1, 1, 1)
    error = (denoised - (x0 if target is None else target).to(denoised)) / c
    return error.square().flatten(1).mean(dim=1)


@torch.no_grad()
def denoised_draws(model: HostModel, examples: Examples, draws: Draws) -> Tensor:
    """The model's denoised latents for `draws`, (B, C, H, W), as a target; call it while nothing is multiplied."""
    return _denoised(model, examples, draws)[1]


def concept_implanting_loss(
    model: HostModel,
    subject: Examples,
    subject_draws: Draws,
    prior: Examples | None = None,
    prior_draws: Draws | None = None,
    prior_weight: float = 1.0,
    prior_target: Tensor | None = None,
) -> Tensor:
    """L_con as a scalar; without `prior` only the subject's term."""
    loss = per_draw_loss(model, subject, subject_draws).mean()
    if prior is None or prior_draws is None:
        return loss
    return loss + prior_weight * per_draw_loss(model, prior, prior_draws, prior_target).mean()


def _denoised(model: HostModel, examples: Examples, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """Clean latents, denoised latents and sigma of the draws, on the latents' device."""
    x0 = examples.latents[draws.which.to(examples.latents.device)].float()
    sigma = model.sigma_at(draws.percent.to(x0.device)).to(x0)
    x = model.noised(x0, draws.noise.to(x0), sigma)
    each = [examples.conditioning[int(i) if len(examples.conditioning) > 1 else 0] for i in draws.which]
    return x0, model.denoise(x, sigma, each).float(), sigma
