"""What is measured of one subject in a model: held-out losses and the judge's word, each with its standard error.

Held-out: drawings and collages of other seeds, on noise that no method saw, paired with the untouched model.
Pictures: the same seeds for every method, so shares are paired as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...hosts.diffusers.apply_masks import Strengths
from ...hosts.diffusers.host_model import DiffusersModel
from ...masks.concept_mask import multipliers
from ...search.objective import draw, per_draw_loss
from ...toy_world.bundle import ToyPipeline
from ...toy_world.captions import describe
from ...toy_world.subjects import Subject
from ...toy_world.world import Thing
from .. import measure
from ..averages import Average, mean_with_error
from ..judge import Judge, Reading, read
from ..measure import Measured, Measuring
from ..references import Captioned, class_references, references
from ..sampling import examples, model_of
from ..scenes import random_scene
from .budget import Budget
from .inputs import Implanted

Figures = dict[str, Average]
UNSEEN = 7_000  # seed of the held-out drawings


def figure(values: Sequence[float] | Tensor) -> Average:
    """Mean of several values with its standard error, to six decimals."""
    return mean_with_error(values, 6)


@dataclass(frozen=True)
class Unseen:
    """Pictures of a subject and its class that no method saw, and the untouched model's losses on them."""

    subject: Captioned
    classes: Captioned
    subject_losses: Tensor
    prior_losses: Tensor


def unseen(base: ToyPipeline, subject: Subject, budget: Budget) -> Unseen:
    """The same for every method and seed."""
    pictures = references(base, subject, UNSEEN, budget.beside)
    classes = class_references(base, subject, budget.class_pictures, UNSEEN, budget.beside)
    before = [losses(Implanted(base), subject, *some) for some in _terms(pictures, classes, budget)]
    return Unseen(pictures, classes, *before)


def measuring(implanted: Implanted, judge: Judge, budget: Budget, seed: int) -> Measuring:
    """How cells sample: other seeds of a cell have other noise."""
    return Measuring(
        implanted.pipeline,
        judge,
        budget.samples,
        budget.sampling_steps,
        first_seed=1000 * (seed + 1),
        own_weights=implanted.own_weights,
    )


def single(
    implanted: Implanted, subject: Subject, how: Measuring, new: Unseen, budget: Budget, plain: Tensor
) -> Figures:
    """Every figure of one subject; `plain`: what the untouched model draws for `unrelated` prompts."""
    masks = ((implanted.mask, 1.0),) if implanted.mask is not None else ()
    shown = measure.subject_shown(how, subject, masks)
    leak = measure.class_leak(how, subject, masks)
    second = measure.second_object(how, subject, masks)
    seen = [read(how.judge, one.pictures) for one in (shown, leak, second)]
    asked = measure.backgrounds(budget.samples)
    looks = [[look(reading, subject.thing) for reading in some] for some in seen[:2]]
    grounds = [r.background == ground for some in (seen[0], seen[2]) for r, ground in zip(some, asked, strict=True)]
    count = [len(reading.things) == things for some, things in ((seen[0], 1), (seen[2], 2)) for reading in some]
    return {
        **held_out(implanted, subject, new, budget),
        "subject_share": figure(shown.hits),
        "class_share": figure(leak.hits),
        "look": figure(looks[0]),
        "look_difference": figure([with_it - without for with_it, without in zip(*looks, strict=True)]),
        "second_object": figure(second.hits),
        "background": figure(grounds),
        "count": figure(count),
        "drift": figure((unrelated(how, masks) - plain).abs().flatten(1).mean(1)),
        "density": {"value": implanted.density},
        "file_bytes": {"value": implanted.file_bytes},
        "seconds": {"value": round(implanted.seconds, 2)},
    }


def held_out(implanted: Implanted, subject: Subject, new: Unseen, budget: Budget) -> Figures:
    """Loss of the untouched model less the method's, of the subject's term and of the class prompt's."""
    found: Figures = {}
    before = (new.subject_losses, new.prior_losses)
    for name, some, untouched in zip(
        ("subject", "prior"), _terms(new.subject, new.classes, budget), before, strict=True
    ):
        after = losses(implanted, subject, *some)
        found[f"{name}_loss"], found[f"{name}_gain"] = figure(after), figure(untouched - after)
    return found


def _terms(pictures: Captioned, classes: Captioned, budget: Budget) -> tuple[tuple[Captioned, int], ...]:
    return (pictures, budget.held_out), (classes, budget.held_out // 2)


def losses(implanted: Implanted, subject: Subject, pictures: Captioned, count: int) -> Tensor:
    """Loss of `count` fixed draws, (count,)."""
    some = examples(implanted.pipeline, *pictures, [(subject.identifier, subject.class_word)])
    draws = draw(some, count, torch.Generator().manual_seed(UNSEEN)).split(32)
    model, acting = acting_model(implanted)
    with torch.no_grad(), acting:
        return torch.cat([per_draw_loss(model, some, one) for one in draws])


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


def unrelated(how: Measuring, masks: Strengths = ()) -> Tensor:
    """Pictures of prompts that have nothing to do with any subject; drift is their mean absolute change."""
    generator = np.random.default_rng(UNSEEN)
    texts = [describe(random_scene(generator, count=1 + i % 2)) for i in range(max(2, how.samples // 2))]
    return measure.measure(how, texts, [bool] * len(texts), masks).pictures


def look(reading: Reading, thing: Thing) -> float:
    """How much of the subject is in a picture: the largest share of its four attributes that one thing has."""
    wanted = attributes(thing)
    return max((float(np.mean(np.equal(attributes(seen), wanted))) for _, seen in reading.things), default=0.0)


def attributes(thing: Thing) -> list[str]:
    """Shape, both colours in their roles, texture."""
    return [thing.shape, thing.colour, thing.colour2, thing.texture]


def shares(parts: Mapping[str, Sequence[Measured]]) -> Figures:
    """Share of hits over all pictures of several measures, by name."""
    return {name: figure([hit for one in some for hit in one.hits]) for name, some in parts.items()}
