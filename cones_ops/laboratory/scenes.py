"""Random scenes for training and testing, and a cached set of them with their latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..toy_world.latents import PatchTransform
from ..toy_world.subjects import held_out
from ..toy_world.world import BACKGROUNDS, COLOURS, LAYOUTS, SHAPES, TEXTURES, Scene, Thing, draw

COUNTS = (1, 2, 3, 4)
COUNT_SHARES = (0.42, 0.43, 0.05, 0.10)


def random_thing(generator: np.random.Generator, allow_held_out: bool = False) -> Thing:
    """A uniformly drawn thing; subjects' combinations are left out unless allowed."""
    while True:
        texture = TEXTURES[generator.integers(len(TEXTURES))]
        first, second = generator.choice(len(COLOURS), 2, replace=False)
        names = list(COLOURS)
        colour2 = names[first if texture == "plain" else second]
        thing = Thing(SHAPES[generator.integers(len(SHAPES))], names[first], colour2, texture)
        if allow_held_out or not held_out(thing):
            return thing


def random_scene(generator: np.random.Generator, count: int | None = None, allow_held_out: bool = False) -> Scene:
    """A scene of `count` things (by default 1 to 4, mostly 1 or 2)."""
    count = count or int(generator.choice(COUNTS, p=COUNT_SHARES))
    places = LAYOUTS[count]
    chosen = sorted(generator.choice(len(places), count, replace=False))
    things = tuple((places[i], random_thing(generator, allow_held_out)) for i in chosen)
    return Scene(things, list(BACKGROUNDS)[generator.integers(len(BACKGROUNDS))])


def draw_all(scenes: list[Scene], generator: np.random.Generator) -> Tensor:
    """Pictures (n, 3, 64, 64) in [0, 1]."""
    return torch.from_numpy(np.stack([draw(scene, generator) for scene in scenes]))


def training_set(transform: PatchTransform, count: int, seed: int, cache: Path | None) -> tuple[list[Scene], Tensor]:
    """Scenes and their latents (count, C, 8, 8) fp16; drawn once and kept in `cache` if given."""
    generator = np.random.default_rng(seed)
    scenes = [random_scene(generator) for _ in range(count)]
    if cache is not None and cache.is_file():
        latents: Tensor = torch.load(cache, weights_only=True)
        if len(latents) == count:
            return scenes, latents
    parts = []
    for start in range(0, count, 500):
        pictures = draw_all(scenes[start : start + 500], generator)
        parts.append(transform.encode(pictures * 2 - 1).half())
    latents = torch.cat(parts)
    if cache is not None:
        torch.save(latents, cache)
    return scenes, latents
