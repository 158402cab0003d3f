"""The judge is right on fresh drawings, also through the latents, and is not fooled by one wrong attribute."""

import dataclasses

import numpy as np
import pytest
import torch
from cones_ops.laboratory.scenes import draw_all, random_scene

from cones_ops.errors import ConesError
from cones_ops.laboratory.judge import SHIPPED, load_judge, matches, read, shows
from cones_ops.toy_world.bundle import read_bundle
from cones_ops.toy_world.subjects import SUBJECTS
from cones_ops.toy_world.world import COLOURS, SHAPES, TEXTURES, Scene


@pytest.fixture(scope="module")
def judge():
    return load_judge()


def rightness(judge, pictures, scenes):
    return np.mean([matches(reading, scene) for reading, scene in zip(read(judge, pictures), scenes, strict=True)])


@pytest.mark.slow
def test_reads_at_least_99_percent_of_fresh_things_right(judge):
    generator = np.random.default_rng(2024)
    scenes = [random_scene(generator, allow_held_out=True) for _ in range(400)]
    readings = read(judge, draw_all(scenes, generator))
    right = [
        dict(r.things).get(place) == thing for r, s in zip(readings, scenes, strict=True) for place, thing in s.things
    ]
    assert np.mean(right) >= 0.99
    assert np.mean([len(r.things) == len(s.things) for r, s in zip(readings, scenes, strict=True)]) >= 0.99
    assert np.mean([r.background == s.background for r, s in zip(readings, scenes, strict=True)]) >= 0.99


@pytest.mark.slow
def test_reads_pictures_that_went_through_the_latents(judge):
    generator = np.random.default_rng(7)
    transform = read_bundle().autoencoder()
    scenes = [random_scene(generator, count=1 + i % 2, allow_held_out=True) for i in range(200)]
    decoded = transform.decode(transform.encode(draw_all(scenes, generator) * 2 - 1))
    assert rightness(judge, ((decoded + 1) / 2).clamp(0, 1), scenes) >= 0.97


def neighbours(thing):
    """Things that differ from this one in one attribute."""
    for shape in set(SHAPES) - {thing.shape}:
        yield dataclasses.replace(thing, shape=shape)
    for colour in set(COLOURS) - {thing.colour, thing.colour2}:
        yield dataclasses.replace(thing, colour=colour)
        yield dataclasses.replace(thing, colour2=colour)
    for texture in set(TEXTURES) - {thing.texture, "plain"}:
        yield dataclasses.replace(thing, texture=texture)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.identifier)
def test_hard_negatives_do_not_pass_as_the_subject(judge, subject):
    generator = np.random.default_rng(11)
    others = [Scene((("centre", thing),), "grey") for thing in neighbours(subject.thing)]
    readings = read(judge, draw_all(others, generator))
    assert not any(shows(reading, subject.thing) for reading in readings)
    own = [Scene((("centre", subject.thing),), ground) for ground in ("grey", "white", "black", "brown")]
    assert all(shows(reading, subject.thing) for reading in read(judge, draw_all(own, generator)))


def test_grey_noise_is_nothing(judge):
    noise = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.45
    assert not any(shows(reading, s.thing) for reading in read(judge, noise) for s in SUBJECTS)


def test_the_shipped_judge_is_small():
    assert SHIPPED.stat().st_size <= 4 * 2**20


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConesError, match="nothing"):
        load_judge(tmp_path / "nothing.safetensors")
