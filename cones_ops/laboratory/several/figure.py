"""The paper's figure 2 on the toy world: where a concept's words look, without its mask and with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from ...guidance.overlay import density, overlay
from ...hosts.diffusers.pictures import pixels_of
from ...reports.figures import labelled_grid
from ...toy_world.captions import compose
from ...toy_world.subjects import Subject, subject_named
from ..looks import sample_with_maps
from ..quality.inputs import World, inputs_of
from ..quality.searches import default_mask
from .forms import plain_things

SIDE = 192  # pixels of a picture


def draw_looks(world: World, path: Path, subjects: Sequence[str], seed: int = 0) -> None:
    """A row for each subject beside a plain thing: untouched picture, its map, and both with the mask."""
    named = [subject_named(identifier) for identifier in subjects]
    views = [(subject, *view) for subject in named for view in untouched_and_masked(world, subject, seed)]
    top = max(float(looks.max()) for _, _, _, looks in views)  # one scale of colours
    cells, labels = [], []
    for subject, state, picture, looks in views:
        pixels = pixels_of(picture)
        cells += [pixels, overlay(pixels, looks, top)]
        labels += [f"{state}: {prompt_of(subject)}", f'where "{subject.prompt} on the left" looks, {state}']
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = labelled_grid(cells, labels, columns=4, side=SIDE)
    Image.fromarray(figure).save(path, quality=85, method=6)  # of WebP; PNG knows neither


def untouched_and_masked(world: World, subject: Subject, seed: int) -> list[tuple[str, Tensor, Tensor]]:
    """From equal noise: what it is, a picture (3, 96, 96), and where the subject's phrase looked (h, w), mean 1.

    A mask of an earlier cell is used if it is in the world's folder, and found otherwise.
    """
    mask = default_mask(inputs_of(world, subject, seed), "own tokens")
    views = []
    for strength, state in ((0.0, "untouched"), (1.0, "with its mask")):
        pictures, maps = sample_with_maps(
            world.pipeline, [prompt_of(subject)], [(mask, strength)], seeds=[seed], steps=world.budget.sampling_steps
        )
        views.append((state, pictures[0], density(maps)[0, 0]))
    return views


def prompt_of(subject: Subject) -> str:
    """The subject beside a plain thing."""
    return compose([subject.said, *plain_things(subject, 1)], "two", "placed", "paper").text
