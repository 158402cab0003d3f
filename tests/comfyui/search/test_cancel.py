"""Cancel in the choice of density, states that belong to one concept, and the parts of the progress bar."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from cones_concept_neurons.cones_ops.masks.concept_mask import same_neurons
from cones_concept_neurons.cones_ops.search.estimate import Estimate
from cones_concept_neurons.cones_ops.search.settings import SearchSettings, Step
from cones_concept_neurons.nodes import encode
from cones_concept_neurons.nodes.host.search import progress as progress_module
from cones_concept_neurons.nodes.host.search.find import SearchInputs, search
from cones_concept_neurons.nodes.host.search.host_model import BorrowedModel
from cones_concept_neurons.nodes.host.search.progress import SearchProgress
from PIL import Image

TEXT = "a sks cat on the left and a zwx robot on the right"
CURVE = Image.new("RGB", (progress_module.WIDTH, progress_module.HEIGHT), "white")
SETTINGS = SearchSettings("learned", steps=2, batch=4, held_out=64)


@pytest.fixture
def inputs(checkpoint) -> SearchInputs:
    with torch.inference_mode():
        prompt = encode.ConesEncodePrompt.execute(checkpoint[1], TEXT, concepts="sks cat, zwx robot").args[0]
    latents = torch.randn(2, 48, 8, 8, generator=torch.Generator().manual_seed(1))
    return SearchInputs({"samples": latents}, prompt, None, None, "sks", "cat")


def found(checkpoint: Any, inputs: SearchInputs) -> Any:
    with torch.inference_mode():
        return search(checkpoint[0], inputs, "text K+V", SETTINGS, 0.02, 1.0, SearchProgress(), "own tokens")


@pytest.mark.slow
def test_cancel_in_the_choice_of_density_acts_within_one_call_of_the_model(checkpoint, inputs, monkeypatch, tmp_path):
    """A density is 64 draws in batches of 4, so 16 calls: the 20th is the fourth of the second density."""
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    whole = found(checkpoint, inputs)
    calls: list[int] = []
    denoise, press_at = BorrowedModel._denoise, [20]

    def counted(self: Any, *arguments: Any) -> Any:
        if self.taps.anchor is None:
            calls.append(len(calls) + 1)
            if calls[-1] in press_at:
                comfy.model_management.interrupt_current_processing(True)
        return denoise(self, *arguments)

    monkeypatch.setattr(BorrowedModel, "_denoise", counted)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        found(checkpoint, inputs)
    assert len(calls) == 20 and len(list((tmp_path / "cones-searches").iterdir())) == 1
    calls.clear()
    press_at.clear()
    resumed = found(checkpoint, inputs)
    assert len(calls) == 16 and same_neurons(resumed.mask, whole.mask) and resumed.curve == whole.curve


@pytest.mark.slow
def test_another_concept_of_the_same_prompt_does_not_take_up_the_state(checkpoint, inputs, monkeypatch, tmp_path):
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    steps: list[int] = []
    report = SearchProgress.__call__

    def press_cancel(self: SearchProgress, step: Step) -> None:
        steps.append(step.step)
        comfy.model_management.interrupt_current_processing(len(steps) == 1)
        report(self, step)

    monkeypatch.setattr(SearchProgress, "__call__", press_cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        found(checkpoint, inputs)
    steps.clear()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        found(checkpoint, replace(inputs, identifier="zwx", class_word="robot"))
    assert steps == [1]  # its own first step
    assert len(list((tmp_path / "cones-searches").iterdir())) == 2


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_bar_and_the_time_left_cover_all_that_a_node_does(monkeypatch):
    """Two pictures at 5 s each, 30 steps at 1 s, 2 densities at 5 s, two more pictures: 10 + 30 + 10 + 10 s."""
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", None)
    clock, values, left, lines = Clock(), [], [], []
    monkeypatch.setattr(progress_module, "tell", lines.append)
    progress = SearchProgress(before=2, after=2, clock=clock)
    for now in (5.0, 10.0):
        clock.now = now
        progress.drew()
        values.append(progress.bar.current)
    drawn = "drew {} of 2 pictures of other things; the search starts in about {} s"
    assert lines == [drawn.format(1, 5), drawn.format(2, 0)]
    progress.expect(Estimate(kept=0, statistics=0, seconds_per_step=1.0, steps=30, seconds_choosing=10.0))
    for now, step in (
        (11.0, Step(1, 30, 1.0, "search")),
        (41.0, Step(16, 30, 1.0, "search")),  # 15 steps took 30 s
        (70.0, Step(30, 30, 1.0, "search")),
        (74.0, Step(1, 2, 1.0, "choose")),
        (78.0, Step(2, 2, 1.0, "choose")),
    ):
        clock.now = now
        progress(step)
        values.append(progress.bar.current)
        left.append(progress.seconds_left(step))
    for _ in range(2):
        progress.drew()
        values.append(progress.bar.current)
    assert left == [29 + 20, 14 * 2 + 20, 20, 5 + 10, 10]
    assert values == [50, 100, 118, 388, 640, 730, 820, 910, 1000]  # a tenth for what is drawn before, 18 per second


def test_a_preview_says_the_time_left_above_the_latest_sample(monkeypatch):
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", None)
    words: list[str] = []
    monkeypatch.setattr(progress_module, "curve_picture", lambda losses, step, left: words.append(left) or CURVE)
    progress = SearchProgress(clock=Clock())
    assert progress.picture(Step(1, 30, 1.0, "search")) is CURVE  # nothing was measured
    progress.expect(Estimate(kept=0, statistics=0, seconds_per_step=10.0, steps=30, seconds_choosing=10.0))
    progress.show(Image.new("RGB", (progress_module.WIDTH, 100), "red"))
    picture = progress.picture(Step(0, 30, 1.0, "search"))
    assert words == ["", ", about 5 min left"]  # 310 s
    assert picture.height == CURVE.height + 100 and picture.getpixel((5, CURVE.height + 50)) == (255, 0, 0)


def test_the_bar_holds_the_measured_share_of_the_choice_of_density(monkeypatch):
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", None)
    values = []
    progress = SearchProgress()
    progress.expect(Estimate(kept=0, statistics=0, seconds_per_step=1.0, steps=30, seconds_choosing=10.0))
    for step in (Step(15, 30, 1.0, "search"), Step(30, 30, 1.0, "search"), Step(1, 2, 1.0, "choose")):
        progress(step)
        values.append(progress.bar.current)
    assert values == [375, 750, 875]
