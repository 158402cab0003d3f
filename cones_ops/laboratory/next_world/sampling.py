"""Prompts -> pictures with the next world's pipeline.

Sampling is Euler's method from the noisiest level to 0 with classifier-free guidance, in k-diffusion space, which is
deterministic DDIM, and step for step what ComfyUI's `euler` sampler does with the `normal` scheduler. Picture i starts
from noise drawn on the CPU with seeds[i] alone: equal seeds make paired comparisons, whatever the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...hosts.diffusers.host_model import DiffusersModel, TextTokens, alphas_cumprod
from ...masks.concept_mask import Where
from ...models.own_tokens import own_positions
from ...next_world.model_file import Pipeline
from ...search.host_model import Key

STEPS, GUIDANCE, BATCH = 20, 3.0, 24


@dataclass(frozen=True)
class OwnWeights:
    """K and V weights of any kind (a fine-tune's) that act at the own tokens of one concept only."""

    weights: Mapping[Key, Tensor]
    identifier: str
    class_word: str


def model_of(pipeline: Pipeline, where: Where = "own tokens") -> DiffusersModel:
    """The UNet behind the library's boundary."""
    unet: Any = pipeline.unet
    schedule = pipeline.schedule
    return DiffusersModel(unet, alphas_cumprod(schedule), schedule["prediction_type"], "text K+V", where)


def conditioning(
    pipeline: Pipeline, texts: Sequence[str], identifier: str = "", class_word: str = ""
) -> list[TextTokens]:
    """One TextTokens per text; own tokens are those of `identifier` (with its class word), none without one."""
    words = pipeline.vocabulary
    rows = []
    for text, hidden in zip(texts, pipeline.encode_text([*texts]), strict=True):
        own = torch.zeros(len(hidden), dtype=torch.bool)
        if identifier:
            own = own_positions(words.tokens, text, identifier, class_word)[: words.length]
        rows.append(TextTokens(hidden, own[None]))
    return rows


def noise(pipeline: Pipeline, seeds: Sequence[int]) -> Tensor:
    """Starting noise (B, C, 8, 8); each row depends on its own seed only."""
    unet: Any = pipeline.unet
    shape = (1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def sample(
    pipeline: Pipeline,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int] | None = None,
    own_weights: OwnWeights | None = None,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    on_batch: Callable[[int], object] | None = None,
) -> Tensor:
    """Pictures (B, 3, 96, 96) in [0, 1] of `prompts`; seeds: one per prompt, default 0, 1, 2, ..."""
    seeds = list(range(len(prompts))) if seeds is None else list(seeds)
    model, pictures = model_of(pipeline), []
    words = (own_weights.identifier, own_weights.class_word) if own_weights else ("", "")
    for start in range(0, len(prompts), BATCH):
        texts, part = prompts[start : start + BATCH], seeds[start : start + BATCH]
        rows = conditioning(pipeline, texts, *words) + conditioning(pipeline, [""] * len(texts))
        with model.acting_as(own_weights.weights) if own_weights else nullcontext():
            latents = _euler(model, noise(pipeline, part), rows, steps, guidance)
        pictures.append(((pipeline.autoencoder.decode(latents) + 1) / 2).clamp(0, 1))
        if on_batch:
            on_batch(len(texts))
    return torch.cat(pictures)


def _euler(model: DiffusersModel, start: Tensor, rows: list[TextTokens], steps: int, guidance: float) -> Tensor:
    """Latents from noise; `rows` are the positive conditionings, then the negative ones."""
    timesteps = torch.linspace(model.timesteps - 1, 0, steps)
    levels = torch.cat([model.sigma(timesteps), torch.zeros(1)])
    x = start * (1.0 + levels[0] ** 2) ** 0.5
    for sigma, following in pairwise(levels):
        positive, negative = model.denoise(torch.cat([x, x]), sigma.expand(2 * len(x)), rows).chunk(2)
        denoised = negative + guidance * (positive - negative)
        x = x + (x - denoised) / sigma * (following - sigma)
    return x
