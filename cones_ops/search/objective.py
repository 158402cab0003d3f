"""The concept-implanting loss L_con = L_subject + prior_weight * L_prior (paper section 3; prior as in DreamBooth).

A loss is a sum of weighted terms, one per set of pictures: a search has the subject and perhaps the prior, joint tuning
every subject, pictures of all together and the prior. A term is the mean squared error of the network's output over
pictures x0, noise and noise levels sigma: L = mean(((denoised(x, sigma) - x0) / c)^2), c = d denoised / d output, which
is the eps-, v- or flow loss as the model has it. A distilled term compares with the untouched model's own denoised
latents instead of x0. Noise is drawn on the CPU, so every host and device sees the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConesError
from .host_model import HostModel, Multiplier
from .ranks import ranks_of
from .settings import Evaluate, SampleLoss, SearchSettings

FIRST, LAST = 0.02, 0.98  # percent of sampling; the very ends say little and are numerically delicate


Pictures = Tensor | Sequence[Tensor]  # (n, C, H, W), or n of (C, H, W) where sizes differ


@dataclass(frozen=True)
class Examples:
    """Clean latents in the model's internal space, with n conditionings or one for all.

    latents: (n, C, H, W), or n of (C, H, W) where sizes differ. weights: how much each position counts in the loss, in
    the same way as latents, with 1 for C; None: all alike.
    """

    latents: Pictures
    conditioning: Sequence[Any]
    weights: Pictures | None = None

    def __post_init__(self) -> None:
        shapes = {tuple(picture.shape) for picture in self.latents} if _pictures(self.latents) else set()
        n = len(self.latents) if shapes else 0
        if n == 0 or any(len(shape) < 2 for shape in shapes):
            shape = tuple(self.latents.shape) if isinstance(self.latents, Tensor) else shapes
            raise ConesError(f"latents of shape {shape}; expected (pictures, channels, height, width)")
        if len(self.conditioning) not in (1, n):
            raise ConesError(f"{len(self.conditioning)} conditionings for {n} pictures; give one for all, or {n}")
        for k, weight in enumerate(() if self.weights is None else self.weights):
            if not (bool((weight >= 0).all()) and 0 < float(weight.sum()) < float("inf")):
                raise ConesError(
                    f"picture {k + 1}: the weights of its loss are below 0, not finite or 0 everywhere; mark some part "
                    "of the picture with 1"
                )

    def pictures(self, which: Tensor) -> Tensor:
        """(B, C, H, W): the latents of the pictures `which` (B,), which must be of one size."""
        return _chosen(self.latents, which)


@dataclass(frozen=True)
class Term:
    """One summand of a loss: its pictures and its weight.

    distilled: compare with the untouched model's denoised latents instead of the pictures.
    """

    examples: Examples
    weight: float = 1.0
    distilled: bool = False


@dataclass(frozen=True)
class Draws:
    """B fixed rows of a loss: which picture (B,), percent of sampling (B,), noise; all on the CPU.

    noise: (B, C, H, W), or B of (C, H, W) where sizes differ.
    """

    which: Tensor
    percent: Tensor
    noise: Pictures

    def part(self, rows: slice) -> Draws:
        """Some of the draws."""
        return Draws(self.which[rows], self.percent[rows], self.noise[rows])

    def split(self, rows: int) -> list[Draws]:
        """The same draws in mini-batches of at most `rows`."""
        return [self.part(slice(k, k + rows)) for k in range(0, len(self.which), rows)]

    def by_size(self) -> Iterator[tuple[list[int], Draws]]:
        """The draws of each size of picture, and their rows."""
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, noise in enumerate(self.noise):
            rows_of.setdefault(tuple(noise.shape), []).append(row)
        for rows in rows_of.values():
            yield rows, Draws(self.which[rows], self.percent[rows], torch.stack([self.noise[row] for row in rows]))


def draw(examples: Examples, count: int, generator: torch.Generator) -> Draws:
    """`count` draws from `generator` (CPU): pictures in turn in random order, percent stratified, Gaussian noise."""
    if count < 1:
        raise ConesError(f"{count} draws; at least 1 is needed")
    n = len(examples.latents)
    rounds = [torch.randperm(n, generator=generator) for _ in range(-(-count // n))]
    within = torch.rand(count, generator=generator)
    strata = torch.randperm(count, generator=generator)
    percent = FIRST + (LAST - FIRST) * (strata + within) / count
    which = torch.cat(rounds)[:count]
    if isinstance(examples.latents, Tensor):
        return Draws(which, percent, torch.randn((count, *examples.latents.shape[1:]), generator=generator))
    shapes = [examples.latents[int(i)].shape for i in which]
    return Draws(which, percent, [torch.randn(shape, generator=generator) for shape in shapes])


def per_draw_loss(model: HostModel, examples: Examples, draws: Draws, target: Pictures | None = None) -> Tensor:
    """Loss of each draw, (B,). `target`, in the shape of the noise, replaces the clean latents, for distillation."""
    if not isinstance(draws.noise, Tensor):
        losses: dict[int, Tensor] = {}
        for rows, part in draws.by_size():
            of_part = None if target is None else torch.stack([target[row] for row in rows])
            losses |= zip(rows, per_draw_loss(model, examples, part, of_part), strict=True)
        return torch.stack([losses[row] for row in range(len(draws.which))])
    x0, denoised, sigma = _denoised(model, examples, draws)
    c = model.output_scale(sigma).to(denoised).reshape(-1, *[1] * (denoised.ndim - 1))  # (B, 1, 1, 1)
    assert target is None or isinstance(target, Tensor)
    squares = ((denoised - (x0 if target is None else target).to(denoised)) / c).square()
    if examples.weights is not None:
        weights = _chosen(examples.weights, draws.which).to(squares)  # (B, 1, H, W)
        squares = squares * (weights / weights.flatten(1).mean(dim=1).reshape(-1, *[1] * (squares.ndim - 1)))
    return squares.flatten(1).mean(dim=1)


@torch.no_grad()
def denoised_draws(model: HostModel, examples: Examples, draws: Draws) -> Pictures:
    """The model's denoised latents for `draws`, in the shape of the noise; call it while nothing is multiplied."""
    if isinstance(draws.noise, Tensor):
        return _denoised(model, examples, draws)[1]
    targets: dict[int, Tensor] = {}
    for rows, part in draws.by_size():
        targets |= zip(rows, denoised_draws(model, examples, part), strict=True)
    return [targets[row] for row in range(len(draws.which))]


