"""The demo's results as JSON entries and as rows of the grid."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...masks.concept_mask import Where
from ...toy_world.subjects import Subject
from ..measure import Measured, drift
from ..picture_grid import GridRow
from .results import DemoConcept, Judged


def concept_entry(found: DemoConcept, before: Judged) -> dict[str, Any]:
    """One concept at one place of action."""
    curve, mask = found.result.curve, found.mask
    shown, leak, second = before
    return {
        "identifier": mask.identifier,
        "class_word": mask.class_word,
        "method": mask.provenance["method"],
        "where": mask.where,
        "found": found.result.found,
        "neurons": mask.count,
        "density": mask.density,
        "file_bytes": found.file.stat().st_size,
        "heldout_before": curve.losses[0],
        "heldout_after": curve.losses[curve.chosen_at],
        "heldout_gain": curve.gains[curve.chosen_at],
        "heldout_gain_standard_error": curve.standard_errors[curve.chosen_at],
        "subject_share_before": shown.share,
        "subject_share_after": found.shown.share,
        "class_share_before": leak.share,
        "class_share_after": found.leak.share,
        "class_drift": drift(leak, found.leak),
        "second_object_before": second.share,
        "second_object_after": found.second.share,
        "standard_errors": {
            "subject_share_after": found.shown.standard_error,
            "class_share_after": found.leak.standard_error,
            "second_object_after": found.second.standard_error,
        },
        "seconds": round(found.result.seconds, 1),
    }


def pair_entry(where: str, pair: Judged, full_caption: Measured) -> dict[str, Any]:
    """Both masks loaded; `both_full_caption` is the untouched model with every attribute spelled out."""
    first, second, both = pair
    return {
        "where": where,
        "first_alone": first.share,
        "second_alone": second.share,
        "both": both.share,
        "both_full_caption": full_caption.share,
        "standard_errors": {
            "first_alone": first.standard_error,
            "second_alone": second.standard_error,
            "both": both.standard_error,
            "both_full_caption": full_caption.standard_error,
        },
    }


def control_entry(subject: Subject, before: Measured, control: tuple[Measured, Measured]) -> dict[str, Any]:
    """Plain fine-tuning of all text K and V."""
    shown, leak = control
    return {
        "identifier": subject.identifier,
        "subject_share_before": before.share,
        "subject_share_after": shown.share,
        "class_share_after": leak.share,
        "standard_errors": {"subject_share_after": shown.standard_error, "class_share_after": leak.standard_error},
    }


def grid_rows(
    references: Mapping[Where, Sequence[Tensor]],
    subjects: Sequence[Subject],
    before: Sequence[Judged],
    found: Mapping[Where, Sequence[DemoConcept]],
    pairs: Mapping[str, Judged],
    full_caption: Measured,
    control: tuple[Measured, Measured],
) -> list[GridRow]:
    """Reference pictures, vanilla, each concept, both together, the control."""
    rows = []
    for number, (subject, (shown, leak, second)) in enumerate(zip(subjects, before, strict=True)):
        rows.append(GridRow(f'"{subject.prompt}"'))
        for where, pictures in references.items():
            detail = f"what the search {where} saw" if where == "everywhere" else f"what the search at {where} saw"
            rows.append(GridRow("reference pictures", detail, pictures[number]))
        rows.append(_row("untouched model", shown))
        for where, ones in found.items():
            mask = ones[number].mask
            rows.append(_row(_acting("mask", where), ones[number].shown, f"{mask.count} neurons, {mask.density:.1%}; "))
        rows.append(_row(f'"{subject.class_prompt}", untouched', leak))
        rows += [
            _row(_acting(f'"{subject.class_prompt}", mask', where), ones[number].leak) for where, ones in found.items()
        ]
        rows.append(_row("beside another thing, untouched", second))
        rows += [_row(_acting("beside another, mask", where), ones[number].second) for where, ones in found.items()]
    rows.append(GridRow(f'"{subjects[0].prompt} on the left and {subjects[1].prompt} on the right"'))
    rows += [_row(_acting("both masks", name), pair[2]) for name, pair in pairs.items()]
    rows.append(_row("untouched, everything spelled out", full_caption))
    rows.append(GridRow(f'Positive control: all text K and V fine-tuned on "{subjects[0].prompt}"'))
    rows += [_row(f'"{subjects[0].prompt}"', control[0]), _row(f'"{subjects[0].class_prompt}"', control[1])]
    return rows


def brief(rows: Sequence[GridRow]) -> list[GridRow]:
    """Of the grid's rows those at own tokens that show what a mask is for, and the titles above them."""
    last = next(i for i, row in enumerate(rows) if row.title.startswith("untouched, everything"))
    kept = ("untouched model", "mask at own tokens", "both masks at own tokens")
    return [
        row
        for row in rows[:last]
        if row.pictures is None or row.title.startswith(kept) or row.detail.endswith("at own tokens saw")
    ]


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    packages = {"cones": "cones-concept-neurons", **{name: name for name in ("torch", "diffusers", "transformers")}}
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {os.cpu_count()} CPUs"}
    for name, package in packages.items():
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def table(report: dict[str, Any]) -> str:
    """The demo's shares, one line per concept and pair."""
    lines = ["", "concept              where       neurons  subject       class         second object"]
    for concept in report["concepts"]:
        shares = "  ".join(
            f"{concept[f'{what}_before']:4.0%} -> {concept[f'{what}_after']:4.0%}"
            for what in ("subject_share", "class_share", "second_object")
        )
        name = f"{concept['identifier']} {concept['class_word']}"
        lines.append(f"{name:20} {concept['where']:11} {concept['neurons']:7}  {shares}")
    for pair in report["pair"]:
        alone = f"alone {pair['first_alone']:.0%} and {pair['second_alone']:.0%}, both {pair['both']:.0%}"
        lines.append(f"{'both masks':20} {pair['where']}: {alone} (full captions {pair['both_full_caption']:.0%})")
    if control := report["positive_control"]:
        shares = f"{control['subject_share_before']:.0%} -> {control['subject_share_after']:.0%}"
        lines.append(f"fine-tuning all text K and V: subject {shares}")
    return "\n".join([*lines, f"{report['seconds_total']} s", ""])


def _acting(what: str, where: str) -> str:
    return f"{what} {where}" if where == "everywhere" else f"{what} at {where}"


def _row(title: str, measured: Measured, detail: str = "") -> GridRow:
    share = f"{detail}{measured.share:.0%} of {len(measured.hits)} as asked"
    return GridRow(title, share, measured.pictures, measured.hits)
