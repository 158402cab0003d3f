"""Prompts -> pictures with the toy pipeline, and what a search needs of it: its HostModel and examples.

Sampling is Euler's method from the noisiest level to 0 with classifier-free guidance, in k-diffusion space, which is
deterministic DDIM, and step for step what ComfyUI's `euler` sampler does with the `normal` scheduler. Picture i starts
from noise drawn on the CPU with seeds[i] alone: equal seeds make paired comparisons, whatever the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..concept_mask import ConceptMask, Where
from ..errors import ConesError
from ..hosts.diffusers import DiffusersModel, TextTokens, alphas_cumprod
from ..hosts.diffusers_apply import Strengths, applied
from ..loss import Examples
from ..own_tokens import own_positions
from ..targets import TargetChoice
from .bundle import ToyPipeline

STEPS, GUIDANCE, BATCH = 20, 3.0, 32


def model_of(pipeline: ToyPipeline, where: Where = "own tokens", targets: TargetChoice = "text K+V") -> DiffusersModel:
    """The toy UNet behind the library's boundary."""
    unet: Any = pipeline.unet
    schedule = pipeline.schedule
    return DiffusersModel(unet, alphas_cumprod(schedule), schedule["prediction_type"], targets, where)


def conditioning(
    pipeline: ToyPipeline, texts: Sequence[str], identifier: str = "", class_word: str = ""
) -> list[TextTokens]:
    """One TextTokens per text; own tokens are those of `identifier` (with its class word), none without one."""
    rows = []
    for text, hidden in zip(texts, pipeline.encode_text(list(texts)), strict=True):
        own = torch.zeros(len(hidden), dtype=torch.bool)
        if identifier:
            own = own_positions(pipeline.vocabulary.tokens, text, identifier, class_word)[: len(hidden)]
        rows.append(TextTokens(hidden, own))
    return rows


def examples(
    pipeline: ToyPipeline, pictures: Tensor, texts: Sequence[str], identifier: str = "", class_word: str = ""
) -> Examples:
    """Pictures (n, 3, 64, 64) in [0, 1] and their captions as latents and conditioning."""
    with torch.no_grad():
        latents = pipeline.latents.encode(pictures * 2 - 1)
    return Examples(latents, conditioning(pipeline, texts, identifier, class_word))


def noise(pipeline: ToyPipeline, seeds: Sequence[int]) -> Tensor:
    """Starting noise (B, C, 8, 8); each row depends on its own seed only."""
    unet: Any = pipeline.unet
    config = unet.config
    shape = (1, config.in_channels, config.sample_size, config.sample_size)
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def sample(
    pipeline: ToyPipeline,
    prompts: Sequence[str],
    masks: Strengths = (),
    *,
    seeds: Sequence[int] | None = None,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch: int = BATCH,
    on_batch: Callable[[int], object] | None = None,
) -> Tensor:
    """Pictures (B, 3, 64, 64) in [0, 1] of `prompts`, with `masks` shut where each of them acts.

    seeds: one per prompt, default 0, 1, 2, ... on_batch hears how many pictures were finished.
    """
    seeds = list(range(len(prompts))) if seeds is None else list(seeds)
    if len(seeds) != len(prompts):
        raise ConesError(f"{len(prompts)} prompts but {len(seeds)} seeds; give one seed per prompt")
    model = model_of(pipeline)
    pictures = []
    for start in range(0, len(prompts), batch):
        texts, part = prompts[start : start + batch], seeds[start : start + batch]
        rows = conditioning(pipeline, [*texts, *[""] * len(texts)])  # positive, then negative
        own = [own_rows(pipeline, mask, texts) if mask.where == "own tokens" else None for mask, _ in masks]
        with applied(pipeline.unet, masks, own):
            latents = _euler(model, noise(pipeline, part), rows, steps, guidance)
        pictures.append(((pipeline.latents.decode(latents) + 1) / 2).clamp(0, 1))
        if on_batch:
            on_batch(len(texts))
    return torch.cat(pictures)


def own_rows(pipeline: ToyPipeline, mask: ConceptMask, texts: Sequence[str]) -> Tensor:
    """The mask's own positions (2B, L) for B positive prompts followed by as many negative ones, which own nothing."""
    words = pipeline.vocabulary
    placed = [own_positions(words.tokens, text, mask.identifier, mask.class_word) for text in texts]
    own = torch.stack([one[: words.length] for one in placed])
    return torch.cat([own, torch.zeros_like(own)])


def sigmas(model: DiffusersModel, steps: int) -> Tensor:
    """Noise levels (steps + 1,), evenly spaced in timesteps, ending in 0."""
    timesteps = torch.linspace(model.timesteps - 1, 0, steps)
    return torch.cat([model.sigma(timesteps), torch.zeros(1)])


def _euler(model: DiffusersModel, start: Tensor, rows: list[TextTokens], steps: int, guidance: float) -> Tensor:
    levels = sigmas(model, steps)
    x = start * (1.0 + levels[0] ** 2) ** 0.5
    for sigma, following in pairwise(levels):
        both = model.denoise(torch.cat([x, x]), sigma.expand(2 * len(x)), rows)
        positive, negative = both.chunk(2)
        denoised = negative + guidance * (positive - negative)
        x = x + (x - denoised) / sigma * (following - sigma)
    return x
