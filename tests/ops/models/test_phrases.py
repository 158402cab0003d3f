"""The words of a prompt that speak of a concept, counted by hand."""

from __future__ import annotations

import pytest

from cones_ops.errors import ConesError
from cones_ops.models.phrases import (
    PromptText,
    class_word_apart,
    other_things,
    own_spans,
    own_text,
    read_brackets,
)


def own(text: str, identifier: str = "sks", class_word: str = "star") -> str:
    return own_text(text, own_spans(text, identifier, class_word, "phrase"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a sks star on the left and a circle on the right", "sks star on the left"),
        ("a circle on the left and a sks star on the right on a grey background", "sks star on the right"),
        ("top left a sks star , top right a circle", "sks star"),
        ("a sks star left and a circle right", "sks star left"),
        ("on the left a sks star on the right a circle", "sks star"),  # the place of the circle
        ("a sks star in the middle of the sea", "sks star in the middle"),
        ("a sks star at the top left on a grey background", "sks star at the top left"),
        ("a sks star on a grey background", "sks star"),
        ("a sks star in the snow", "sks star"),
        ("a sks star next to a circle", "sks star"),
        ("a sks star sitting on the left in snow", "sks star sitting on the left"),
        ("a sks star wearing a red hat on the right", "sks star wearing a red hat on the right"),
        ("a sks star wearing a hat and a scarf", "sks star wearing a hat"),
        ("a sks star with a red collar", "sks star"),
        ("a sks star, on the left", "sks star"),
        ("sks on the left", "sks on the left"),
        ("a sks red star on the left", "sks red star on the left"),
        ("a sks big red striped old star", "sks"),  # four words between are too many
        ("sks and star", "sks"),
        ("sks, star", "sks"),
        ("sks-star left", "sks star left"),
        ("sks_stars left", "sks stars left"),
        ("(sks:+1.2) star", "sks star"),
        ("(sks:1e1) star", "sks star"),
        ("((sks star:.5) on the left:1.1) here", "sks star on the left"),
        ("a sks star left, a Sks Star right", "sks star left | Sks Star right"),
        ("一只sks star在左边", "sks star"),
    ],
)
def test_the_phrase_of_a_concept(text: str, words: str) -> None:
    assert own(text) == words


def test_underscores_are_gaps() -> None:
    assert own("hatsune_miku girl", "hatsune miku", "girl") == "hatsune_miku girl"
    assert own("hatsune miku girl", "hatsune_miku", "girl") == "hatsune miku girl"


@pytest.mark.parametrize(
    ("text", "plain", "words"),
    [
        (
            "[a sks star with a red collar] on grass",
            "a sks star with a red collar on grass",
            "a sks star with a red collar",
        ),
        (r"\[a sks star\] left", "[a sks star] left", "sks star"),
        ("[a circle] and a sks star", "[a circle] and a sks star", "sks star"),
        ("[a sks star", "[a sks star", "sks star"),
        (r"[a sks star \[x\]]", "a sks star [x]", "a sks star x"),
        ("[a (sks star:1.2) alone] here", "a (sks star:1.2) alone here", "a sks star alone"),
        ("[sks] star", "sks star", "sks"),
    ],
)
def test_brackets_say_which_words_are_own(text: str, plain: str, words: str) -> None:
    prompt = read_brackets(text, ["sks", "zwx"])
    assert prompt.text == plain
    assert own_text(prompt, own_spans(prompt, "sks", "star", "phrase")).replace(" | ", " ") == words


def test_brackets_around_two_concepts_are_refused() -> None:
    with pytest.raises(ConesError, match="holds sks and zwx; put brackets around one concept each"):
        read_brackets("[a sks star and a zwx heart]", ["sks", "zwx"])


def test_an_identifier_of_everyday_words_is_refused() -> None:
    for identifier in ("a", "The", "sks+of the"):
        with pytest.raises(ConesError, match="everyday word"):
            own_spans("a star", identifier, "star")
    assert own_spans("the who", "the who") == [(0, 7)]


@pytest.mark.parametrize(
    ("text", "rule", "apart"),
    [
        ("a sks star", "phrase", False),
        ("a sks red star", "phrase", False),
        ("a sks red star", "identifier + class word", True),
        ("a sks, star", "phrase", True),
        ("a sks star and a sks", "phrase", True),
        ("a sks red star", "identifier", False),
        ("a star", "phrase", False),
    ],
)
def test_a_class_word_apart_from_its_identifier(text: str, rule: str, apart: bool) -> None:
    assert class_word_apart(text, "sks", "star", rule) is apart  # type: ignore[arg-type]


def test_brackets_need_no_class_word() -> None:
    assert not class_word_apart(PromptText("a sks toy", ((0, 9),)), "sks", "star", "phrase")


def test_other_things_of_a_prompt() -> None:
    text = "a sks star on the left and a blue (plain:1.2) circle on the right on a grey background, photo"
    things = other_things(text, own_spans(text, "sks", "star", "phrase"))
    assert [text[start:end] for start, end in things] == ["blue (plain:1.2) circle", "grey background", "photo"]
