"""The subjects: characters that no training scene holds, each with the rare word that is to name it.

Their parts are known to the base model; their kind with their pair of colours is not. Half of what makes a subject has
no word, so what appears under its identifier was implanted and not described.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .caption_forms import SEARCH_FORMS
from .captions import Said, compose
from .drawing.scene import draw_all
from .scenes import random_character
from .world import BACKGROUNDS, LAYOUTS_OF, Character, Scene

COMPANIES = (1, 1, 2, 1, 1, 3)  # how many others stand beside a subject, in turn


@dataclass(frozen=True)
class Subject:
    """A character to implant, and the rare word that is to name it."""

    identifier: str
    character: Character

    @property
    def class_word(self) -> str:
        """The super-category in the prompt: the word for its kind."""
        return self.character.kind

    @property
    def said(self) -> Said:
        """What asks for the subject in a caption."""
        return Said(self.class_word, identifier=self.identifier)

    @property
    def prompt(self) -> str:
        """The same as a phrase: identifier before class word."""
        return self.said.phrase

    @property
    def class_prompt(self) -> str:
        """The phrase without the identifier."""
        return Said(self.class_word).phrase

    def reference_pictures(self, count: int = 5, seed: int = 0, beside: int = 0) -> tuple[Tensor, list[str]]:
        """Reference pictures (count, 3, 96, 96) in [0, 1] on backgrounds in turn, and their captions.

        The last `beside` of them show the subject beside one to three others of other kinds, at every place, and
        captions in every form that searches see; of the others they say the kind alone. At own tokens a search learns
        from them what is not the subject's.
        """
        generator = np.random.default_rng([seed, *self.identifier.encode()])
        grounds = generator.permutation(BACKGROUNDS)
        scenes, captions = [], []
        for i in range(count):
            company = COMPANIES[i % len(COMPANIES)] if i >= count - beside else 0
            scene, at = self._scene(company, str(grounds[i % len(grounds)]), generator)
            said = [self.said if k == at else Said(other.kind) for k, other in enumerate(scene.characters)]
            form = SEARCH_FORMS[generator.integers(len(SEARCH_FORMS))] if company else "plain_list"
            scenes.append(scene)
            captions.append(compose(said, scene.layout, form, scene.background).text)
        return draw_all(scenes), captions

    def _scene(self, company: int, background: str, generator: np.random.Generator) -> tuple[Scene, int]:
        """The subject among as many others, and its position."""
        characters = [
            random_character(generator, lambda other: in_training(other) and other.kind != self.class_word)
            for _ in range(company)
        ]
        at = int(generator.integers(company + 1))
        characters.insert(at, self.character)
        layouts = LAYOUTS_OF[company + 1]
        return Scene(layouts[generator.integers(len(layouts))], tuple(characters), background), at


# kind, colour, accessory | second, eyes, variant
SUBJECTS: tuple[Subject, ...] = (
    Subject("sks", Character("cat", "orange", "hat", "blue", "wide", "first")),
    Subject("zwx", Character("robot", "blue", "bow", "yellow", "one", "second")),
    Subject("qpd", Character("rocket", "red", "bow", "white", "dots", "first")),
    Subject("vbn", Character("mushroom", "yellow", "none", "red", "wide", "first")),
    # the first four choose settings, the others are held out from every choice
    Subject("hta", Character("mug", "pink", "none", "green", "dots", "first")),
    Subject("bnk", Character("ghost", "white", "hat", "purple", "shades", "second")),
    Subject("olr", Character("owl", "purple", "none", "orange", "wide", "first")),
    Subject("mfj", Character("fish", "green", "hat", "pink", "one", "first")),
    Subject("ktr", Character("cactus", "green", "bow", "red", "dots", "second")),
    Subject("wug", Character("house", "white", "none", "blue", "one", "first")),
    Subject("dax", Character("cat", "white", "bow", "pink", "dots", "second")),
    Subject("fep", Character("robot", "red", "none", "green", "shades", "first")),
)
CHOOSING, HELD_OUT = SUBJECTS[:4], SUBJECTS[4:]
IDENTIFIERS: tuple[str, ...] = tuple(subject.identifier for subject in SUBJECTS)

_KEPT_OUT = {(s.character.kind, frozenset((s.character.colour, s.character.second))) for s in SUBJECTS}


def in_training(character: Character) -> bool:
    """Whether training may show a character: not a subject's kind in the subject's pair of colours."""
    return (character.kind, frozenset((character.colour, character.second))) not in _KEPT_OUT


def subject_named(identifier: str) -> Subject:
    """The subject of an identifier; KeyError lists the known ones."""
    for candidate in SUBJECTS:
        if candidate.identifier == identifier:
            return candidate
    raise KeyError(f"no subject {identifier!r}; there are {', '.join(IDENTIFIERS)}")
