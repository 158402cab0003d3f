"""`cones find` and `cones apply` on a tiny Stable Diffusion pipeline with random weights, saved by diffusers."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cones_ops import cli
from cones_ops.errors import ConesError
from cones_ops.hosts.diffusers import pipeline as host
from cones_ops.hosts.diffusers.loading import load
from cones_ops.masks.concept_mask import ConceptMask
from cones_ops.masks.mask_file import load_mask, save_mask
from cones_ops.search.joint import TuneResult
from cones_ops.search.resume import resuming

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


def test_own_tokens_of_a_caption(model: Path) -> None:
    (row,) = host.conditioning(load(model), ["a photo of a sks star"], [("sks", "star")])
    ids = host.token_ids(load(model), "a photo of a sks star")
    assert [ids[i] for i in row.own[0].nonzero().flatten().tolist()] == [53, 56]
    with pytest.raises(ConesError, match="does not contain"):
        host.conditioning(load(model), ["a star"], [("sks", "star")])


def test_a_phrase_brackets_and_the_old_rule(model: Path) -> None:
    pipeline, concept = load(model), [("sks", "star")]
    text = "a photo of a sks star on the left"
    (phrase,) = host.conditioning(pipeline, [text], concept)
    (old,) = host.conditioning(pipeline, [text], concept, ["identifier + class word"])
    (all_own,) = host.conditioning(pipeline, [f"[{text}]"], concept)
    assert old.own.sum() == 2 and phrase.own.sum() > old.own.sum()
    assert all_own.own.sum() > phrase.own.sum() and torch.equal(all_own.hidden, phrase.hidden)
    assert host.own_words_in([text, text, "a sks star"], concept[0]) == "phrase: sks star on the left, sks star"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["own tokens", "everywhere"])
def test_find_then_apply(model: Path, pictures: Path, tmp_path: Path, where: str, capsys: Any) -> None:
    mask = tmp_path / "sks.safetensors"
    find = ["find", str(model), str(pictures), "--class-word", "star", "--out", str(mask), "--where", where]
    assert cli.main([*find, "--steps", "2", "--batch", "32", "--size", "16", "--density", "0.3"]) == 0
    assert load_mask(mask).where == where
    estimate = r"for 2 steps and \d+ s to choose the density; memory beyond the model: "
    assert re.search(estimate, capsys.readouterr().out)  # printed before the search starts
    out = tmp_path / "out"
    prompts = ["--prompt", "a sks star", "--prompt", "a star"]
    assert cli.main(["apply", str(model), str(mask), *prompts, "--steps", "2", "--out", str(out), "--size", "16"]) == 0
    read = {file.stem: np.asarray(Image.open(file)) for file in out.iterdir()}
    assert set(read) == {"00-vanilla", "00-masked", "01-vanilla", "01-masked"}
    unchanged = np.array_equal(read["01-vanilla"], read["01-masked"])
    assert unchanged == (where == "own tokens")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["own tokens", "everywhere"])
@pytest.mark.parametrize("falls", [True, False])
def test_tune_masks_together(
    model: Path, pictures: Path, tmp_path: Path, where: str, falls: bool, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tuned masks are saved if the joint loss falls, here by decree."""
    monkeypatch.setattr(TuneResult, "tuned", property(lambda result: falls))
    files = []
    for word in ("sks", "zwx"):
        files.append(tmp_path / f"{word}.safetensors")
        find = ["find", str(model), str(pictures), "--class-word", "star", "--identifier", word, "--where", where]
        small = ["--steps", "2", "--batch", "8", "--size", "16", "--density", "0.3"]
        assert cli.main([*find, *small, "--out", str(files[-1])]) == 0
    before = [file.read_bytes() for file in files]
    concepts = [part for file in files for part in ("--concept", str(file), str(pictures))]
    tune = ["tune", str(model), *concepts, "--steps", "4", "--batch", "2", "--size", "16", "--out"]
    assert cli.main([*tune, str(tmp_path / "tuned")]) == 0
    tuned = sorted(file.name for file in (tmp_path / "tuned").glob("*"))
    assert re.search(r"for 4 steps and \d+ s to choose the density; memory beyond", capsys.readouterr().out)
    assert tuned == ["sks.safetensors", "zwx.safetensors"] * falls
    assert [file.read_bytes() for file in files] == before
    assert cli.main([*tune, str(tmp_path)]) == 2  # would overwrite


