"""The word `toy` stands for the shipped model wherever a command takes a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cones_ops.cli import main, models
from cones_ops.laboratory.stable_diffusion import save_pictures
from cones_ops.masks.mask_file import load_mask
from cones_ops.search.joint import TuneResult

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

FEW = ["--steps", "2", "--batch", "4"]


@pytest.mark.slow
def test_find_tune_and_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In two steps each; tuned masks are saved if the joint loss falls, here by decree."""
    monkeypatch.setattr(TuneResult, "tuned", property(lambda result: True))
    monkeypatch.chdir(tmp_path)
    for identifier, class_word in (("sks", "cat"), ("zwx", "robot")):
        words = ["--identifier", identifier, "--class-word", class_word, "--out", f"{identifier}.safetensors"]
        assert main(["find", "toy", identifier, *words, *FEW, "--density", "0.1"]) == 0
    assert load_mask(tmp_path / "sks.safetensors").provenance["own_tokens"] == "phrase: sks cat"
    concepts = ["--concept", "sks.safetensors", "sks", "--concept", "zwx.safetensors", "zwx"]
    assert main(["tune", "toy", *concepts, *FEW, "--out", "tuned"]) == 0
    prompts = ["--prompt", "a sks cat and a zwx robot", "--prompt", "a cat"]
    assert main(["apply", "toy", "tuned/sks.safetensors", "tuned/zwx.safetensors", *prompts, "--steps", "2"]) == 0
    pixels = {file.stem: np.asarray(Image.open(file)) for file in Path("samples").iterdir()}
    assert pixels["00-vanilla"].shape == (384, 384, 3)  # 96 pixels four times as large
    assert not np.array_equal(pixels["00-vanilla"], pixels["00-masked"])
    assert np.array_equal(pixels["01-vanilla"], pixels["01-masked"])


@pytest.mark.slow
def test_find_many(tmp_path: Path) -> None:
    save_pictures("sks", tmp_path / "pictures" / "sks")
    command = ["find-many", str(tmp_path / "pictures"), "--model", "toy", "--class-word", "cat", *FEW]
    more = ["--density", "0.1", "--workers", "1", "--sheet-steps", "1", "--out", str(tmp_path / "masks")]
    assert main([*command, *more]) == 0
    assert load_mask(tmp_path / "masks" / "sks.safetensors").count == 18_022  # a tenth of 180,224 weights
    assert main([*command, *more]) == 0


def test_the_subjects_are_named_where_a_folder_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", "toy", "sk", "--class-word", "cat", "--out", "m.safetensors"]) == 2
    assert (
        "sk: no such folder; give a folder of pictures, or one of toy's subjects: sks, zwx" in capsys.readouterr().err
    )


def test_a_folder_with_a_model_named_toy_is_that_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").mkdir()
    assert models.is_toy(Path("toy")) and not models.is_toy(Path("elsewhere/toy"))
    for kind, size in (("StableDiffusionPipeline", 512), ("StableDiffusionXLPipeline", 1024)):
        (tmp_path / "toy" / "model_index.json").write_text(json.dumps({"_class_name": kind}))
        assert not models.is_toy(Path("toy"))
        assert models.defaults_of(Path("toy")).size == size
