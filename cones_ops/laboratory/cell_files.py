"""The cells of a benchmark: tasks of the engine, each kept in a JSON file. Several processes may share one folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..engine.claims import claimed
from ..engine.run import results
from ..engine.tasks import TaskResult, Work, Workers
from ..errors import ConesError
from ..masks.whole_files import write_whole

Cell = dict[str, Any]


def make_cells(
    make: Callable[[str], Cell], folder: Path, names: Sequence[str], processes: int = 1, again: bool = False
) -> Iterator[Cell]:
    """Make every cell that is not there yet (all of them if `again`) and no other process is making; yield each."""
    todo = [name for name in names if again or not file_of(folder, name).is_file()]
    for result in made(partial(_make, make, folder, again), todo, processes):
        if result.value:
            yield result.value


def made(work: Work, names: Sequence[str], processes: int, gpus: int = 0) -> Iterator[TaskResult]:
    """The result of each cell's task; ConesError at the end for cells that could not be made.

    processes: several have one thread each, which two cores do faster than two threads. gpus: for each of them.
    """
    workers = Workers(processes, torch.get_num_threads() if processes == 1 else 1, gpus)
    failed = []
    for result in results(work, names, workers):
        if result and result.error:
            failed.append(f"{result.name}: {result.error}")
        elif result:
            yield result
    if failed:
        raise ConesError(f"{len(failed)} of {len(names)} cells could not be made: {failed[0]}")


def _make(make: Callable[[str], Cell], folder: Path, again: bool, name: str) -> Cell | None:
    """The task: one cell, also written to its file; None where another process makes it, or has made it."""
    file = file_of(folder, name)
    with claimed(file.with_suffix(".claim")) as claim:
        if claim is None or (file.is_file() and not again):
            return None
        cell = make(name)
        write_whole(file, (json.dumps(cell) + "\n").encode())
        return cell


def collect(folder: Path) -> list[Cell]:
    """All cells in a folder."""
    return [read_cell(file) for file in sorted((folder / "cells").glob("*.json"))]


def read_cell(file: Path) -> Cell:
    """A cell from its file; ConesError if it is damaged."""
    try:
        cell: Cell = json.loads(file.read_text(encoding="utf-8"))
        if {"name", "figures"} <= cell.keys() and isinstance(cell.get("settings", {}).get("budget", {}), dict):
            return cell
    except (OSError, ValueError, AttributeError, RecursionError):
        pass
    raise ConesError(f"{file}: not a cell of this benchmark; it is damaged, so remove it and it is made again")


def file_of(folder: Path, name: str) -> Path:
    """A cell's file."""
    folder = folder / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / (re.sub(r"[^\w+.-]+", "_", name) + ".json")
