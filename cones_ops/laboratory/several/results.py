"""The figures of benchmarks/results/several_subjects.json: means over cells, each with its standard error and number.

A figure whose cells are missing has the value None. What other commands measure (the cost of regions) is taken from
their JSON files where they are given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...errors import ConesError
from ..averages import Average, mean_with_error
from .cells import UNTOUCHED

Cells = list[Mapping[str, Any]]
ELSEWHERE: dict[str, tuple[str, ...]] = {"sampling_ratio": ("unet", "joint_attention")}


def results(cells: Iterable[Mapping[str, Any]], elsewhere: Iterable[Path] = ()) -> dict[str, Any]:
    """All figures, in the order of the issue that asked for them."""
    every_cell = list(cells)
    pair, tuned = of(every_cell, "pair", 2), of(every_cell, "tuned", 2)
    triple, tuned_triple = of(every_cell, "triple", 3), of(every_cell, "tuned", 3)
    untouched, masked = of(every_cell, "bleeding", 1, True), of(every_cell, "bleeding", 1)
    figures: dict[str, Any] = {
        "pairs": {
            "apart": mean(pair, "together"),
            "apart_regions": mean(pair, "together_regions"),
            "apart_regions_unseen_forms": mean(pair, "unseen_regions"),
            "tuned": mean(tuned, "together"),
        },
        "triples": {
            "apart_regions": mean(triple, "together_regions"),
            "tuned_regions": mean(tuned_triple, "together_regions"),
            "words": mean(of(every_cell, "words", 3, True), "words"),
        },
        "bleeding": {
            "masked": mean(masked, "bleeding"),
            "masked_regions": mean(masked, "bleeding_regions"),
            "untouched": mean(untouched, "bleeding"),
        },
        "alone": mean(of(every_cell, "alone", 1), "alone"),
        "density": mean(of(every_cell, "alone", 1), "density"),
        "second_thing": {
            "masked": mean(of(every_cell, "alone", 1), "second_thing"),
            "untouched": mean(of(every_cell, "alone", 1, True), "second_thing"),
        },
    }
    figures["attention_iou"] = mean(of(every_cell, "looks", 1), "attention_iou")
    guided = of(every_cell, "guided", 2)
    figures["other_guidance"] = {loss: mean(guided, loss) for loss in ("attend_and_excite", "focus")}
    return figures | measured_elsewhere(elsewhere)


def of(cells: Cells, kind: str, subjects: int, untouched: bool = False) -> Cells:
    """The cells of a kind, of so many subjects, with masks or without."""
    chosen = []
    for cell in cells:
        name, group, seed = cell["name"].split("/")
        if name == kind and len(group.split("+")) == subjects and (seed == UNTOUCHED) == untouched:
            chosen.append(cell)
    return chosen


def mean(cells: Cells, name: str) -> Average:
    """Mean of a figure over cells."""
    return mean_with_error([cell["figures"][name]["value"] for cell in cells], 6)


def measured_elsewhere(files: Iterable[Path]) -> dict[str, Any]:
    """The figures of other commands, from their JSON files; what none of them has is None."""
    nothing = mean_with_error([])
    figures: dict[str, Any] = {name: dict.fromkeys(parts, nothing) for name, parts in ELSEWHERE.items()}
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConesError(f"{file}: not a JSON file ({error})") from None
        figures |= {name: content[name] for name in ELSEWHERE if name in content}
    return figures


def by_form(cells: Iterable[Mapping[str, Any]]) -> dict[str, Average]:
    """Bleeding and subject of each form, over all cells with masks."""
    masked = of(list(cells), "bleeding", 1)
    names = dict.fromkeys(name for cell in masked for name in cell["figures"])
    return {name: mean(masked, name) for name in names}
