"""Random characters and scenes, from a generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .world import BACKGROUNDS, LAYOUTS_OF, UNNAMED, VALUES, Character, Scene

COUNT_SHARES = (0.15, 0.25, 0.30, 0.30)  # of scenes with 1, 2, 3, 4 characters
SHARES = {"accessory": (0.4, 0.3, 0.3)}  # where values are not equally frequent


def anybody(character: Character) -> bool:
    """Leaves nobody out."""
    return True


def random_character(generator: np.random.Generator, allowed: Callable[[Character], bool] = anybody) -> Character:
    """A character for which `allowed` is true."""
    while True:
        values = {
            name: str(generator.choice(options, p=SHARES.get(name)))
            if name in SHARES
            else options[generator.integers(len(options))]
            for name, options in VALUES.items()
        }
        if values["second"] != values["colour"] and allowed(character := Character(**values)):
            return character


def random_scene(
    generator: np.random.Generator, count: int | None = None, allowed: Callable[[Character], bool] = anybody
) -> Scene:
    """A scene of `count` characters, by default 1 to 4."""
    count = count or int(generator.choice((1, 2, 3, 4), p=COUNT_SHARES))
    layouts = LAYOUTS_OF[count] if generator.random() < 0.4 else LAYOUTS_OF[count][:2]  # three: mostly roof and cup
    characters = tuple(random_character(generator, allowed) for _ in range(count))
    layout = layouts[generator.integers(len(layouts))]
    return Scene(layout, characters, BACKGROUNDS[generator.integers(len(BACKGROUNDS))])


def look_alike(character: Character, generator: np.random.Generator) -> tuple[Character, str]:
    """The character with another value of one unnamed attribute, and which."""
    name = UNNAMED[generator.integers(len(UNNAMED))]
    taken = {getattr(character, name)} | ({character.colour} if name == "second" else set())
    options = [value for value in VALUES[name] if value not in taken]
    return replace(character, **{name: options[generator.integers(len(options))]}), name
