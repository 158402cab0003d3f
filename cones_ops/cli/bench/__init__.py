"""`cones bench`: `quality` and `several`, on the toy world; `dreambench`, on a real model; `speed`, in a ComfyUI."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import ConesError
from ...masks.whole_files import write_whole
from ..options import Formatter, add_command
from ..values import pattern
from . import dreambench


def quality(options: argparse.Namespace) -> None:
    """Our searches and other methods on the toy world: figures with standard errors, as JSON and Markdown.

    One cell is one method on one subject, or several, with one seed; all cells take hours
    on a CPU. Each leaves a file in --out, from which a stopped run resumes.
    docs/results/quality.md shows the tables of the full run.

    examples:
      cones bench quality --smoke --out bench-out/smoke
      cones bench quality --list
      cones bench quality --only learned --json quality.jsonl --markdown quality.md
    """
    from ...laboratory.cell_files import collect
    from ...laboratory.quality import run as bench
    from ...laboratory.quality.grid import draw_grid
    from ...laboratory.quality.inputs import budget_of
    from ...laboratory.quality.summary import markdown, summary

    names = bench.names_of(options.only, options.smoke)
    if options.list:
        print("\n".join(names))
        return
    if not names:
        raise ConesError(f"no cell's name matches {options.only!r}; --list prints all names")
    budget = budget_of(options.smoke, options.beside)
    if options.resume is not None:
        bench.restore(options.out, options.resume)
    bench.run(options.out, names, budget, options.again, _say, options.processes)
    cells = collect(options.out)
    figures = summary(cells)
    if options.grid is not None:
        draw_grid(options.out, options.grid, budget)
    if options.json is not None:
        bench.write_results(options.json, cells)
    if options.markdown is not None:
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        options.markdown.write_text(markdown(figures), encoding="utf-8")
    print(json.dumps(figures))
    print(markdown(figures), file=sys.stderr)


def several(options: argparse.Namespace) -> None:
    """Several subjects in ordinary sentences on the toy world: pairs, triples, and attributes that go astray.

    One cell is one mask, pair or triple with one seed; all cells take hours on a CPU, the searches among them.
    Each leaves a file in --out, from which a stopped run resumes. What is missing is null in --json.

    examples:
      cones bench several --json benchmarks/results/several_subjects.json
      cones bench several --only "/0$"
      cones bench several --only "^$" --with regions.json --json several_subjects.json
      cones bench several --only "^$" --looks looks.webp
    """
    from ...laboratory.cell_files import collect, make_cells
    from ...laboratory.quality.inputs import FULL
    from ...laboratory.quality.run import world_of
    from ...laboratory.several import cells, results
    from ...laboratory.several.figure import draw_looks

    names = [name for name in cells.plan() if options.only is None or re.search(options.only, name)]
    if options.list:
        print("\n".join(names))
        return
    for cell in make_cells(partial(cells.make_cell, options.out), options.out, names, options.processes):
        _say(cell)
    if options.looks is not None:
        draw_looks(world_of(options.out, FULL), options.looks, cells.HELD_OUT)
    every_cell = collect(options.out)
    figures = results.results(every_cell, options.elsewhere)
    text = json.dumps(figures, indent=1)
    if options.json is not None:
        write_whole(options.json, (text + "\n").encode())
    print(text)
    print(json.dumps(results.by_form(every_cell)), file=sys.stderr)


def speed(options: argparse.Namespace) -> None:
    """The speed of searching, sampling and applying in a ComfyUI, compared with its own ways; 15 minutes on 2 cores.

    Needs a ComfyUI checkout, its requirements, and a checkout of this whole pack (benchmarks/
    is not in the wheel). Times are taken in pairs, ours and the host's own way in turn.

    examples:
      cones bench speed --quick
      cones bench speed --comfyui ~/comfy/ComfyUI --only search apply --json speed.json
    """
    from ...laboratory.comfyui.checkout import PACK, find_host, find_python

    benchmark, host = PACK / "benchmarks" / "speed.py", find_host(options.comfyui)
    if not benchmark.is_file():
        raise ConesError(f"{PACK} holds the library only; run this from a checkout of the whole pack")
    command = [find_python(host), str(benchmark), "--comfyui", str(host), "--pairs", str(options.pairs)]
    command += ["--quick"] if options.quick else []
    command += ["--gpu"] if options.gpu else []
    command += ["--only", *options.only] if options.only else []
    command += ["--json", str(options.json)] if options.json else []
    if code := subprocess.run(command, check=False).returncode:
        raise ConesError(f"the benchmark ended with code {code}; what it printed says why")


def _say(cell: dict[str, Any]) -> None:
    figures = {name: entry["value"] for name, entry in cell["figures"].items()}
    print(f"{cell['name']} {cell['cell_seconds']} s {json.dumps(figures)}", file=sys.stderr, flush=True)


def describe(commands: Any) -> None:
    """Describe the command and its benchmarks to argparse."""
    about = "Benchmarks, which print JSON: quality (the toy world), dreambench (a real model), speed (in a ComfyUI)."
    more = "Each is a command of its own with its own --help, e.g. cones bench quality --help"
    bench = commands.add_parser("bench", help=about, description=about, epilog=more, formatter_class=Formatter)
    kinds = bench.add_subparsers(required=True, metavar="benchmark")
    _add_quality(kinds)
    _add_several(kinds)
    dreambench.describe(kinds)
    _add_speed(kinds)


def _add_quality(kinds: Any) -> None:
    add = add_command(kinds, quality).add_argument
    add("--out", type=Path, default=Path("bench-out/quality"), help="folder of the cells; a stopped run resumes there")
    add("--smoke", action="store_true", help="few steps and pictures, 5 minutes; needs its own --out")
    add("--beside", type=int, metavar="N", help="collages of each subject with another thing; needs its own --out")
    add("--only", type=pattern, metavar="PATTERN", help="only the cells whose name matches this regular expression")
    add("--again", action="store_true", help="make existing cells anew")
    add("--resume", type=Path, metavar="FILE", help="start from the cells of an earlier run's --json")
    add("--list", action="store_true", help="print the names of the cells and stop")
    add("--processes", type=int, default=1, metavar="N", help="share the cells among this many processes, on Ray")
    add("--json", type=Path, metavar="FILE", help="also write the cells to FILE, as JSON lines, and FILE_summary.json")
    add("--grid", type=Path, metavar="PICTURE", help="also draw pictures of the subjects, alone and together")
    add("--markdown", type=Path, metavar="FILE", help="also write the tables to this file")


def _add_several(kinds: Any) -> None:
    add = add_command(kinds, several).add_argument
    add("--out", type=Path, default=Path("bench-out/several"), help="folder of the cells; a stopped run resumes there")
    add("--only", type=pattern, metavar="PATTERN", help="only the cells whose name matches this regular expression")
    add("--list", action="store_true", help="print the names of the cells and stop")
    add("--processes", type=int, default=1, metavar="N", help="share the cells among this many processes, on Ray")
    add("--with", type=Path, nargs="+", default=(), dest="elsewhere", metavar="FILE", help="JSON of other commands")
    add("--looks", type=Path, metavar="PICTURE", help="also draw where each subject's words look, masked or not")
    add("--json", type=Path, metavar="FILE", help="also write the figures to this file")


def _add_speed(kinds: Any) -> None:
    add = add_command(kinds, speed).add_argument
    add("--quick", action="store_true", help="a tiny UNet and two pairs: to see that it runs")
    add("--gpu", action="store_true", help="on the GPU that ComfyUI takes, in bf16; otherwise on the CPU, in fp32")
    add("--pairs", type=int, default=5, metavar="N", help="of searching and applying; six times as many of sampling")
    add("--only", nargs="+", choices=("search", "sampling", "apply", "files"), help="these parts (default: all)")
    add("--json", type=Path, nargs="?", metavar="FILE", help="also write the JSON that is printed to this file")
    add(
        "--comfyui",
        type=Path,
        metavar="PATH",
        help="the ComfyUI checkout (default: COMFYUI_PATH, the one this pack is installed in, or ~/comfy/ComfyUI)",
    )
