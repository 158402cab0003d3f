"""Cells -> means with standard errors, as JSON and as Markdown tables. Means are over the held-out subjects only.

A standard error here is that between cells (subjects and seeds), not between pictures: what another run would differ
by. `gain_share` is a method's mean held-out gain of the subject's term over that of K and V fine-tuning everywhere
(Custom Diffusion), `gain_share_own_tokens` over the same at own tokens; their errors are jackknife estimates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ...toy_world.subjects import CHOOSING, HELD_OUT, Subject
from .measures import Figures, figure

Cell = Mapping[str, Any]

KEYS = {  # the summary's names of methods
    "default": "learned, own tokens",
    "default_everywhere": "learned, everywhere",
    "kv_finetune": "kv_finetune, everywhere",
    "kv_finetune_own_tokens": "kv_finetune, own tokens",
    "lora": "lora, everywhere",
    "dreambooth": "dreambooth, everywhere",
    "textual_inversion": "textual_inversion, own tokens",
    "cones": "cones, everywhere",
    "cones_own_tokens": "cones, own tokens",
    "taylor": "taylor, everywhere",
    "taylor_own_tokens": "taylor, own tokens",
    "float_neurons": "float, own tokens",
    "quaternary_neurons": "quaternary, own tokens",
    "found_everywhere_used_at_own_tokens": "found everywhere, own tokens",
    "found_at_own_tokens_used_everywhere": "found at own tokens, everywhere",
    "random": "random, own tokens",
    "random_everywhere": "random, everywhere",
    "nothing": "nothing, everywhere",
}
FIGURES = (
    "subject_gain", "prior_gain", "subject_share", "class_share", "look", "look_difference", "second_object",
    "background", "count", "drift", "density", "file_bytes", "seconds",
)  # fmt: skip
SIZES = {"pairs": 2, "triples": 3, "quadruples": 4}
PERCENT = {"subject_share", "class_share", "second_object", "background", "count", "density", "look", "look_difference"}


def summary(cells: Sequence[Cell]) -> dict[str, Any]:
    """The tables' content; methods and sizes without cells are left out."""
    results: dict[str, Any] = {}
    held_out, several = _singles(cells, HELD_OUT), [cell for cell in cells if cell["name"].startswith("several/")]
    for key, method in KEYS.items():
        if method in held_out:
            results[key] = row(held_out[method]) | _gain_shares(held_out[method], held_out)
    for name, size in SIZES.items():
        results[name] = _several([cell for cell in several if len(_subjects(cell).split("+")) == size])
    results["choosing"] = {method: row(group) for method, group in _singles(cells, CHOOSING).items()}
    return results


def row(cells: Sequence[Cell], names: Iterable[str] = FIGURES) -> Figures:
    """Each figure's mean over cells, and its standard error between them."""
    return {name: figure([cell["figures"][name]["value"] for cell in cells]) for name in names}


def ratio(gains: Sequence[float], others: Sequence[float]) -> dict[str, float | None]:
    """Ratio of means and its jackknife standard error over paired cells."""
    n = len(gains)
    whole = float(np.mean(gains) / np.mean(others))
    if n < 2:
        return {"value": round(whole, 4), "standard_error": None, "n": n}
    left = [np.mean(np.delete(gains, i)) / np.mean(np.delete(others, i)) for i in range(n)]
    return {"value": round(whole, 4), "standard_error": round(float(((n - 1) * np.var(left)) ** 0.5), 4), "n": n}


def _by_method(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Cells by `method, where`."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        _, method, where, _, _ = cell["name"].split("/")
        groups.setdefault(f"{method}, {where}", []).append(cell)
    return dict(sorted(groups.items()))


def _singles(cells: Sequence[Cell], subjects: Sequence[Subject]) -> dict[str, list[Cell]]:
    """Cells of one of these subjects, by method."""
    return _by_method(cell for cell in cells if _subjects(cell) in {subject.identifier for subject in subjects})


def _gain_shares(cells: Sequence[Cell], by_method: Mapping[str, Sequence[Cell]]) -> Figures:
    shares: Figures = {}
    for name, where in (("gain_share", "everywhere"), ("gain_share_own_tokens", "own tokens")):
        tuned = {_subject_and_seed(cell): _gain(cell) for cell in by_method.get(f"kv_finetune, {where}", ())}
        pairs = [(_gain(cell), tuned[key]) for cell in cells if (key := _subject_and_seed(cell)) in tuned]
        if pairs:
            shares[name] = ratio(*zip(*pairs, strict=True))
    return {**shares, "worst_gain": {"value": min(map(_gain, cells))}}


def _several(cells: Sequence[Cell]) -> dict[str, Figures]:
    """By method: `alone`, `all` and, beside them, the full-caption oracle's `all` of the same groups."""
    by_method = _by_method(cells)
    words = by_method.get("oracle, everywhere")
    oracle = row(words, ["all"])["all"] if words else {}
    rows: dict[str, Figures] = {}
    for method, group in by_method.items():
        names = [name for name in group[0]["figures"] if not name.startswith("alone ")]
        rows[method] = {**row(group, names), "all_full_caption": oracle}
    return rows


def markdown(results: Mapping[str, Any]) -> str:
    """The summary as tables."""
    columns = ("gain_share", *(name for name in FIGURES if name not in ("look", "prior_gain")))
    parts = [_table({key: results[key] for key in KEYS if key in results}, columns)]
    for name in SIZES:
        if results[name]:
            parts.append(f"**{name}**\n\n" + _table(results[name], ("alone", "all", "all_full_caption", "density")))
    if results["choosing"]:
        parts.append("**the four subjects that chose settings**\n\n" + _table(results["choosing"], columns[1:]))
    return "\n\n".join(parts) + "\n"


def _table(rows: Mapping[str, Figures], columns: Sequence[str]) -> str:
    titles = (name.replace("_", " ") for name in columns)
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, figures in rows.items():
        cells = (_cell(column, figures.get(column)) for column in columns)
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(name: str, entry: Mapping[str, float | None] | None) -> str:
    value, error = (entry.get("value"), entry.get("standard_error")) if entry else (None, None)
    if value is None:
        return ""
    if name in PERCENT or name.startswith(("gain_share", "all", "alone")):
        return f"{100 * value:.3g} %" + ("" if error is None else f" ± {100 * error:.2g}")
    if name in ("file_bytes", "seconds"):
        return f"{value:,.0f}"
    return f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _gain(cell: Cell) -> float:
    value: float = cell["figures"]["subject_gain"]["value"]
    return value


def _subjects(cell: Cell) -> str:
    """`hta`, or `hta+bnk`."""
    return str(cell["name"].split("/")[3])


def _subject_and_seed(cell: Cell) -> str:
    return "/".join(cell["name"].split("/")[3:])
