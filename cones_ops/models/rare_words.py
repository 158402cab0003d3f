"""Rare words to name a subject by, and common things to show beside it, as far as a text encoder tells them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from itertools import permutations

from ..errors import ConesError

IDENTIFIERS = (
    "sks", "zwx", "hta", "bnk", "olr", "mfj", "qpd", "vbn", "ktr", "wug", "dax", "fep", "gzl", "jyv", "uxo", "cim",
    *map("".join, permutations("jkqvxz", 3)),
)  # fmt: skip
THINGS = (
    "chair", "ball", "flower", "cup", "car", "tree", "cat", "dog", "book", "house", "lamp", "bird",
    "owl", "fish", "mug", "robot", "rocket", "mushroom", "cactus", "ghost",
)  # fmt: skip
NONSENSE = ("qxzvkj", "wvkqjx")  # what an encoder with few words takes for one and the same unknown word


def told_apart(words: Sequence[str], tokens_of: Callable[[str], Hashable]) -> list[str]:
    """Those of `words` whose tokens no other of them has, nor a word that means nothing."""
    tokens = {word: tokens_of(word) for word in (*words, *NONSENSE)}
    uses = Counter(tokens.values())
    return [word for word in words if uses[tokens[word]] == 1]


def rare_word(tokens_of: Callable[[str], Hashable], taken: Collection[str] = ()) -> str:
    """The first rare word that the text encoder tells apart and that no other concept has."""
    known = told_apart(IDENTIFIERS, tokens_of)
    for word in known:
        if word not in taken:
            return word
    if not known:
        raise ConesError("the text encoder knows none of our rare words; write an identifier that it tells apart")
    raise ConesError(f"your concepts have all {len(known)} rare words already; write an identifier of your own")


def check_known(words: str, tokens_of: Callable[[str], Hashable]) -> None:
    """ConesError when the text encoder does not tell one of these words from a word that means nothing."""
    unknown = [word for word in words.split() if not told_apart([word], tokens_of)]
    if unknown:
        raise ConesError(f"write another word than {' '.join(unknown)!r}: this model's text encoder does not know it")


def with_article(words: str) -> str:
    """ "a sks dog", "an owl"."""
    return f"{'an' if words[:1].lower() in tuple('aeiou') else 'a'} {words}"
