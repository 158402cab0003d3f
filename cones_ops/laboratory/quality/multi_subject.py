"""Cells of several subjects: masks united, masks tuned together, and what others do, up to the oracle of words.

Figures: `alone`, each subject by its own prompt with everything loaded (all of them, and by subject); `all`, everything
in one picture, asked for in every rotation of the order. The joint steps and the joint fine-tune "with collages" see
collages of the subjects (`references.together`); nothing else has ever seen two of them in one picture.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ...masks.concept_mask import ConceptMask, Where, intersection
from ...search.joint import TuneResult, UnionModel, tune_concept_masks, tuning
from ...search.objective import Examples
from ...toy_world.bundle import ToyPipeline
from ...toy_world.subjects import Subject
from .. import baselines, measure
from ..judge import Judge
from ..measure import Measuring
from ..references import Captioned, together
from ..sampling import examples, model_of
from .baselines import RATES
from .budget import Budget
from .inputs import Implanted, MethodInputs
from .measures import Figures, figure, measuring, shares


@dataclass(frozen=True)
class SubjectGroup:
    """Several subjects, what single cells left of each, and how to measure."""

    pipeline: ToyPipeline
    judge: Judge
    subjects: tuple[Subject, ...]
    inputs: tuple[MethodInputs, ...]
    seed: int
    budget: Budget
    mask_of: Callable[[Subject, Where], ConceptMask]  # the default search's
    weights_of: Callable[[Subject, str], dict[str, Tensor]]  # the UNet after another method

    @property
    def rotations(self) -> list[tuple[Subject, ...]]:
        """The subjects in every order in which each comes first once."""
        return [self.subjects[k:] + self.subjects[:k] for k in range(len(self.subjects))]

    def measuring(self, pipeline: ToyPipeline) -> Measuring:
        """How this group's pictures are sampled."""
        return measuring(Implanted(pipeline), self.judge, self.budget, self.seed)

    def measured(self, pipeline: ToyPipeline, masks: Sequence[ConceptMask] = ()) -> Figures:
        """`alone` and `all` with everything loaded."""
        how = self.measuring(pipeline)
        shut = [(mask, 1.0) for mask in masks]
        alone = [measure.subject_shown(how, one, shut) for one in self.subjects]
        every = [measure.all_shown(how, some, shut) for some in self.rotations]
        each = {f"alone {one.identifier}": [shown] for one, shown in zip(self.subjects, alone, strict=True)}
        found = shares({"alone": alone, "all": every, **each})
        if masks:
            found["density"] = figure([mask.density for mask in masks])
        return found


def oracle(group: SubjectGroup) -> Figures:
    """The untouched model with every attribute in words: what it can draw at all."""
    how = group.measuring(group.pipeline)
    alone = [measure.all_described(how, (one,)) for one in group.subjects]
    return shares({"alone": alone, "all": [measure.all_described(how, some) for some in group.rotations]})


def union(where: Where, group: SubjectGroup) -> Figures:
    """Masks found apart, loaded together; and how much any two of them have in common."""
    masks = [group.mask_of(one, where) for one in group.subjects]
    return {**group.measured(group.pipeline, masks), **overlap(masks)}


def overlap(masks: Sequence[ConceptMask]) -> Figures:
    """Means over pairs: shared neurons as a share of both masks' (Jaccard), and in units of what chance would share."""
    shared = [(one, other, intersection(one, other).count) for one, other in combinations(masks, 2)]
    return {
        "jaccard": figure([both / max(one.count + other.count - both, 1) for one, other, both in shared]),
        "overlap_over_chance": figure(
            [both * one.size / max(one.count * other.count, 1) for one, other, both in shared]
        ),
    }


def tuned(where: Where, group: SubjectGroup) -> Figures:
    """The same after joint steps."""
    result = tune(where, group)
    found = group.measured(group.pipeline, result.masks)
    found["gain"] = {"value": result.gain, "standard_error": result.standard_error}
    return {**found, "seconds": {"value": round(result.seconds, 1)}}


def tune(where: Where, group: SubjectGroup) -> TuneResult:
    """Joint steps from masks that were found apart, with collages of the subjects."""
    masks = [group.mask_of(one, where) for one in group.subjects]
    settings = replace(tuning(group.seed), steps=group.budget.joint_steps, batch=group.budget.batch)
    if where == "own tokens":
        words = [(one.identifier, one.class_word) for one in group.subjects]
        make: Callable[..., Examples] = partial(examples, group.pipeline, concepts=words)
        model: Any = model_of(group.pipeline, where, concepts=len(masks))
        prior = None
    else:
        make = partial(examples, group.pipeline)
        model = UnionModel(model_of(group.pipeline, where), len(masks))
        prior = make(*_joined([inputs.class_pictures for inputs in group.inputs]))
    subjects = [make(*inputs.pictures) for inputs in group.inputs]
    beside = make(*together(group.subjects, group.seed))
    return tune_concept_masks(model, masks, subjects, beside, prior, settings=settings)


def kv_finetune(group: SubjectGroup, collages: bool) -> Figures:
    """Custom Diffusion's joint training: one fine-tune on all subjects' pictures, maybe with collages of them."""
    sets = [inputs.pictures for inputs in group.inputs]
    if collages:
        sets.append(together(group.subjects, group.seed))
    subject = examples(group.pipeline, *_joined(sets))
    prior = examples(group.pipeline, *_joined([inputs.class_pictures for inputs in group.inputs]))
    rows = len(group.subjects) * group.budget.batch
    how = baselines.FineTuning(group.budget.steps, RATES["kv_finetune"], rows, group.seed)
    return group.measured(baselines.fine_tune(group.pipeline, subject, prior, how))


def sequential(group: SubjectGroup) -> Figures:
    """One K and V fine-tune after another, on each subject's pictures alone: what is forgotten of the first?"""
    pipeline = group.pipeline
    first: Figures = {}
    for one, inputs in zip(group.subjects, group.inputs, strict=True):
        how = inputs.fine_tuning(RATES["kv_finetune"])
        pipeline = baselines.fine_tune(pipeline, inputs.examples(), inputs.prior, how)
        if one is group.subjects[0]:
            name = f"alone {one.identifier}"
            first["first_before"] = group.measured(pipeline)[name]
    found = group.measured(pipeline)
    return {**found, **first, "first_after": found[f"alone {group.subjects[0].identifier}"]}


def lora_union(group: SubjectGroup) -> Figures:
    """LoRAs trained apart, their changes added."""
    unet: Any = copy.deepcopy(group.pipeline.unet)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    after = {name: value.clone() for name, value in before.items()}
    for one in group.subjects:
        for name, value in group.weights_of(one, "lora").items():
            after[name] += value - before[name]
    unet.load_state_dict(after)
    return group.measured(replace(group.pipeline, unet=unet))


def _joined(sets: Sequence[Captioned]) -> Captioned:
    """All pictures and all captions."""
    return torch.cat([pictures for pictures, _ in sets]), [text for _, texts in sets for text in texts]
