"""The forms in which the judge asks for things: all that captions have, with a background and without, in any order.

No search and no joint step sees captions in `HELD_OUT_FORMS`, or pictures of two things without their background.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...toy_world.caption_forms import FORMS, HELD_OUT_FORMS
from ...toy_world.captions import Said, compose
from ...toy_world.subjects import Subject
from ...toy_world.world import BACKGROUNDS, KINDS
from ..judge import Reading

ALL_FORMS, UNSEEN, PLACES = tuple(FORMS), HELD_OUT_FORMS, ("placed",)
PER_FORM = 4  # prompts of one form in a row: each thing first, with the background said and not


def prompts_of(first: Sequence[Said], second: Sequence[Said], forms: Sequence[str]) -> list[str]:
    """One prompt for each pair of things, PER_FORM in each form in turn, on all backgrounds in turn."""
    prompts = []
    for i, pair in enumerate(zip(first, second, strict=True)):
        said = pair if i % 2 == 0 else pair[::-1]
        background = BACKGROUNDS[i % len(BACKGROUNDS)] if i % PER_FORM < 2 else None
        prompts.append(compose(said, "two", forms[i // PER_FORM % len(forms)], background).text)
    return prompts


def plain_things(subject: Subject, count: int) -> list[Said]:
    """Things of other kinds in turn, of which nothing else is said."""
    others = [kind for kind in KINDS if kind != subject.class_word]
    return [Said(others[(i + i // PER_FORM) % len(others)]) for i in range(count)]


def bleeds(reading: Reading, subject: Subject) -> bool:
    """Whether somebody of another kind has both colours of the subject."""
    character = subject.character
    colours = {character.colour, character.second}
    return any(seen.kind != character.kind and {seen.colour, seen.second} == colours for seen in reading.characters)
