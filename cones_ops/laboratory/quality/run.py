"""Run the benchmark's cells, one JSON file each, and sum them up."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ...errors import ConesError
from ...masks.whole_files import write_whole
from ...toy_world.bundle import load_pipeline
from ..cell_files import Cell, file_of, make_cells, read_cell
from ..demo.report import versions
from ..judge import load_judge
from .cells import plan, run_cell
from .inputs import FULL, Budget, World
from .summary import summary

SMOKE_CELLS = r"(single/.*/hta/0|single/learned/own tokens/bnk/0|several/(oracle|union|tuned)/.*/hta\+bnk/0)$"


def names_of(only: str | None, smoke: bool) -> list[str]:
    """The cells to run: of the full plan, those whose name holds the pattern."""
    cells = [name for name in plan() if not smoke or re.match(SMOKE_CELLS, name)]
    return [name for name in cells if only is None or re.search(only, name)]


def run(
    folder: Path,
    names: Sequence[str],
    budget: Budget = FULL,
    again: bool = False,
    say: Callable[[Cell], object] | None = None,
    processes: int = 1,
) -> None:
    """Make every cell that is not there yet (all of them if `again`) and no other process is making.

    ConesError when the folder keeps a cell that was made with another budget, as figures of both must not be summed
    up; and, at the end, when cells could not be made.
    """
    made_again = {file_of(folder, name) for name in names} if again else set()
    for file in (folder / "cells").glob("*.json"):
        if file not in made_again:
            _check_budget(file, budget)
    for cell in make_cells(partial(make_cell, folder, budget), folder, names, processes, again):
        if say:
            say(cell)


def make_cell(folder: Path, budget: Budget, name: str) -> Cell:
    """One cell, in whatever process."""
    return run_cell(world_of(folder, budget), name)


@lru_cache(maxsize=1)
def world_of(folder: Path, budget: Budget) -> World:
    """What all cells need, loaded once a process."""
    return World(load_pipeline(), load_judge(), budget, folder)


def _check_budget(file: Path, budget: Budget) -> None:
    made = read_cell(file).get("settings", {}).get("budget", {})
    if other := [
        f"{key} {made.get(key)} (now {value})" for key, value in asdict(budget).items() if made.get(key) != value
    ]:
        raise ConesError(f"{file} was made with {', '.join(other)}; choose another folder (--out) or make it --again")


def restore(folder: Path, results: Path) -> int:
    """Put the cells of an earlier run's results into the folder, unless they are there; returns how many were put."""
    try:
        cells = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
        missing = [(file, cell) for cell in cells if not (file := file_of(folder, cell["name"])).is_file()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConesError(
            f"{results}: not the results of a benchmark ({error!r}); give a file that --json wrote"
        ) from error
    for file, cell in missing:
        write_whole(file, (json.dumps(cell) + "\n").encode())
    return len(missing)


def write_results(file: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """Cells as JSON lines, one cell a line; versions and summary beside them in `<name>_summary.json`, a row a line."""
    write_whole(file, "".join(json.dumps(cell) + "\n" for cell in cells).encode())
    rows = {"versions": versions(), **summary(cells)}
    text = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    write_whole(file.with_name(f"{file.stem}_summary.json"), f"{{\n{text}\n}}\n".encode())
