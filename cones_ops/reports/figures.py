"""Figures about concept masks, as (H, W, 3) uint8 arrays: reads masks and pictures, changes nothing.

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
from .compare import shared

COLOURS = {"K": "#0072B2", "V": "#E69F00", "picture K": "#56B4E9", "picture V": "#F0E442"}  # Okabe-Ito
PAIRS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"
GREY = "#666666"
WIDTH, DPI = 6.4, 100


def layer_figure(mask: ConceptMask) -> np.ndarray:
    """Neurons by depth: what share of each weight is shut above, how many neurons each block has below; K, V "
    "apart."""
    weights = searched_weights(mask.shapes)
    if not weights:
        raise ConesError("the concept mask knows no weights, so there is nothing to draw; was it loaded whole?")
    figure = _figure(5.4)
    shares, counts = figure.subplots(2, 1, height_ratios=(3, 2))
    of_layers = layers(weights)
    _bars(shares, [(weight.row, of_layers.index(weight.layer), 100 * _share(mask, weight)) for weight in weights])
    shares.set_ylabel("% of the weight shut")
    _depth_axis(shares, of_layers)
    _zeros(shares, mask, weights, of_layers)
    blocks = list(dict.fromkeys(weight.block for weight in weights))
    _bars(counts, [(weight.row, blocks.index(weight.block), _count(mask, weight)) for weight in weights], stacked=True)
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


def overlap_figure(masks: Sequence[ConceptMask], names: Sequence[str]) -> np.ndarray:
    """Above, what share of each mask's neurons every other has too; below, where along the model pairs share."""
    size = len(masks)
    figure = _figure(3.0 + 0.42 * size + 2.6)
    matrix, depth = figure.subplots(2, 1, height_ratios=(1.2 + 0.42 * size, 2.2))
    shares = np.array([[_shared_share(one, other) for other in masks] for one in masks])  # of the row's neurons
    matrix.imshow(np.where(np.eye(size, dtype=bool), 0, shares), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, one in enumerate(masks):
        for column, other in enumerate(masks):
            text = f"{one.count:,}\nneurons" if row == column else f"{shares[row, column]:.0%}"
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
    """One line per pair (of many pairs the mean alone): shared neurons of each layer, as % of those of either "
    "there."""
    weights = searched_weights({name: shape for mask in masks for name, shape in mask.shapes.items()})
    of_layers = layers(weights)
    lines = {}
    for (a, one), (b, other) in combinations(enumerate(masks), 2):
        lines[f"{names[a]} and {names[b]}"] = [
            100 * _jaccard_in(one, other, [p.name for p in weights if p.layer == layer]) for layer in of_layers
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
    """Bars of (row of the legend, place on the axis, height); several of a row at one place add up."""
    rows = [row for row in COLOURS if any(entry[0] == row for entry in entries)]
    size = 1 + max(at for _, at, _ in entries)
    below: Any = np.zeros(size)
    for k, row in enumerate(rows):
        heights: Any = np.zeros(size)
        for _, at, height in (entry for entry in entries if entry[0] == row):
            heights[at] += height
        width = 0.8 if stacked else 0.8 / len(rows)
        centres = np.arange(size) + (0 if stacked else width * (k - (len(rows) - 1) / 2))
        axes.bar(centres, heights, width, bottom=below if stacked else 0, color=COLOURS[row], label=row, lw=0)
        if stacked:
            below += heights


def _zeros(axes: Any, mask: ConceptMask, weights: Sequence[SearchedWeight], of_layers: Sequence[str]) -> None:
    """A small 0 where a layer was searched and nothing was found."""
    full = {weight.layer for weight in weights if _count(mask, weight)}
    for at, layer in enumerate(of_layers):
        if layer not in full:
            axes.text(at, 0, "0", ha="center", va="bottom", fontsize=8, color=GREY)


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


def _count(mask: ConceptMask, weight: SearchedWeight) -> int:
    return mask.index[weight.name].numel() if weight.name in mask.index else 0


def _share(mask: ConceptMask, weight: SearchedWeight) -> float:
    return _count(mask, weight) / max(prod(mask.shapes[weight.name]), 1)


def _shared_share(one: ConceptMask, other: ConceptMask) -> float:
    return shared(one, other).count / max(one.count, 1)


def _jaccard_in(one: ConceptMask, other: ConceptMask, names: Sequence[str]) -> float:
    first, second = (sum(m.index[n].numel() for n in names if n in m.index) for m in (one, other))
    common = shared(one, other)
    both = sum(common.index[n].numel() for n in names if n in common.index)
    return both / (first + second - both) if both else 0.0


def _title(mask: ConceptMask) -> str:
    place = "everywhere" if mask.where == "everywhere" else "at its own tokens"
    who = f"{mask.identifier} {mask.class_word}".strip() or "concept mask"
    return f"{who}: {mask.count:,} of {mask.size:,} neurons ({mask.density:.2%}), {place}"


def _broken(text: str, most: int = 16) -> str:
    """Lines of at most about `most` letters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _figure(height: float, width: float = WIDTH) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _pixels(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    rgba: np.ndarray = np.array(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(rgba[..., :3])
