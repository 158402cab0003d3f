"""`cones info`: what a concept mask file holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import add_command, say


def info(options: argparse.Namespace) -> None:
    """Print what a concept mask file holds: its words, its neurons by layer, how it was found, its cover.

    Needs the file alone, no model. The table gives, for each searched weight, the number of
    neurons, the number of entries and the share of neurons among them.

    examples:
      cones info sks-dog.safetensors
    """
    from ..masks.mask_file import load_mask, read_mask_metadata
    from ..reports.text import inspection_text, layer_table

    mask, meta = load_mask(options.file), read_mask_metadata(options.file)
    say(f"{options.file}, {options.file.stat().st_size:,} bytes, format {meta['cones.format_version']}")
    say(inspection_text(mask))
    covers = [str(beside)] if (beside := options.file.with_suffix(".png")).is_file() else []
    covers += ["inside the file"] if "modelspec.thumbnail" in meta else []
    print(f"Cover picture: {', '.join(covers) or 'none'}")
    for name, value in mask.provenance.items():
        line = f"{name}: {value}".replace("\n", "\\n")
        say(f"  {line}")
    say(layer_table(mask))


def describe(commands: Any) -> None:
    """Describe the command to argparse."""
    add = add_command(commands, info).add_argument
    add("file", type=Path, help="a concept mask, .safetensors")
