"""docs/tutorials/python.md: its very lines are run, in few steps. And the toy world as a StableDiffusionPipeline."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from cones_ops.errors import ConesError
from cones_ops.hosts.diffusers import concepts
from cones_ops.hosts.diffusers import pipeline as host
from cones_ops.laboratory import sampling
from cones_ops.laboratory.references import alone
from cones_ops.laboratory.stable_diffusion import save_pictures, toy_pipeline
from cones_ops.masks.concept_mask import ConceptMask, same_neurons
from cones_ops.toy_world.bundle import load_pipeline
from cones_ops.toy_world.subjects import subject_named
from cones_ops.toy_world.world import BACKGROUNDS

PAGE = Path(__file__).absolute().parents[2] / "docs" / "tutorials" / "python.md"
TOY, REAL, FILES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Searches of 2 steps and an empty working folder."""
    own, joint = concepts.recommended, concepts.tuning
    monkeypatch.setattr(concepts, "recommended", lambda where: replace(own(where), steps=2, batch=4, held_out=4))
    monkeypatch.setattr(concepts, "tuning", lambda: replace(joint(), steps=2, batch=2, held_out=4))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_about_ten_lines() -> None:
    lines = [line for line in TOY.splitlines() if line and not line.startswith("from")]
    assert len(lines) <= 10


@pytest.mark.slow
def test_the_first_and_the_last_block_run(few_steps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(TOY, names)  # noqa: S102 - the documentation's own text
    picture = Image.open(few_steps / "both.png")
    assert picture.size == (512, 512) and np.asarray(picture).std() > 10
    given = [mask if mask.count else some(mask) for mask in names["masks"]]  # two steps may find nothing
    names["masks"] = given
    exec(FILES, names)  # noqa: S102
    assert sorted(file.name for file in few_steps.glob("*.safetensors")) == ["sks.safetensors", "zwx.safetensors"]
    assert same_neurons(names["cat"], given[0]) and names["both"].identifier == "sks+zwx"
    assert "of 180224 neurons" in capsys.readouterr().out


def some(mask: ConceptMask) -> ConceptMask:
    first = min(mask.shapes)
    return replace(mask, index={first: torch.arange(len(mask.identifier), 9)})


@pytest.mark.slow
def test_the_block_for_a_real_model_runs_on_a_small_one(few_steps: Path, model: Path, pictures: Path) -> None:
    text = REAL.replace('"stable-diffusion-v1-5", device="cuda"', repr(str(model)))
    for words, small in (("dog", "star"), ("cat", "heart")):
        text = text.replace(f'read_pictures("pictures/{words}")', f"read_pictures({str(pictures)!r}, size=16)")
        text = text.replace(words, small)
    assert text.count(str(pictures)) == 2 and "cuda" not in text
    exec(text.replace("seed=1", "seed=1, num_inference_steps=2, height=16, width=16"), {})  # noqa: S102
    assert Image.open(few_steps / "both.png").size == (16, 16)


@pytest.mark.slow
def test_a_pipeline_of_the_toy_world_samples_what_the_toy_world_samples() -> None:
    toy = load_pipeline()
    pipeline = toy_pipeline(toy)
    for text in ("a sks cat on the left and a zwx robot on the right", "An  orange, GRAY unheard-of thing", "a " * 80):
        assert host.token_ids(pipeline, text) == toy.vocabulary.encode(text)
    prompts = ["a red cat wearing a hat at night", "a zwx robot"]
    ours = sampling.sample(toy, prompts, steps=8, guidance=3.0)  # (2, 3, 96, 96)
    theirs = host.sample(pipeline, prompts, guidance_scale=3.0, num_inference_steps=8)
    theirs = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) / 255 for one in theirs])
    assert (ours - theirs).abs().mean() < 0.004  # half a level of rounding is 0.002


def test_pictures_survive_the_folder(tmp_path: Path) -> None:
    read = concepts.read_pictures(save_pictures("sks", tmp_path / "deep" / "cat"), size=96)
    drawn, _ = alone(subject_named("sks"))
    order = sorted(range(6), key=lambda i: BACKGROUNDS[i])  # by background, as every subject's
    assert read.shape == (6, 3, 96, 96) and (read - drawn[order]).abs().max() <= 0.5 / 255 + 1e-6
    with pytest.raises(ConesError, match="no pictures"):
        concepts.read_pictures(tmp_path)


def test_what_is_refused() -> None:
    pictures = torch.zeros(1, 3, 96, 96)
    with pytest.raises(ConesError, match="where the concept"):
        concepts.Concept("sks", "cat", pictures, "a photo")
    cat, robot = concepts.Concept("sks", "cat", pictures), concepts.Concept("zwx", "robot", pictures)
    masks = [ConceptMask({}, {}, one.identifier, one.class_word, "own tokens") for one in (cat, robot)]
    with pytest.raises(ConesError, match="masks of zwx robot, sks cat but concepts sks cat, zwx robot"):
        concepts.tune(None, masks[::-1], [cat, robot])
    with pytest.raises(ConesError, match="two or more"):
        concepts.tune(None, masks[:1], [cat])
