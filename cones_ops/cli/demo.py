"""`cones demo`: the main job on the shipped toy world, by diffusers or in a ComfyUI."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..masks.whole_files import check_folder, check_new_file, write_whole
from .options import add_command


def demo(options: argparse.Namespace) -> None:
    """Find two concepts in the toy world, apply them alone and together, and judge the pictures.

    Needs no model and no network: a small text-to-image model ships with the pack. Writes the
    picture demo.png, the numbers demo.json and the mask files to one folder; shares are of
    pictures that show what was asked, by the judge that ships with it.

    examples:
      cones demo
      cones demo --quick --out demo-quick --json demo-quick.json
      cones demo --comfyui ~/comfy/ComfyUI
    """
    from ..laboratory.demo.report import table

    check_folder(options.out)
    if options.json is not None:
        check_new_file(options.json, if_exists="overwrite")
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
    print(table(report))
    if options.quick and options.comfyui is None:
        print("left out, as --quick asked: a second concept, both in one picture, tuning them together")
    if options.json is not None:
        write_whole(options.json, (json.dumps(report, indent=2) + "\n").encode())
    print(f"pictures, masks and numbers are in {options.out}")


def describe(commands: Any) -> None:
    """Describe the command to argparse."""
    add = add_command(commands, demo).add_argument
    add("--out", type=Path, default=Path("demo-out"), help="folder for everything it writes")
    add("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
    add(
        "--quick",
        action="store_true",
        help="one concept, found with all steps and applied alone; not two together: under 2 minutes",
    )
    add(
        "--comfyui",
        nargs="?",
        const=Path(),
        type=Path,
        metavar="PATH",
        help="run in a real ComfyUI server, with the shipped workflows (default PATH: COMFYUI_PATH, the ComfyUI "
        "this pack is installed in, or ~/comfy/ComfyUI)",
    )
