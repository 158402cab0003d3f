"""Cells -> means with standard errors, as JSON and as Markdown tables. Means are over the untouched subjects only.

A standard error here is that between cells (subjects and seeds), not between pictures: what another run would differ
by. `gain_share` is a method's mean held-out gain of the subject's term over that of K and V fine-tuning everywhere
(Custom Diffusion), `gain_share_own_tokens` over the same at own tokens; their errors are jackknife estimates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .cells import CHOOSING, UNTOUCHED
from .measures import Figures, figure

Cell = Mapping[str, Any]

KEYS = {  # the summary's names -> method and where
    "default": ("learned", "own tokens"),
    "default_everywhere": ("learned", "everywhere"),
    "kv_finetune": ("kv_finetune", "everywhere"),
    "kv_finetune_own_tokens": ("kv_finetune", "own tokens"),
    "lora": ("lora", "everywhere"),
    "dreambooth": ("dreambooth", "everywhere"),
    "textual_inversion": ("textual_inversion", "own tokens"),
    "cones": ("cones", "everywhere"),
    "cones_own_tokens": ("cones", "own tokens"),
    "taylor": ("taylor", "everywhere"),
    "taylor_own_tokens": ("taylor", "own tokens"),
    "float_neurons": ("float", "own tokens"),
    "quaternary_neurons": ("quaternary", "own tokens"),
    "found_everywhere_used_at_own_tokens": ("found everywhere", "own tokens"),
    "found_at_own_tokens_used_everywhere": ("found at own tokens", "everywhere"),
    "random": ("random", "own tokens"),
    "random_everywhere": ("random", "everywhere"),
    "nothing": ("nothing", "everywhere"),
}
FIGURES = (
    "subject_gain", "prior_gain", "subject_share", "class_share", "look", "look_difference", "second_object",
    "background", "count", "drift", "density", "file_bytes", "seconds",
)  # fmt: skip
SIZES = {"pairs": 2, "triples": 3, "quadruples": 4}
PERCENT = {"subject_share", "class_share", "second_object", "background", "count", "density", "look", "look_difference"}


def summary(cells: Sequence[Cell]) -> dict[str, Any]:
    """The tables' content; methods and sizes without cells are left out."""
    untouched = [cell for cell in cells if _identifier(cell) in {one.identifier for one in UNTOUCHED}]
    found: dict[str, Any] = {}
    for key, (method, where) in KEYS.items():
        some = _of(untouched, method, where)
        if some:
            found[key] = row(some) | _shares(some, untouched)
    for name, size in SIZES.items():
        found[name] = _several(cells, size)
    found["choosing"] = _choosing(cells)
    return found


def row(cells: Sequence[Cell]) -> Figures:
    """Each figure's mean over cells, and its standard error between them."""
    return {name: figure([cell["figures"][name]["value"] for cell in cells]) for name in FIGURES}


def ratio(gains: Sequence[float], others: Sequence[float]) -> dict[str, float | None]:
    """Ratio of means and its jackknife standard error over paired cells."""
    n = len(gains)
    whole = float(np.mean(gains) / np.mean(others))
    if n < 2:
        return {"value": round(whole, 4), "standard_error": None, "n": n}
    left = [np.mean(np.delete(gains, i)) / np.mean(np.delete(others, i)) for i in range(n)]
    return {"value": round(whole, 4), "standard_error": round(float(((n - 1) * np.var(left)) ** 0.5), 4), "n": n}


def _shares(some: Sequence[Cell], cells: Sequence[Cell]) -> Figures:
    found: Figures = {}
    for name, where in (("gain_share", "everywhere"), ("gain_share_own_tokens", "own tokens")):
        tuned = {_run(cell): cell for cell in _of(cells, "kv_finetune", where)}
        pairs = [(_gain(cell), _gain(tuned[_run(cell)])) for cell in some if _run(cell) in tuned]
        if pairs:
            found[name] = ratio(*zip(*pairs, strict=True))
    found["worst_gain"] = {"value": min(_gain(cell) for cell in some)}
    return found


def _several(cells: Sequence[Cell], size: int) -> dict[str, Figures]:
    """By method: `alone`, `all` and, beside them, the full-caption oracle's `all` of the same groups."""
    rows: dict[str, list[Cell]] = {}
    for cell in cells:
        kind, method, where, subjects, _ = cell["name"].split("/")
        if kind == "several" and len(subjects.split("+")) == size:
            rows.setdefault(f"{method}, {where}", []).append(cell)
    words = [cell["figures"]["all"]["value"] for cell in rows.get("oracle, everywhere", ())]
    oracle = figure(words) if words else {}
    found: dict[str, Figures] = {}
    for name, some in sorted(rows.items()):
        keys = [key for key in some[0]["figures"] if not key.startswith("alone ")]
        found[name] = {key: figure([cell["figures"][key]["value"] for cell in some]) for key in keys}
        found[name]["all_full_caption"] = oracle
    return found


def _choosing(cells: Sequence[Cell]) -> dict[str, Figures]:
    """The first four subjects, one seed: what settings and rates were chosen by."""
    rows: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell["name"].startswith("single/") and _identifier(cell) in {one.identifier for one in CHOOSING}:
            _, method, where, _, _ = cell["name"].split("/")
            rows.setdefault(f"{method}, {where}", []).append(cell)
    return {name: row(some) for name, some in sorted(rows.items())}


def markdown(found: Mapping[str, Any]) -> str:
    """The summary as tables."""
    columns = ("gain_share", *(name for name in FIGURES if name not in ("look", "prior_gain")))
    parts = [_table({key: found[key] for key in KEYS if key in found}, columns)]
    for name in SIZES:
        if found[name]:
            parts.append(f"**{name}**\n\n" + _table(found[name], ("alone", "all", "all_full_caption", "density")))
    if found["choosing"]:
        parts.append("**the four subjects that chose settings**\n\n" + _table(found["choosing"], columns[1:]))
    return "\n\n".join(parts) + "\n"


def _table(rows: Mapping[str, Figures], columns: Sequence[str]) -> str:
    lines = ["| | " + " | ".join(one.replace("_", " ") for one in columns) + " |", "|---" * (len(columns) + 1) + "|"]
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


def _of(cells: Sequence[Cell], method: str, where: str) -> list[Cell]:
    return [cell for cell in cells if cell["name"].startswith(f"single/{method}/{where}/")]


def _gain(cell: Cell) -> float:
    value: float = cell["figures"]["subject_gain"]["value"]
    return value


def _identifier(cell: Cell) -> str:
    return str(cell["name"].split("/")[3])


def _run(cell: Cell) -> tuple[str, str]:
    _, _, _, identifier, seed = cell["name"].split("/")
    return identifier, seed
