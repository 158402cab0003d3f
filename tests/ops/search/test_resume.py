"""A search that is stopped at any step and started again ends as one that was not, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cones_ops import (
    ConesError,
    Examples,
    SearchSettings,
    Step,
    digest,
    find_concept_neurons,
    resuming,
    tune_concept_masks,
    tuning,
)
from cones_ops.masks.concept_mask import same_neurons
from cones_ops.search.joint import UnionModel
from cones_ops.search.resume import SUFFIX


class StoppedError(Exception):
    pass


def stopping_after(count: int):
    """An on_step that stops the search when it has heard of `count` steps."""
    heard = 0

    def on_step(step: Step) -> None:
        nonlocal heard
        heard += 1
        if heard == count:
            raise StoppedError

    return on_step


def problem(toy_host: type):
    generator = torch.Generator().manual_seed(2)
    model = toy_host(torch.randn(8, 12, generator=generator), torch.eye(8), where="everywhere", skip=0.1)
    captions = torch.randn(6, 12, generator=generator)
    pictures = torch.randn(6, 8, 1, 1, generator=generator)
    return model, Examples(pictures, [(c, True) for c in captions]), Examples(pictures, [(captions[0], False)])


def find(model, subject, prior, **more):
    more = {"settings": SearchSettings(steps=12, batch=4, held_out=4), "identifier": "sks", "class_word": "star"} | more
    return find_concept_neurons(model, subject, prior, distill=True, **more)


def alike(first, second) -> bool:
    return same_neurons(first, second) and first.provenance == second.provenance


@pytest.mark.parametrize("method", ["learned", "cones", "taylor"])
@pytest.mark.parametrize("stop", [1, 7, 12, 13, 20])
def test_a_stopped_search_ends_as_one_that_was_not(method: str, stop: int, toy_host: type, tmp_path: Path) -> None:
    """12 steps, then at least 17 densities: step 13 is the first density, 20 the eighth."""
    settings = SearchSettings(method, steps=12, batch=4, held_out=4)
    whole = find(*problem(toy_host), settings=settings)
    with pytest.raises(StoppedError), resuming(tmp_path / "states") as resume:
        find(*problem(toy_host), settings=settings, resume=resume, on_step=stopping_after(stop))
    assert [file.suffix for file in (tmp_path / "states").iterdir()] == [SUFFIX]
    steps: list[Step] = []
    with resuming(tmp_path / "states") as resume:
        again = find(*problem(toy_host), settings=settings, resume=resume, on_step=steps.append)
        assert len(list((tmp_path / "states").iterdir())) == 1  # until the result is saved
    assert alike(again.mask, whole.mask) and again.history == whole.history and again.curve == whole.curve
    assert all(torch.equal(again.scores[name], whole.scores[name]) for name in whole.scores)
    first = (stop + 1, "search") if stop < 12 else (stop - 11, "choose")
    assert (steps[0].step, steps[0].phase) == first and not (tmp_path / "states").exists()


@pytest.mark.parametrize("method", ["learned", "cones", "taylor"])
@pytest.mark.parametrize("share", [0.3, 0.95])
def test_a_search_stopped_within_a_step_or_a_density_loses_that_one_only(
    method: str, share: float, toy_host: type, tmp_path: Path
) -> None:
    """share: of all calls of the model; .95 of them is in the choice of density."""
    settings = SearchSettings(method, steps=12, batch=4, held_out=16)
    calls: list[int] = []

    def counted(stop: int = 0):
        model, subject, prior = problem(toy_host)
        denoise = model.denoise

        def counting(*inputs):
            calls.append(len(calls) + 1)
            if calls[-1] == stop:
                raise StoppedError
            return denoise(*inputs)

        model.denoise = counting
        return model, subject, prior

    whole = find(*counted(), settings=settings)
    total = len(calls)
    calls.clear()
    before: list[Step] = []
    with pytest.raises(StoppedError), resuming(tmp_path) as resume:
        find(*counted(int(total * share)), settings=settings, resume=resume, on_step=before.append)
    after: list[Step] = []
    with resuming(tmp_path) as resume:
        again = find(*problem(toy_host), settings=settings, resume=resume, on_step=after.append)
    assert (after[0].step, after[0].phase) == (before[-1].step + 1, before[-1].phase)
    assert before[-1].phase == ("search" if share == 0.3 else "choose")
    assert alike(again.mask, whole.mask) and again.curve == whole.curve


def test_a_state_is_taken_up_by_the_same_search_only(toy_host: type, tmp_path: Path) -> None:
    model, subject, prior = problem(toy_host)
    with pytest.raises(StoppedError), resuming(tmp_path) as resume:
        find(model, subject, prior, resume=resume, on_step=stopping_after(5))
    brighter = Examples(subject.latents + 1, subject.conditioning)
    others = [
        {"subject": brighter},
        {"prior": Examples(prior.latents, [(torch.ones(12), False)])},
        {"density": 0.1},
        {"settings": SearchSettings(steps=12, batch=4, held_out=4, seed=1)},
        {"inputs": "another VAE"},
    ]
    for change in others:
        steps: list[Step] = []
        inputs = change.pop("inputs", None)
        with resuming(tmp_path, inputs) as resume:
            find(model, **{"subject": subject, "prior": prior, "resume": resume, "on_step": steps.append} | change)
        assert steps[0].step == 1
    steps = []
    with resuming(tmp_path) as resume:
        find(model, subject, prior, resume=resume, on_step=steps.append)
    assert steps[0].step == 6


def test_a_finished_search_is_not_searched_again_before_its_states_are_removed(toy_host: type, tmp_path: Path) -> None:
    """The demo runs several searches under one `resuming`: those that are done are taken from their states."""
    with pytest.raises(StoppedError), resuming(tmp_path) as resume:
        whole = find(*problem(toy_host), resume=resume)
        raise StoppedError
    steps: list[Step] = []
    with resuming(tmp_path) as resume:
        again = find(*problem(toy_host), resume=resume, on_step=steps.append)
    assert not steps and alike(again.mask, whole.mask) and again.curve == whole.curve


@pytest.mark.parametrize("stop", [1, 9, 10])
def test_joint_steps_resume(stop: int, toy_host: type, tmp_path: Path) -> None:
    model, subject, prior = problem(toy_host)
    masks = [
        replace(find(model, subject, prior, density=d).mask, identifier=name) for d, name in ((0.1, "a"), (0.2, "b"))
    ]
    settings = replace(tuning(), steps=10, batch=4, held_out=8)

    def tune(**more):
        return tune_concept_masks(
            UnionModel(model, 2), masks, [subject, subject], None, prior, settings=settings, **more
        )

    whole = tune()
    with pytest.raises(StoppedError), resuming(tmp_path / "states") as resume:
        tune(resume=resume, on_step=stopping_after(stop))
    with resuming(tmp_path / "states") as resume:
        again = tune(resume=resume)
    assert again.history == whole.history and (again.before, again.after) == (whole.before, whole.after)
    assert all(alike(*pair) for pair in zip(again.masks, whole.masks, strict=True))


def test_states_are_written_by_the_clock_and_after_a_crash_the_last_one_counts(toy_host: type, tmp_path: Path) -> None:
    """seconds=0: after every step. The loss fails in step 8, so 7 steps are kept."""
    whole = find(*problem(toy_host))
    model, subject, prior = problem(toy_host)
    gradients, calls = model.gradients, 0

    def failing(loss):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise StoppedError
        return gradients(loss)

    model.gradients = failing
    with pytest.raises(StoppedError), resuming(tmp_path, seconds=0) as resume:
        find(model, subject, prior, resume=resume)
    steps: list[Step] = []
    with resuming(tmp_path, seconds=0) as resume:
        again = find(*problem(toy_host), resume=resume, on_step=steps.append)
    assert steps[0].step == 8 and alike(again.mask, whole.mask)


def test_a_damaged_state_means_a_search_from_the_beginning(toy_host: type, tmp_path: Path) -> None:
    with pytest.raises(StoppedError), resuming(tmp_path) as resume:
        find(*problem(toy_host), resume=resume, on_step=stopping_after(5))
    (state,) = tmp_path.glob(f"*{SUFFIX}")
    state.write_bytes(state.read_bytes()[:-1])
    steps: list[Step] = []
    with resuming(tmp_path) as resume:
        find(*problem(toy_host), resume=resume, on_step=steps.append)
    assert steps[0].step == 1 and not state.exists()


def test_a_state_that_cannot_be_written_costs_nothing_else(toy_host: type, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with resuming(tmp_path / "file", seconds=0) as resume:
        result = find(*problem(toy_host), resume=resume)
    assert result.history == find(*problem(toy_host)).history and (tmp_path / "file").read_text() == "no folder"


def test_a_digest_tells_values_apart_and_refuses_what_it_cannot_read() -> None:
    ones = torch.ones(2, 2)
    values = [
        ones,
        ones.bfloat16(),
        ones.reshape(4),
        ones * 2,
        "1",
        1,
        1.0,
        True,
        None,
        [1, 2],
        [[1], 2],
        {"a": 1},
        {"b": 1},
    ]
    assert len({digest(value) for value in values}) == len(values) and len(digest(ones)) == 32
    assert digest({"a": 1, "b": ones}) == digest({"b": torch.ones(2, 2), "a": 1})
    with pytest.raises(ConesError, match="depends on a object cannot be resumed"):
        digest(object())


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[1:4]
from conftest import ToyHost
from test_resume import find, problem
from cones_ops import resuming

def on_step(step):
    if step.phase == sys.argv[5] and step.step == int(sys.argv[6]):
        os.kill(os.getpid(), signal.SIGKILL)

with resuming(sys.argv[4], seconds=0) as resume:
    find(*problem(ToyHost), resume=resume, on_step=on_step)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills a process by a signal")
@pytest.mark.parametrize("phase", ["search", "choose"])
def test_a_killed_search_ends_as_one_that_was_not(phase: str, toy_host: type, tmp_path: Path) -> None:
    tests = Path(__file__).absolute().parent
    stop = random.Random(phase).randrange(2, 12)
    folders = [str(folder) for folder in (tests.parents[2], tests.parent, tests, tmp_path / "states")]
    command = [sys.executable, "-c", KILLED, *folders, phase, str(stop)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    steps = []
    with resuming(tmp_path / "states") as resume:
        resumed = find(*problem(toy_host), resume=resume, on_step=steps.append)
    assert (steps[0].phase, steps[0].step) == (phase, stop + 1)
    assert alike(resumed.mask, find(*problem(toy_host)).mask)
