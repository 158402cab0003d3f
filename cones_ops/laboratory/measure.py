"""What the judge says of sampled pictures: how often a prompt shows what it should, with and without masks.

A request (`subject_shown`, `class_leak`, ...) is a list of prompts, each with what its picture should show; `measure`
samples them from fixed seeds, so that before and after are paired. Prompts take the backgrounds in turn, and the forms
that no search sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

from torch import Tensor

from ..hosts.diffusers.apply_masks import Strengths
from ..toy_world.bundle import ToyPipeline
from ..toy_world.caption_forms import HELD_OUT_FORMS
from ..toy_world.captions import Said, compose
from ..toy_world.subjects import Subject
from ..toy_world.world import BACKGROUNDS, LAYOUTS_OF, Character
from .averages import share_error
from .judge import Judge, Reading, agrees, read, shows
from .references import backgrounds
from .sampling import STEPS, OwnWeights, sample

COMPANIONS = (Said("mug", "blue"), Said("fish", "red"), Said("owl", "green"), Said("house", "pink"))
Expected = Callable[[Reading], bool]
PictureRequest = list[tuple[str, Expected]]  # a prompt for each picture, and what it should show


@dataclass(frozen=True)
class Measuring:
    """How to measure: the world, the number of pictures per measure, the sampler's settings."""

    pipeline: ToyPipeline
    judge: Judge
    samples: int = 32
    steps: int = STEPS
    first_seed: int = 1000
    on_batch: Callable[[int], object] | None = None
    own_weights: OwnWeights | None = None

    def sample(self, prompts: Sequence[str], masks: Strengths = ()) -> Tensor:
        """A picture of each prompt, from the seeds that all measures share."""
        return sample(
            self.pipeline,
            prompts,
            masks,
            seeds=range(self.first_seed, self.first_seed + len(prompts)),
            steps=self.steps,
            on_batch=self.on_batch,
            own_weights=self.own_weights,
        )


@dataclass(frozen=True)
class Measured:
    """Pictures (n, 3, 96, 96) of one prompt, what the judge reads in them, and which show what was asked."""

    prompt: str
    pictures: Tensor
    readings: Sequence[Reading]
    hits: tuple[bool, ...]

    @property
    def share(self) -> float:
        """Share of hits."""
        return sum(self.hits) / len(self.hits)

    @property
    def standard_error(self) -> float:
        """Binomial standard error of the share."""
        return share_error(self.share, len(self.hits))


def judged(judge: Judge, request: PictureRequest, pictures: Tensor) -> Measured:
    """Let the judge compare each picture with what was asked."""
    readings = read(judge, pictures)
    hits = tuple(bool(expected(reading)) for (_, expected), reading in zip(request, readings, strict=True))
    return Measured(request[0][0], pictures, readings, hits)


def measure(
    measuring: Measuring, ask: Callable[[Any, int], PictureRequest], subject: Any, masks: Strengths = ()
) -> Measured:
    """Sample what `ask` wants of a subject (or of several) with `masks`, and judge it."""
    request = ask(subject, measuring.samples)
    return judged(measuring.judge, request, measuring.sample([prompt for prompt, _ in request], masks))


def subject_shown(subject: Subject, samples: int) -> PictureRequest:
    """`a drawing of a sks cat` should show the subject."""
    return asked([[subject.said]], [subject], samples)


def class_leak(subject: Subject, samples: int) -> PictureRequest:
    """`a drawing of a cat`, without the identifier, should not show the subject: its share is a leak."""
    return asked([[Said(subject.class_word)]], [subject], samples)


def second_object(subject: Subject, samples: int) -> PictureRequest:
    """The other thing of `a drawing of a sks cat with a blue mug` should be what was asked, where it was asked."""
    request: PictureRequest = []
    companions = cycle(said for said in COMPANIONS if said.kind != subject.class_word)
    for i, (background, said) in enumerate(zip(backgrounds(samples), companions, strict=False)):
        first = [subject.said, said] if i // 2 % 2 == 0 else [said, subject.said]
        request.append((_prompt(first, background, i), partial(_stands, said, "right" if first[1] is said else "left")))
    return request


def all_shown(subjects: Sequence[Subject], samples: int) -> PictureRequest:
    """One picture should show all subjects, named by their identifiers."""
    return asked([[subject.said for subject in subjects]], subjects, samples)


def all_described(subjects: Sequence[Subject], samples: int) -> PictureRequest:
    """The same with every attribute spelled out that has a word: the untouched model's own best at what has one."""
    said = [Said.all_of(subject.character) for subject in subjects]
    return [(_prompt(said, ground, i), partial(_as_said, said)) for i, ground in enumerate(backgrounds(samples))]


THREE_MEASURES = {"subject_share": subject_shown, "class_share": class_leak, "second_object": second_object}


def measure_subject(measuring: Measuring, subject: Subject, masks: Strengths = ()) -> dict[str, Measured]:
    """The three measures of one subject, by name."""
    return {name: measure(measuring, ask, subject, masks) for name, ask in THREE_MEASURES.items()}


def drift(before: Measured, after: Measured) -> float:
    """Mean absolute change of the pictures of one prompt, in units of full brightness; 0 = bit-identical."""
    return float((before.pictures - after.pictures).abs().mean())


def asked(said: Sequence[Sequence[Said]], subjects: Sequence[Subject], samples: int) -> PictureRequest:
    """Prompts that name these in turn, whose pictures should show all subjects."""
    expected = partial(_all_in, [subject.character for subject in subjects])
    return [
        (_prompt(said[i % len(said)], background, i), expected) for i, background in enumerate(backgrounds(samples))
    ]


def _prompt(said: Sequence[Said], background: str, i: int) -> str:
    """The i-th prompt: in the forms and, of three, the layouts in turn."""
    turn = i // len(BACKGROUNDS) + i
    layouts = LAYOUTS_OF[len(said)][:2]
    form = HELD_OUT_FORMS[turn % len(HELD_OUT_FORMS)]
    return compose(said, layouts[turn // 2 % len(layouts)], form, background).text


def _all_in(characters: Sequence[Character], reading: Reading) -> bool:
    return all(shows(reading, character) for character in characters)


def _as_said(said: Sequence[Said], reading: Reading) -> bool:
    """Whether everybody is as said, and nobody else is there, in any order."""
    left = list(reading.characters)
    for wanted in said:
        found = next((character for character in left if agrees(wanted, character)), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def _stands(said: Said, place: str, reading: Reading) -> bool:
    character = reading.places.get(place)
    return character is not None and agrees(said, character)
