"""`cones bench dreambench`: the DreamBench protocol on the user's own model, judges and pictures.

Each cell leaves `<name>.json` and a folder of pictures, each search a mask, so a stopped run resumes where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ...laboratory.dreambench import plan, scores, tasks
from ...laboratory.dreambench.protocol import read_protocol
from ...search.settings import recommended
from ..models import KINDS
from ..options import add_command
from ..values import whole


def dreambench(options: argparse.Namespace) -> None:
    """DreamBench with a real model: DINO, CLIP-I and CLIP-T of one or two subjects to a picture, as JSON.

    You bring the model, the two judges and the pictures; nothing is downloaded.
    docs/how-to/dreambench.md says where to get them and how to read the figures.

    examples:
      cones bench dreambench --model sd15 --data dreambooth/dataset --dino dino-vits16 \\
          --clip clip-vit-base-patch32 --device cuda --subjects dog backpack --json dreambench.json
    """
    plan.check(options)
    protocol = read_protocol(options.data)
    groups = plan.groups_of(protocol, options)
    settings = plan.settings_of(options)
    todo = {plan.file_of(options, group): (group, plan.texts_of(protocol, group, options)) for group in groups}
    kept = [file for file in todo if file.is_file() and not options.again]
    cells = {file: plan.kept(file, settings, todo[file][1]) for file in kept}
    for file, cell in tasks.made(options, {file: cell for file, cell in todo.items() if file not in cells}):
        cells[file] = cell
        means = {name: cell[name] for name in scores.SCORES}
        print(f"{file.stem} {json.dumps(means)}", file=sys.stderr, flush=True)
    results = [cells[file] for file in todo]
    source = "our wording" if options.pairs else protocol.source
    report = {"prompts_from": source, "settings": settings, "summary": scores.summary(results)}
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        plan.write(options.json, {**report, "cells": results})
    print(json.dumps(report))


def describe(kinds: Any) -> None:
    """Describe the command to argparse, below `cones bench`."""
    add = add_command(kinds, dreambench).add_argument
    add("--model", type=Path, required=True, help=KINDS)
    add("--data", type=Path, required=True, help="folder with a folder of pictures per subject")
    add("--dino", type=Path, required=True, help="folder of the ViT that judges likeness, dino-vits16")
    add("--clip", type=Path, required=True, help="folder of the CLIP model that judges likeness and prompts")
    add("--pairs", type=Path, metavar="CSV", help="two subjects to a picture: the columns subject_a,subject_b")
    add("--subjects", nargs="+", metavar="NAME", help="only these subjects, or pairs of these (default: all)")
    add("--prompts", type=int, metavar="N", help="only the first N prompts (default: all)")
    add("--samples", type=int, default=4, help="pictures per prompt")
    add("--steps", type=int, default=50, help="sampling steps")
    add("--guidance", type=float, default=7.5, help="classifier-free guidance scale; 1 = none")
    add("--size", type=int, default=512, help="side of all pictures in pixels")
    add(
        "--identifiers",
        nargs=2,
        default=["sks", "ktn"],
        metavar=("FIRST", "SECOND"),
        help="rare words that name the subject, or the first and the second of a pair (default: sks ktn)",
    )
    search = recommended("own tokens")
    add("--find-steps", type=int, help=f"gradient steps of each search (default: {search.steps})")
    add("--batch", type=int, help=f"batch of each search; a smaller one needs less memory (default: {search.batch})")
    add("--untouched", action="store_true", help="no masks: what the model scores by itself, to compare with")
    add("--seed", type=int, default=0, help="of all searches and samples")
    add("--device", default="cpu", help="where model and judges run, a torch device: cpu, cuda, cuda:1, mps")
    add(
        "--out",
        type=Path,
        default=Path("bench-out/dreambench"),
        help="everything it writes; a stopped run resumes there",
    )
    add("--processes", type=whole(1, 10_000), default=1, help="share the cells among this many processes, on Ray; with "
        "--device cuda each has a GPU of its own")  # fmt: skip
    add("--again", action="store_true", help="find, sample and score everything anew")
    add("--json", type=Path, metavar="FILE", help="also write the summary and all cells to this file")