@pytest.mark.slow
def test_a_stopped_command_resumes_and_ends_with_the_same_mask(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Ctrl-C in the step after the third; the states are written after each step here."""
    find = ["find", str(model), str(pictures), "--class-word", "star", "--steps", "5", "--batch", "2", "--size", "16"]
    find += ["--density", "0.3", "--out"]
    assert cli.main([*find, str(tmp_path / "whole.safetensors")]) == 0
    monkeypatch.setattr("cones_ops.cli.find.resuming", partial(resuming, seconds=0.0))
    gradients, calls = host.DiffusersModel.gradients, 0

    def pressed(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 7:  # after three for the estimate
            raise KeyboardInterrupt
        return gradients(*arguments)

    monkeypatch.setattr(host.DiffusersModel, "gradients", pressed)
    mask = tmp_path / "out" / "sks.safetensors"
    assert cli.main([*find, str(mask)]) == 130
    assert [file.suffix for file in mask.parent.iterdir()] == [".cones-state"]
    assert cli.main([*find, str(mask)]) == 0 and calls == 7 + 3 + 2  # the estimate again, and steps 4 and 5
    assert [file.name for file in mask.parent.iterdir()] == ["sks.safetensors"]
    assert mask.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "no model_index.json"),
        ("{", "not the index of a model"),
        ('{"_class_name": "FluxPipeline"}', "a FluxPipeline; SD 1.x, SD 2.x and SDXL"),
        (
            '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}',
            "cannot be loaded",
        ),
    ],
)
def test_a_broken_model_folder_is_named(tmp_path: Path, index: str | None, message: str) -> None:
    if index:
        (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(ConesError, match=message):
        load(tmp_path)


def test_a_prompt_without_the_masks_words_is_said(model: Path, tmp_path: Path, capsys: Any) -> None:
    """Also before the vanilla picture is sampled: the mask is of other weights, so nothing is written."""
    shapes = {name: tuple(w.shape) for name, w in host.host_model(load(model)).base_weights.items()}
    file = save_mask(ConceptMask({}, shapes, "sks", "star", "own tokens", "0" * 64), tmp_path / "other.safetensors")
    prompts = ["--prompt", "a sks star", "--prompt", "a star", "--out", str(tmp_path / "out")]
    assert cli.main(["apply", str(model), str(file), *prompts]) == 2
    printed = capsys.readouterr()
    assert "note: 'a star' does not name 'sks'" in printed.out and "'a sks star' does not" not in printed.out
    assert "any_base" in printed.err and not (tmp_path / "out").exists()


def test_masks_of_another_model_are_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = {name: tuple(w.shape) for name, w in host.host_model(load(model)).base_weights.items()}
    file = tmp_path / "other.safetensors"
    save_mask(ConceptMask({}, shapes, "sks", "star", "own tokens", "0" * 64), file)
    assert cli.main(["apply", str(model), str(file), "--prompt", "a sks star", "--out", str(tmp_path)]) == 2
    assert "any_base" in capsys.readouterr().err


def test_wrong_folders_are_named(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    find = ["--class-word", "star", "--out", str(tmp_path / "x.safetensors")]
    assert cli.main(["find", str(model), str(tmp_path), *find]) == 2
    assert "no pictures" in capsys.readouterr().err
    (tmp_path / "a.png").write_bytes(b"")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert cli.main(["find", str(tmp_path), str(tmp_path), *find]) == 2
    assert "model_index.json" in capsys.readouterr().err
