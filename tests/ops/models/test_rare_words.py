"""Words that a text encoder tells apart, and the first that is free."""

import pytest

from cones_ops.errors import ConesError
from cones_ops.models.rare_words import IDENTIFIERS, check_known, rare_word, told_apart, with_article


def encoder(*known: str):
    """Tokens of an encoder that knows a few words and takes all others for one."""
    return lambda word: known.index(word) if word in known else "unknown"


def test_unknown_words_and_words_of_the_same_tokens_are_left_out():
    assert told_apart(["cat", "zebra", "ball", "gnu"], encoder("cat", "ball")) == ["cat", "ball"]
    assert told_apart(["cat", "zebra"], encoder("cat")) == ["cat"]  # a single unknown word too
    assert told_apart(["Cat", "cat", "ball"], lambda word: word.lower()) == ["ball"]


def test_the_first_rare_word_that_is_free():
    assert rare_word(str) == "sks"
    assert rare_word(str, {"sks", "zwx"}) == "hta"
    assert rare_word(encoder("hta", "olr"), {"hta"}) == "olr"


def test_no_rare_word_is_left():
    with pytest.raises(ConesError, match="have all 1 rare words already; write an identifier of your own"):
        rare_word(encoder("hta"), {"hta"})
    with pytest.raises(ConesError, match="knows none of our rare words"):
        rare_word(encoder("cat"))


def test_a_collection_of_concepts_does_not_run_out_of_words():
    taken: set[str] = set()
    while len(taken) < 100:
        taken.add(rare_word(str, taken))
    assert len(set(IDENTIFIERS)) == len(IDENTIFIERS) == 16 + 120


def test_words_the_encoder_does_not_know():
    check_known("Coffee mug", str.lower)
    with pytest.raises(ConesError, match=r"write another word than 'zebra': .* does not know it"):
        check_known("zebra cat", encoder("cat"))


@pytest.mark.parametrize(("words", "phrase"), [("sks dog", "a sks dog"), ("owl", "an owl"), ("Ice", "an Ice")])
def test_articles(words, phrase):
    assert with_article(words) == phrase
