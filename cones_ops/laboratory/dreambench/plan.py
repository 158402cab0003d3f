"""Which cells a run of `cones bench dreambench` has, and which of them an earlier run has left.

A cell is one subject, or one pair of subjects. `options` are the command's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import ConesError, listed
from ...hosts.diffusers.loading import pipeline_of
from ...hosts.diffusers.pictures import read_pictures
from ...masks.whole_files import write_whole
from .cells import CellSubjects
from .judges import check_judge
from .prompts import PAIR_PROMPTS
from .protocol import DreamBenchProtocol, read_pairs

SETTINGS = ("samples", "steps", "guidance", "size", "seed", "identifiers", "find_steps", "batch", "untouched")


def check(options: argparse.Namespace) -> None:
    """ConesError for options that cannot work, before anything is loaded."""
    numbers = ("samples", "steps", "size", "prompts", "find_steps", "batch")
    if wrong := [f"--{n.replace('_', '-')} {v}" for n in numbers if (v := getattr(options, n)) is not None and v < 1]:
        raise ConesError(f"{', '.join(wrong)}: expected 1 or more")
    if len({word.lower() for word in options.identifiers}) < 2:
        raise ConesError(f"--identifiers {' '.join(options.identifiers)}: two subjects need two different words")
    pipeline_of(options.model)
    check_judge(options.dino, "vit", "a DINO ViT such as dino-vits16")
    check_judge(options.clip, "clip", "a CLIP model such as clip-vit-base-patch32")


def groups_of(protocol: DreamBenchProtocol, options: argparse.Namespace) -> list[CellSubjects]:
    """The cells: each chosen subject, or each pair of them; ConesError for a subject without pictures."""
    chosen = protocol.chosen(options.subjects)
    groups: list[CellSubjects] = [(subject,) for subject in chosen]
    if options.pairs is not None:
        groups = [pair for pair in read_pairs(options.pairs, protocol) if {*pair} <= {*chosen}]
    if not groups:
        raise ConesError(f"nothing to do: no pair of {options.pairs} is among the chosen subjects; name both of a pair")
    needed = {subject.name for group in groups for subject in group}
    if missing := [name for name in needed if not (options.data / name).is_dir()]:
        raise ConesError(
            f"{options.data}: no folder of pictures for {listed(missing)}; put them there, or name those you have "
            "with --subjects"
        )
    for name in sorted(needed):  # so that a bad picture is reported now and not hours later
        try:
            read_pictures(options.data / name, 1)
        except OSError as error:
            raise ConesError(f"{options.data / name}: {error}; replace that picture, or take it away") from error
    return groups


def texts_of(protocol: DreamBenchProtocol, group: CellSubjects, options: argparse.Namespace) -> list[tuple[str, str]]:
    """(prompt with identifiers, the same without) of a cell; CLIP-T reads the latter, for CLIP knows no identifier."""
    templates = PAIR_PROMPTS if len(group) == 2 else protocol.prompts(group[0])
    classes = [subject.class_word for subject in group]
    names = [f"{word} {name}" for word, name in zip(options.identifiers, classes, strict=False)]
    return [(template.format(*names), template.format(*classes)) for template in templates[: options.prompts]]


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a cell's figures depend on; folders by their last name."""
    folders = {name: getattr(options, name).resolve().name for name in ("model", "dino", "clip")}
    return {**folders, **{name: getattr(options, name) for name in SETTINGS}}


def kept(file: Path, settings: dict[str, Any], texts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A cell made before; ConesError when it was made with other settings or prompts."""
    advice = "choose another --out, or make it --again"
    try:
        cell: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        before, prompts = cell["settings"], [row["prompt"] for row in cell["prompts"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConesError(f"{file}: not a cell of this benchmark ({error}); {advice}") from error
    if other := [
        f"{name} {before.get(name)}, now {value}" for name, value in settings.items() if before.get(name) != value
    ]:
        raise ConesError(f"{file}: made with {'; '.join(other)}; {advice}")
    if prompts != [prompt for prompt, _ in texts]:
        raise ConesError(f"{file}: made with {len(prompts)} prompts, which are not the {len(texts)} of now; {advice}")
    return cell


def file_of(options: argparse.Namespace, group: CellSubjects) -> Path:
    """A cell's file below --out."""
    folder: Path = options.out / ("pairs" if len(group) == 2 else "subjects")
    return folder / ("+".join(subject.name for subject in group) + ".json")


def write(file: Path, content: dict[str, Any]) -> None:
    """Whole or not at all, so that a run that is stopped leaves no half cell."""
    write_whole(file, (json.dumps(content, indent=1) + "\n").encode())
