"""What the judge says of sampled pictures: how often a prompt shows what it should, with and without masks.

Every measure samples `samples` pictures from the same seeds, so that before and after are paired, and comes with its
pictures, its hits and the binomial standard error of its share. Prompts go through the backgrounds in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..hosts.diffusers.apply_masks import Strengths
from ..images.collages import placed
from ..toy_world.bundle import ToyPipeline
from ..toy_world.captions import Description, describe
from ..toy_world.subjects import Subject
from ..toy_world.world import BACKGROUNDS, Scene, Thing
from .averages import share_error
from .judge import Judge, Reading, read, shows
from .sampling import BATCH, GUIDANCE, STEPS, OwnWeights, sample

COMPANIONS = tuple(
    Thing(shape, colour, colour, "plain")
    for shape, colour in (("circle", "blue"), ("square", "red"), ("triangle", "green"), ("cross", "pink"))
)


PictureRequest = tuple[list[str], list[Callable[[Reading], bool]]]  # a prompt for each picture, and what it should show


@dataclass(frozen=True)
class Measuring:
    """How to measure: the world, the number of pictures per measure, the sampler's settings."""

    pipeline: ToyPipeline
    judge: Judge
    samples: int = 32
    steps: int = STEPS
    guidance: float = GUIDANCE
    batch: int = BATCH
    first_seed: int = 1000
    on_batch: Callable[[int], object] | None = None
    own_weights: OwnWeights | None = None


@dataclass(frozen=True)
class Measured:
    """Pictures (n, 3, 64, 64) of one prompt, and which of them show what was asked."""

    prompt: str
    pictures: Tensor
    hits: tuple[bool, ...]

    @property
    def share(self) -> float:
        """Share of hits."""
        return sum(self.hits) / len(self.hits)

    @property
    def standard_error(self) -> float:
        """Binomial standard error of the share."""
        return share_error(self.share, len(self.hits))


def measure(
    measuring: Measuring, prompts: Sequence[str], wanted: Sequence[Callable[[Reading], bool]], masks: Strengths = ()
) -> Measured:
    """Sample each prompt with `masks` and let the judge say whether it is what was `wanted`."""
    pictures = sample(
        measuring.pipeline,
        prompts,
        masks,
        seeds=range(measuring.first_seed, measuring.first_seed + len(prompts)),
        steps=measuring.steps,
        guidance=measuring.guidance,
        batch=measuring.batch,
        on_batch=measuring.on_batch,
        own_weights=measuring.own_weights,
    )
    readings = read(measuring.judge, pictures)
    hits = tuple(bool(hit(reading)) for hit, reading in zip(wanted, readings, strict=True))
    return Measured(prompts[0], pictures, hits)


def subject_shown(measuring: Measuring, subject: Subject, masks: Strengths = ()) -> Measured:
    """Whether `a sks star` shows the subject."""
    return measure(measuring, *subject_request(subject, measuring.samples), masks)


def class_leak(measuring: Measuring, subject: Subject, masks: Strengths = ()) -> Measured:
    """Whether `a star`, without the identifier, shows the subject all the same."""
    return measure(measuring, *class_request(subject, measuring.samples), masks)


def second_object(measuring: Measuring, subject: Subject, masks: Strengths = ()) -> Measured:
    """Whether the other thing of `a sks star on the left and a blue plain circle on the right` is what was asked."""
    return measure(measuring, *second_request(subject, measuring.samples), masks)


def all_shown(measuring: Measuring, subjects: Sequence[Subject], masks: Strengths = ()) -> Measured:
    """Whether one picture shows all subjects, asked for by their identifiers."""
    return measure(measuring, *all_request(subjects, measuring.samples), masks)


def all_described(measuring: Measuring, subjects: Sequence[Subject]) -> Measured:
    """The untouched model's own best: all subjects' attributes spelled out."""
    return measure(measuring, *described_request(subjects, measuring.samples))


# what a cell asks for, whoever samples it


def subject_request(subject: Subject, samples: int) -> PictureRequest:
    return _shown(subject.prompt, subject, samples)


def class_request(subject: Subject, samples: int) -> PictureRequest:
    return _shown(subject.class_prompt, subject, samples)


def second_request(subject: Subject, samples: int) -> PictureRequest:
    companions = [thing for thing in COMPANIONS if thing.shape != subject.thing.shape]
    prompts, wanted = [], []
    for i, background in enumerate(backgrounds(samples)):
        thing = companions[i % len(companions)]
        phrase = Description(thing.shape, (thing.colour,), thing.texture, None).phrase
        prompts.append(f"{subject.prompt} on the left and {phrase} on the right on a {background} background")
        wanted.append(_stands("right", thing))
    return prompts, wanted


def all_request(subjects: Sequence[Subject], samples: int) -> PictureRequest:
    """All subjects by their identifiers, at the places of that many things in turn."""
    return _placed([one.prompt for one in subjects], subjects, samples)


def described_request(subjects: Sequence[Subject], samples: int) -> PictureRequest:
    """The same with every attribute spelled out instead."""
    spelled = [
        describe(Scene((("centre", one.thing),), "grey")).removesuffix(" on a grey background") for one in subjects
    ]
    return _placed(spelled, subjects, samples)


def _placed(phrases: Sequence[str], subjects: Sequence[Subject], samples: int) -> PictureRequest:
    text = placed(phrases)
    prompts = [f"{text} on a {background} background" for background in backgrounds(samples)]
    things = [one.thing for one in subjects]
    return prompts, [lambda reading: all(shows(reading, thing) for thing in things)] * samples


def drift(before: Measured, after: Measured) -> float:
    """Mean absolute change of the pictures of one prompt, in units of full brightness; 0 = bit-identical."""
    return float((before.pictures - after.pictures).abs().mean())


def _shown(text: str, subject: Subject, samples: int) -> PictureRequest:
    prompts = [f"{text} on a {background} background" for background in backgrounds(samples)]
    return prompts, [lambda reading: shows(reading, subject.thing)] * samples


def backgrounds(count: int) -> list[str]:
    """The backgrounds of a measure's prompts, in turn."""
    return [list(BACKGROUNDS)[i % len(BACKGROUNDS)] for i in range(count)]


def _stands(place: str, thing: Thing) -> Callable[[Reading], bool]:
    return lambda reading: dict(reading.things).get(place) == thing
