"""`cones bench dreambench`: DreamBench on the user's own model, judges and pictures (docs/how-to/dreambench.md).

A cell is one subject, or one pair of subjects: find their masks, sample every prompt, score the pictures. Each cell
leaves `<name>.json` and a folder of pictures, each search a mask, so a run that was stopped goes on where it was.
"""

# ruff: noqa: T201 - a command line answers by printing

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConesError, listed
from ..hosts.diffusers.concepts import read_pictures
from ..laboratory.dreambench import Protocol, read_pairs, read_protocol, scores
from ..laboratory.dreambench.cells import Group, load, run_cell
from ..laboratory.dreambench.prompts import PAIR_PROMPTS
from ..search.settings import recommended
from .help import add_command

_SETTINGS = ("samples", "steps", "guidance", "size", "seed", "identifiers", "find_steps", "batch", "untouched")


def dreambench(options: argparse.Namespace) -> None:
    """DreamBench with a real model: DINO, CLIP-I and CLIP-T of one or two subjects to a picture, as JSON."""
    _check(options)
    protocol = read_protocol(options.data)
    groups = groups_of(protocol, options)
    settings = settings_of(options)
    plan = [(group, texts_of(protocol, group, options), _file(options, group)) for group in groups]
    cells = {file: kept(file, settings, texts) for _, texts, file in plan if file.is_file() and not options.again}
    bench = load(options) if len(cells) < len(plan) else None
    for group, texts, file in plan:
        if file not in cells:
            assert bench is not None
            cells[file] = {**run_cell(bench, group, texts, file.with_suffix("")), "settings": settings}
            _write(file, cells[file])
            print(f"{file.stem} {json.dumps(_brief(cells[file]))}", file=sys.stderr, flush=True)
    found = [cells[file] for _, _, file in plan]
    source = "our wording" if options.pairs else protocol.source
    report = {"prompts_from": source, "settings": settings, "summary": scores.summary(found)}
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        _write(options.json, {**report, "cells": found})
    print(json.dumps(report))


def groups_of(protocol: Protocol, options: argparse.Namespace) -> list[Group]:
    """The cells: each chosen subject, or each pair of them; ConesError for a subject without pictures."""
    chosen = protocol.chosen(options.subjects)
    groups: list[Group] = [(subject,) for subject in chosen]
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
    for name in sorted(needed):  # so that a bad picture is told now and not hours later
        try:
            read_pictures(options.data / name, 1)
        except OSError as error:
            raise ConesError(f"{options.data / name}: {error}; replace that picture, or take it away") from error
    return groups


def texts_of(protocol: Protocol, group: Group, options: argparse.Namespace) -> list[tuple[str, str]]:
    """(prompt with identifiers, the same without) of a cell; CLIP-T reads the latter, for CLIP knows no identifier."""
    templates = PAIR_PROMPTS if len(group) == 2 else protocol.prompts(group[0])
    classes = [subject.class_word for subject in group]
    names = [f"{word} {name}" for word, name in zip(options.identifiers, classes, strict=False)]
    return [(one.format(*names), one.format(*classes)) for one in templates[: options.prompts]]


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a cell's figures depend on; folders by their last name."""
    folders = {name: getattr(options, name).resolve().name for name in ("model", "dino", "clip")}
    return {**folders, **{name: getattr(options, name) for name in _SETTINGS}}


def kept(file: Path, settings: dict[str, Any], texts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A cell made before; ConesError when it was made with other settings or prompts."""
    how = "choose another --out, or make it --again"
    try:
        cell: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        before, prompts = cell["settings"], [one["prompt"] for one in cell["prompts"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConesError(f"{file}: not a cell of this benchmark ({error}); {how}") from error
    if other := [
        f"{name} {before.get(name)}, now {value}" for name, value in settings.items() if before.get(name) != value
    ]:
        raise ConesError(f"{file}: made with {'; '.join(other)}; {how}")
    if prompts != [prompt for prompt, _ in texts]:
        raise ConesError(f"{file}: made with {len(prompts)} prompts, which are not the {len(texts)} of now; {how}")
    return cell


def _check(options: argparse.Namespace) -> None:
    from ..laboratory.dreambench.judges import check_judge

    numbers = ("samples", "steps", "size", "prompts", "find_steps", "batch")
    if wrong := [f"--{n.replace('_', '-')} {v}" for n in numbers if (v := getattr(options, n)) is not None and v < 1]:
        raise ConesError(f"{', '.join(wrong)}: expected 1 or more")
    if len({word.lower() for word in options.identifiers}) < 2:
        raise ConesError(f"--identifiers {' '.join(options.identifiers)}: two subjects need two different words")
    if not (options.model / "model_index.json").is_file():
        raise ConesError(f"{options.model}: no model_index.json; give --model the folder of a model saved by diffusers")
    check_judge(options.dino, "vit", "a DINO ViT such as dino-vits16")
    check_judge(options.clip, "clip", "a CLIP model such as clip-vit-base-patch32")


def _file(options: argparse.Namespace, group: Group) -> Path:
    folder: Path = options.out / ("pairs" if len(group) == 2 else "subjects")
    return folder / ("+".join(subject.name for subject in group) + ".json")


def _write(file: Path, found: dict[str, Any]) -> None:
    """Whole or not at all, so that a run that is stopped leaves no half cell."""
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    part.replace(file)


def _brief(cell: dict[str, Any]) -> dict[str, float]:
    return {name: cell[name] for name in scores.SCORES}


def add_dreambench(kinds: Any) -> None:
    """Describe the command to argparse, below `cones bench`."""
    command = add_command(
        kinds,
        "dreambench",
        dreambench,
        """
        cones bench dreambench --model sd15 --data dreambooth/dataset --dino dino-vits16 \\
            --clip clip-vit-base-patch32 --device cuda --subjects dog backpack --json dreambench.json
        """,
        """
        You bring the model, the two judges and the pictures; nothing is downloaded.
        docs/how-to/dreambench.md says where they are and how the figures are to be read.
        """,
    )
    add = command.add_argument
    add("--model", type=Path, required=True, help="folder of a Stable Diffusion 1.x or 2.x model saved by diffusers")
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
    own = recommended("own tokens")
    add("--find-steps", type=int, help=f"gradient steps of each search (default: {own.steps})")
    add("--batch", type=int, help=f"batch of each search; a smaller one needs less memory (default: {own.batch})")
    add("--untouched", action="store_true", help="no masks: what the model scores by itself, to compare with")
    add("--seed", type=int, default=0, help="of all searches and samples")
    add("--device", default="cpu", help="where model and judges run, a torch device: cpu, cuda, cuda:1, mps")
    add("--out", type=Path, default=Path("bench-out/dreambench"), help="masks, pictures, results; goes on there")
    add("--again", action="store_true", help="find, sample and score again what is there already")
    add("--json", type=Path, metavar="FILE", help="write summary and all cells there too")
