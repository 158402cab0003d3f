"""The judge is right on fresh drawings, also through the latents, and is not fooled by one wrong attribute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cones_ops.errors import ConesError
from cones_ops.laboratory.judge import SHIPPED, Judge, Reading, fulfils, load_judge, read, shows
from cones_ops.toy_world.bundle import read_bundle
from cones_ops.toy_world.captions import Said, compose, describe
from cones_ops.toy_world.drawing.scene import draw_all
from cones_ops.toy_world.scenes import random_scene
from cones_ops.toy_world.subjects import SUBJECTS, Subject, subject_named
from cones_ops.toy_world.world import BACKGROUNDS, SIDE, VALUES, Character, Scene

CAT, ROBOT, MUG = (subject_named(identifier).character for identifier in ("sks", "zwx", "hta"))


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


def rightness(judge: Judge, pictures: Tensor, scenes: Sequence[Scene]) -> float:
    readings = read(judge, pictures)
    return np.mean([vars(reading) == vars(scene) for reading, scene in zip(readings, scenes, strict=True)]).item()


@pytest.mark.slow
def test_reads_at_least_99_percent_of_fresh_characters_right(judge: Judge) -> None:
    generator = np.random.default_rng(2024)
    scenes = [random_scene(generator) for _ in range(400)]  # subjects among them
    pairs = list(zip(read(judge, draw_all(scenes)), scenes, strict=True))
    right = [
        reading.places.get(place) == character
        for reading, scene in pairs
        for place, character in zip(scene.places, scene.characters, strict=True)
    ]
    assert np.mean(right) >= 0.99
    assert np.mean([reading.layout == scene.layout for reading, scene in pairs]) >= 0.99
    assert np.mean([reading.background == scene.background for reading, scene in pairs]) >= 0.99


@pytest.mark.slow
def test_reads_pictures_that_went_through_the_latents(judge: Judge) -> None:
    generator = np.random.default_rng(7)
    autoencoder = read_bundle().autoencoder()
    scenes = [random_scene(generator, 1 + i % 2) for i in range(200)]
    decoded = autoencoder.decode(autoencoder.encode(draw_all(scenes) * 2 - 1))
    assert rightness(judge, ((decoded + 1) / 2).clamp(0, 1), scenes) >= 0.97


def neighbours(character: Character) -> Iterator[Character]:
    """Characters that differ from this one in one attribute."""
    for name, values in VALUES.items():
        for value in {*values} - {getattr(character, name)}:
            other = replace(character, **{name: value})
            if other.colour != other.second:
                yield other


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.identifier)
def test_hard_negatives_do_not_pass_as_the_subject(judge: Judge, subject: Subject) -> None:
    others = [Scene("one", (character,), "paper") for character in neighbours(subject.character)]
    assert len(others) >= 25
    readings = read(judge, draw_all(others))
    assert not any(shows(reading, subject.character) for reading in readings)
    own = [Scene("one", (subject.character,), ground) for ground in BACKGROUNDS]
    assert all(shows(reading, subject.character) for reading in read(judge, draw_all(own)))


def test_grey_noise_is_nobody(judge: Judge) -> None:
    noise = torch.rand(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.45
    assert not any(shows(reading, subject.character) for reading in read(judge, noise) for subject in SUBJECTS)


def test_what_a_picture_must_have_to_be_what_its_caption_says() -> None:
    pair = Scene("two", (CAT, ROBOT), "snow")
    seen, placed = Reading("two", (CAT, ROBOT), "snow"), describe(pair)
    assert fulfils(seen, placed, pair) and shows(seen, CAT) and not shows(seen, MUG)
    assert not shows(seen, replace(CAT, eyes="one"))  # a look-alike
    assert fulfils(replace(seen, characters=(replace(CAT, eyes="one"), ROBOT)), placed, pair)  # eyes have no word
    assert not fulfils(replace(seen, characters=(ROBOT, CAT)), placed, pair)
    assert not fulfils(replace(seen, background="night"), placed, pair)
    assert not fulfils(Reading("one", (CAT,), "snow"), placed, pair)
    little = compose((Said("cat"), Said("robot")), "two", "plain_list")
    assert fulfils(replace(seen, characters=(replace(CAT, colour="red"), ROBOT), background="night"), little, pair)


def test_the_judge_is_small() -> None:
    assert sum(weight.numel() for weight in Judge().parameters()) < 2_000_000
    assert SHIPPED.stat().st_size <= 4 * 2**20


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConesError, match="nothing"):
        load_judge(tmp_path / "nothing.safetensors")
