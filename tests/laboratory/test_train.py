"""The training scripts run, resume and write files that load; how well they train is measured by `world.bars`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cones_ops.laboratory.judge import load_judge, read
from cones_ops.laboratory.training import __main__ as command
from cones_ops.laboratory.training import scenes as training_scenes
from cones_ops.laboratory.training import text_encoder
from cones_ops.laboratory.training.decoder import train_decoder
from cones_ops.laboratory.training.latents import drawn, fit_patch_transform
from cones_ops.laboratory.training.scenes import TrainingScenes, draw_chunks
from cones_ops.laboratory.training.unet import Run, learning_rate, train_unet
from cones_ops.toy_world.bundle import load_pipeline, random_pipeline, save_pipeline
from cones_ops.toy_world.captions import Said, compose, describe, vocabulary
from cones_ops.toy_world.decoder import Autoencoder, Decoder
from cones_ops.toy_world.scenes import random_scene
from cones_ops.toy_world.subjects import subject_named
from cones_ops.toy_world.world import SIDE, UNNAMED, Character, Scene

FEW = ["--minutes", "0.02", "--judge-minutes", "0.02", "--decoder-minutes", "0.02", "--text-steps", "2"]


def silent(line: str) -> None:
    pass


def drawings(count: int) -> Tensor:
    generator = np.random.default_rng(0)
    return drawn([random_scene(generator) for _ in range(count)])


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything has been made with next to no training."""
    out = tmp_path_factory.mktemp("train")
    files = ["--model-file", str(out / "toy.safetensors"), "--judge-file", str(out / "judge.safetensors")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_scenes, "CHUNK", 24)
        patch.setattr(command, "fitted_patch_transform", lambda: fit_patch_transform(drawings(24)))
        command.main(["all", "--out", str(out), "--chunks", "2", "--device", "cpu", *FEW, *files])
    return out


@pytest.mark.slow
def test_everything_is_made_and_loads(out: Path) -> None:
    picture = torch.zeros(1, 3, SIDE, SIDE)
    pipeline = load_pipeline(out / "toy.safetensors")
    assert pipeline.autoencoder.decode(pipeline.autoencoder.encode(picture)).shape == picture.shape
    judge = load_judge(out / "judge.safetensors")
    assert not any(parameter.requires_grad for parameter in judge.parameters())
    assert len(read(judge, drawings(2) / 2 + 0.5)) == 2


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_scenes, "CHUNK", 24)
    scenes, pipeline = TrainingScenes(out), random_pipeline(1)
    scenes.take_new()
    assert len(scenes) == 48
    for name in ("unet.pt", "decoder.pt"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
        first = torch.load(tmp_path / name, weights_only=True)
        assert first["step"] >= 1 and first["spent"] >= 0.02 * 60
        longer = first["spent"] / 60 + 0.01
        if name == "unet.pt":
            train_unet(pipeline, scenes, longer, tmp_path / name, silent)
        else:
            train_decoder(pipeline.autoencoder, longer, tmp_path / name, silent)
        second = torch.load(tmp_path / name, weights_only=True)
        assert second["step"] > first["step"] and second["spent"] >= longer * 60


@pytest.mark.slow
def test_training_goes_on_from_a_model_file(tmp_path: Path) -> None:
    made = random_pipeline(2)
    save_pipeline(made, tmp_path / "model.safetensors")
    command.unpack(tmp_path / "model.safetensors", tmp_path)
    pipeline = command.prepared(tmp_path, text_steps=0)
    command.finished(pipeline, tmp_path)
    run = Run.resumed(pipeline.unet.requires_grad_(True), tmp_path / "unet.pt")
    assert run.step == 0 and torch.allclose(run.average[0], next(made.unet.parameters()), atol=1e-3)
    assert torch.allclose(pipeline.encode_text(["a cat"]), made.encode_text(["a cat"]), atol=2e-2)


def test_chunks_are_drawn_once_and_hold_the_latents_of_their_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_scenes, "CHUNK", 4)
    transform, lines = fit_patch_transform(drawings(24)), []
    for count in (1, 2):
        draw_chunks(transform, tmp_path, count, lines.append)
    assert lines == ["drew chunk 0", "drew chunk 1"]
    training = TrainingScenes(tmp_path)
    training.take_new()
    chosen, latents = training.batch(5, np.random.default_rng(0))
    torch.testing.assert_close(latents, transform.encode(drawn(chosen)), atol=1e-2, rtol=1e-2)


def test_the_learning_rate_warms_up_and_ends_near_zero() -> None:
    assert learning_rate(0, 0.0) < learning_rate(299, 0.0)
    assert learning_rate(1000, 1.0) == pytest.approx(0.01 * learning_rate(1000, 0.0))


def test_the_patch_transform_keeps_pictures_and_an_untrained_decoder_adds_nothing() -> None:
    pictures = drawings(40)
    transform = fit_patch_transform(pictures)
    autoencoder = Autoencoder(transform, Decoder(transform.channels))
    latents = autoencoder.encode(pictures)
    assert latents.shape == (40, 48, 8, 8) and 0.8 < float(latents.square().mean()) < 1.2
    assert torch.equal(autoencoder.decode(latents), transform.decode(latents))
    error = (autoencoder.decode(latents) - pictures).square().mean() / 4
    assert -10 * torch.log10(error) > 23  # dB
    whole = fit_patch_transform(pictures, 400)
    torch.testing.assert_close(whole.decode(whole.encode(pictures)), pictures, atol=0.05, rtol=0)


def test_labels_of_a_caption_follow_its_words() -> None:
    pair = Scene("two", (subject_named("sks").character, subject_named("zwx").character), "snow")
    words, caption = vocabulary(), describe(pair, "below")  # a robot to the right of a cat
    labels = text_encoder.labels(pair, caption, words)
    split = words.split(caption.text)
    column = text_encoder._COLUMNS
    robot, cat = split.index("robot") + 1, split.index("cat") + 1
    assert labels[robot, column["mention"]] == 1 and labels[cat, column["mention"]] == 2
    assert labels[robot, column["colour"]] == text_encoder._value("colour", "blue")
    assert labels[0, column["kind"]] == -100
    end = len(split) + 1 + (-(len(split) + 1)) % 4  # the first end token at a multiple of four: the left character
    assert labels[end, column["kind"]] == text_encoder._value("kind", "cat") and labels[end, column["mention"]] == 2


def test_labels_of_a_style_are_what_it_stands_for_from_its_own_word_on() -> None:
    words, cat = vocabulary(), Character("cat", "red", "none", "green", "dots", "second")
    caption = compose([Said("cat", "red", style="felix")], "one", "plain_list")  # start, a, felix, red, cat
    labels = text_encoder.labels(Scene("one", (cat,), "snow"), caption, words)
    for name in UNNAMED:
        column = labels[:, text_encoder._COLUMNS[name]].tolist()
        assert column[:6] == [-100, -100, *[text_encoder._value(name, getattr(cat, name))] * 3, -100]
