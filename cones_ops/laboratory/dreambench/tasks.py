"""The cells of one call of `cones bench dreambench` as tasks of the engine, each written to its file as it ends.

A worker loads the model and the judges once, and keeps the masks it has found for this call.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from .. import cell_files
from . import plan
from .cells import Bench, CellSubjects, load, run_cell

PlannedCell = tuple[CellSubjects, Sequence[tuple[str, str]]]  # subjects, (prompt, text for CLIP-T)


def made(options: argparse.Namespace, cells: Mapping[Path, PlannedCell]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Make these cells, by file, and yield each; ConesError at the end for those that could not be made."""
    by_name = {str(file): cell for file, cell in cells.items()}
    cuda = int(torch.device(options.device).type == "cuda")
    work = partial(_make, uuid4().hex, options, by_name)
    for result in cell_files.made(work, list(by_name), options.processes, cuda):
        yield Path(result.name), result.value


def _make(call: str, options: argparse.Namespace, cells: Mapping[str, PlannedCell], name: str) -> dict[str, Any]:
    """The task."""
    file, (subjects, texts) = Path(name), cells[name]
    if call not in _LOADED:
        _LOADED.clear()
        _LOADED[call] = load(options)
    cell = {**run_cell(_LOADED[call], subjects, texts, file.with_suffix("")), "settings": plan.settings_of(options)}
    plan.write(file, cell)
    return cell


_LOADED: dict[str, Bench] = {}  # of this process: model, judges and masks, by the call they belong to
