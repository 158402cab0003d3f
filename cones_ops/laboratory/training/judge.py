"""Train the judge on drawn pictures: sharp, through the latents, slightly noisy or blurred."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ...toy_world.latents import PatchTransform
from ...toy_world.world import BACKGROUNDS, COLOURS, PLACES, SHAPES, TEXTURES, Scene
from ..judge import Judge, windows
from ..scenes import draw_all, random_scene

_SKIP = -100


def targets(scene: Scene) -> list[list[int]]:
    """Per place: present?, shape, colour, colour2, texture; attributes of an empty place do not count."""
    things, colours = dict(scene.things), list(COLOURS)
    rows = [[0] + [_SKIP] * 4 for _ in PLACES]
    for row, place in zip(rows, PLACES, strict=True):
        if thing := things.get(place):
            second = _SKIP if thing.texture == "plain" else colours.index(thing.colour2)
            row[:] = 1, SHAPES.index(thing.shape), colours.index(thing.colour), second, TEXTURES.index(thing.texture)
    return rows


def roughen(pictures: Tensor, transform: PatchTransform, generator: torch.Generator) -> Tensor:
    """Half of the pictures through the latents, some slightly blurred, all a little noisy and shaded."""
    decoded = ((transform.decode(transform.encode(pictures * 2 - 1)) + 1) / 2).clamp(0, 1)
    chance = torch.rand(2, len(pictures), 1, 1, 1, generator=generator)
    mixed = torch.where(chance[0] < 0.6, decoded, pictures)
    blurred = F.avg_pool2d(F.pad(mixed, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mixed = torch.where(chance[1] < 0.2, blurred, mixed)
    shade = 1 + 0.06 * torch.randn(len(pictures), 3, 1, 1, generator=generator)
    level = 0.05 * torch.rand(len(pictures), 1, 1, 1, generator=generator)
    return (mixed * shade + level * torch.randn(mixed.shape, generator=generator)).clamp(0, 1)


def train_judge(transform: PatchTransform, steps: int, path: Path, log: Callable[[str], None], seed: int = 7) -> None:
    """Train from scratch and write the fp16 file. Scenes include the subjects' combinations."""
    torch.manual_seed(seed)
    scenes_from, noise_from = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    pool: list[tuple[Tensor, Tensor, Tensor]] = []
    began = time.monotonic()
    for step in range(steps):
        if len(pool) < 120 or step % 2 == 0:  # fresh pictures every other step, old ones reused with fresh noise
            scenes = [random_scene(scenes_from, allow_held_out=True) for _ in range(32)]
            wanted = torch.tensor([targets(scene) for scene in scenes])  # (B, places, 5)
            ground = torch.tensor([list(BACKGROUNDS).index(scene.background) for scene in scenes])
            pool.append((draw_all(scenes, scenes_from), wanted, ground))
            pool = pool[-400:]
        pictures, wanted, ground = pool[int(scenes_from.integers(len(pool)))]
        # every occupied window, and a fifth of the empty ones: they are the majority and the easiest
        chosen = (wanted[..., 0] == 1) | (torch.rand(wanted.shape[:2], generator=noise_from) < 0.2)
        logits, background = judge(windows(roughen(pictures, transform, noise_from))[chosen])
        parts = [F.cross_entropy(scores, wanted[chosen][:, i]) for i, scores in enumerate(logits)]
        grounds = ground[:, None].expand(chosen.shape)[chosen]
        loss = torch.stack([*parts, F.cross_entropy(background, grounds)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            losses = " ".join(f"{part.item():.4f}" for part in parts)
            log(f"judge step {step} {losses} {time.monotonic() - began:.0f} s")
    save_file({key: value.half().contiguous() for key, value in judge.state_dict().items()}, path)
