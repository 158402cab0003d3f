"""`cones info`: what a concept mask file holds; `cones show`: drawn; `cones shelf`: in short, all below a folder."""

from __future__ import annotations

import argparse
import re
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from ..engine.shelf import ShelfEntry, duplicates, fits, read_shelf
from ..masks.concept_mask import Where
from ..masks.whole_files import check_new_file
from .options import add_choice, add_command, if_exists, say
from .values import word


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


def show(options: argparse.Namespace) -> None:
    """Draw where concept masks have their neurons: one mask by layer, or what several share, as a picture.

    Needs the files alone, no model. Above, the share of each weight that is shut; below, the
    neurons of each block. Of several masks: the share of its neurons that each has in common
    with each other, and in which layers.

    examples:
      cones show sks-dog.safetensors --figure sks-dog-layers.png
      cones show sks-dog.safetensors ktn-cat.safetensors --figure shared.png
    """
    from PIL import Image

    from ..masks.mask_file import load_mask
    from ..reports.figures import layer_figure, overlap_figure

    check_new_file(options.figure, ".png", if_exists(options))
    masks = [load_mask(file) for file in options.files]
    names = [
        f"{mask.identifier} {mask.class_word}".strip() or file.stem
        for mask, file in zip(masks, options.files, strict=True)
    ]
    figure = layer_figure(masks[0]) if len(masks) == 1 else overlap_figure(masks, names)
    options.figure.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(figure).save(options.figure)
    say(f"saved {options.figure}")


def shelf(options: argparse.Namespace) -> None:
    """List the concept masks below a folder: words, place of action, neurons, size, date; from the files' headers.

    What headers say is kept in a file there, so that the next call reads changed masks only.
    Options narrow the list; files that are no masks are listed with the reason.

    examples:
      cones shelf masks
      cones shelf masks --word dog --since 2026-01-01
      cones shelf masks --not-for sd15
      cones shelf masks --duplicates
    """
    entries = [entry for entry in read_shelf(options.folder) if _wanted(entry, options)]
    for model, wanted in ((options.base, True), (options.not_for, False)):
        if model is not None:
            fitting = fits(options.folder, entries, model)
            entries = [entry for entry in entries if fitting[entry.path] == wanted]
    groups = duplicates(options.folder, entries) if options.duplicates else [entries]
    say("\n\n".join(_table(group) for group in groups if group))
    count, size = sum(map(len, groups)), sum(entry.bytes for group in groups for entry in group)
    say(f"{count} files, {size:,} bytes" + f", in {len(groups)} groups of copies" * options.duplicates)


def _wanted(entry: ShelfEntry, options: argparse.Namespace) -> bool:
    words = f"{entry.identifier} {entry.class_word}".lower()
    return (
        (options.word is None or options.word.lower() in words)
        and options.where in (None, entry.where)
        and (options.since is None or entry.date >= options.since)
    )


def _table(entries: Sequence[ShelfEntry]) -> str:
    rows = [("file", "concept", "where", "neurons", "density", "bytes", "date")]
    for entry in entries:
        words = entry.error or f"{entry.identifier} {entry.class_word}".strip()
        numbers = (f"{entry.neurons:,}", f"{entry.density:.3%}", f"{entry.bytes:,}", entry.date)
        rows.append((entry.path, words, entry.where, *numbers))
    widths = [max(len(row[k]) for row in rows if k != 1 or len(row[k]) < 40) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def date(text: str) -> str:
    """A day, YYYY-MM-DD."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        raise ArgumentTypeError(f"{text[:40]!r} is not a day such as 2026-01-31")
    return text


def _describe_shelf(commands: Any) -> None:
    add = add_command(commands, shelf).add_argument
    add("folder", type=Path, help="a folder with concept masks in it, or in folders below")
    add("--word", type=word, help="only masks whose identifier or class word contains this")
    add_choice(add, "--where", get_args(Where), help="only masks that act there")
    add("--since", type=date, metavar="DAY", help="only masks from this day on, YYYY-MM-DD")
    add("--base", type=Path, metavar="MODEL", help="only masks that fit this checkpoint or diffusers folder")
    add("--not-for", type=Path, metavar="MODEL", help="only masks that do not fit it")
    add("--duplicates", action="store_true", help="only files with the same content, in groups")


def describe(commands: Any) -> None:
    """Describe the commands to argparse."""
    add = add_command(commands, info).add_argument
    add("file", type=Path, help="a concept mask, .safetensors")
    add = add_command(commands, show).add_argument
    add("files", type=Path, nargs="+", help="concept masks, .safetensors")
    add("--figure", type=Path, required=True, help="the picture to write, .png")
    add("--overwrite", action="store_true", help="replace the picture if it exists")
    _describe_shelf(commands)
