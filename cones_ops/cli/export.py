"""`cones export`: a concept mask as a LoRA file for one base."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .options import add_command, if_exists, say


def export(options: argparse.Namespace) -> None:
    """Write a concept mask that acts everywhere as a LoRA file for one base; dense, so many megabytes.

    For programs that load LoRA files and know nothing of concept masks. The file holds, for
    every weight with neurons, the whole difference to the base (keys end in .diff), so at
    strength 1 it does what the mask does, on this base only. A mask that acts at its own
    tokens cannot be written so, because a LoRA acts for every token.

    examples:
      cones export sks-dog-all.safetensors v1-5-pruned-emaonly.safetensors --out loras/sks-dog.safetensors
      cones export sks-dog-all.safetensors sd15 --out sks-dog-lora.safetensors
    """
    from ..hosts.diffusers.weight_files import weight_reader
    from ..masks.base import check_base
    from ..masks.fingerprint import base_of
    from ..masks.lora_file import check_exportable, export_text, lora_tensors, save_lora
    from ..masks.mask_file import load_mask
    from ..masks.whole_files import check_new_file
    from ..models.weight_names import weight_and_rows

    check_new_file(options.out, ".safetensors", if_exists(options))
    mask = load_mask(options.mask)
    check_exportable(mask)
    read = weight_reader(options.base)
    if mask.fingerprint:
        weights = {}
        for name in mask.shapes:
            weight, rows = weight_and_rows(name)
            weights[name] = read(weight)[rows]
        remedy = f"give the base it was found on instead of {options.base}, or allow --any-base"
        if note := check_base(mask, base_of(weights), options.any_base, remedy):
            print(f"note: {note}", file=sys.stderr)
    path = save_lora(mask, lora_tensors(mask, read), options.out, if_exists(options))
    say(export_text(mask, path))


def describe(commands: Any) -> None:
    """Describe the command to argparse."""
    add = add_command(commands, export).add_argument
    add("mask", type=Path, help="a concept mask that acts everywhere, .safetensors")
    add("base", type=Path, help="the base it was found on: a checkpoint (.safetensors), or a folder saved by diffusers")
    add("--out", type=Path, required=True, help="the LoRA file to write, .safetensors")
    add("--any-base", action="store_true", help="also for other weights than it was found on, instead of refusing them")
    add("--overwrite", action="store_true", help="replace the file if it exists")
