"""Own tokens of a prompt, with tokenizers small enough to count by hand."""

from __future__ import annotations

import re

import pytest

from cones_ops.errors import ConesError
from cones_ops.models.own_tokens import own_positions
from cones_ops.models.phrases import own_spans


def words(text: str) -> list[str | None]:
    """start, words and punctuation, end: weights and brackets are not tokens, case does not matter."""
    plain = re.sub(r":[\d.]+(?=\))|[()]", " ", text.lower())
    return [None, *re.findall(r"\w+|[^\w\s]", plain), None]


def pieces(text: str) -> list[str | None]:
    """Every letter a token, a word's first one marked; no start token, one end token."""
    return [*(("_" if i == 0 else "") + letter for word in text.split() for i, letter in enumerate(word)), None]


def chunks(text: str) -> list[str | None]:
    """Chunks of three words between a start and an end token, padded to six."""
    every = text.split()
    rows = [every[i : i + 3] for i in range(0, max(len(every), 1), 3)]
    return [token for row in rows for token in [None, *row, *[None] * (5 - len(row))]]


def at(tokenize: object, text: str, *concept: str) -> list[int]:
    return own_positions(tokenize, text, *concept).nonzero().flatten().tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "identifier", "class_word", "own"),
    [
        ("a sks star", "sks", "star", [2, 3]),  # start a sks star end
        ("sks red star", "sks", "star", [1]),  # another word between
        ("a star sks", "sks", "star", [3]),  # the class word before does not count
        ("sks star sks star", "sks", "star", [1, 2, 3, 4]),  # twice
        ("sks sks star", "sks", "star", [1, 2, 3]),
        ("sks star star", "sks", "star", [1, 2]),
        ("and sks star and and", "sks", "star", [2, 3]),  # the stand-in's own word around
        ("my sks two golden  retriever", "sks two", "golden retriever", [2, 3, 4, 5]),
        ("sks one golden retriever", "sks two", "golden retriever", []),
        ("sks star", "sks", "", [1]),
        ("sks", "sks", "star", [1]),
        ("a star", "sks", "star", []),
        ("", "sks", "star", []),
        ("two sks stars, a Sks Star!", "sks", "star", [2, 3, 6, 7]),
        ("sks's star", "sks", "star", [1]),  # ' and s are tokens of their own
        ("sks puppies", "sks", "puppy", [1, 2]),
        ("sks, star", "sks", "star", [1]),
        ("sksy starfish sks starfish", "sks", "star", [3]),  # parts of words are not the words
        ("a (sks star:1.2) b", "sks", "star", [2, 3]),
        ("a (sks:1.2) (star:0.5)", "sks", "star", [2, 3]),
        ("((sks) star) BREAK zwx heart", "zwx", "heart", [4, 5]),
        ("embedding:sks-style and sks star", "sks", "star", [7, 8]),  # start embedding : sks - style and sks star
        ("a zwx heart and a sks star", "sks+zwx", "heart+star", [2, 3, 6, 7]),  # a combined mask
    ],
)
def test_words(text: str, identifier: str, class_word: str, own: list[int]) -> None:
    assert at(words, text, identifier, class_word) == own


def test_a_word_of_many_pieces() -> None:
    assert at(pieces, "a ohwx cat", "ohwx", "cat") == [1, 2, 3, 4, 5, 6, 7]
    assert at(pieces, "ohwx ohw", "ohw", "cat") == [4, 5, 6]  # not in ohwx


def test_other_scripts_need_no_gaps() -> None:
    assert own_spans("一只sks狗", "sks", "狗") == [(2, 5), (5, 6)]
    assert own_spans("一只sks 狗", "sks", "狗") == [(2, 5), (6, 7)]


def test_positions_count_start_end_and_padding_of_every_chunk() -> None:
    # start a big sks end pad | start star on a end pad
    assert at(chunks, "a big sks star on a", "sks", "star") == [3, 7]


def test_a_phrase_over_several_chunks_with_weights() -> None:
    # start a big sks end pad | start star on the end pad | start left and more end pad
    own = own_positions(chunks, "a big sks star on the left and more", "sks", "star", "phrase")
    assert own.nonzero().flatten().tolist() == [3, 7, 8, 9, 13]
    weighted = own_positions(words, "a (sks:1.2) star (on the left:1.1), b", "sks", "star", "phrase")
    assert weighted.nonzero().flatten().tolist() == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("words_counted", "own"),
    [
        ("identifier + class word", [2, 3]),
        ("identifier", [2]),
        ("identifier + class word + end", [2, 3, 4, 5]),
    ],
)
def test_which_words_count(words_counted: str, own: list[int]) -> None:
    # start a sks star end pad | start on a lawn end pad
    found = own_positions(chunks, "a sks star on a lawn", "sks", "star", words_counted)  # type: ignore[arg-type]
    assert found.nonzero().flatten().tolist() == own


def test_what_cannot_be_found_is_said() -> None:
    with pytest.raises(ConesError, match="identifier"):
        own_positions(words, "a star", " ", "star")
    with pytest.raises(ConesError, match="no tokens for 'sks'"):
        own_positions(lambda text: [None, "a", None], "a sks", "sks")
