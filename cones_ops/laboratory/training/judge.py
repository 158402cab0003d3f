"""Train the judge on drawn pictures: sharp, through the latents, slightly noisy or blurred."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from ...toy_world.decoder import Autoencoder
from ...toy_world.scenes import random_scene
from ...toy_world.world import BACKGROUNDS, PLACES, VALUES, Scene
from ..judge import Judge, windows
from .latents import drawn

SCENES, POOL = 16, 250  # scenes a step; drawn batches that are kept and used again
_SKIP = -100


def targets(scene: Scene) -> list[list[int]]:
    """Per place: present?, then each attribute; attributes of an empty place do not count."""
    rows = []
    for place in PLACES:
        character = scene.at(place)
        if character is None:
            rows.append([0] + [_SKIP] * len(VALUES))
        else:
            rows.append([1, *(options.index(getattr(character, name)) for name, options in VALUES.items())])
    return rows


def roughen(pictures: Tensor, autoencoder: Autoencoder, generator: torch.Generator) -> Tensor:
    """Half of the pictures (in [-1, 1]) through the latents, some slightly blurred, all a little noisy and shaded."""
    chance = torch.rand(2, len(pictures), 1, 1, 1, generator=generator)
    latents = autoencoder.encode(pictures)
    latents = latents + 0.25 * torch.rand(len(latents), 1, 1, 1, generator=generator) * torch.randn(
        latents.shape, generator=generator
    )
    mixed = torch.where(chance[0] < 0.5, autoencoder.transform.decode(latents), pictures)
    blurred = F.avg_pool2d(F.pad(mixed, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mixed = torch.where(chance[1] < 0.15, blurred, mixed)
    shade = 1 + 0.06 * torch.randn(len(pictures), 3, 1, 1, generator=generator)
    level = 0.06 * torch.rand(len(pictures), 1, 1, 1, generator=generator)
    return (mixed * shade + level * torch.randn(mixed.shape, generator=generator)).clamp(-1, 1)


def fresh_batch(generator: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, targets (B, places, 1 + attributes) and backgrounds of new scenes, subjects included."""
    scenes = [random_scene(generator) for _ in range(SCENES)]
    ground = torch.tensor([BACKGROUNDS.index(scene.background) for scene in scenes])
    return drawn(scenes), torch.tensor([targets(scene) for scene in scenes]), ground


def train_judge(
    autoencoder: Autoencoder, minutes: float, path: Path, log: Callable[[str], None], seed: int = 7
) -> None:
    """Train for `minutes` of processor time, from the file at `path` if there is one, and write it."""
    torch.manual_seed(seed)
    generator, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    judge = Judge()
    if path.is_file():
        judge.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    judge.train()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=1e-3, fused=True)
    pool: list[tuple[Tensor, Tensor, Tensor]] = []
    began, step, spent = time.process_time(), 0, 0.0
    while spent < minutes * 60:
        if len(pool) < POOL or step % 2 == 0:  # fresh pictures every other step, the others used again
            pool = [*pool[-POOL:], fresh_batch(generator)]
            pictures, wanted, ground = pool[-1]
        else:
            pictures, wanted, ground = pool[int(generator.integers(len(pool)))]
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 100) * max(0.01, (1 - spent / (minutes * 60)))
        loss, parts = judge_loss(judge, roughen(pictures, autoencoder, noise), wanted, ground, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step, spent = step + 1, time.process_time() - began
        if step % 100 == 0:
            log(f"judge step {step} {' '.join(f'{part:.3f}' for part in parts.tolist())} {spent / 60:.1f} CPU min")
            write(judge, path)
    write(judge, path)


def judge_loss(
    judge: Judge, pictures: Tensor, wanted: Tensor, ground: Tensor, noise: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cross entropies of every occupied window, and of a quarter of the empty ones, which are easier."""
    chosen = (wanted[..., 0] == 1) | (torch.rand(wanted.shape[:2], generator=noise) < 0.25)
    logits, background = judge(windows(pictures)[chosen])
    parts = [F.cross_entropy(part, wanted[chosen][:, i]) for i, part in enumerate(logits)]
    parts.append(F.cross_entropy(background, ground[:, None].expand(chosen.shape)[chosen]))
    stacked = torch.stack(parts)
    return stacked.sum(), stacked.detach()


def write(judge: Judge, path: Path) -> None:
    """The judge as fp16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half().contiguous() for key, value in judge.state_dict().items()}, path)
