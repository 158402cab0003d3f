"""A word vocabulary with CLIP's conventions: start token, end token that also pads, fixed length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

START, END, UNKNOWN = 0, 1, 2
SPECIAL_WORDS = ("<start>", "<end>", "<unk>")
SPELLINGS = {"an": "a", "gray": "grey"}
WORDS = r"[a-z0-9]+|,"


@dataclass(frozen=True)
class Vocabulary:
    """Words by position; the first three are the special words."""

    words: tuple[str, ...]
    length: int  # tokens per prompt, start and end included

    def __post_init__(self) -> None:
        if tuple(self.words[:3]) != SPECIAL_WORDS:
            raise ValueError(f"a vocabulary begins with {SPECIAL_WORDS}, this one with {tuple(self.words[:3])}")
        if len(set(self.words)) < len(self.words):
            raise ValueError("a vocabulary has each word once")

    def split(self, text: str) -> list[str]:
        """Words and commas of a text, lower-cased."""
        return [SPELLINGS.get(word, word) for word in re.findall(WORDS, text.lower())]

    def word_ids(self, text: str) -> list[int]:
        """Token ids of the words alone, no start, end or padding."""
        ids = {word: position for position, word in enumerate(self.words)}
        return [ids.get(word, UNKNOWN) for word in self.split(text)]

    def encode(self, text: str) -> list[int]:
        """`length` ids: start, words (cut when too many), end, padding."""
        words = self.word_ids(text)[: self.length - 2]
        return [START, *words] + [END] * (self.length - 1 - len(words))

    def tokens(self, text: str) -> list[int | None]:
        """`encode` for own_tokens: None for start, end and padding, and nothing is cut."""
        words = self.word_ids(text)
        return [None, *words, *[None] * max(self.length - 1 - len(words), 1)]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for each text."""
        return [self.encode(text) for text in texts]
