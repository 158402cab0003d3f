"""What the judge says of sampled pictures: how often a prompt shows what it should, with and without masks.

A request (`subject_shown`, `class_leak`, ...) is a list of prompts, each with what its picture should show; `measure`
samples them from fixed seeds, so that before and after are paired. Prompts take the backgrounds in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

from torch import Tensor

from ..hosts.diffusers.apply_masks import Strengths
from ..images.collages import layout_caption
from ..toy_world.bundle import ToyPipeline
from ..toy_world.captions import Description, describe
from ..toy_world.subjects import Subject
from ..toy_world.world import BACKGROUNDS, Scene, Thing
from .averages import share_error
from .judge import Judge, Reading, read, shows
from .sampling import STEPS, OwnWeights, sample

COMPANIONS = tuple(
    Thing(shape, colour, colour, "plain")
    for shape, colour in (("circle", "blue"), ("square", "red"), ("triangle", "green"), ("cross", "pink"))
)
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
    """Pictures (n, 3, 64, 64) of one prompt, what the judge reads in them, and which show what was asked."""

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
    """`a sks star` should show the subject."""
    return _on_backgrounds(subject.prompt, [subject], samples)


def class_leak(subject: Subject, samples: int) -> PictureRequest:
    """`a star`, without the identifier, should not show the subject: its share is a leak."""
    return _on_backgrounds(subject.class_prompt, [subject], samples)


def second_object(subject: Subject, samples: int) -> PictureRequest:
    """The other thing of `a sks star on the left and a blue plain circle on the right` should be what was asked."""
    request: PictureRequest = []
    companions = cycle(thing for thing in COMPANIONS if thing.shape != subject.thing.shape)
    for background, thing in zip(backgrounds(samples), companions, strict=False):
        phrase = Description(thing.shape, (thing.colour,), thing.texture, None).phrase
        prompt = f"{subject.prompt} on the left and {phrase} on the right on a {background} background"
        request.append((prompt, partial(_on_the_right, thing)))
    return request


def all_shown(subjects: Sequence[Subject], samples: int) -> PictureRequest:
    """One picture should show all subjects, named by their identifiers."""
    return _on_backgrounds(layout_caption([subject.prompt for subject in subjects]), subjects, samples)


def all_described(subjects: Sequence[Subject], samples: int) -> PictureRequest:
    """The same with every attribute spelled out instead: the untouched model's own best."""
    scenes = [Scene((("centre", subject.thing),), "grey") for subject in subjects]
    phrases = [describe(scene).removesuffix(" on a grey background") for scene in scenes]
    return _on_backgrounds(layout_caption(phrases), subjects, samples)


THREE_MEASURES = {"subject_share": subject_shown, "class_share": class_leak, "second_object": second_object}


def measure_subject(measuring: Measuring, subject: Subject, masks: Strengths = ()) -> dict[str, Measured]:
    """The three measures of one subject, by name."""
    return {name: measure(measuring, ask, subject, masks) for name, ask in THREE_MEASURES.items()}


def drift(before: Measured, after: Measured) -> float:
    """Mean absolute change of the pictures of one prompt, in units of full brightness; 0 = bit-identical."""
    return float((before.pictures - after.pictures).abs().mean())


def backgrounds(count: int) -> list[str]:
    """The backgrounds of a measure's prompts, in turn."""
    return [list(BACKGROUNDS)[i % len(BACKGROUNDS)] for i in range(count)]


def _on_backgrounds(text: str, subjects: Sequence[Subject], samples: int) -> PictureRequest:
    expected = partial(_all_in, [subject.thing for subject in subjects])
    return [(f"{text} on a {background} background", expected) for background in backgrounds(samples)]


def _all_in(things: Sequence[Thing], reading: Reading) -> bool:
    return all(shows(reading, thing) for thing in things)


def _on_the_right(thing: Thing, reading: Reading) -> bool:
    return dict(reading.things).get("right") == thing
