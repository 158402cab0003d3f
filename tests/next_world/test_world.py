"""The drawn world: scenes, captions in every form, drawings; no trained file needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cones_ops.laboratory.next_world.references import references
from cones_ops.laboratory.next_world.subjects import CHOOSING, HELD_OUT, SUBJECTS, in_training
from cones_ops.next_world.caption_forms import FORMS, HELD_OUT_FORMS, SEARCH_FORMS
from cones_ops.next_world.captions import IDENTIFIERS, describe, random_caption, vocabulary
from cones_ops.next_world.drawing import draw
from cones_ops.next_world.scenes import look_alike, random_character, random_scene
from cones_ops.next_world.vocabulary import UNKNOWN
from cones_ops.next_world.world import LAYOUTS, SIDE, UNNAMED, VALUES, Scene


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scene_of(layout: str, seed: int = 0) -> Scene:
    characters = tuple(random_character(generator(seed + i)) for i in range(len(LAYOUTS[layout])))
    return Scene(layout, characters, "beach")


def test_a_seed_draws_the_same_picture_again() -> None:
    pictures = [draw(random_scene(generator(3))) for _ in range(2)]
    assert pictures[0].shape == (3, SIDE, SIDE) and pictures[0].dtype == np.uint8
    assert np.array_equal(*pictures)


@pytest.mark.parametrize("name", UNNAMED)
def test_every_unnamed_detail_changes_the_drawing_and_no_caption(name: str) -> None:
    character = replace(random_character(generator(1)), colour="red", second="blue", accessory="none")
    for value in VALUES[name]:
        if value in (getattr(character, name), character.colour):
            continue
        scenes = [Scene("one", (each,), "paper") for each in (character, replace(character, **{name: value}))]
        first, second = (draw(scene).astype(float) for scene in scenes)
        assert (abs(first - second).max(axis=0) > 40).sum() > 40  # pixels that differ clearly
        assert {describe(scene, form).text for form in FORMS for scene in scenes} == {
            describe(scenes[0], form).text for form in FORMS
        }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_form_mentions_everybody_in_known_words(form: str, layout: str) -> None:
    scene, words = scene_of(layout), vocabulary()
    caption = describe(scene, form)
    assert sorted(caption.order) == list(range(len(scene.characters)))
    assert UNKNOWN not in words.word_ids(caption.text)
    assert len(words.word_ids(caption.text)) <= words.length - 6
    positions = [caption.text.index(caption.said[number].phrase) for number in caption.order]
    assert positions == sorted(positions)


def test_captions_read_as_expected() -> None:
    scene = Scene("cup", tuple(subject.character for subject in SUBJECTS[:3]), "night")
    cat, robot, mug = (said.phrase for said in describe(scene).said)
    assert cat == "an orange cat wearing a hat" and mug == "a pink mug"
    assert describe(scene, "plain_list").text == f"{cat} , {robot} and {mug} at night"
    assert describe(scene, "below").text == f"{mug} below {cat} and {robot} at night"
    assert describe(scene, "short_place", background=False).text == f"top left {cat} , top right {robot} , bottom {mug}"
    pair = Scene("two", scene.characters[:2], "snow")
    assert describe(pair, "below").text == f"{robot} to the right of {cat} in the snow"
    assert describe(pair, "drawing_with").text == f"a drawing of {cat} with {robot} in the snow"


def test_random_captions_leave_out_and_never_name_what_has_no_word() -> None:
    texts = []
    for seed in range(60):
        scene = random_scene(generator(seed), 1)
        caption = random_caption(scene, generator(seed))
        texts.append(caption.text)
        assert caption.said[0].colour in (None, scene.characters[0].colour)
    assert 4 <= sum(any(word in IDENTIFIERS for word in text.split()) for text in texts) <= 25


def test_held_out_forms_and_subjects_are_apart() -> None:
    assert set(SEARCH_FORMS) | set(HELD_OUT_FORMS) == set(FORMS) and len(FORMS) >= 10
    assert len(CHOOSING) == 4 and len(HELD_OUT) == 8
    assert {subject.identifier for subject in SUBJECTS} <= set(IDENTIFIERS)
    assert not any(in_training(subject.character) for subject in SUBJECTS)
    rng = generator(5)
    assert all(in_training(random_character(rng, in_training)) for _ in range(200))


def test_a_look_alike_differs_in_one_unnamed_detail() -> None:
    rng = generator(2)
    for subject in SUBJECTS:
        other, name = look_alike(subject.character, rng)
        different = [key for key, value in vars(other).items() if value != getattr(subject.character, key)]
        assert different == [name] and name in UNNAMED and other.second != other.colour


def test_references_show_the_subject_in_scenes_and_say_its_class_alone() -> None:
    shown = references(SUBJECTS[0])
    assert len(shown.pictures) == len(shown.captions) == 16
    assert all("sks cat" in caption for caption in shown.captions)
    assert not any("orange" in caption or "hat" in caption for caption in shown.captions)
