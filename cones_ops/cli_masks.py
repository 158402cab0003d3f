"""`cones info` and `export`: what a concept mask file holds, and the same as a LoRA file for one base."""

# ruff: noqa: T201 - a command line answers by printing

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .errors import ConesError


def info(options: argparse.Namespace) -> None:
    """Print what a concept mask file holds: its words, its neurons by layer, how it was found, its cover."""
    from .mask_file import load_mask, read_mask_metadata
    from .report import inspection_text, layer_table

    mask, meta = load_mask(options.file), read_mask_metadata(options.file)
    print(f"{options.file}, {options.file.stat().st_size:,} bytes, format {meta['cones.format_version']}")
    print(inspection_text(mask))
    covers = [str(beside)] if (beside := options.file.with_suffix(".png")).is_file() else []
    covers += ["inside the file"] if "modelspec.thumbnail" in meta else []
    print(f"Cover picture: {', '.join(covers) or 'none'}")
    for name, value in mask.provenance.items():
        print(f"  {name}: {value}")
    print(layer_table(mask))


def export(options: argparse.Namespace) -> None:
    """Write a concept mask that acts everywhere as a LoRA file for one base; dense, so many megabytes."""
    from .fingerprint import fingerprint
    from .hosts.diffusers_files import weight_reader
    from .lora_file import check_exportable, export_text, lora_tensors, save_lora
    from .mask_file import load_mask
    from .places import whole_weight

    mask = load_mask(options.mask)
    check_exportable(mask)
    read = weight_reader(options.base)
    if mask.fingerprint and not options.any_base:
        weights = {}
        for name, shape in mask.shapes.items():
            whole, first = whole_weight(name)
            weights[name] = read(whole)[first : first + shape[0]]
        if (seen := fingerprint(weights)) != mask.fingerprint:
            raise ConesError(
                f"{options.mask.name} was found on base weights {mask.fingerprint[:16]}, those of {options.base} are "
                f"{seen[:16]}; give the base it was found on, or allow --any-base"
            )
    size = save_lora(mask, lora_tensors(mask, read), options.out, options.overwrite)
    print(export_text(mask, options.out, size))


def add_commands(commands: Any) -> None:
    """Describe both commands to argparse."""
    command = commands.add_parser("info", help=info.__doc__, description=info.__doc__)
    command.add_argument("file", type=Path, help="a concept mask, .safetensors")
    command.set_defaults(run=info)
    command = commands.add_parser("export", help=export.__doc__, description=export.__doc__)
    command.add_argument("mask", type=Path, help="a concept mask that acts everywhere, .safetensors")
    command.add_argument(
        "base", type=Path, help="the base it was found on: a checkpoint (.safetensors), or a folder saved by diffusers"
    )
    command.add_argument("--out", type=Path, required=True, help="the LoRA file to write, .safetensors")
    command.add_argument("--any-base", action="store_true", help="also for other weights than it was found on")
    command.add_argument("--overwrite", action="store_true")
    command.set_defaults(run=export)
