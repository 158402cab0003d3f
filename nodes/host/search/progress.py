"""A search's progress in the host: the node's bar with a live curve of the loss, and Cancel within one step.

The bar counts thousandths of the time: the steps take as much of it as was measured before the first of them, the
choice of density the rest.
"""

from __future__ import annotations

import time

import comfy.model_management
import comfy.utils
import numpy as np
from PIL import Image, ImageDraw

from ....cones_ops.search.estimate import Estimate
from ....cones_ops.search.settings import Step
from ..notices import tell

TOTAL = 1000
SEARCH_SHARE = 0.85  # of the time, where nothing was measured
SECONDS_BETWEEN_PREVIEWS = 0.5
WIDTH, HEIGHT, MARGIN = 384, 192, 12
BLUE, ORANGE, GREY = (0, 114, 178), (213, 94, 0), (170, 170, 170)  # Okabe-Ito


class SearchProgress:
    """An on_step that shows progress; raises the host's exception when the user has pressed Cancel."""

    def __init__(self) -> None:
        self.bar = comfy.utils.ProgressBar(TOTAL)
        self.losses: dict[str, list[float]] = {"search": [], "choose": []}
        self.previewed = 0.0
        self.search_share = SEARCH_SHARE

    def __call__(self, step: Step) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        losses = self.losses[step.phase]
        losses.append(step.loss)
        done = step.step / max(step.total, 1)
        share = self.search_share
        value = share * done if step.phase == "search" else share + (1 - share) * done
        preview = None
        if time.monotonic() - self.previewed > SECONDS_BETWEEN_PREVIEWS and len(losses) > 1:
            self.previewed = time.monotonic()
            preview = ("JPEG", curve_picture(losses, step), WIDTH)
        self.bar.update_absolute(round(TOTAL * value), TOTAL, preview)

    def expect(self, expected: Estimate) -> None:
        """Tell what the search will need, in the log and on the node, before its first step, and divide the bar."""
        searching = expected.seconds_per_step * expected.steps
        if searching > 0.0:
            self.search_share = searching / (searching + expected.seconds_choosing)
        tell(str(expected))

    def finish(self, figure: np.ndarray) -> None:
        """Leave the result's figure (H, W, 3) uint8 where the frontend goes on showing the last preview."""
        self.bar.update_absolute(TOTAL, TOTAL, ("JPEG", Image.fromarray(figure), figure.shape[1]))


def curve_picture(losses: list[float], step: Step) -> Image.Image:
    """The losses so far, with a running mean over them while searching."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    low, high = min(losses), max(losses)
    across = max(step.total - 1, 1) if step.phase == "choose" else max(len(losses) - 1, 1)

    def points(values: list[float]) -> list[tuple[float, float]]:
        return [
            (
                MARGIN + (WIDTH - 2 * MARGIN) * min(i / across, 1.0),
                HEIGHT - MARGIN - (HEIGHT - 3 * MARGIN) * (value - low) / max(high - low, 1e-12),
            )
            for i, value in enumerate(values)
        ]

    if step.phase == "search":
        pen.line(points(losses), fill=GREY, width=1)
        pen.line(points(running_mean(losses)), fill=BLUE, width=2)
        words = f"loss, step {step.step} of {step.total}"
    else:
        pen.line(points(losses), fill=ORANGE, width=2)
        words = f"held-out loss, density {step.step} of {step.total}"
    pen.text((MARGIN, 4), f"{words}: {losses[-1]:.4f}", fill="black")
    return picture


def running_mean(values: list[float], rate: float = 0.1) -> list[float]:
    """Exponential running mean."""
    means: list[float] = []
    for value in values:
        means.append(value if not means else means[-1] + rate * (value - means[-1]))
    return means
