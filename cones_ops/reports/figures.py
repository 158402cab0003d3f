"""Figures about searches and concept masks, as (H, W, 3) uint8 arrays: reads them and pictures, changes nothing.

Drawn by matplotlib's Agg canvas (imported here on first use only, no global state), 640 pixels wide so that a node's
preview is readable, in colours that stay apart for colour-blind eyes and in print.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import ceil, prod
from typing import Any

import numpy as np

from ..errors import ConesError
from ..masks.concept_mask import ConceptMask
from ..models.weight_names import SearchedWeight, block_of, layers, searched_weights, short_for
from ..search.density import DensityCurve
from ..search.find import SearchResult
from .compare import shared
from .text import acting, count_in

COLOURS = {"K": "#0072B2", "V": "#E69F00", "picture K": "#56B4E9", "picture V": "#F0E442"}  # Okabe-Ito
PAIRS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"
BLUE, ORANGE, GREY = PAIRS[0], PAIRS[1], "#666666"
WIDTH, DPI = 6.4, 100


def layer_figure(mask: ConceptMask) -> np.ndarray:
    """Neurons by depth, K and V apart. Above, the share of each weight that is shut; below, the neurons per block."""
    searched = searched_weights(mask.shapes)
    if not searched:
        raise ConesError("the concept mask lists no weights, so there is nothing to draw; load its file again")
    figure = _figure(5.4)
    shares, counts = figure.subplots(2, 1, height_ratios=(3, 2))
    of_layers = layers(searched)
    _bars(shares, [(weight.row, of_layers.index(weight.layer), 100 * _share(mask, weight)) for weight in searched])
    shares.set_ylabel("% of the weight shut")
    _depth_axis(shares, of_layers)
    _zeros(shares, mask, searched, of_layers)
    blocks = list(dict.fromkeys(weight.block for weight in searched))
    bars = [(weight.row, blocks.index(weight.block), count_in(mask, weight.name)) for weight in searched]
    _bars(counts, bars, stacked=True)
    counts.set_ylabel("neurons")
    counts.set_xticks(range(len(blocks)))
    counts.set_xlim(-0.6, len(blocks) - 0.4)
    _thin_labels(counts, [short_for(block) for block in blocks])
    counts.set_xlabel("block of the model, from its input to its output")
    shares.legend(frameon=False, ncols=4, loc="upper left", fontsize=9)
    for axes in (shares, counts):
        axes.margins(y=0.22 if axes is shares else 0.08)
    figure.suptitle(_title(mask), fontsize=11)
    return _pixels(figure)


def density_figure(result: SearchResult | DensityCurve) -> np.ndarray:
    """Held-out loss by density with paired error bars and the chosen density; (H, W, 3) uint8."""
    curve = result.curve if isinstance(result, SearchResult) else result
    figure = _figure(4.0)
    axes = figure.add_subplot()
    percent = [100 * density for density in curve.densities]
    axes.errorbar(percent, curve.losses, yerr=curve.standard_errors, color=BLUE, marker="o", ms=4, capsize=2, lw=1.5)
    axes.axhline(curve.losses[0], color=GREY, ls=":", lw=1.2, label="nothing shut")
    k = curve.chosen_at
    choice = f"chosen: {percent[k]:.3g} % shut" if curve.helps or k else "nothing shut"
    axes.plot(percent[k], curve.losses[k], color=ORANGE, marker="D", ms=10, ls="none", label=choice)
    axes.set_xscale("symlog", linthresh=max(percent[1] if len(percent) > 1 else 1.0, 1e-6))
    axes.set_xlim(left=0)
    axes.set_xlabel("neurons shut (% of the searched weights)")
    axes.set_ylabel("held-out loss (bars: paired standard error)")
    axes.legend(frameon=False)
    return _pixels(figure)


def overlap_figure(masks: Sequence[ConceptMask], names: Sequence[str]) -> np.ndarray:
    """Above, the share of each mask's neurons that each other mask has too; below, where pairs share them, by depth."""
    size = len(masks)
    figure = _figure(3.0 + 0.42 * size + 2.6)
    matrix, depth = figure.subplots(2, 1, height_ratios=(1.2 + 0.42 * size, 2.2))
    shares = np.array([[_shared_share(mask, other) for other in masks] for mask in masks])  # of the row's neurons
    matrix.imshow(np.where(np.eye(size, dtype=bool), 0, shares), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, mask in enumerate(masks):
        for column, other in enumerate(masks):
            text = f"{mask.count:,}\nneurons" if row == column else f"{shares[row, column]:.0%}"
            if row != column:
                text += f"\nchance {other.density:.1%}"
            dark = row != column and shares[row, column] > 0.55
            matrix.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
    matrix.set_xticks(range(size), [_broken(name) for name in names], fontsize=9)
    matrix.set_yticks(range(size), names, fontsize=9)
    matrix.xaxis.tick_top()
    matrix.set_title("share of the left mask's neurons that the mask above has too", fontsize=10)
    _pairs_by_depth(depth, masks, names)
    return _pixels(figure)


def labelled_grid(
    pictures: Sequence[np.ndarray], labels: Sequence[str], columns: int = 0, side: int = 224
) -> np.ndarray:
    """Pictures (H, W, 3) uint8, each `side` wide below its label. columns 0: as square as it gets."""
    if not pictures or len(pictures) != len(labels):
        raise ConesError(f"{len(pictures)} pictures and {len(labels)} labels; give one label for each picture")
    columns = min(columns or ceil(len(pictures) ** 0.5), len(pictures))
    rows = ceil(len(pictures) / columns)
    wide, tall = side / DPI, side / DPI * max(picture.shape[0] / picture.shape[1] for picture in pictures)
    figure = _figure(rows * (tall + 0.42) + 0.05, columns * (wide + 0.08))
    for k, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        axes = figure.add_subplot(rows, columns, k + 1)
        axes.imshow(picture, interpolation="nearest" if picture.shape[1] < side else "antialiased")
        axes.set_title(_broken(label, max(8, side // 8)), fontsize=9, pad=3)
        axes.set_axis_off()
    return _pixels(figure)


def _pairs_by_depth(axes: Any, masks: Sequence[ConceptMask], names: Sequence[str]) -> None:
    """A line for each pair (for many pairs, their mean): in each layer, shared neurons as % of those in either mask."""
    searched = searched_weights({name: shape for mask in masks for name, shape in mask.shapes.items()})
    of_layers = layers(searched)
    lines = {}
    for (a, first), (b, second) in combinations(enumerate(masks), 2):
        lines[f"{names[a]} and {names[b]}"] = [
            100 * _jaccard_in(first, second, [weight.name for weight in searched if weight.layer == layer])
            for layer in of_layers
        ]
    if len(lines) > len(PAIRS):
        lines = {f"mean of {len(lines)} pairs": [float(np.nanmean(v)) for v in zip(*lines.values(), strict=True)]}
    for k, (label, values) in enumerate(lines.items()):
        axes.plot(range(len(values)), values, color=PAIRS[k], marker=MARKERS[k], ms=5, lw=1.5, label=label)
    axes.set_ylabel("shared, % of those\nin either mask")
    axes.set_ylim(bottom=0)
    _depth_axis(axes, of_layers)
    axes.set_xlabel("block of the model, from its input to its output")
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def _bars(axes: Any, entries: Sequence[tuple[str, int, float]], stacked: bool = False) -> None:
    """Bars of (row of the legend, position on the axis, height); bars of a row at one position add up."""
    rows = [row for row in COLOURS if any(entry[0] == row for entry in entries)]
    size = 1 + max(position for _, position, _ in entries)
    below: Any = np.zeros(size)
    for k, row in enumerate(rows):
        heights: Any = np.zeros(size)
        for _, position, height in (entry for entry in entries if entry[0] == row):
            heights[position] += height
        width = 0.8 if stacked else 0.8 / len(rows)
        centres = np.arange(size) + (0 if stacked else width * (k - (len(rows) - 1) / 2))
        axes.bar(centres, heights, width, bottom=below if stacked else 0, color=COLOURS[row], label=row, lw=0)
        if stacked:
            below += heights


def _zeros(axes: Any, mask: ConceptMask, searched: Sequence[SearchedWeight], of_layers: Sequence[str]) -> None:
    """A small 0 where a layer was searched and nothing was found."""
    full = {weight.layer for weight in searched if count_in(mask, weight.name)}
    for position, layer in enumerate(of_layers):
        if layer not in full:
            axes.text(position, 0, "0", ha="center", va="bottom", fontsize=8, color=GREY)


def _depth_axis(axes: Any, of_layers: Sequence[str]) -> None:
    """Layers from left to right, named by their blocks; a block of several layers is named once."""
    blocks = [block_of(layer) for layer in of_layers]
    names = list(dict.fromkeys(blocks))
    axes.set_xticks([blocks.index(name) + (blocks.count(name) - 1) / 2 for name in names])
    axes.set_xlim(-0.6, len(of_layers) - 0.4)
    _thin_labels(axes, [short_for(name) for name in names])


def _thin_labels(axes: Any, labels: Sequence[str], most: int = 16) -> None:
    """Every label, or every second, third, ... where they would not fit."""
    step = ceil(len(labels) / most)
    shown = [label if k % step == 0 else "" for k, label in enumerate(labels)]
    axes.set_xticklabels(shown, fontsize=9, rotation=45 if len(labels) > 9 else 0)
    axes.spines[["top", "right"]].set_visible(False)


def _share(mask: ConceptMask, weight: SearchedWeight) -> float:
    return count_in(mask, weight.name) / max(prod(mask.shapes[weight.name]), 1)


def _shared_share(mask: ConceptMask, other: ConceptMask) -> float:
    return shared(mask, other).count / max(mask.count, 1)


def _jaccard_in(first: ConceptMask, second: ConceptMask, names: Sequence[str]) -> float:
    both = count_in(shared(first, second), *names)
    return both / (count_in(first, *names) + count_in(second, *names) - both) if both else 0.0


def _title(mask: ConceptMask) -> str:
    name = f"{mask.identifier} {mask.class_word}".strip() or "concept mask"
    return f"{name}: {mask.count:,} of {mask.size:,} neurons ({mask.density:.2%}), {acting(mask)}"


def _broken(text: str, most: int = 16) -> str:
    """Lines of at most about `most` letters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _figure(height: float, width: float = WIDTH) -> Any:
    """An empty figure; ConesError where matplotlib is missing or broken, which shows itself in any exception."""
    try:
        from matplotlib.figure import Figure
    except Exception as error:
        raise ConesError(
            f"figures are drawn by matplotlib, which cannot be loaded here ({type(error).__name__}: {error}); install "
            "it with: python -m pip install --upgrade matplotlib"
        ) from error
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _pixels(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    rgba: np.ndarray = np.array(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(rgba[..., :3])
