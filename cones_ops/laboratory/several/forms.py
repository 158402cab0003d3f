"""The forms in which the judge asks for things: with places and without, with a background and without, in any order.

No search and no joint step sees captions in `HELD_OUT_FORMS`, or pictures of two things without their background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from ...images.collages import FORMS, HELD_OUT_FORMS, Form, layout_caption
from ...toy_world.subjects import Subject
from ...toy_world.world import SHAPES
from ..judge import Reading
from ..measure import backgrounds


@dataclass(frozen=True)
class SentenceForm:
    """How the phrases of two things become a prompt."""

    form: Form
    background: bool
    subject_first: bool

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.form}{'' if self.background else ', no background'}{'' if self.subject_first else ', second'}"


TWELVE = tuple(SentenceForm(*choice) for choice in product(FORMS, (True, False), (True, False)))
UNSEEN = tuple(form for form in TWELVE if form.form in HELD_OUT_FORMS)
PLACES = tuple(form for form in TWELVE if form.form == "places" and form.background)


def prompts_of(first: Sequence[str], second: Sequence[str], forms: Sequence[SentenceForm]) -> list[str]:
    """One prompt per pair of phrases, in all forms in turn, on all backgrounds in turn."""
    prompts = []
    grounds = backgrounds(len(first))
    for i, (subject, other, ground) in enumerate(zip(first, second, grounds, strict=True)):
        form = forms[i // len(set(grounds)) % len(forms)]
        phrases = [subject, other] if form.subject_first else [other, subject]
        text = layout_caption(phrases, form.form)
        prompts.append(f"{text} on a {ground} background" if form.background else text)
    return prompts


def plain_things(subject: Subject, count: int) -> list[str]:
    """Phrases of things of other classes in turn, of which nothing else is said."""
    others = [shape for shape in SHAPES if shape != subject.thing.shape]
    return [f"a {others[(i + i // 4) % len(others)]}" for i in range(count)]


def bleeds(reading: Reading, subject: Subject) -> bool:
    """Whether a thing of another class has both colours of the subject."""
    colours = {subject.thing.colour, subject.thing.colour2}
    return any(
        thing.shape != subject.thing.shape and {thing.colour, thing.colour2} == colours for _, thing in reading.things
    )
