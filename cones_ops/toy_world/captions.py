"""Captions of scenes in words, and what each caption says of each character.

`describe` says all that has a word; `random_caption` leaves things out at random and attaches identifiers that mean
nothing or styles, which is what the model is trained on. Second colour, eyes and variant have no words of their own;
the name of a style stands for all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .caption_forms import FORMS, PLACED_FORMS, Words
from .vocabulary import SPECIAL_WORDS, Vocabulary
from .world import ACCESSORIES, BACKGROUNDS, COLOURS, KINDS, LAYOUTS, STYLES, Character, Scene

LENGTH = 64  # tokens per prompt
IDENTIFIERS = (
    "sks", "zwx", "hta", "bnk", "olr", "mfj", "qpd", "vbn", "ktr", "wug", "dax", "fep", "gzl", "jyv", "uxo", "cim",
)  # fmt: skip
STYLE_SHARE = 0.8  # of the styles that are said of characters without an identifier
BACKGROUND_WORDS = {
    "meadow": "in a meadow",
    "beach": "on a beach",
    "night": "at night",
    "room": "in a room",
    "snow": "in the snow",
    "paper": "on paper",
}
_GLUE = (
    "a", "the", "and", ",", "in", "on", "at", "of", "to", "is", "there", "with", "wearing", "next", "above", "below",
    "left", "right", "top", "bottom", "middle", "alone", "only", "just", "picture", "drawing", "photo", "beside",
    "it", "grey", "background", "stands", "two", "three", "four",
)  # fmt: skip


def vocabulary() -> Vocabulary:
    """The world's words."""
    worn = tuple(name for name in ACCESSORIES if name != "none")
    words = (*SPECIAL_WORDS, *_GLUE, *KINDS, *COLOURS, *worn, *BACKGROUNDS, *IDENTIFIERS, *STYLES)
    return Vocabulary(words, LENGTH)


@dataclass(frozen=True)
class Said:
    """What a caption says of one character. None = not said."""

    kind: str
    colour: str | None = None
    accessory: str | None = None
    identifier: str | None = None
    style: str | None = None

    @classmethod
    def all_of(cls, character: Character) -> Said:
        """Everything there is a word for, but for the style; nothing is said of an accessory that is not there."""
        worn = None if character.accessory == "none" else character.accessory
        return cls(character.kind, character.colour, worn)

    @property
    def phrase(self) -> str:
        """The noun phrase, e.g. `a sks red cat wearing a hat` or `a felix red cat`."""
        words = [word for word in (self.identifier, self.style, self.colour, self.kind) if word]
        article = "an" if words[0][0] in "aeio" else "a"  # one word to the vocabulary
        worn = f" wearing a {self.accessory}" if self.accessory else ""
        return f"{article} {' '.join(words)}{worn}"


@dataclass(frozen=True)
class Caption:
    """A text, what it says of each of the scene's characters, and the order in which it mentions them."""

    text: str
    said: tuple[Said, ...]
    order: tuple[int, ...]
    form: str
    background: str | None

    @property
    def places_said(self) -> bool:
        """Whether the text says every character's place, and not just their order."""
        return self.form in PLACED_FORMS


def compose(
    said: Sequence[Said], layout: str, form: str, background: str | None = None, order: Sequence[int] = ()
) -> Caption:
    """The caption of a form, for characters at the places of a layout.

    order: mentions the characters in another order where the form says places.
    """
    words = FORMS[form](tuple(LAYOUTS[layout]))
    if order and form in PLACED_FORMS:
        words = _reordered(words, order)
    mentioned = tuple(word for word in words if isinstance(word, int))
    text = " ".join(said[word].phrase if isinstance(word, int) else word for word in words)
    if background:
        where = BACKGROUND_WORDS[background]
        text = f"{where} {text}" if form == "there_is" else f"{text} {where}"
    return Caption(text, tuple(said), mentioned, form, background)


def _reordered(words: Words, order: Sequence[int]) -> Words:
    """The parts of a placed caption, which commas or an `and` divide, in another order."""
    parts: list[Words] = [[]]
    for word in words:
        if word in (",", "and"):
            parts.append([])
        else:
            parts[-1].append(word)
    glue = next((word for word in words if word in (",", "and")), ",")
    mixed: Words = []
    for number in order:
        mixed += [*([glue] if mixed else []), *parts[number]]
    return mixed


def describe(scene: Scene, form: str = "placed", background: bool = True) -> Caption:
    """The caption that says everything it can."""
    said = [Said.all_of(character) for character in scene.characters]
    return compose(said, scene.layout, form, scene.background if background else None)


def random_caption(
    scene: Scene, generator: np.random.Generator, forms: tuple[str, ...] = tuple(FORMS), identifiers: bool = True
) -> Caption:
    """A training caption: any form, random omissions, in three captions of ten identifiers that mean nothing."""
    names = list(generator.permutation(IDENTIFIERS)) if identifiers and generator.random() < 0.3 else []
    said = tuple(_some_of(character, names, generator) for character in scene.characters)
    form = forms[generator.integers(len(forms))]
    count = len(scene.characters)
    order = tuple(int(i) for i in generator.permutation(count)) if generator.random() < 0.3 else ()
    return compose(said, scene.layout, form, scene.background if generator.random() < 0.7 else None, order)


def _some_of(character: Character, names: list[str], generator: np.random.Generator) -> Said:
    """Half say everything; a character with an identifier mostly says nothing else; most styles are said."""
    identifier = str(names.pop()) if names and generator.random() < 0.6 else None
    style = character.style if not identifier and generator.random() < STYLE_SHARE else None
    said = replace(Said.all_of(character), identifier=identifier, style=style)
    fate = generator.random()
    if fate < (0.65 if identifier else 0.12):
        return replace(said, colour=None, accessory=None)
    if fate < 0.6:
        return said
    colour, accessory = generator.random(2) < (0.75, 0.6)
    return replace(said, colour=said.colour if colour else None, accessory=said.accessory if accessory else None)
