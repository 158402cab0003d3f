"""The bar of a search."""

from __future__ import annotations

import io

from tqdm import tqdm

from cones_ops.laboratory.progress import steps_on
from cones_ops.search.settings import Step


def test_the_bar_also_says_how_far_the_choice_of_density_is() -> None:
    text = io.StringIO()
    with tqdm(total=2, file=text, mininterval=0) as bar:
        on_step = steps_on(bar)
        for step in (Step(1, 2, 0.5, "search"), Step(2, 2, 0.25, "search"), Step(1, 3, 0.125, "choose")):
            on_step(step)
        assert bar.n == 2
    lines = text.getvalue().split("\r")
    assert any("1/2" in line and "loss=0.5000" in line for line in lines)
    assert any("2/2" in line and "density 1 of 3, loss=0.1250" in line for line in lines)
