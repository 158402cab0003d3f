"""Sample pictures during a search: drawn with the mask of their step, and without any effect on the result."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import folder_paths
import pytest
import torch
from cones_concept_neurons.cones_ops.masks.concept_mask import same_neurons
from cones_concept_neurons.cones_ops.search.find import SearchResult
from cones_concept_neurons.cones_ops.search.settings import MethodName, SearchSettings
from cones_concept_neurons.nodes import encode
from cones_concept_neurons.nodes.host import samples as sampling
from cones_concept_neurons.nodes.host.inputs import drawn
from cones_concept_neurons.nodes.host.samples import NEGATIVE, SampleDrawer, Samples, without_text
from cones_concept_neurons.nodes.host.search.find import SearchInputs, search
from PIL import Image

pytestmark = pytest.mark.slow
STEPS = 4


@pytest.fixture(scope="module")
def inputs(checkpoint: Any) -> SearchInputs:
    with torch.inference_mode():
        prompt = encode.ConesEncodePrompt.execute(checkpoint[1], "a sks cat", concepts="sks cat").args[0]
        general = encode.ConesEncodePrompt.execute(checkpoint[1], "a cat").args[0]
    latents = torch.randn(2, 48, 8, 8, generator=torch.Generator().manual_seed(1))
    return SearchInputs({"samples": latents}, prompt, None, general, "sks", "cat")


def found(
    checkpoint: Any,
    inputs: SearchInputs,
    samples: Samples | None,
    where: Any = "own tokens",
    method: MethodName = "learned",
) -> SearchResult:
    settings = SearchSettings(method, steps=STEPS, batch=4, held_out=8, rate=0.8)  # large: some end shut in few steps
    with torch.inference_mode():
        return search(checkpoint[0], inputs, "text K+V", settings, 0.02, 1.0, where=where, samples=samples)


def every_second(shown: list[Image.Image], inputs: SearchInputs, **options: Any) -> Samples:
    return Samples(2, 3.0, without_text(inputs.subject_conditioning), shown.append, **options)


@pytest.mark.parametrize(
    ("where", "method"), [("own tokens", "learned"), ("everywhere", "learned"), ("everywhere", "cones")]
)
def test_a_search_with_samples_ends_bit_for_bit_as_one_without(checkpoint, inputs, where, method):
    shown: list[Image.Image] = []
    with_samples = every_second(shown, inputs, class_prompt=inputs.class_conditioning, vae=checkpoint[2])
    plain, sampled = (found(checkpoint, inputs, samples, where, method) for samples in (None, with_samples))
    assert sampled.history == plain.history and sampled.curve == plain.curve and same_neurons(sampled.mask, plain.mask)
    assert all(torch.equal(score, plain.scores[name]) for name, score in sampled.scores.items())
    assert len(shown) == 2  # steps 2 and 4
    assert all(picture.getbbox() and len(picture.getcolors(2**20)) > 100 for picture in shown)


def test_a_sample_has_the_neurons_shut_that_are_shut_at_its_step(checkpoint, inputs, monkeypatch):
    """Scores are at least 0 exactly where a weight ended shut."""
    drawn: list[dict[Any, Any]] = []
    draw = SampleDrawer.draw

    def noted(self: SampleDrawer, label: str) -> Image.Image:
        drawn.append(dict(self.model.taps.multiplier))
        return draw(self, label)

    monkeypatch.setattr(SampleDrawer, "draw", noted)
    result = found(checkpoint, inputs, every_second([], inputs))
    second, before, last = drawn  # before the search: drawn once
    assert before == {}
    shut = {name: ~left_on for (_, name), left_on in last.items()}
    assert all(torch.equal(shut[name], score >= 0) for name, score in result.scores.items())
    assert 0 < sum(int(positions.sum()) for positions in shut.values()) < result.mask.size
    assert any(not torch.equal(left_on, last[key]) for key, left_on in second.items())


def test_a_sample_that_fails_is_one_warning_and_the_last_of_its_search(checkpoint, inputs, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(sampling, "warn", said.append)
    monkeypatch.setattr(sampling, "fits", lambda *_: 1 / 0)
    plain, broken = (
        found(checkpoint, inputs, samples) for samples in (None, every_second([], inputs, vae=checkpoint[2]))
    )
    assert said == ["No more sample pictures, the search continues: division by zero"]
    assert same_neurons(broken.mask, plain.mask) and broken.history == plain.history


def test_cancel_acts_within_a_sample(checkpoint, inputs, monkeypatch, tmp_path):
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))  # or the next test resumes here
    calls: list[str] = []
    guided = SampleDrawer.guided

    def press_cancel(self: SampleDrawer, *arguments: Any) -> Any:
        calls.append("guided")
        comfy.model_management.interrupt_current_processing(True)
        return guided(self, *arguments)

    monkeypatch.setattr(SampleDrawer, "guided", press_cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        found(checkpoint, inputs, every_second([], inputs))
    assert calls == ["guided"]


def test_without_a_vae_or_room_for_it_a_sample_is_a_latent_preview(checkpoint, inputs, monkeypatch):
    shown: list[Image.Image] = []
    found(checkpoint, inputs, every_second(shown, inputs))
    assert sampling.fits(checkpoint[2], (1, 48, 8, 8))
    with monkeypatch.context() as full:
        full.setattr(comfy.model_management, "get_free_memory", lambda *_: 0)
        assert not sampling.fits(checkpoint[2], (1, 48, 8, 8))
    monkeypatch.setattr(sampling, "fits", lambda *_: False)
    again: list[Image.Image] = []
    found(checkpoint, inputs, every_second(again, inputs, vae=checkpoint[2]))
    assert [picture.tobytes() for picture in again] == [picture.tobytes() for picture in shown] and len(shown) == 2


def test_the_negative_prompt_has_no_text_and_no_own_tokens(inputs):
    ((text, extra),) = without_text(inputs.subject_conditioning)
    assert not text.any() and text.shape == inputs.subject_conditioning[0][0].shape
    assert set(inputs.subject_conditioning[0][1]) - set(extra) == {"cones_token_places"}
    assert without_text(None) == [] and NEGATIVE not in Samples(2, 3.0, [], print).conditionings


def test_cancel_while_a_figure_is_drawn_cancels_the_node() -> None:
    def cancelled() -> Any:
        raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        drawn(cancelled)
    figure, trouble = drawn(lambda: 1 / 0)
    assert figure.shape == (400, 640, 3) and trouble == "no figure: division by zero"
