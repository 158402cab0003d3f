"""What is measured of one subject in a model: held-out losses and the judge's word, each with its standard error.

Held-out: drawings and collages of other seeds, on noise that no method saw, paired with the untouched model.
Pictures: the same seeds for every method, so shares are paired as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...hosts.diffusers.apply_masks import Strengths
from ...hosts.diffusers.host_model import DiffusersModel
from ...masks.concept_mask import multipliers
from ...models.phrases import PHRASE
from ...search.objective import draw, per_draw_loss
from ...toy_world.bundle import ToyPipeline
from ...toy_world.captions import describe
from ...toy_world.scenes import random_scene
from ...toy_world.subjects import Subject, in_training
from ...toy_world.world import Character
from .. import measure
from ..averages import Average, mean_with_error
from ..judge import Reading
from ..measure import Measured, Measuring
from ..references import Captioned, backgrounds, class_references, references
from ..sampling import examples, model_of
from .inputs import Budget, Implanted

Figures = dict[str, Average]
UNSEEN = 7_000  # seed of the held-out drawings


def figure(values: Sequence[float] | Tensor) -> Average:
    """Mean of several values with its standard error, to six decimals."""
    return mean_with_error(values, 6)


Unseen = dict[str, tuple[Captioned, Tensor]]  # of the subject and the prior: pictures, the untouched model's losses


def unseen(base: ToyPipeline, subject: Subject, budget: Budget) -> Unseen:
    """Pictures of a subject and of its class that no method saw; the same for every method and seed."""
    classes = class_references(base, subject, budget.class_pictures, UNSEEN, budget.beside)
    terms = {
        "subject": (references(base, subject, UNSEEN, budget.beside), budget.held_out),
        "prior": (classes, budget.held_out // 2),
    }
    return {
        name: (pictures, losses(Implanted(base), subject, pictures, count)) for name, (pictures, count) in terms.items()
    }


def single(implanted: Implanted, subject: Subject, measuring: Measuring, unseen: Unseen, plain: Tensor) -> Figures:
    """Every figure of one subject; `plain`: what the untouched model draws for `unrelated` prompts."""
    masks = ((implanted.mask, 1.0),) if implanted.mask is not None else ()
    shown, leak, second = measure.measure_subject(measuring, subject, masks).values()
    places = backgrounds(measuring.samples)
    looks = [[look(reading, subject.character) for reading in measured.readings] for measured in (shown, leak)]
    grounds = [
        reading.background == ground
        for measured in (shown, second)
        for reading, ground in zip(measured.readings, places, strict=True)
    ]
    counts = [len(reading.characters) == n for asked, n in ((shown, 1), (second, 2)) for reading in asked.readings]
    return {
        **held_out(implanted, subject, unseen),
        "subject_share": figure(shown.hits),
        "class_share": figure(leak.hits),
        "look": figure(looks[0]),
        "look_difference": figure([named - unnamed for named, unnamed in zip(*looks, strict=True)]),
        "second_object": figure(second.hits),
        "background": figure(grounds),
        "count": figure(counts),
        "drift": figure((unrelated(measuring, masks) - plain).abs().flatten(1).mean(1)),
        "density": {"value": implanted.density},
        "file_bytes": {"value": implanted.file_bytes},
        "seconds": {"value": round(implanted.seconds, 2)},
    }


def held_out(implanted: Implanted, subject: Subject, unseen: Unseen) -> Figures:
    """Loss of the untouched model less the method's, of the subject's term and of the class prompt's."""
    figures: Figures = {}
    for name, (pictures, untouched) in unseen.items():
        after = losses(implanted, subject, pictures, len(untouched))
        figures |= {f"{name}_loss": figure(after), f"{name}_gain": figure(untouched - after)}
    return figures


def losses(implanted: Implanted, subject: Subject, pictures: Captioned, count: int) -> Tensor:
    """Loss of `count` fixed draws, (count,)."""
    rules = [implanted.mask.own_words if implanted.mask is not None else PHRASE]
    terms = examples(implanted.pipeline, *pictures, [(subject.identifier, subject.class_word)], rules)
    batches = draw(terms, count, torch.Generator().manual_seed(UNSEEN)).split(32)
    model, acting = acting_model(implanted)
    with torch.no_grad(), acting:
        return torch.cat([per_draw_loss(model, terms, draws) for draws in batches])


def acting_model(implanted: Implanted) -> tuple[DiffusersModel, AbstractContextManager[Any]]:
    """The pipeline behind the boundary, and the context in which it acts as the method left it."""
    if implanted.mask is not None:
        where = implanted.mask.where
        model = model_of(implanted.pipeline, where, "text K+V" if where == "own tokens" else "text + self K+V")
        return model, model.multiplied(multipliers(implanted.mask))
    if implanted.own_weights is not None:
        model = model_of(implanted.pipeline)
        return model, model.acting_as(implanted.own_weights.weights)
    return model_of(implanted.pipeline), nullcontext()


def unrelated(measuring: Measuring, masks: Strengths = ()) -> Tensor:
    """Pictures of prompts that have nothing to do with any subject; drift is their mean absolute change."""
    generator = np.random.default_rng(UNSEEN)
    count = max(2, measuring.samples // 2)
    scenes = [random_scene(generator, 1 + i % 2, in_training) for i in range(count)]
    return measuring.sample([describe(scene).text for scene in scenes], masks)


def look(reading: Reading, character: Character) -> float:
    """How much of the subject is in a picture: the largest share of its attributes that one character has."""
    shares = (np.equal(astuple(seen), astuple(character)).mean() for seen in reading.characters)
    return max(map(float, shares), default=0.0)


def shares(parts: Mapping[str, Sequence[Measured]]) -> Figures:
    """Share of hits over all pictures of several measures, by name."""
    return {name: figure([hit for part in measured for hit in part.hits]) for name, measured in parts.items()}
