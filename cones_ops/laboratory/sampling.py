"""Prompts -> pictures with the toy pipeline, and what a search needs of it: its HostModel and examples.

Sampling is Euler's method from the noisiest level to 0 with classifier-free guidance, in k-diffusion space, which is
deterministic DDIM, and step for step what ComfyUI's `euler` sampler does with the `normal` scheduler. Picture i starts
from noise drawn on the CPU with seeds[i] alone: equal seeds make paired comparisons, whatever the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..errors import ConesError
from ..hosts.diffusers.apply_masks import Strengths, applied
from ..hosts.diffusers.host_model import DiffusersModel, TextTokens, alphas_cumprod
from ..hosts.diffusers.regions import kept_apart
from ..masks.concept_mask import ConceptMask, Where
from ..models.own_tokens import own_positions
from ..models.phrases import PHRASE, OwnWords
from ..models.targets import TargetChoice
from ..search.host_model import Key
from ..search.objective import Examples
from ..toy_world.bundle import ToyPipeline
from ..toy_world.world import KINDS
from .gradient_guidance import GradientGuidance

STEPS, GUIDANCE, BATCH = 20, 3.0, 32


@dataclass(frozen=True)
class Apart:
    """Concepts kept to their own regions: words that compete with them where a prompt has them, and how strongly."""

    things: tuple[str, ...] = KINDS
    strength: float = 1.0
    probe: int = 2


@dataclass(frozen=True)
class OwnWeights:
    """K and V weights of any kind (a fine-tune's) that act at the own tokens of one concept only."""

    weights: Mapping[Key, Tensor]
    identifier: str
    class_word: str


Words = tuple[str, str]  # identifier, class word


def model_of(
    pipeline: ToyPipeline, where: Where = "own tokens", targets: TargetChoice = "text K+V", concepts: int = 1
) -> DiffusersModel:
    """The toy UNet behind the library's boundary."""
    unet: Any = pipeline.unet
    schedule = pipeline.schedule
    return DiffusersModel(unet, alphas_cumprod(schedule), schedule["prediction_type"], targets, where, concepts)


def conditioning(
    pipeline: ToyPipeline, texts: Sequence[str], concepts: Sequence[Words] = (), rules: Sequence[OwnWords] = ()
) -> list[TextTokens]:
    """One TextTokens per text, with the own tokens of each of `concepts`, or of one that has none.

    rules: which words are own, one per concept; default the phrase of each.
    """
    rows, rules = [], rules or [PHRASE] * len(concepts)
    for text, hidden in zip(texts, pipeline.encode_text([*texts]), strict=True):
        positions = [own_tokens(pipeline, text, *named) for named in zip(concepts, rules, strict=True)]
        nobody = torch.zeros(1, len(hidden), dtype=torch.bool)
        rows.append(TextTokens(hidden, torch.stack(positions) if positions else nobody))
    return rows


def own_tokens(pipeline: ToyPipeline, text: str, concept: Words, words: OwnWords = PHRASE) -> Tensor:
    """Boolean (L,): a concept's own tokens, by the rule `words`, among those the text encoder gets."""
    vocabulary = pipeline.vocabulary
    return own_positions(vocabulary.tokens, text, *concept, words)[: vocabulary.length]


def examples(
    pipeline: ToyPipeline,
    pictures: Tensor,
    texts: Sequence[str],
    concepts: Sequence[Words] = (),
    rules: Sequence[OwnWords] = (),
) -> Examples:
    """Pictures (n, 3, 96, 96) in [0, 1] and their captions as latents and conditioning."""
    with torch.no_grad():
        latents = pipeline.autoencoder.encode(pictures * 2 - 1)
    return Examples(latents, conditioning(pipeline, texts, concepts, rules))


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
    own_weights: OwnWeights | None = None,
    apart: Apart | None = None,
    gradients: GradientGuidance | None = None,
) -> Tensor:
    """Pictures (B, 3, 96, 96) in [0, 1] of `prompts`, with `masks` shut where each of them acts, or with `own_weights`.

    seeds: one per prompt, default 0, 1, 2, ... on_batch hears how many pictures were finished. apart, gradients:
    keep the concepts of the masks to their own regions, or move the latents by a loss on where they look.
    """
    seeds = list(range(len(prompts))) if seeds is None else list(seeds)
    if len(seeds) != len(prompts):
        raise ConesError(f"{len(prompts)} prompts but {len(seeds)} seeds; give one seed per prompt")
    model = model_of(pipeline)
    pictures = []
    for start in range(0, len(prompts), batch):
        texts, part = prompts[start : start + batch], seeds[start : start + batch]
        concepts = [(own_weights.identifier, own_weights.class_word)] if own_weights else []
        rows = conditioning(pipeline, [*texts, *[""] * len(texts)], concepts)  # positive, then negative
        positions = [_own_rows(pipeline, mask, texts) if mask.where == "own tokens" else None for mask, _ in masks]
        acting = model.acting_as(own_weights.weights) if own_weights else nullcontext()
        regions = _kept_apart(pipeline, [mask for mask, _ in masks], texts, apart) if apart else nullcontext()
        with applied(pipeline.unet, masks, positions), acting, regions:
            guide = _guide(pipeline, [mask for mask, _ in masks], texts, model, rows, gradients) if gradients else None
            latents = _euler(model, noise(pipeline, part), rows, steps, guidance, guide)
        pictures.append(((pipeline.autoencoder.decode(latents) + 1) / 2).clamp(0, 1))
        if on_batch:
            on_batch(len(texts))
    return torch.cat(pictures)


