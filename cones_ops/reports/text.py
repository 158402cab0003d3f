"""Tables and figures about searches and masks; reads them, changes nothing.

Figures come as (H, W, 3) uint8 arrays, drawn by matplotlib's Agg canvas (imported here on first use only), in colours
that stay apart for colour-blind eyes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from ..errors import listed
from ..masks.concept_mask import ConceptMask, intersection
from ..models.weight_names import SearchedWeight, searched_weights, words_for
from ..search.density import DensityCurve
from ..search.find import SearchResult
from ..search.joint import TuneResult

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"  # Okabe-Ito


def density_figure(result: SearchResult | DensityCurve) -> np.ndarray:
    """Held-out loss by density with paired error bars and the chosen density; (H, W, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curve = result.curve if isinstance(result, SearchResult) else result
    figure = Figure(figsize=(6.4, 4.0), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    percent = [100 * density for density in curve.densities]
    axes.errorbar(percent, curve.losses, yerr=curve.standard_errors, color=BLUE, marker="o", ms=4, capsize=2, lw=1.5)
    axes.axhline(curve.losses[0], color=GREY, ls=":", lw=1.2, label="nothing shut")
    at = curve.chosen_at
    verdict = f"chosen: {percent[at]:.3g} % shut" if curve.helps or at else "nothing shut"
    axes.plot(percent[at], curve.losses[at], color=ORANGE, marker="D", ms=10, ls="none", label=verdict)
    axes.set_xscale("symlog", linthresh=max(percent[1] if len(percent) > 1 else 1.0, 1e-6))
    axes.set_xlim(left=0)
    axes.set_xlabel("neurons shut (% of the searched weights)")
    axes.set_ylabel("held-out loss (bars: paired standard error)")
    axes.legend(frameon=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    rgba: np.ndarray = np.array(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(rgba[..., :3])


def summary_text(result: SearchResult) -> str:
    """What a user wants to know after a search, in a few lines."""
    mask, curve, at = result.mask, result.curve, result.curve.chosen_at
    told = mask.provenance
    lines = [
        f"Concept '{mask.identifier} {mask.class_word}', acting {_place(mask)}, method {told['method']}",
        f"{mask.count} of {mask.size} neurons shut ({mask.density:.3%}), density chosen {told['density_chosen']}",
        f"held-out loss {curve.losses[0]:.5f} -> {curve.losses[at]:.5f} "
        f"(gain {curve.gains[at]:.5f} +- {curve.standard_errors[at]:.5f})",
        f"{len(result.history)} steps, {result.seconds:.1f} s",
    ]
    if result.estimate:
        lines.append(f"expected before it: {result.estimate}")
    if "own_tokens" in told:
        lines.insert(1, f"own tokens: {told['own_tokens']}")
    if not result.found:
        lines.insert(1, f"NOT FOUND ({told['found']}): the held-out loss does not fall by two standard errors")
    return "\n".join(lines)


def tuning_text(result: TuneResult, given: Sequence[ConceptMask]) -> str:
    """What joint steps changed, in a few lines. given: the masks before, in the same order."""
    lines = [
        f"{len(result.history)} joint steps on {len(given)} masks, {result.seconds:.1f} s",
        f"joint held-out loss {result.before:.5f} -> {result.after:.5f} "
        f"(gain {result.gain:.5f} +- {result.standard_error:.5f})",
    ]
    if not result.tuned:
        lines.insert(
            0, "NOT TUNED: the joint held-out loss does not fall by two standard errors; the masks are as given"
        )
    for before, after in zip(given, result.masks, strict=True):
        kept = intersection(before, after).count
        lines.append(
            f"'{after.identifier} {after.class_word}': {before.count} -> {after.count} neurons "
            f"({after.density:.3%}), {kept} of them as before"
        )
    return "\n".join(lines)


def inspection_text(mask: ConceptMask) -> str:
    """Where a mask's neurons are and how it was found, in plain words, a line per fact."""
    who = f"{mask.identifier} {mask.class_word}".strip() or "A concept without a name"
    lines = [f"{who}: {mask.count:,} of {mask.size:,} searched neurons ({mask.density:.3%}), acting {_place(mask)}"]
    if mask.count:
        lines += [_most_blocks(mask), _parts(mask)]
    told = mask.provenance
    if "method" in told:
        how = [f"Found by {told['method']}"]
        how += [f"{told[key]} {key}" for key in ("steps", "pictures") if key in told]
        lines.append(", ".join(how))
    if {"held_out_before", "held_out_after"} <= set(told):
        error = f" +- {told['held_out_standard_error']}" if "held_out_standard_error" in told else ""
        gain = f" (gain {told['held_out_gain']}{error})" if "held_out_gain" in told else ""
        lines.append(f"Held-out loss {told['held_out_before']} -> {told['held_out_after']}{gain}")
    if told.get("found", "yes") != "yes":
        lines.append(f"NOT FOUND ({told['found']}): shutting these neurons does not help on held-out noise")
    if "tuned_with" in told:
        lines.append(f"Tuned together with {told['tuned_with']} other(s), {told.get('tuned_steps', '?')} joint steps")
    lines.append(f"For base weights {mask.fingerprint[:12] or 'unknown'}")
    return "\n".join(lines)


def count_by(mask: ConceptMask, key: Callable[[SearchedWeight], str]) -> dict[str, int]:
    """Neurons of each group of searched weights, by depth; `key` names a weight's group."""
    counts: dict[str, int] = {}
    for weight in searched_weights(mask.shapes):
        here = mask.index[weight.name].numel() if weight.name in mask.index else 0
        counts[key(weight)] = counts.get(key(weight), 0) + here
    return counts


def _most_blocks(mask: ConceptMask, most: int = 3) -> str:
    counts = count_by(mask, lambda weight: words_for(weight.block))
    full = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])
    told = [f"{name} ({counts[name] / mask.count:.0%})" for name in full[:most]]
    lines = f"Most lie in {', '.join(told)}" + (f"; {len(full) - most} more blocks" if len(full) > most else "")
    none = [name for name in counts if not counts[name]]
    return lines + (f"; none in {listed(none)}" if none else "")


def _parts(mask: ConceptMask) -> str:
    """K against V, with the share of their own weights, as they may differ in size."""
    counts = count_by(mask, lambda weight: weight.row)
    sizes = {row: 0 for row in counts}
    for weight in searched_weights(mask.shapes):
        sizes[weight.row] += prod(mask.shapes[weight.name])
    return "; ".join(
        f"{row}: {count:,} neurons ({count / mask.count:.0%}), {count / max(sizes[row], 1):.2%} of its weights"
        for row, count in counts.items()
    )


def layer_table(mask: ConceptMask) -> str:
    """Neurons and density of each searched weight, as a Markdown table."""
    rows = ["| weight | neurons | of | density |", "|---|---|---|---|"]
    for name, shape in mask.shapes.items():
        count = mask.index[name].numel() if name in mask.index else 0
        rows.append(f"| {name} | {count} | {prod(shape)} | {count / max(prod(shape), 1):.2%} |")
    return "\n".join([*rows, f"| all | {mask.count} | {mask.size} | {mask.density:.2%} |"])


def _place(mask: ConceptMask) -> str:
    return "everywhere" if mask.where == "everywhere" else "at its own tokens"
