"""Scenes, captions, subjects and the patch transform of the toy world."""

import numpy as np
import pytest
import torch
from cones_ops.laboratory.scenes import draw_all, random_scene, random_thing
from cones_ops.toy_world.latents import fit_patch_transform

from cones_ops.toy_world.captions import LENGTH, caption, describe, vocabulary
from cones_ops.toy_world.subjects import SUBJECTS, held_out, subject_named
from cones_ops.toy_world.vocabulary import END, START, UNKNOWN
from cones_ops.toy_world.world import BACKGROUNDS, COLOURS, Scene, Thing, draw


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def pixel(picture, x, y):
    return picture[:, y, x]


def test_a_plain_square_has_its_colour_inside_and_the_background_outside(generator):
    picture = draw(Scene((("centre", Thing("square", "red", "red", "plain")),), "grey"), generator)
    assert picture.shape == (3, 64, 64) and picture.dtype == np.float32
    np.testing.assert_allclose(pixel(picture, 32, 32), COLOURS["red"], atol=1e-6)
    np.testing.assert_allclose(pixel(picture, 1, 1), BACKGROUNDS["grey"], atol=1e-6)


def test_textures_put_the_two_colours_where_the_words_say(generator):
    def centre(texture):
        return draw(Scene((("centre", Thing("square", "red", "blue", texture)),), "white"), generator)

    halved, bordered, checkered = centre("halved"), centre("bordered"), centre("checkered")
    np.testing.assert_allclose(pixel(halved, 22, 32), COLOURS["red"], atol=1e-6)
    np.testing.assert_allclose(pixel(halved, 42, 32), COLOURS["blue"], atol=1e-6)
    np.testing.assert_allclose(pixel(bordered, 32, 32), COLOURS["red"], atol=1e-6)
    np.testing.assert_allclose(pixel(checkered, 24, 24), pixel(checkered, 40, 40), atol=1e-6)
    assert np.abs(pixel(checkered, 24, 24) - pixel(checkered, 40, 24)).max() > 0.5


def test_pictures_are_reproducible_from_the_generator():
    scene = random_scene(np.random.default_rng(3))
    first, second = (draw(scene, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_training_scenes_never_hold_a_subject(generator):
    things = [thing for _ in range(4000) for _, thing in random_scene(generator).things]
    assert not any(held_out(thing) for thing in things)
    assert all(held_out(s.thing) for s in SUBJECTS)
    assert not held_out(random_thing(generator))


def test_subjects_are_distinct_and_come_with_pictures_on_different_backgrounds():
    assert len({s.identifier for s in SUBJECTS}) == len({s.thing for s in SUBJECTS}) == len(SUBJECTS) >= 8
    pictures, captions = subject_named("sks").reference_pictures(4)
    assert pictures.shape == (4, 3, 64, 64) and len(set(captions)) == 4
    assert all(text.startswith("a sks star on a ") for text in captions)
    with pytest.raises(KeyError, match="sks"):
        subject_named("nobody")


def test_every_caption_fits_and_uses_known_words(generator):
    words = vocabulary()
    for _ in range(500):
        scene = random_scene(generator)
        for text in (describe(scene), caption(scene, generator)[0]):
            assert UNKNOWN not in words.word_ids(text), text
            assert len(words.split(text)) <= LENGTH - 2, text


def test_describe_tells_everything():
    scene = Scene(
        (("left", Thing("star", "red", "blue", "striped")), ("right", Thing("circle", "pink", "pink", "plain"))), "grey"
    )
    text = "a red and blue striped star on the left and a pink plain circle on the right on a grey background"
    assert describe(scene) == text


def test_vocabulary_pads_with_the_end_token_and_reads_spellings():
    words = vocabulary()
    ids = words.encode("An orange star, GRAY sparkle")
    assert ids[0] == START and len(ids) == LENGTH and ids[6:] == [UNKNOWN, *[END] * (LENGTH - 7)]
    assert [words.words[i] for i in ids[1:6]] == ["a", "orange", "star", ",", "grey"]


def test_patch_transform_inverts_up_to_its_channels(generator):
    pictures = draw_all([random_scene(generator) for _ in range(40)], generator)
    whole = fit_patch_transform(pictures, 192)
    latents = whole.encode(pictures * 2 - 1)
    assert latents.shape == (40, 192, 8, 8)
    torch.testing.assert_close(whole.decode(latents), pictures * 2 - 1, atol=1e-3, rtol=0)
    fewer = fit_patch_transform(pictures, 24)
    error = (fewer.decode(fewer.encode(pictures * 2 - 1)) - (pictures * 2 - 1)).square().mean() / 4
    assert -10 * torch.log10(error) > 23  # dB


def test_reference_pictures_may_show_the_subject_beside_others():
    pictures, captions = subject_named("sks").reference_pictures(5, beside=4)
    assert pictures.shape == (5, 3, 64, 64) and captions[0].startswith("a sks star on a ")
    assert ["a sks star on the " in text for text in captions] == [False, False, True, False, True]
    assert all("a sks star" in text and " and a " in text for text in captions[1:])
    assert {text.index("a sks star") == 0 for text in captions[1:]} == {True, False}  # left and right in turn
    neighbours = [text.split(" on a ")[0].replace("a sks star", "") for text in captions[1:]]
    assert not any("star" in text for text in neighbours)
