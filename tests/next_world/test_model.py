"""The model in one file, its loader, sampling, the judge's rules and short trainings, all with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cones_ops.laboratory.next_world.control import fine_tune_own_tokens
from cones_ops.laboratory.next_world.judge import Judge, Reading, fulfils, load_judge, read, shows
from cones_ops.laboratory.next_world.measure import Share
from cones_ops.laboratory.next_world.references import references
from cones_ops.laboratory.next_world.sampling import sample
from cones_ops.laboratory.next_world.subjects import SUBJECTS
from cones_ops.laboratory.next_world.train import __main__ as command
from cones_ops.laboratory.next_world.train import decoder, judge, scenes, text_encoder, unet
from cones_ops.laboratory.next_world.train.latents import draw_all, fit_patch_transform
from cones_ops.next_world.captions import Said, compose, describe
from cones_ops.next_world.decoder import Autoencoder, Decoder
from cones_ops.next_world.model_file import Pipeline, load_pipeline, random_pipeline, save_pipeline
from cones_ops.next_world.scenes import random_scene
from cones_ops.next_world.world import SIDE, Scene

from cones_ops.errors import ConesError

torch.set_num_threads(1)
WIDTHS = (32, 64)
CAT, ROBOT, MUG = (subject.character for subject in SUBJECTS[:3])
PAIR = Scene("two", (CAT, ROBOT), "snow")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return random_pipeline(0, WIDTHS)


def drawings(count: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return draw_all([random_scene(rng) for _ in range(count)])


def test_a_saved_pipeline_loads_as_itself(pipeline: Pipeline, tmp_path: Path) -> None:
    save_pipeline(pipeline, tmp_path / "model.safetensors")
    loaded = load_pipeline(tmp_path / "model.safetensors")
    texts = ["a sks cat next to a mug in a meadow"]
    assert loaded.vocabulary == pipeline.vocabulary
    assert torch.allclose(loaded.encode_text(texts), pipeline.encode_text(texts), atol=2e-2)
    assert torch.allclose(sample(loaded, texts, steps=2), sample(pipeline, texts, steps=2), atol=2e-2)
    with pytest.raises(ConesError, match="no such file"):
        load_pipeline(tmp_path / "nothing.safetensors")


def test_samples_depend_on_their_own_seed_alone(pipeline: Pipeline) -> None:
    both = sample(pipeline, ["a cat", "a mug"], seeds=[1, 2], steps=2)
    alone = sample(pipeline, ["a mug"], seeds=[2], steps=2)
    assert both.shape == (2, 3, SIDE, SIDE)
    assert torch.allclose(both[1:], alone, atol=1e-5)


def test_the_patch_transform_keeps_pictures_and_an_untrained_decoder_adds_nothing() -> None:
    pictures = drawings(24)
    transform = fit_patch_transform(pictures)
    autoencoder = Autoencoder(transform, Decoder(transform.channels))
    latents = autoencoder.encode(pictures)
    assert latents.shape == (24, 48, 8, 8) and 0.8 < float(latents.square().mean()) < 1.2
    assert torch.equal(autoencoder.decode(latents), transform.decode(latents))
    assert float((autoencoder.decode(latents) - pictures).square().mean()) < 0.02


def test_what_a_reading_must_have() -> None:
    seen = Reading("two", (CAT, ROBOT), "snow")
    placed = describe(PAIR)
    assert fulfils(seen, placed, PAIR) and shows(seen, CAT) and not shows(seen, MUG)
    assert not shows(seen, replace(CAT, eyes="one"))  # a look-alike
    assert fulfils(replace(seen, characters=(replace(CAT, eyes="one"), ROBOT)), placed, PAIR)  # eyes have no word
    assert not fulfils(replace(seen, characters=(ROBOT, CAT)), placed, PAIR)
    assert not fulfils(replace(seen, background="night"), placed, PAIR)
    assert not fulfils(Reading("one", (CAT,), "snow"), placed, PAIR)
    little = compose(PAIR, (Said("cat"), Said("robot")), "plain_list", background=False)
    assert fulfils(replace(seen, characters=(replace(CAT, colour="red"), ROBOT), background="night"), little, PAIR)


def test_labels_of_a_caption_follow_its_words() -> None:
    words = random_pipeline(0, WIDTHS).vocabulary
    caption = describe(PAIR, "below")  # a robot to the right of a cat
    labels = text_encoder.labels(PAIR, caption, words)
    split = words.split(caption.text)
    column = text_encoder._COLUMNS
    robot, cat = split.index("robot") + 1, split.index("cat") + 1
    assert labels[robot, column["mention"]] == 1 and labels[cat, column["mention"]] == 2
    assert labels[robot, column["colour"]] == text_encoder._value("colour", "blue")
    assert labels[0, column["kind"]] == -100
    end = len(split) + 1 + (-(len(split) + 1)) % 4  # the first end token at a multiple of four: the left character
    assert labels[end, column["kind"]] == text_encoder._value("kind", "cat") and labels[end, column["mention"]] == 2


@pytest.mark.slow
def test_the_trainings_run_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    pipeline = random_pipeline(1, WIDTHS)
    text_encoder.train_text_encoder(pipeline, 2, lines.append)
    monkeypatch.setattr(scenes, "CHUNK", 24)
    scenes.draw_chunks(pipeline.autoencoder.transform, tmp_path, 2, lines.append)
    training = scenes.TrainingScenes(tmp_path)
    training.take_new()
    assert len(training) == 48
    for minutes in (0.02, 0.04):
        unet.train_unet(pipeline, training, minutes, tmp_path / "unet.pt", lines.append)
    assert torch.load(tmp_path / "unet.pt", weights_only=True)["step"] >= 2
    monkeypatch.setattr(decoder, "POOL", 1)
    decoder.train_decoder(pipeline.autoencoder, 0.01, tmp_path / "decoder.pt", lines.append)
    monkeypatch.setattr(judge, "SCENES", 4)
    judge.train_judge(pipeline.autoencoder, 0.01, tmp_path / "judge.safetensors", lines.append)
    assert len(read(load_judge(tmp_path / "judge.safetensors"), drawings(2) / 2 + 0.5)) == 2


@pytest.mark.slow
def test_training_goes_on_from_a_model_file(tmp_path: Path) -> None:
    made = random_pipeline(2)
    save_pipeline(made, tmp_path / "model.safetensors")
    command.unpack(tmp_path / "model.safetensors", tmp_path)
    pipeline = command.prepared(tmp_path, text_steps=0)
    command.finished(pipeline, tmp_path)
    run = unet.Run.resumed(pipeline.unet.requires_grad_(True), tmp_path / "unet.pt")
    assert run.step == 0 and torch.allclose(run.average[0], next(made.unet.parameters()), atol=1e-3)
    assert torch.allclose(pipeline.encode_text(["a cat"]), made.encode_text(["a cat"]), atol=2e-2)


def test_fine_tuning_changes_own_tokens_alone(pipeline: Pipeline) -> None:
    subject = SUBJECTS[0]
    tuned = fine_tune_own_tokens(pipeline, references(subject, shares=(2, 0, 0)), subject, steps=2, batch=2)
    changed = [sample(pipeline, [text], own_weights=tuned, steps=2) for text in (subject.prompt, "a cat")]
    plain = [sample(pipeline, [text], steps=2) for text in (subject.prompt, "a cat")]
    assert not torch.equal(changed[0], plain[0]) and torch.allclose(changed[1], plain[1], atol=1e-5)


def test_shares_have_standard_errors() -> None:
    assert Share(8, 16).as_json() == {"value": 0.5, "standard_error": 0.125, "n": 16}
    assert sum(weight.numel() for weight in Judge().parameters()) < 2_000_000
