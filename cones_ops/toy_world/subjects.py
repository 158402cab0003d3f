"""The subjects: things whose shape-with-colour-pair never occurs in training, each with its own identifier token.

Every part of a subject (its shape, its colours, its texture) is known to the base model; the combination is not, so
whatever shows a subject under its identifier was implanted, not remembered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .world import BACKGROUNDS, COLOURS, SHAPES, TEXTURES, Scene, Thing, draw


@dataclass(frozen=True)
class Subject:
    """A thing to implant, and the rare token that is to name it."""

    identifier: str
    thing: Thing

    @property
    def class_word(self) -> str:
        """The super-category in the prompt: the shape's word."""
        return self.thing.shape

    @property
    def prompt(self) -> str:
        """What asks for the subject: identifier before class word."""
        return f"a {self.identifier} {self.class_word}"

    @property
    def class_prompt(self) -> str:
        """The same prompt without the identifier."""
        return f"a {self.class_word}"

    def reference_pictures(self, count: int = 5, seed: int = 0, beside: int = 0) -> tuple[np.ndarray, list[str]]:
        """Reference pictures (count, 3, 64, 64) in [0, 1] on backgrounds in turn, and their captions.

        The last `beside` of them show the subject beside another thing, left and right in turn, each time of another
        class, which is all its caption says, with places and without in turn. At own tokens a search learns from them
        what is not the subject's.
        """
        generator = np.random.default_rng([seed, *self.identifier.encode()])
        names = [list(BACKGROUNDS)[i % len(BACKGROUNDS)] for i in generator.permutation(max(count, len(BACKGROUNDS)))]
        shapes = generator.permutation([shape for shape in SHAPES if shape != self.thing.shape])
        pictures, captions = [], []
        for i, name in enumerate(names[:count]):
            things: tuple[tuple[str, Thing], ...] = (("centre", self.thing),)
            text = self.prompt
            if i >= count - beside:
                other = _neighbour(str(shapes[i % len(shapes)]), generator)
                left, right = (self.thing, other) if i % 2 else (other, self.thing)
                things = (("left", left), ("right", right))
                phrases = {self.thing: self.prompt, other: f"a {other.shape}"}
                form = _BESIDE[(i + i // 8) % len(_BESIDE)]
                text = form.format(left=phrases[left], right=phrases[right])
            pictures.append(draw(Scene(things, name), generator))
            captions.append(f"{text} on a {name} background")
        return np.stack(pictures), captions


_BESIDE = ("{left} on the left and {right} on the right", "{left} and {right}")  # captions, in reading order


def _neighbour(shape: str, generator: np.random.Generator) -> Thing:
    """Some thing of that shape, in two colours."""
    first, second = generator.choice(list(COLOURS), 2, replace=False)
    return Thing(shape, str(first), str(second), str(generator.choice([t for t in TEXTURES if t != "plain"])))


SUBJECTS: tuple[Subject, ...] = (
    Subject("sks", Thing("star", "purple", "yellow", "striped")),
    Subject("zwx", Thing("heart", "green", "pink", "halved")),
    Subject("qpd", Thing("cross", "orange", "blue", "bordered")),
    Subject("vbn", Thing("circle", "red", "cyan", "checkered")),
    Subject("hta", Thing("square", "blue", "yellow", "halved")),
    Subject("bnk", Thing("triangle", "cyan", "pink", "bordered")),
    Subject("olr", Thing("star", "red", "green", "checkered")),
    Subject("mfj", Thing("circle", "orange", "purple", "striped")),
)
IDENTIFIERS: tuple[str, ...] = tuple(subject.identifier for subject in SUBJECTS)

_HELD_OUT = {(s.thing.shape, frozenset((s.thing.colour, s.thing.colour2))) for s in SUBJECTS}


def held_out(thing: Thing) -> bool:
    """Whether training must not show this thing: a subject's shape with the subject's pair of colours."""
    return (thing.shape, frozenset((thing.colour, thing.colour2))) in _HELD_OUT


def subject_named(identifier: str) -> Subject:
    """The subject of an identifier; KeyError lists the known ones."""
    for candidate in SUBJECTS:
        if candidate.identifier == identifier:
            return candidate
    raise KeyError(f"no subject {identifier!r}; there are {', '.join(IDENTIFIERS)}")
