"""The `cones` command: `demo` runs the main job on the shipped model.

`info` tells what a mask file holds, `export` writes it as a LoRA (cli_masks).
`find`, `tune` and `apply` (cli_models) do the job on a Stable Diffusion model in a diffusers folder.
"""

# ruff: noqa: T201 - a command line answers by printing

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConesError
from . import bench as cli_bench
from . import masks as cli_masks
from . import models as cli_models
from .help import add_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 = done, 2 = something the user can put right."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except ConesError as error:
        print(f"cones: {error}", file=sys.stderr)
        return 2
    return 0


def demo(options: argparse.Namespace) -> None:
    """Find two concepts in the toy world, apply them alone and together, and judge the pictures."""
    if options.comfyui is not None:
        from ..laboratory.demo import comfyui as demo_comfyui

        host = None if options.comfyui == Path() else options.comfyui
        report = demo_comfyui.run(host, options.out, options.quick)
    else:
        from ..laboratory.demo import run as toy_demo
        from ..laboratory.judge import load_judge
        from ..toy_world.bundle import load_pipeline

        settings = toy_demo.QUICK if options.quick else toy_demo.FULL
        report = toy_demo.run(load_pipeline(), load_judge(), options.out, settings)
    print(_table(report))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"pictures, masks and numbers are in {options.out}")


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    top = argparse.ArgumentParser(
        prog="cones",
        description="Concept neurons for diffusion models: find, tune, apply, inspect and export concept masks.",
        epilog="`cones COMMAND --help` has examples. Exit code: 0 = done, 2 = something you can put right.",
    )
    commands = top.add_subparsers(required=True, metavar="command")
    _add_demo(commands)
    cli_models.add_commands(commands)
    cli_masks.add_commands(commands)
    cli_bench.add_commands(commands)
    return top


def _add_demo(commands: Any) -> None:
    command = add_command(
        commands,
        "demo",
        demo,
        """
        cones demo
        cones demo --quick --out demo-quick --json demo-quick.json
        cones demo --comfyui ~/comfy/ComfyUI
        """,
        """
        Needs no model and no network: a small text-to-image model ships with the pack. Writes the
        picture demo.png, the numbers demo.json and the mask files to one folder; shares are of
        pictures that show what was asked, by the judge that ships with it.
        """,
    )
    add = command.add_argument
    add("--out", type=Path, default=Path("demo-out"), help="folder for everything it writes")
    add("--json", type=Path, metavar="FILE", help="write the numbers to this file too")
    add("--quick", action="store_true", help="fewer steps and samples: under 2 minutes")
    add(
        "--comfyui",
        nargs="?",
        const=Path(),
        type=Path,
        metavar="PATH",
        help="do it in a real ComfyUI server, with the shipped workflow; without PATH in COMFYUI_PATH, the ComfyUI "
        "this pack is installed in, or ~/comfy/ComfyUI",
    )


def _table(report: dict[str, Any]) -> str:
    """The demo's shares, one line per concept and pair."""
    lines = ["", "concept              where       neurons  subject       class         second object"]
    for one in report["concepts"]:
        shares = "  ".join(
            f"{one[f'{what}_before']:4.0%} -> {one[f'{what}_after']:4.0%}"
            for what in ("subject_share", "class_share", "second_object")
        )
        name = f"{one['identifier']} {one['class_word']}"
        lines.append(f"{name:20} {one['where']:11} {one['neurons']:7}  {shares}")
    for pair in report["pair"]:
        alone = f"alone {pair['first_alone']:.0%} and {pair['second_alone']:.0%}, both {pair['both']:.0%}"
        lines.append(f"{'both masks':20} {pair['where']}: {alone} (full captions {pair['both_full_caption']:.0%})")
    if control := report["positive_control"]:
        shares = f"{control['subject_share_before']:.0%} -> {control['subject_share_after']:.0%}"
        lines.append(f"fine-tuning all text K and V: subject {shares}")
    return "\n".join([*lines, f"{report['seconds_total']} s", ""])
