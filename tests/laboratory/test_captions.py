"""Captions of the toy world in every form, and its vocabulary."""

from __future__ import annotations

import numpy as np
import pytest

from cones_ops.toy_world.caption_forms import FORMS
from cones_ops.toy_world.captions import IDENTIFIERS, LENGTH, Said, describe, random_caption, vocabulary
from cones_ops.toy_world.scenes import random_character, random_scene
from cones_ops.toy_world.subjects import SUBJECTS, subject_named
from cones_ops.toy_world.vocabulary import END, START, UNKNOWN
from cones_ops.toy_world.world import LAYOUTS, STYLE_NAMES, STYLES, Character, Scene

CAT, ROBOT, MUG = (subject_named(identifier).character for identifier in ("sks", "zwx", "hta"))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_form_mentions_everybody_in_known_words(form: str, layout: str) -> None:
    characters = tuple(random_character(generator(i)) for i in range(len(LAYOUTS[layout])))
    scene, words = Scene(layout, characters, "beach"), vocabulary()
    caption = describe(scene, form)
    assert sorted(caption.order) == list(range(len(characters)))
    assert UNKNOWN not in words.word_ids(caption.text)
    assert len(words.word_ids(caption.text)) <= LENGTH - 6
    positions = [caption.text.index(caption.said[number].phrase) for number in caption.order]
    assert positions == sorted(positions)


def test_every_random_caption_fits_and_uses_known_words() -> None:
    words, rng = vocabulary(), generator()
    for _ in range(500):
        text = random_caption(random_scene(rng), rng).text
        assert UNKNOWN not in words.word_ids(text), text
        assert len(words.split(text)) <= LENGTH - 2, text


def test_captions_read_as_expected() -> None:
    scene = Scene("cup", (CAT, ROBOT, MUG), "night")
    cat, robot, mug = (said.phrase for said in describe(scene).said)
    assert (cat, robot, mug) == ("an orange cat wearing a hat", "a blue robot wearing a bow", "a pink mug")
    assert describe(scene, "plain_list").text == f"{cat} , {robot} and {mug} at night"
    assert describe(scene, "below").text == f"{mug} below {cat} and {robot} at night"
    assert describe(scene, "short_place", background=False).text == f"top left {cat} , top right {robot} , bottom {mug}"
    pair = Scene("two", scene.characters[:2], "snow")
    assert describe(pair).text == f"{cat} on the left and {robot} on the right in the snow"
    assert describe(pair, "below").text == f"{robot} to the right of {cat} in the snow"
    assert describe(pair, "drawing_with").text == f"a drawing of {cat} with {robot} in the snow"


def test_random_captions_leave_out_and_never_name_what_has_no_word() -> None:
    texts = []
    for seed in range(60):
        scene = random_scene(generator(seed), 1)
        (character,) = scene.characters
        caption = random_caption(scene, generator(seed))
        texts.append(caption.text)
        assert caption.said[0].colour in (None, character.colour)
        assert not {character.second, character.eyes, character.variant} & {*caption.text.split()} - {character.colour}
    assert 4 <= sum(any(word in IDENTIFIERS for word in text.split()) for text in texts) <= 25
    assert len({len(text.split()) for text in texts}) > 4


def test_a_style_stands_for_what_has_no_word_and_no_subject_has_one() -> None:
    character = Character("cat", "red", "none", "green", "dots", "second")
    assert character.style == "felix" and Said("cat", "red", style="felix").phrase == "a felix red cat"
    assert len(STYLE_NAMES) == len(STYLES) and not set(STYLES) & set(IDENTIFIERS)
    assert [subject.identifier for subject in SUBJECTS if subject.character.style] == []
    said = [random_caption(Scene("one", (character,), "snow"), generator(seed)).said[0] for seed in range(100)]
    assert 40 <= sum(each.style == "felix" for each in said) <= 90
    assert not any(each.style and each.identifier for each in said)


def test_the_vocabulary_pads_with_the_end_token_and_reads_spellings() -> None:
    words = vocabulary()
    ids = words.encode("An orange cat, GRAY sparkle")
    assert ids[0] == START and len(ids) == LENGTH and ids[6:] == [UNKNOWN, *[END] * (LENGTH - 7)]
    assert [words.words[i] for i in ids[1:6]] == ["a", "orange", "cat", ",", "grey"]
