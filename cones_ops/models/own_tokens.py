"""Where a concept's own tokens are in a prompt: its identifier, and its class word directly after it.

The words are found in the text (any case, plural class words, weights as in "(sks:1.2) star"), then in the tokens: a
word's tokens are those that change when another word stands in its place. So any tokenizer will do, with its word
pieces, chunks and templates; it is a callable from text to all tokens, None for start, end and padding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import takewhile
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import ConesError

Tokenize = Callable[[str], Sequence[Hashable | None]]
OwnWords = Literal["identifier + class word", "identifier", "identifier + class word + end"]
OWN_WORDS: tuple[OwnWords, ...] = get_args(OwnWords)

_LETTER = r"[0-9A-Za-z_\u00c0-\u024f]"  # what continues a Latin word; other scripts write words without gaps
_EMBEDDING = re.compile(r"embedding:\S+", re.IGNORECASE)  # the host's textual inversions: a file name, not words
_BETWEEN = re.compile(r"(?:\s|[()]|:\s*-?[\d.]+\s*(?=\)))*")  # between two words that stand together
_STAND_INS = ("and", "of", "7")


def own_positions(
    tokenize: Tokenize, text: str, identifier: str, class_word: str = "", words: OwnWords = OWN_WORDS[0]
) -> Tensor:
    """Boolean (L,), L tokens of `text`: True at every occurrence of the identifier, and at a class word that follows.

    Both may be several words; alternatives are joined by "+", as in the names of combined masks ("sks+zwx"). With
    "... + end" also the end and padding tokens after the chunk of text that holds one. Nothing is True where the
    identifier is not in the text. ConesError for an identifier without a word.
    """
    tokens = list(tokenize(text))
    own = torch.zeros(len(tokens), dtype=torch.bool)
    for span in own_spans(text, identifier, "" if words == "identifier" else class_word):
        own[_tokens_of(tokenize, tokens, text, span)] = True
    if words == "identifier + class word + end":
        own[list(_ends(tokens, own))] = True
    return own


def own_spans(text: str, identifier: str, class_word: str = "") -> list[tuple[int, int]]:
    """(start, end) in `text` of each identifier, and of each class word directly after one, in order."""
    names = _alternatives(identifier)
    if names is None:
        raise ConesError(f"the identifier {identifier!r} has no word; name the concept with at least one")
    files = [] if "embedding:" in identifier.lower() else [match.span() for match in _EMBEDDING.finditer(text)]
    classes = _alternatives(class_word, plural=True)
    spans = []
    for match in names.finditer(text):
        if any(start < match.end() and match.start() < end for start, end in files):
            continue
        spans.append(match.span())
        between = _BETWEEN.match(text, match.end())
        assert between  # of any length
        following = classes.match(text, between.end()) if classes else None
        if following:
            spans.append(following.span())
    return spans


def _alternatives(words: str, plural: bool = False) -> re.Pattern[str] | None:
    """Any of the phrases joined by "+", as whole words; None if there is no word at all."""
    phrases = sorted((phrase.split() for phrase in words.split("+") if phrase.split()), key=len, reverse=True)
    if not phrases:
        return None
    return re.compile("|".join(_whole(phrase, plural) for phrase in phrases), re.IGNORECASE)


def _whole(phrase: Sequence[str], plural: bool) -> str:
    """Pattern of a phrase that begins and ends where its words do."""
    word = r"\s+".join(map(re.escape, phrase))
    many = f"(?:{word}(?:s|es)?|{word[:-1]}ies)" if word.endswith("y") else f"{word}(?:s|es)?"
    begins = rf"(?<!{_LETTER})" if re.match(_LETTER, phrase[0]) else ""
    ends = rf"(?!{_LETTER})" if re.match(_LETTER, phrase[-1][-1]) else ""
    return begins + (many if plural else word) + ends


def _tokens_of(tokenize: Tokenize, tokens: Sequence[Hashable | None], text: str, span: tuple[int, int]) -> list[int]:
    """Positions of the tokens of text[start:end]: those between what is common before and behind a stand-in."""
    start, end = span
    stand_in = next(word for word in _STAND_INS if word not in text[start:end].lower().split())
    positions = [i for i, token in enumerate(tokens) if token is not None]
    ours = [tokens[i] for i in positions]
    others = [token for token in tokenize(text[:start] + stand_in + text[end:]) if token is not None]
    before = _common(ours, others)
    behind = min(_common(ours[::-1], others[::-1]), len(ours) - before, len(others) - before)
    inside = positions[before : len(positions) - behind]
    if not inside:
        raise ConesError(f"the text encoder has no tokens for {text[start:end]!r} in {text!r}; use another word")
    return inside


def _common(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Length of the common beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _ends(tokens: Sequence[Hashable | None], own: Tensor) -> Iterator[int]:
    """Start-less runs of None after each stretch of words that holds an own token."""
    holds = False
    for i, token in enumerate(tokens):
        if token is not None:
            holds = (holds and i > 0 and tokens[i - 1] is not None) or bool(own[i])
        elif holds and not (i + 1 < len(tokens) and tokens[i + 1] is not None):  # a start token stands before words
            yield i
