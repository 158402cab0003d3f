"""Cells of several subjects: masks united, masks tuned together, and what others do, up to the oracle of words.

Figures: `alone`, each subject by its own prompt with everything loaded (all of them, and by subject); `all`, everything
in one picture, asked for in every rotation of the order. The joint steps and the joint fine-tune "with collages" see
collages of the subjects (`references.together`); nothing else has ever seen two of them in one picture.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import torch

from ...masks.concept_mask import ConceptMask, Where, intersection
from ...search.joint import TuneResult, UnionModel, tune_concept_masks, tuning
from ...toy_world.bundle import ToyPipeline
from ...toy_world.subjects import Subject
from .. import baselines, measure
from ..references import Captioned, together
from ..sampling import examples, model_of
from .baselines import KV_RATE, lora_weights
from .inputs import MethodInputs
from .measures import Figures, figure, shares
from .searches import default_mask


@dataclass(frozen=True)
class SubjectGroup:
    """Several subjects of one world and seed."""

    inputs: tuple[MethodInputs, ...]

    @property
    def pipeline(self) -> ToyPipeline:
        """The untouched pipeline."""
        return self.inputs[0].pipeline

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The subjects themselves."""
        return tuple(inputs.subject for inputs in self.inputs)

    @property
    def rotations(self) -> list[tuple[Subject, ...]]:
        """The subjects in every order in which each comes first once."""
        return [self.subjects[k:] + self.subjects[:k] for k in range(len(self.subjects))]

    def measured(self, pipeline: ToyPipeline, masks: Sequence[ConceptMask] = ()) -> Figures:
        """`alone` and `all` with everything loaded."""
        sampler = replace(self.inputs[0].world.measuring(self.inputs[0].seed), pipeline=pipeline)
        shut = [(mask, 1.0) for mask in masks]
        alone = [measure.measure(sampler, measure.subject_shown, subject, shut) for subject in self.subjects]
        every = [measure.measure(sampler, measure.all_shown, order, shut) for order in self.rotations]
        each = {f"alone {subject.identifier}": [shown] for subject, shown in zip(self.subjects, alone, strict=True)}
        density = {"density": figure([mask.density for mask in masks])} if masks else {}
        return shares({"alone": alone, "all": every, **each}) | density

    def collages(self) -> Captioned:
        """The subjects together, at every place in turn."""
        return together(self.subjects)

    def prior(self) -> Captioned:
        """Class pictures of all subjects."""
        return _joined([inputs.class_pictures for inputs in self.inputs])


def oracle(group: SubjectGroup) -> Figures:
    """The untouched model with every attribute in words: what it can draw at all."""
    described = partial(measure.measure, group.inputs[0].world.measuring(group.inputs[0].seed), measure.all_described)
    alone = [described((subject,)) for subject in group.subjects]
    return shares({"alone": alone, "all": [described(order) for order in group.rotations]})


def union(where: Where, group: SubjectGroup) -> Figures:
    """Masks found apart, loaded together; and how much any two of them have in common."""
    masks = [default_mask(inputs, where) for inputs in group.inputs]
    return {**group.measured(group.pipeline, masks), **overlap(masks)}


def overlap(masks: Sequence[ConceptMask]) -> Figures:
    """Means over pairs: shared neurons as a share of both masks' (Jaccard), and in units of what chance would share."""
    jaccard, over_chance = [], []
    for first, second in combinations(masks, 2):
        shared = intersection(first, second).count
        jaccard.append(shared / max(first.count + second.count - shared, 1))
        over_chance.append(shared * first.size / max(first.count * second.count, 1))
    return {"jaccard": figure(jaccard), "overlap_over_chance": figure(over_chance)}


def tuned(where: Where, group: SubjectGroup) -> Figures:
    """The same after joint steps."""
    result = tune(where, group)
    return {
        **group.measured(group.pipeline, result.masks),
        "gain": {"value": result.gain, "standard_error": result.standard_error},
        "seconds": {"value": round(result.seconds, 1)},
    }


def tune(where: Where, group: SubjectGroup) -> TuneResult:
    """Joint steps from masks that were found apart, with collages of the subjects."""
    masks, budget = [default_mask(inputs, where) for inputs in group.inputs], group.inputs[0].world.budget
    settings = replace(tuning(group.inputs[0].seed), steps=budget.joint_steps, batch=budget.batch)
    words = [(subject.identifier, subject.class_word) for subject in group.subjects] if where == "own tokens" else []
    make = partial(examples, group.pipeline, concepts=words, rules=[mask.own_words for mask in masks if words])
    if where == "own tokens":
        model: Any = model_of(group.pipeline, where, concepts=len(masks))
    else:
        model = UnionModel(model_of(group.pipeline, where), len(masks))
    prior = make(*group.prior()) if where == "everywhere" else None
    subjects = [make(*inputs.pictures) for inputs in group.inputs]
    return tune_concept_masks(model, masks, subjects, make(*group.collages()), prior, settings=settings)


def kv_finetune(group: SubjectGroup, collages: bool) -> Figures:
    """Custom Diffusion's joint training: one fine-tune on all subjects' pictures, maybe with collages of them."""
    pictures = _joined([*(inputs.pictures for inputs in group.inputs), *([group.collages()] if collages else [])])
    settings = group.inputs[0].fine_tuning(KV_RATE)
    settings = replace(settings, batch=len(group.subjects) * settings.batch)
    subject, prior = examples(group.pipeline, *pictures), examples(group.pipeline, *group.prior())
    return group.measured(baselines.fine_tune(group.pipeline, subject, prior, settings))


def sequential(group: SubjectGroup) -> Figures:
    """One K and V fine-tune after another, on each subject's pictures alone: what is forgotten of the first?"""
    pipeline, figures = group.pipeline, []
    for inputs in group.inputs:
        pipeline = baselines.fine_tune(pipeline, inputs.examples(), inputs.prior, inputs.fine_tuning(KV_RATE))
        figures.append(group.measured(pipeline))
    first = f"alone {group.subjects[0].identifier}"
    return {**figures[-1], "first_before": figures[0][first], "first_after": figures[-1][first]}


def lora_union(group: SubjectGroup) -> Figures:
    """LoRAs trained apart, their changes added."""
    unet: Any = copy.deepcopy(group.pipeline.unet)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    after = {name: value.clone() for name, value in before.items()}
    for inputs in group.inputs:
        for name, value in lora_weights(inputs).items():
            after[name] += value - before[name]
    unet.load_state_dict(after)
    return group.measured(replace(group.pipeline, unet=unet))


def _joined(sets: Sequence[Captioned]) -> Captioned:
    """All pictures and all captions."""
    return torch.cat([pictures for pictures, _ in sets]), [text for _, texts in sets for text in texts]
