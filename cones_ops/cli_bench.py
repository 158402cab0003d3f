"""`cones bench`: `quality`, every method on the toy world, cell by cell; `dreambench`, on a real model."""

# ruff: noqa: T201 - a command line answers by printing

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .cli_dreambench import add_command as add_dreambench
from .errors import ConesError


def quality(options: argparse.Namespace) -> None:
    """Our searches and other methods on the toy world: figures with standard errors, as JSON and Markdown."""
    from .toy_world.quality import run as bench

    names = bench.names_of(options.only, options.smoke)
    if options.list:
        print("\n".join(names))
        return
    if not names:
        raise ConesError(f"no cell's name has {options.only!r} in it; --list prints them all")
    budget = bench.budget_of(options.smoke, options.beside)
    if options.resume is not None:
        bench.restore(options.out, options.resume)
    if options.processes > 1:
        same = [*(["--only", options.only] if options.only else []), *(["--smoke"] if options.smoke else [])]
        same += ["--beside", str(options.beside)] if options.beside is not None else []
        bench.run_in_processes(options.out, [*same, *(["--again"] if options.again else [])], options.processes)
    else:
        bench.run(options.out, names, budget, options.again, say=_say)
    found = bench.collect(options.out)
    if options.grid is not None:
        bench.draw(options.out, options.grid, budget)
    for file, text in (
        (options.json, json.dumps(found, indent=1)),
        (options.markdown, bench.markdown(found["summary"])),
    ):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.rstrip() + "\n", encoding="utf-8")
    print(json.dumps(found["summary"]))
    print(bench.markdown(found["summary"]), file=sys.stderr)


def _say(cell: dict[str, Any]) -> None:
    figures = {name: entry["value"] for name, entry in cell["figures"].items()}
    print(f"{cell['name']} {cell['cell_seconds']} s {json.dumps(figures)}", file=sys.stderr, flush=True)


def add_commands(commands: Any) -> None:
    """Describe the command to argparse."""
    told = "Benchmarks, which print JSON: quality (the toy world), dreambench (a real model)."
    bench = commands.add_parser("bench", help=told, description=told)
    kinds = bench.add_subparsers(required=True, metavar="benchmark")
    add_dreambench(kinds)
    command = kinds.add_parser("quality", help=quality.__doc__, description=quality.__doc__)
    command.add_argument(
        "--out", type=Path, default=Path("bench-out/quality"), help="folder of the cells; goes on there"
    )
    command.add_argument("--smoke", action="store_true", help="few steps and pictures, 5 minutes; needs its own --out")
    command.add_argument(
        "--beside", type=int, metavar="N", help="collages of each subject with another thing; needs its own --out"
    )
    command.add_argument("--only", metavar="PATTERN", help="cells whose name has this regular expression in it")
    command.add_argument("--again", action="store_true", help="make cells again that are there already")
    command.add_argument("--resume", type=Path, metavar="JSON", help="take over the cells of an earlier run's --json")
    command.add_argument("--list", action="store_true", help="print the names of the cells and stop")
    command.add_argument("--processes", type=int, default=1, help="share the cells out among so many processes")
    command.add_argument("--json", type=Path, help="write cells and summary there too")
    command.add_argument("--grid", type=Path, help="also draw pictures of the subjects, alone and together, as a PNG")
    command.add_argument("--markdown", type=Path, help="write the tables there too")
    command.set_defaults(run=quality)
