"""Sheets of pictures to look at: drawings in world.webp, samples of the same captions in samples.webp.

`python -m cones_ops.laboratory.world.sheets --out docs` draws the sheets of docs/results/toy-world.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...hosts.diffusers.pictures import pixels_of
from ...toy_world import bundle
from ...toy_world.captions import describe, random_caption
from ...toy_world.drawing.scene import draw_all
from ...toy_world.scenes import random_scene
from ...toy_world.subjects import in_training
from ...toy_world.world import Scene
from ..sampling import sample


def sheet(pictures: Tensor, columns: int, zoom: int = 2) -> Image.Image:
    """Pictures (n, 3, H, W) in [0, 1] row by row."""
    rows = [torch.cat(list(part), 2) for part in pictures.split(columns)]
    picture = Image.fromarray(pixels_of(torch.cat(rows, 1)))
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def scenes_of(count: int, characters: int, seed: int) -> list[Scene]:
    """Scenes with as many characters, no subject among them."""
    generator = np.random.default_rng([seed, characters])
    return [random_scene(generator, characters, in_training) for _ in range(count)]


def drawings_and_samples(pipeline: bundle.ToyPipeline, each: int, seed: int) -> tuple[Image.Image, Image.Image]:
    """A row each for 1 to 4 characters: drawings, and samples of captions that say everything or most things."""
    drawings, samples = [], []
    for characters in (1, 2, 3, 4):
        scenes = scenes_of(each, characters, seed)
        generator = np.random.default_rng(seed)
        texts = [
            describe(scene).text if i % 2 else random_caption(scene, generator, identifiers=False).text
            for i, scene in enumerate(scenes)
        ]
        drawings.append(draw_all(scenes))
        samples.append(sample(pipeline, texts))
    return sheet(torch.cat(drawings), each, 1), sheet(torch.cat(samples), each, 1)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-file", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("checkpoints"), help="folder")
    parser.add_argument("--each", type=int, default=8, help="pictures in a row")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    pipeline = bundle.load_pipeline(arguments.model_file)
    for name, picture in zip(
        ("world", "samples"), drawings_and_samples(pipeline, arguments.each, arguments.seed), strict=True
    ):
        picture.save(arguments.out / f"{name}.webp", quality=90)


if __name__ == "__main__":
    main()
