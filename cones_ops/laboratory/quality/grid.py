"""The benchmark as a picture: held-out subjects, alone and together, as the default search draws them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...toy_world.subjects import HELD_OUT, Subject
from ..measure import Measured, Measuring, all_described, all_shown, measure, subject_shown
from ..picture_grid import GridRow, save_grid
from . import multi_subject
from .cells import group_of
from .inputs import Budget, World, inputs_of
from .run import world_of
from .searches import default_mask

COLUMNS, SEED = 8, 0


def draw_grid(folder: Path, path: Path, budget: Budget) -> None:
    """Masks of earlier cells are used if they are in the folder, and found otherwise."""
    world = world_of(folder, budget)
    measuring = world.measuring(SEED)
    rows = [GridRow("Held-out subjects; a framed sample shows what was asked, by the judge")]
    for subject in HELD_OUT:
        rows += _alone(world, measuring, subject)
    rows.append(GridRow("Several in one picture: every mask acts at its own tokens"))
    for size in (2, 3, 4):
        rows += _together(world, measuring, HELD_OUT[:size])
    save_grid(rows, path, COLUMNS)


def _alone(world: World, measuring: Measuring, subject: Subject) -> Iterator[GridRow]:
    pictures = inputs_of(world, subject, SEED).pictures[0]
    yield GridRow(f"{subject.prompt}: references", "4 alone and collages made of them", pictures[2 : 2 + COLUMNS])
    mask = default_mask(inputs_of(world, subject, SEED), "own tokens")
    for title, masks in (("the untouched model", []), (f"concept mask, {mask.density:.1%} shut", [(mask, 1.0)])):
        yield _row(title, subject.prompt, measure(measuring, subject_shown, subject, masks))


def _together(world: World, measuring: Measuring, subjects: tuple[Subject, ...]) -> Iterator[GridRow]:
    prompt = " and ".join(subject.prompt for subject in subjects)
    apart = [default_mask(inputs_of(world, subject, SEED), "own tokens") for subject in subjects]
    joint = multi_subject.tune("own tokens", group_of(world, subjects, SEED)).masks
    for title, masks in (("masks found apart", apart), ("tuned together", joint)):
        yield _row(title, prompt, measure(measuring, all_shown, subjects, [(mask, 1.0) for mask in masks]))
    yield _row("untouched model, all in words", "the oracle", measure(measuring, all_described, subjects))


def _row(title: str, prompt: str, shown: Measured) -> GridRow:
    return GridRow(f"{title}: {100 * shown.share:.0f} % of {len(shown.hits)}", prompt, shown.pictures, shown.hits)
