"""The demo's results as JSON, as a grid of pictures and as a table; the same whichever host drew the pictures."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...masks.concept_mask import ConceptMask, Where
from ...toy_world.subjects import Subject
from ..measure import Measured, drift
from ..picture_grid import GridRow

EVERYTHING_SAID = "untouched, everything spelled out"
ByMeasure = Mapping[str, Measured]  # of one subject: subject_share, class_share, second_object


@dataclass(frozen=True)
class DemoConcept:
    """A concept's mask as loaded from its file, what the judge says with it, and how long its search took."""

    mask: ConceptMask
    file: Path
    with_mask: ByMeasure
    seconds: float


@dataclass(frozen=True)
class DemoResults:
    """What the demo found and measured; `concepts` and `references` (pictures) are by place of action and subject."""

    subjects: Sequence[Subject]
    references: Mapping[Where, Sequence[Tensor]]
    untouched: Sequence[ByMeasure]
    concepts: Mapping[Where, Sequence[DemoConcept]]
    pairs: Mapping[str, ByMeasure]  # both masks loaded: first_alone, second_alone, both
    full_caption: Measured | None  # of the pair: the untouched model with every attribute spelled out


def save_report(results: DemoResults, file: Path, **facts: Any) -> dict[str, Any]:
    """The figures and further `facts` as a JSON file; returns its content."""
    report = {
        "concepts": [
            _concept_entry(concept, untouched)
            for concepts in results.concepts.values()
            for concept, untouched in zip(concepts, results.untouched, strict=True)
        ],
        "pair": [
            {"where": where, **_shares({**pair, "both_full_caption": results.full_caption})}
            for where, pair in results.pairs.items()
            if results.full_caption
        ],
        **facts,
    }
    file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _concept_entry(concept: DemoConcept, untouched: ByMeasure) -> dict[str, Any]:
    """One concept at one place of action."""
    mask = concept.mask
    return {
        "identifier": mask.identifier,
        "class_word": mask.class_word,
        "method": mask.provenance["method"],
        "where": mask.where,
        "found": mask.provenance["found"] == "yes",
        "neurons": mask.count,
        "density": mask.density,
        "file_bytes": concept.file.stat().st_size,
        "heldout_before": float(mask.provenance["held_out_before"]),
        "heldout_after": float(mask.provenance["held_out_after"]),
        "heldout_gain": float(mask.provenance["held_out_gain"]),
        "heldout_gain_standard_error": float(mask.provenance["held_out_standard_error"]),
        **{f"{name}_before": measured.share for name, measured in untouched.items()},
        **_shares({f"{name}_after": measured for name, measured in concept.with_mask.items()}),
        "class_drift": drift(untouched["class_share"], concept.with_mask["class_share"]),
        "seconds": round(concept.seconds, 1),
    }


def _shares(by_name: ByMeasure) -> dict[str, Any]:
    errors = {name: measured.standard_error for name, measured in by_name.items()}
    return {**{name: measured.share for name, measured in by_name.items()}, "standard_errors": errors}


def grid_rows(results: DemoResults) -> list[GridRow]:
    """Reference pictures, the untouched model, each concept, both together."""
    rows: list[GridRow] = []
    for number, subject in enumerate(results.subjects):
        rows.append(GridRow(f'"{subject.prompt}"'))
        for where, pictures in results.references.items():
            rows.append(GridRow("reference pictures", f"what the search {_acting(where)} saw", pictures[number]))
        for name, untouched, masked in (
            ("subject_share", "untouched model", "mask"),
            ("class_share", f'"{subject.class_prompt}", untouched', f'"{subject.class_prompt}", mask'),
            ("second_object", "beside another thing, untouched", "beside another, mask"),
        ):
            rows.append(_row(untouched, results.untouched[number][name]))
            for where, concepts in results.concepts.items():
                mask = concepts[number].mask
                detail = f"{mask.count} neurons, {mask.density:.1%}; " if name == "subject_share" else ""
                rows.append(_row(f"{masked} {_acting(where)}", concepts[number].with_mask[name], detail))
    if results.full_caption:
        first, second = results.subjects
        rows.append(GridRow(f'"{first.prompt} on the left and {second.prompt} on the right"'))
        rows += [_row(f"both masks {_acting(where)}", pair["both"]) for where, pair in results.pairs.items()]
        rows.append(_row(EVERYTHING_SAID, results.full_caption))
    return rows


def brief(rows: Sequence[GridRow]) -> list[GridRow]:
    """Of the grid's rows those at own tokens that show what a mask is for, and the titles above them."""
    kept = ("untouched model", "mask at own tokens", "both masks at own tokens")
    return [
        row
        for row in rows
        if row.pictures is None or row.title.startswith(kept) or row.detail.endswith("at own tokens saw")
    ]


def _acting(where: str) -> str:
    return where if where == "everywhere" else f"at {where}"


def _row(title: str, measured: Measured, detail: str = "") -> GridRow:
    share = f"{detail}{measured.share:.0%} of {len(measured.hits)} as asked"
    return GridRow(title, share, measured.pictures, measured.hits)


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    numbers = {"python": platform.python_version(), "machine": f"{platform.system()} {os.cpu_count()} CPUs"}
    for name in ("cones", "torch", "diffusers", "transformers"):
        try:
            numbers[name] = importlib.metadata.version("cones-concept-neurons" if name == "cones" else name)
        except importlib.metadata.PackageNotFoundError:
            numbers[name] = "not installed as a package"
    return numbers


def table(report: dict[str, Any]) -> str:
    """The demo's shares, one line per concept and pair."""
    lines = ["", "concept              where       neurons  subject       class         second object"]
    for concept in report["concepts"]:
        shares = "  ".join(
            f"{concept[f'{name}_before']:4.0%} -> {concept[f'{name}_after']:4.0%}"
            for name in ("subject_share", "class_share", "second_object")
        )
        name = f"{concept['identifier']} {concept['class_word']}"
        lines.append(f"{name:20} {concept['where']:11} {concept['neurons']:7}  {shares}")
    for pair in report["pair"]:
        alone = f"alone {pair['first_alone']:.0%} and {pair['second_alone']:.0%}, both {pair['both']:.0%}"
        lines.append(f"{'both masks':20} {pair['where']}: {alone} (full captions {pair['both_full_caption']:.0%})")
    return "\n".join([*lines, f"{report['seconds_total']} s", ""])
