"""The benchmark as a picture: subjects that chose no setting, alone and together, as the default search draws them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ...toy_world.subjects import Subject
from .. import measure
from ..measure import Measured
from ..picture_grid import GridRow, save_grid
from . import measures, multi_subject
from .cells import UNTOUCHED, World, group_of, mask_of
from .inputs import Implanted

COLUMNS, SEED = 8, 0


def draw_grid(world: World, path: Path) -> None:
    """Masks of earlier cells are used if they are in the world's folder, and found otherwise."""
    rows = [GridRow("Subjects that chose no setting; a framed sample shows what was asked, by the judge")]
    for one in UNTOUCHED:
        rows += _alone(world, one)
    rows.append(GridRow("Several in one picture: every mask acts at its own tokens"))
    for size in (2, 3, 4):
        rows += _together(world, UNTOUCHED[:size])
    save_grid(rows, path, COLUMNS)


def _alone(world: World, one: Subject) -> Iterator[GridRow]:
    pictures = world.inputs(one, SEED).pictures[0]
    yield GridRow(f"{one.prompt}: references", "4 alone and collages made of them", pictures[2 : 2 + COLUMNS])
    mask = mask_of(world, "own tokens", one, SEED)
    how = measures.measuring(Implanted(world.pipeline), world.judge, world.budget, SEED)
    yield _row("the untouched model", one.prompt, measure.subject_shown(how, one))
    yield _row(f"concept mask, {mask.density:.1%} shut", one.prompt, measure.subject_shown(how, one, [(mask, 1.0)]))


def _together(world: World, subjects: Sequence[Subject]) -> Iterator[GridRow]:
    group = group_of(world, tuple(subjects), SEED)
    how = measures.measuring(Implanted(world.pipeline), world.judge, world.budget, SEED)
    apart = [(mask_of(world, "own tokens", one, SEED), 1.0) for one in subjects]
    prompt = " and ".join(one.prompt for one in subjects)
    yield _row("masks found apart", prompt, measure.all_shown(how, subjects, apart))
    joint = [(mask, 1.0) for mask in multi_subject.tune("own tokens", group).masks]
    yield _row("tuned together", prompt, measure.all_shown(how, subjects, joint))
    yield _row("untouched model, all in words", "the oracle", measure.all_described(how, subjects))


def _row(title: str, prompt: str, shown: Measured) -> GridRow:
    share = f"{100 * shown.share:.0f} % of {len(shown.hits)}"
    return GridRow(f"{title}: {share}", prompt, torch.as_tensor(shown.pictures[:COLUMNS]), shown.hits[:COLUMNS])