def _own_rows(pipeline: ToyPipeline, mask: ConceptMask, texts: Sequence[str]) -> Tensor:
    """The mask's own positions (2B, L) for B positive prompts followed by as many negative ones, which own nothing."""
    concept = (mask.identifier, mask.class_word)
    positive = torch.stack([own_tokens(pipeline, text, concept, mask.own_words) for text in texts])
    return torch.cat([positive, torch.zeros_like(positive)])


def competing_groups(
    pipeline: ToyPipeline, concepts: Sequence[Words], texts: Sequence[str], things: Sequence[str]
) -> Tensor:
    """Boolean (2B, concepts + things, L) for `_own_rows`' rows: own tokens, then the things' that are no concept's."""
    rows = []
    for text in texts:
        owned = [own_tokens(pipeline, text, concept) for concept in concepts]
        of_concepts = torch.stack(owned).any(dim=0)
        rows.append(
            torch.stack(
                [*owned, *(own_tokens(pipeline, text, (word, ""), "identifier") & ~of_concepts for word in things)]
            )
        )
    positive = torch.stack(rows)
    return torch.cat([positive, torch.zeros_like(positive)])


def _kept_apart(
    pipeline: ToyPipeline, masks: Sequence[ConceptMask], texts: Sequence[str], apart: Apart
) -> AbstractContextManager[Any]:
    concepts = [(mask.identifier, mask.class_word) for mask in masks]
    groups = competing_groups(pipeline, concepts, texts, apart.things)
    return kept_apart(pipeline.unet, groups, strength=apart.strength, probe=apart.probe)


def sigmas(model: DiffusersModel, steps: int) -> Tensor:
    """Noise levels (steps + 1,), evenly spaced in timesteps, ending in 0."""
    timesteps = torch.linspace(model.timesteps - 1, 0, steps)
    return torch.cat([model.sigma(timesteps), torch.zeros(1)])


Guide = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]  # latents, all sigmas, number of the step


def _guide(
    pipeline: ToyPipeline,
    masks: Sequence[ConceptMask],
    texts: Sequence[str],
    model: DiffusersModel,
    rows: Sequence[TextTokens],
    gradients: GradientGuidance,
) -> Guide:
    """What the gradient adds to the latents before and after each step."""
    groups = competing_groups(pipeline, [(mask.identifier, mask.class_word) for mask in masks], texts, ())
    return lambda x, levels, number: gradients.changes(model, x, levels, number, rows, groups)


def _euler(
    model: DiffusersModel,
    start: Tensor,
    rows: list[TextTokens],
    steps: int,
    guidance: float,
    guide: Guide | None = None,
) -> Tensor:
    levels = sigmas(model, steps)
    x = start * (1.0 + levels[0] ** 2) ** 0.5
    for number, (sigma, following) in enumerate(pairwise(levels)):
        before, after = guide(x, levels, number) if guide else (0.0, 0.0)
        x = x + before
        both = model.denoise(torch.cat([x, x]), sigma.expand(2 * len(x)), rows)
        positive, negative = both.chunk(2)
        denoised = negative + guidance * (positive - negative)
        x = x + (x - denoised) / sigma * (following - sigma) + after
    return x
