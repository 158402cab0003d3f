"""The scenes that the UNet is trained on, in numbered chunks: symbols come from a seed, latents from a file.

Captions are made anew each time a scene is used. `draw_chunks` writes the latents and may run beside the training,
which takes every chunk that is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...toy_world.patches import PatchTransform
from ...toy_world.scenes import random_scene
from ...toy_world.subjects import in_training
from ...toy_world.world import Scene
from .latents import drawn

CHUNK = 4000  # scenes
SEED = 77


def chunk_scenes(number: int) -> list[Scene]:
    """The scenes of a chunk; no subject is among them."""
    generator = np.random.default_rng([SEED, number])
    return [random_scene(generator, allowed=in_training) for _ in range(CHUNK)]


def chunk_file(folder: Path, number: int) -> Path:
    """Where a chunk's latents are."""
    return folder / f"drawn-{number:03}.pt"


def draw_chunks(transform: PatchTransform, folder: Path, count: int, log: Callable[[str], None]) -> None:
    """Draw and encode the chunks that are missing, fp16; a crash while writing leaves none half written."""
    for number in range(count):
        file = chunk_file(folder, number)
        if file.is_file():
            continue
        scenes, parts = chunk_scenes(number), []
        for start in range(0, CHUNK, 250):
            parts.append(transform.encode(drawn(scenes[start : start + 250])).half())
        torch.save(torch.cat(parts), file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)
        log(f"drew chunk {number}")


@dataclass
class TrainingScenes:
    """The chunks that have been drawn so far."""

    folder: Path
    scenes: list[Scene] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)  # per chunk (CHUNK, C, 8, 8) fp16

    def __len__(self) -> int:
        return len(self.scenes)

    def take_new(self, at_most: int = 2) -> None:
        """Add up to `at_most` chunks that have been drawn since."""
        for _ in range(at_most):
            file = chunk_file(self.folder, len(self.latents))
            if not file.is_file():
                return
            self.latents.append(torch.load(file, weights_only=True))
            self.scenes += chunk_scenes(len(self.latents) - 1)

    def batch(self, count: int, generator: np.random.Generator) -> tuple[list[Scene], Tensor]:
        """Random scenes and their latents (B, C, 8, 8), fp32."""
        which = generator.integers(len(self.scenes), size=count)
        rows = [self.latents[i // CHUNK][i % CHUNK] for i in which]
        return [self.scenes[i] for i in which], torch.stack(rows).float()
