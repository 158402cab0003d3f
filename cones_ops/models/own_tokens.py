"""Where a concept's own tokens are in a prompt: those of the words that speak of it (phrases.py).

A word's tokens are those that change when another word stands in its place. So any tokenizer will do, with its word
pieces, chunks and templates; it is a callable from text to all tokens, None for start, end and padding.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import takewhile

import torch
from torch import Tensor

from ..errors import ConesError
from .phrases import OWN_WORDS, OwnWords, PromptText, Span, own_spans

Tokenize = Callable[[str], Sequence[Hashable | None]]
_STAND_INS = ("and", "of", "7")


def own_positions(
    tokenize: Tokenize,
    text: str | PromptText,
    identifier: str,
    class_word: str = "",
    words: OwnWords = OWN_WORDS[0],
) -> Tensor:
    """Boolean (L,), L tokens of `text`: True at every occurrence of the identifier, and at what belongs to it.

    words: the rule of what does. Identifier and class word may be several words; alternatives are joined by "+", as in
    the names of combined masks ("sks+zwx"). With "... + end" also the end and padding tokens after the chunk of text
    that holds one. Nothing is True where the identifier is not in the text. ConesError for an identifier without a
    word.
    """
    own = span_positions(tokenize, text, own_spans(text, identifier, class_word, words))
    if words == "identifier + class word + end":
        plain = text if isinstance(text, str) else text.text
        own[list(_ends(list(tokenize(plain)), own))] = True
    return own


def span_positions(tokenize: Tokenize, text: str | PromptText, spans: Iterable[Span]) -> Tensor:
    """Boolean (L,), L tokens of `text`: True at the tokens of the spans, of which each holds words."""
    plain = text if isinstance(text, str) else text.text
    tokens = list(tokenize(plain))
    positions = torch.zeros(len(tokens), dtype=torch.bool)
    for span in spans:
        positions[_tokens_of(tokenize, tokens, plain, span)] = True
    return positions


def _tokens_of(tokenize: Tokenize, tokens: Sequence[Hashable | None], text: str, span: Span) -> list[int]:
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
