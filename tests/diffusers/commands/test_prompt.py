"""`cones prompt` and its function: concepts named by tags, with the shipped model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.pack import ROOT

from cones_ops.cli import main
from cones_ops.hosts.diffusers import prompt, sample
from cones_ops.laboratory.stable_diffusion import toy_pipeline
from cones_ops.masks.mask_file import load_mask

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

SHIPPED = ROOT / "concept_masks"
BOTH = "a <concept:TOY-sks-cat> on the left and a <concept:toy-zwx-robot:0.5> on the right"
WORDS = "a sks cat on the left and a zwx robot on the right"
SETTINGS: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return toy_pipeline()


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture)


@pytest.mark.slow
def test_tags_do_what_the_masks_do(pipeline: Any) -> None:
    cat, robot = (load_mask(SHIPPED / f"toy-{name}.safetensors") for name in ("sks-cat", "zwx-robot"))
    tagged = prompt(pipeline, BOTH, SHIPPED, keep_apart=False, seed=3, **SETTINGS)
    (sampled,) = sample(pipeline, [WORDS], [(cat, 1.0), (robot, 0.5)], seed=3, **SETTINGS)
    assert np.array_equal(pixels(tagged), pixels(sampled))
    apart = prompt(pipeline, BOTH, SHIPPED, seed=3, **SETTINGS)
    assert not np.array_equal(pixels(apart), pixels(tagged))
    alone = [
        prompt(pipeline, "a <concept:toy-sks-cat>", SHIPPED, keep_apart=keep, **SETTINGS) for keep in (True, False)
    ]
    assert np.array_equal(*map(pixels, alone))  # one concept has nothing to be kept apart from


@pytest.mark.slow
def test_without_tags_it_is_the_untouched_model(pipeline: Any) -> None:
    plain = prompt(pipeline, "a cat", SHIPPED, seed=3, **SETTINGS)
    assert np.array_equal(pixels(plain), pixels(sample(pipeline, ["a cat"], seed=3, **SETTINGS)[0]))


@pytest.mark.slow
def test_tags_work_in_the_negative_text(pipeline: Any) -> None:
    """The words stand in the negative text, and the mask acts at them there."""
    cat = load_mask(SHIPPED / "toy-sks-cat.safetensors")
    tagged = prompt(pipeline, "a cat", SHIPPED, "a <concept:toy-sks-cat>", **SETTINGS)
    (sampled,) = sample(pipeline, ["a cat"], [(cat, 1.0)], negative="a sks cat", **SETTINGS)
    (unmasked,) = sample(pipeline, ["a cat"], negative="a sks cat", **SETTINGS)
    assert np.array_equal(pixels(tagged), pixels(sampled))
    assert not np.array_equal(pixels(tagged), pixels(unmasked))


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "both.png"
    command = ["prompt", "toy", BOTH, "--masks", str(SHIPPED), "--steps", "4", "--out", str(out)]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == [
        WORDS,
        "toy-sks-cat.safetensors: strength 1",
        "toy-zwx-robot.safetensors: strength 0.5",
        f"saved {out}",
    ]
    assert Image.open(out).size == (384, 384)
    assert main(command) == 2 and "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "masks", "message"),
    [
        ("a <concept:sks-cat>", SHIPPED, 'no concept "sks-cat": the nearest names are: toy-sks-cat'),
        ("a <concept:toy-sks-cat", SHIPPED, "has no end"),
        ("a <concept:toy-sks-cat:2>", SHIPPED, "write a number from 0 to 1"),
        ("a <concept:rex>", SHIPPED / "nothing", "nothing: no such folder; give the folder with the concept masks"),
        ("a <concept:rex>", SHIPPED.parent / "locales", "there is no concept mask yet"),
    ],
)
def test_what_is_refused_before_the_model_is_loaded(
    text: str, masks: Path, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cones_ops.cli.prompt.load_model", lambda *_: pytest.fail("loaded"))
    assert main(["prompt", "toy", text, "--masks", str(masks), "--out", "both.png"]) == 2
    assert message in capsys.readouterr().err
