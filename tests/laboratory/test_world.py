"""Scenes, drawings and subjects of the toy world; no trained file is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cones_ops.laboratory.references import laid_out
from cones_ops.toy_world.caption_forms import FORMS, HELD_OUT_FORMS, SEARCH_FORMS
from cones_ops.toy_world.captions import BACKGROUND_WORDS, IDENTIFIERS, describe
from cones_ops.toy_world.drawing.scene import draw_all
from cones_ops.toy_world.scenes import look_alike, random_character, random_scene
from cones_ops.toy_world.subjects import CHOOSING, HELD_OUT, SUBJECTS, in_training, subject_named
from cones_ops.toy_world.world import BACKGROUNDS, COLOURS, KINDS, LAYOUTS, SIDE, UNNAMED, VALUES, Character, Scene


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def colour_at(picture: Tensor, x: int, y: int) -> list[int]:
    return (picture[:, y, x] * 255).round().int().tolist()


def test_a_mug_has_its_colour_inside_and_the_background_outside() -> None:
    (picture,) = draw_all([Scene("one", (Character("mug", "red", "none", "blue", "dots", "first"),), "paper")])
    assert picture.shape == (3, SIDE, SIDE) and picture.dtype == torch.float32
    assert colour_at(picture, 48, 62) == [*COLOURS["red"]]
    assert colour_at(picture, 1, 1) == colour_at(picture, 94, 94) == [214, 206, 190]


def test_a_seed_draws_the_same_picture_again() -> None:
    assert torch.equal(*(draw_all([random_scene(generator(3))]) for _ in range(2)))


@pytest.mark.parametrize("name", UNNAMED)
@pytest.mark.parametrize("kind", KINDS)
def test_every_unnamed_detail_changes_the_drawing_and_no_caption(kind: str, name: str) -> None:
    character = Character(kind, "red", "none", "blue", "wide", "first")
    for value in VALUES[name]:
        if value in (getattr(character, name), character.colour):
            continue
        scenes = [Scene("one", (each,), "paper") for each in (character, replace(character, **{name: value}))]
        first, second = draw_all(scenes)
        assert ((first - second).abs().amax(dim=0) > 40 / 255).sum() > 40  # pixels that differ clearly
        assert all(describe(scenes[0], form) == describe(scenes[1], form) for form in FORMS)


def test_a_collage_is_the_drawn_scene() -> None:
    """References laid side by side have the places and sizes of the world, so collages teach nothing wrong."""
    characters = tuple(replace(subject.character, accessory="none") for subject in SUBJECTS[:4])
    for layout, count in (("two", 2), ("no bottom right", 3), ("four", 4)):
        chosen = characters[:count]
        alone = draw_all([Scene("one", (character,), "paper") for character in chosen])
        (scene,) = draw_all([Scene(layout, chosen, "paper")])
        assert (laid_out([*alone], "paper") - scene).abs().mean() < 0.005


def test_training_scenes_never_hold_a_subject() -> None:
    rng = generator()
    characters = [each for _ in range(1000) for each in random_scene(rng, allowed=in_training).characters]
    subjects = {subject.character for subject in SUBJECTS}
    assert all(in_training(character) for character in characters) and not subjects & {*characters}
    assert not any(in_training(character) for character in subjects)


def test_subjects_are_distinct_and_come_with_pictures_on_different_backgrounds() -> None:
    assert len({subject.identifier for subject in SUBJECTS}) == len(SUBJECTS) == 12
    assert len({subject.character for subject in SUBJECTS}) == len(SUBJECTS)
    assert {subject.identifier for subject in SUBJECTS} <= {*IDENTIFIERS}
    pictures, captions = subject_named("sks").reference_pictures(6)
    assert pictures.shape == (6, 3, SIDE, SIDE)
    assert sorted(captions) == sorted(f"a sks cat {words}" for words in BACKGROUND_WORDS.values())
    with pytest.raises(KeyError, match="sks"):
        subject_named("nobody")


def test_held_out_forms_and_subjects_are_apart() -> None:
    assert {*SEARCH_FORMS} | {*HELD_OUT_FORMS} == {*FORMS} and not {*SEARCH_FORMS} & {*HELD_OUT_FORMS}
    assert len(FORMS) >= 10 and len(CHOOSING) == 4 and len(HELD_OUT) == 8 and not {*CHOOSING} & {*HELD_OUT}


def test_a_look_alike_differs_in_one_unnamed_detail() -> None:
    rng = generator(2)
    for subject in SUBJECTS:
        other, name = look_alike(subject.character, rng)
        different = [key for key, value in vars(other).items() if value != getattr(subject.character, key)]
        assert different == [name] and name in UNNAMED and other.second != other.colour


def others_in(caption: str, class_word: str) -> Sequence[str]:
    return [word for word in caption.split() if word in KINDS and word != class_word]


def test_reference_pictures_may_show_the_subject_beside_others() -> None:
    pictures, captions = subject_named("sks").reference_pictures(30, beside=24)
    assert pictures.shape == (30, 3, SIDE, SIDE)
    assert [len(others_in(caption, "cat")) for caption in captions] == [0] * 6 + [1, 1, 2, 1, 1, 3] * 4
    assert all(caption.split().count("cat") == caption.count("a sks cat") == 1 for caption in captions)
    said = {word for caption in captions for word in caption.split()}
    assert not said & {*COLOURS, "hat", "bow"}  # nothing that the identifier is to mean
    firsts = {caption.index("sks") < caption.index(others_in(caption, "cat")[0]) for caption in captions[6:]}
    assert firsts == {True, False}  # at every place


def test_every_character_can_be_drawn_at_every_place() -> None:
    rng = generator(5)
    scenes = [
        Scene(layout, tuple(replace(random_character(rng), kind=kind) for _ in LAYOUTS[layout]), BACKGROUNDS[i % 6])
        for i, kind in enumerate(KINDS)
        for layout in LAYOUTS
    ]
    assert draw_all(scenes).std(dim=(1, 2, 3)).min() > 0.05
