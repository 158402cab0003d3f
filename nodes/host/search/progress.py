"""A search's progress in the host: the node's bar with a live curve of the loss, and Cancel within one step.

The bar counts thousandths of the time. What the node draws before the search has a fixed share, because nothing is
measured before it; steps, choice of density and what is drawn afterwards divide the rest as was measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import comfy.model_management
import comfy.utils
import numpy as np
from PIL import Image, ImageDraw

from ....cones_ops.search.estimate import Estimate, duration
from ....cones_ops.search.settings import Step
from ..notices import tell

TOTAL = 1000
DRAWING_SHARE = 0.1  # of the bar, for pictures that are drawn before the search
UNMEASURED = {"search": 0.85, "choose": 0.15, "show": 0.0}  # in this order
SECONDS_BETWEEN_PREVIEWS = 0.5
WIDTH, HEIGHT, MARGIN = 384, 192, 12
BLUE, ORANGE, GREY = (0, 114, 178), (213, 94, 0), (170, 170, 170)  # Okabe-Ito

Stage = Literal["search", "choose", "show"]


class SearchProgress:
    """An on_step that shows progress; raises the host's exception when the user has pressed Cancel."""

    def __init__(self, before: int = 0, after: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        """before, after: how many pictures the node draws before the search and after it. clock: seconds."""
        self.before, self.after, self.clock = before, after, clock
        self.bar = comfy.utils.ProgressBar(TOTAL)
        self.losses: dict[str, list[float]] = {"search": [], "choose": []}
        self.sample: Image.Image | None = None
        self.previewed = 0.0
        self.pictures = 0  # drawn so far
        self.began, self.first = clock(), 0  # this stage: when, and at which step
        self.seconds: dict[str, float] = dict(UNMEASURED)  # of each stage, or shares of it before they are measured
        self.measured = False

    def __call__(self, step: Step) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        losses = self.losses[step.phase]
        if not losses:
            self.began, self.first = self.clock(), step.step
        losses.append(step.loss)
        preview = None
        if self.clock() - self.previewed > SECONDS_BETWEEN_PREVIEWS and len(losses) > 1:
            self.previewed = self.clock()
            preview = ("JPEG", self.picture(step), WIDTH)
        self.advance(step.phase, step.step / max(step.total, 1), preview)

    def expect(self, expected: Estimate) -> None:
        """Tell what the search will need, in the log and on the node, before its first step, and divide the bar."""
        searching = expected.seconds_per_step * expected.steps
        if searching > 0.0:
            showing = self.after * (self.clock() - self.began) / self.before if self.before else 0.0
            self.seconds = {"search": searching, "choose": expected.seconds_choosing, "show": showing}
            self.measured = True
        tell(str(expected))

    def drew(self) -> None:
        """The node has drawn one more picture, before the search or after it."""
        self.pictures += 1
        if self.pictures <= self.before:
            left = (self.clock() - self.began) / self.pictures * (self.before - self.pictures)
            count = f"drew {self.pictures} of {self.before} pictures of other things"
            tell(f"{count}; the search starts in about {duration(left)}")
            self.bar.update_absolute(round(TOTAL * DRAWING_SHARE * self.pictures / self.before), TOTAL)
        else:
            self.advance("show", (self.pictures - self.before) / self.after)

    def advance(self, stage: Stage, done: float, preview: tuple[str, Image.Image, int] | None = None) -> None:
        """Move the bar to a share of a stage."""
        first = DRAWING_SHARE if self.before else 0.0
        stages = list(self.seconds)
        passed = sum(self.seconds[earlier] for earlier in stages[: stages.index(stage)]) + done * self.seconds[stage]
        value = first + (1 - first) * passed / sum(self.seconds.values())
        self.bar.update_absolute(round(TOTAL * value), TOTAL, preview)

    def seconds_left(self, step: Step) -> float | None:
        """Until the node is done: the rest of this stage at its pace so far, and the later stages as was measured."""
        if not self.measured:
            return None
        stages = list(self.seconds)
        steps = step.step - self.first
        pace = (self.clock() - self.began) / steps if steps else self.seconds[step.phase] / step.total
        later = sum(self.seconds[stage] for stage in stages[stages.index(step.phase) + 1 :])
        return pace * (step.total - step.step) + later

    def show(self, sample: Image.Image) -> None:
        """Show a sample picture below the curve from the next step on."""
        self.sample, self.previewed = sample, 0.0

    def picture(self, step: Step) -> Image.Image:
        """The curve of this stage, with the time left, above the latest sample."""
        left = self.seconds_left(step)
        curve = curve_picture(self.losses[step.phase], step, "" if left is None else f", about {duration(left)} left")
        if self.sample is None:
            return curve
        both = Image.new("RGB", (WIDTH, HEIGHT + self.sample.height), "white")
        both.paste(curve, (0, 0))
        both.paste(self.sample, (0, HEIGHT))
        return both

    def finish(self, figure: np.ndarray, report: str) -> None:
        """Leave the result's figure (H, W, 3) uint8 where the frontend continues to show the last preview, and the
        first line of its report in the place of the estimate.
        """
        tell(report.splitlines()[0])
        self.bar.update_absolute(TOTAL, TOTAL, ("JPEG", Image.fromarray(figure), figure.shape[1]))


def curve_picture(losses: list[float], step: Step, left: str = "") -> Image.Image:
    """The losses so far, with a running mean over them while searching; left: how the words above it end."""
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
    pen.text((MARGIN, 4), f"{words}: {losses[-1]:.4f}{left}", fill="black")
    return picture


def running_mean(values: list[float], rate: float = 0.1) -> list[float]:
    """Exponential running mean."""
    means: list[float] = []
    for value in values:
        means.append(value if not means else means[-1] + rate * (value - means[-1]))
    return means
