"""A subject's reference pictures as a user would have them: alone, beside something, in a crowd; on every background.

Captions name the subject by identifier and class word and the others by their class word, in many forms; what makes
the subject is never said. Half of the pictures show it alone, in the middle; in the others it stands at every place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...next_world.caption_forms import SEARCH_FORMS
from ...next_world.captions import Said, compose
from ...next_world.drawing import draw
from ...next_world.scenes import random_character
from ...next_world.world import BACKGROUNDS, LAYOUTS_OF, Character, Scene
from .subjects import Subject, in_training

ALONE, BESIDE, CROWD = 8, 5, 3  # pictures with 1, 2 and 3 or 4 characters


@dataclass(frozen=True)
class References:
    """Pictures (n, 3, 96, 96) in [0, 1] and their captions."""

    pictures: Tensor
    captions: list[str]


def references(subject: Subject, seed: int = 0, shares: tuple[int, int, int] = (ALONE, BESIDE, CROWD)) -> References:
    """The reference pictures of a subject; the first six show it alone, on each background."""
    generator = np.random.default_rng([seed, *subject.identifier.encode()])
    counts = [1] * shares[0] + [2] * shares[1] + [3 + i % 2 for i in range(shares[2])]
    pictures, captions = [], []
    for i, count in enumerate(counts):
        scene, at = _scene(subject, count, BACKGROUNDS[i % len(BACKGROUNDS)], generator)
        said = tuple(
            Said(character.kind, identifier=subject.identifier if k == at else None)
            for k, character in enumerate(scene.characters)
        )
        form = SEARCH_FORMS[generator.integers(len(SEARCH_FORMS))]
        pictures.append(draw(scene))
        captions.append(compose(scene, said, form, background=bool(generator.random() < 0.8)).text)
    return References(torch.from_numpy(np.stack(pictures)).float() / 255, captions)


def _scene(subject: Subject, count: int, background: str, generator: np.random.Generator) -> tuple[Scene, int]:
    """A scene with the subject at a random position; the others are of other kinds."""

    def other(character: Character) -> bool:
        return in_training(character) and character.kind != subject.class_word

    characters = [random_character(generator, other) for _ in range(count)]
    at = int(generator.integers(count))
    characters[at] = subject.character
    layouts = LAYOUTS_OF[count]
    return Scene(layouts[generator.integers(len(layouts))], tuple(characters), background), at
