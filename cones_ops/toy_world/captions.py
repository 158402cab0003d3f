"""Captions of scenes in words, and the attributes that each word speaks of.

`describe` spells everything out (the prompts of the quality bar and of the full-caption control); `caption` drops
attributes at random and attaches identifiers that mean nothing, which is what the model is trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .subjects import IDENTIFIERS
from .vocabulary import SPECIAL_WORDS, Vocabulary
from .world import BACKGROUNDS, COLOURS, SHAPES, TEXTURES, Scene, Thing

LENGTH = 48  # tokens per prompt
_GLUE = ("a", "and", "on", "the", "background", "left", "right", "top", "bottom", ",")


def vocabulary() -> Vocabulary:
    """The toy world's words."""
    words = (*SPECIAL_WORDS, *_GLUE, *SHAPES, *COLOURS, *TEXTURES, *BACKGROUNDS, *IDENTIFIERS)
    return Vocabulary(words, LENGTH)


@dataclass(frozen=True)
class Description:
    """What a caption says of one thing. None = not said."""

    shape: str
    colours: tuple[str, ...] | None
    texture: str | None
    identifier: str | None

    @property
    def phrase(self) -> str:
        """The noun phrase, e.g. `a sks red and blue striped star`."""
        words = ["a", self.identifier, " and ".join(self.colours) if self.colours else None, self.texture, self.shape]
        return " ".join(word for word in words if word)


def _fully(thing: Thing) -> Description:
    colours = (thing.colour,) if thing.texture == "plain" else (thing.colour, thing.colour2)
    return Description(thing.shape, colours, thing.texture, None)


def _partly(thing: Thing, generator: np.random.Generator, identifiers: list[str]) -> Description:
    full, fate = _fully(thing), generator.random()
    colours = full.colours if fate < 0.72 else None
    texture = full.texture if fate < 0.6 or 0.72 <= fate < 0.84 else None
    # An identifier may name any thing; most often one whose attributes are left out, as in "a sks star".
    identifier = None
    if generator.random() < (0.4 if colours is None else 0.1):
        identifier = identifiers.pop(generator.integers(len(identifiers)))
    return Description(thing.shape, colours, texture, identifier)


def _join(places: list[str], descriptions: list[Description], background: str | None, placed: bool) -> str:
    phrases = [description.phrase for description in descriptions]
    if placed and len(phrases) > 2:
        phrases = [f"{place} {phrase}" for place, phrase in zip(places, phrases, strict=True)]
    elif placed and len(phrases) == 2:
        phrases = [f"{phrase} on the {place}" for place, phrase in zip(places, phrases, strict=True)]
    text = (" , " if len(phrases) > 2 else " and ").join(phrases)
    return f"{text} on a {background} background" if background else text


def describe(scene: Scene) -> str:
    """The caption with every attribute, place and the background."""
    places, things = [place for place, _ in scene.things], [_fully(thing) for _, thing in scene.things]
    return _join(places, things, scene.background, placed=True)


def caption(scene: Scene, generator: np.random.Generator) -> tuple[str, list[Description]]:
    """A training caption with random omissions, and what it says of each thing in order of mention."""
    identifiers, things = list(IDENTIFIERS), list(scene.things)
    if generator.random() < 0.3:
        things = [things[i] for i in generator.permutation(len(things))]
    descriptions = [_partly(thing, generator, identifiers) for _, thing in things]
    background = scene.background if generator.random() < 0.75 else None
    placed = bool(generator.random() < 0.75)
    return _join([place for place, _ in things], descriptions, background, placed), descriptions
