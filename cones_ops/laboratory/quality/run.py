"""Run the benchmark's cells, one JSON file each, and sum them up. Several processes may share one folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from ...engine.claims import claimed
from ...engine.run import results
from ...engine.tasks import Workers
from ...errors import ConesError
from ...masks.whole_files import write_whole
from ...toy_world.bundle import load_pipeline
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
    say: Callable[[dict[str, Any]], object] | None = None,
    processes: int = 1,
) -> None:
    """Make every cell that is not there yet (all of them if `again`) and no other process is making.

    processes: several have one thread each, which two cores do faster than two threads. ConesError when the folder
    keeps a cell that was made with another budget, as figures of both must not be summed up; and, at the end, when
    cells could not be made.
    """
    made_again = {file_of(folder, name) for name in names} if again else set()
    for file in (folder / "cells").glob("*.json"):
        if file not in made_again:
            _check_budget(file, budget)
    todo = [name for name in names if again or not file_of(folder, name).is_file()]
    workers = Workers(processes, torch.get_num_threads() if processes == 1 else 1)
    failed = []
    for result in results(partial(make_cell, folder, budget, again), todo, workers):
        if result and result.error:
            failed.append(f"{result.name}: {result.error}")
        elif result and result.value and say:
            say(result.value)
    if failed:
        raise ConesError(f"{len(failed)} of {len(todo)} cells could not be made: {failed[0]}")


def make_cell(folder: Path, budget: Budget, again: bool, name: str) -> dict[str, Any] | None:
    """The task: one cell, also written to its file; None where another process makes it, or has made it."""
    file = file_of(folder, name)
    with claimed(file.with_suffix(".claim")) as claim:
        if claim is None or (file.is_file() and not again):
            return None
        cell = run_cell(_world(folder, budget), name)
        write_whole(file, (json.dumps(cell) + "\n").encode())
        return cell


@lru_cache(maxsize=1)
def _world(folder: Path, budget: Budget) -> World:
    """Loaded once a process."""
    return World(load_pipeline(), load_judge(), budget, folder)


def _check_budget(file: Path, budget: Budget) -> None:
    made = _cell(file).get("settings", {}).get("budget", {})
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


def collect(folder: Path) -> list[dict[str, Any]]:
    """All cells in a folder."""
    return [_cell(file) for file in sorted((folder / "cells").glob("*.json"))]


def _cell(file: Path) -> dict[str, Any]:
    """A cell from its file."""
    try:
        cell: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if {"name", "figures"} <= cell.keys() and isinstance(cell.get("settings", {}).get("budget", {}), dict):
            return cell
    except (OSError, ValueError, AttributeError, RecursionError):
        pass
    raise ConesError(f"{file}: not a cell of this benchmark; it is damaged, so remove it and it is made again")


def write_results(file: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """Cells as JSON lines, one cell a line; versions and summary beside them in `<name>_summary.json`, a row a line."""
    write_whole(file, "".join(json.dumps(cell) + "\n" for cell in cells).encode())
    rows = {"versions": versions(), **summary(cells)}
    text = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    write_whole(file.with_name(f"{file.stem}_summary.json"), f"{{\n{text}\n}}\n".encode())


def file_of(folder: Path, name: str) -> Path:
    """A cell's file."""
    folder = folder / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / (re.sub(r"[^\w+.-]+", "_", name) + ".json")
