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
from cones_concept_neurons.nodes.host.search.find import SearchInputs, search
from cones_concept_neurons.nodes.host.search.host_model import BorrowedModel
from cones_concept_neurons.nodes.host.search.progress import SearchProgress

TEXT = "a sks star on the left and a zwx heart on the right"
SETTINGS = SearchSettings("learned", steps=2, batch=4, held_out=64)


@pytest.fixture
def inputs(checkpoint) -> SearchInputs:
    with torch.inference_mode():
        prompt = encode.ConesEncodePrompt.execute(checkpoint[1], TEXT, concepts="sks star, zwx heart").args[0]
    latents = torch.randn(2, 24, 8, 8, generator=torch.Generator().manual_seed(1))
    return SearchInputs({"samples": latents}, prompt, None, None, "sks", "star")


def found(checkpoint: Any, inputs: SearchInputs) -> Any:
    with torch.inference_mode():
        return search(checkpoint[0], inputs, "text K+V", SETTINGS, 0.02, 1.0, SearchProgress(), "own tokens")


@pytest.mark.slow
def test_cancel_in_the_choice_of_density_acts_within_one_call_of_the_model(checkpoint, inputs, monkeypatch, tmp_path):
    """A density is 64 draws in batches of 4, so 16 calls: the 20th is the fourth of the second density."""
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    whole = found(checkpoint, inputs)
    calls: list[int] = []
    denoise, press_at = BorrowedModel._denoise_alike, [20]

    def counted(self: Any, *arguments: Any) -> Any:
        if self.taps.anchor is None:
            calls.append(len(calls) + 1)
            if calls[-1] in press_at:
                comfy.model_management.interrupt_current_processing(True)
        return denoise(self, *arguments)

    monkeypatch.setattr(BorrowedModel, "_denoise_alike", counted)
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
        found(checkpoint, replace(inputs, identifier="zwx", class_word="heart"))
    assert steps == [1]  # its own first step
    assert len(list((tmp_path / "cones-searches").iterdir())) == 2


def test_the_bar_holds_the_measured_share_of_the_choice_of_density(monkeypatch):
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", None)
    values = []
    progress = SearchProgress()
    progress.expect(Estimate(kept=0, statistics=0, seconds_per_step=1.0, steps=30, seconds_choosing=10.0))
    for step in (Step(15, 30, 1.0, "search"), Step(30, 30, 1.0, "search"), Step(1, 2, 1.0, "choose")):
        progress(step)
        values.append(progress.bar.current)
    assert values == [375, 750, 875]