@dataclass(frozen=True)
class DrawnTerm:
    """A term with the draws of one batch, and what its denoised latents are compared with (None: the pictures).

    share: of the batch that these draws are; other processes have the rest (ranks.py).
    """

    term: Term
    draws: Draws
    target: Pictures | None = None
    share: float = 1.0


def draw_terms(model: HostModel, terms: Sequence[Term], count: int, generator: torch.Generator) -> list[DrawnTerm]:
    """`count` draws of each term, or this process's share, with the targets of distilled ones.

    Call it while nothing is multiplied.
    """
    rows = ranks_of(model).rows(count)
    drawn = [(term, draw(term.examples, count, generator).part(rows)) for term in terms]
    return [DrawnTerm(term, part, _target(model, term, part), len(part.which) / count) for term, part in drawn]


def concept_implanting_loss(model: HostModel, batch: Sequence[DrawnTerm]) -> Tensor:
    """L_con of a batch as a scalar: the weighted sum of its terms' means; of a share of it, its part of that sum."""
    return torch.stack([drawn.term.weight * drawn.share * _losses(model, drawn).mean() for drawn in batch]).sum()


def sample_loss(model: HostModel, terms: Sequence[Term], stream: int, settings: SearchSettings) -> SampleLoss:
    """Step k's batch of the loss, `settings.batch` rows a term, as a closure; the same for every method and seed."""

    def step_loss(k: int) -> Callable[[], Tensor]:
        batch = draw_terms(model, terms, settings.batch, generator_of(settings.seed, stream, k))
        return lambda: concept_implanting_loss(model, batch)

    return step_loss


def held_out_loss(model: HostModel, terms: Sequence[Term], stream: int, settings: SearchSettings) -> Evaluate:
    """The loss of `settings.held_out` fixed draws a term, (held_out,), as a function of the multiplier."""
    generator, ranks = generator_of(settings.seed, stream, 0), ranks_of(model)
    rows, together = ranks.rows(settings.held_out), -(-settings.batch // ranks.size)
    drawn = [(term, draw(term.examples, settings.held_out, generator).part(rows)) for term in terms]
    batches = [
        [DrawnTerm(term, part, _target(model, term, part)) for part in draws.split(together)] for term, draws in drawn
    ]

    @torch.no_grad()
    def evaluate(multiplier: Multiplier | None) -> Tensor:
        with model.multiplied(multiplier):
            losses = [torch.cat([part.term.weight * _losses(model, part) for part in parts]) for parts in batches]
        every = torch.zeros(settings.held_out, dtype=torch.float64)
        every[rows] = torch.stack(losses).cpu().double().sum(dim=0)
        return ranks.summed_(every)

    return evaluate


def generator_of(seed: int, stream: int, step: int) -> torch.Generator:
    """A CPU generator for one batch; streams and steps are independent of each other."""
    state = np.random.SeedSequence((seed, stream, step)).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))


def _target(model: HostModel, term: Term, draws: Draws) -> Pictures | None:
    return denoised_draws(model, term.examples, draws) if term.distilled else None


def _losses(model: HostModel, drawn: DrawnTerm) -> Tensor:
    return per_draw_loss(model, drawn.term.examples, drawn.draws, drawn.target)


def _denoised(model: HostModel, examples: Examples, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """Clean latents, denoised latents and sigma of draws of one size, on the latents' device."""
    assert isinstance(draws.noise, Tensor)
    x0 = examples.pictures(draws.which).float()
    sigma = model.sigma_at(draws.percent.to(x0.device)).to(x0)
    x = model.noised(x0, draws.noise.to(x0), sigma)
    each = [examples.conditioning[int(i) if len(examples.conditioning) > 1 else 0] for i in draws.which]
    return x0, model.denoise(x, sigma, each).float(), sigma


def _pictures(latents: Pictures) -> bool:
    """Whether there is a picture in them."""
    return not (isinstance(latents, Tensor) and latents.ndim == 0) and len(latents) > 0


def _chosen(pictures: Pictures, which: Tensor) -> Tensor:
    if isinstance(pictures, Tensor):
        return pictures[which.to(pictures.device)]
    return torch.stack([pictures[int(i)] for i in which])
