"""The cells: what the judge sees of one mask, pair or triple with one seed; masks are kept beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

from ...hosts.diffusers.apply_masks import Strengths
from ...masks.concept_mask import ConceptMask
from ...toy_world.captions import Said
from ...toy_world.subjects import Subject, subject_named
from .. import measure
from ..averages import Average, mean_with_error
from ..cell_files import Cell
from ..gradient_guidance import GradientGuidance, LossName
from ..judge import Reading, read, shows
from ..looks import attention_iou, sample_with_maps
from ..quality.cells import group_of
from ..quality.inputs import FULL, World, inputs_of
from ..quality.multi_subject import tune
from ..quality.run import world_of
from ..quality.searches import default_mask
from ..sampling import Apart, sample
from .forms import ALL_FORMS, PER_FORM, PLACES, UNSEEN, bleeds, plain_things, prompts_of

HELD_OUT = ("hta", "bnk", "olr", "mfj")
SEEDS = (0, 1, 2)
PICTURES = 24  # of a pair, a triple, a subject alone
GUIDED_OF = 3  # every third of the pair's prompts, as a gradient costs two to three passes
GRADIENT_STEPS: dict[LossName, float] = {"attend_and_excite": 300.0, "focus": 30.0}  # the best for sks and zwx
UNTOUCHED = "untouched"  # instead of a seed: without a mask
Figures = dict[str, Average]


def plan(subjects: Sequence[str] = HELD_OUT, seeds: Sequence[int] = SEEDS) -> list[str]:
    """The names of all cells; what is needed first comes first."""
    pairs = ["+".join(pair) for pair in combinations(subjects, 2)]
    triples = ["+".join(triple) for triple in combinations(subjects, 3)]
    names = []
    for seed in seeds:
        names += [f"{kind}/{subject}/{seed}" for kind in ("alone", "bleeding") for subject in subjects]
        names += [f"pair/{pair}/{seed}" for pair in pairs]
    names += [f"{kind}/{subject}/{UNTOUCHED}" for kind in ("bleeding", "alone") for subject in subjects]
    for seed in seeds:
        names += [f"looks/{subject}/{seed}" for subject in subjects]
        names += [f"{kind}/{pair}/{seed}" for kind in ("guided", "tuned") for pair in pairs]
    names += [f"words/{triple}/{UNTOUCHED}" for triple in triples]
    return names + [f"{kind}/{triple}/{seed}" for seed in seeds for kind in ("triple", "tuned") for triple in triples]


def make_cell(folder: Path, name: str) -> Cell:
    """One cell, in whatever process."""
    started = time.monotonic()
    figures = figures_of(world_of(folder, FULL), name)
    return {"name": name, "figures": figures, "cell_seconds": round(time.monotonic() - started, 1)}


def figures_of(world: World, name: str) -> Figures:
    """What a cell shows."""
    kind, subjects, seed = name.split("/")
    group = [subject_named(identifier) for identifier in subjects.split("+")]
    number = 0 if seed == UNTOUCHED else int(seed)
    if kind == "tuned":
        masks: Sequence[ConceptMask] = tune("own tokens", group_of(world, group, number)).masks
    elif seed == UNTOUCHED:
        masks = []
    else:
        masks = [default_mask(inputs_of(world, subject, number), "own tokens") for subject in group]
    figures = MAKERS[kind](world, group, masks, number)
    return figures | ({"density": mean_with_error([mask.density for mask in masks], 6)} if masks else {})


def alone(world: World, group: Sequence[Subject], masks: Sequence[ConceptMask], seed: int) -> Figures:
    """The subject by itself, and a second thing, described in words, beside it."""
    shown = judged(world, measure.subject_shown(group[0], PICTURES), masks, seed)
    second = judged(world, measure.second_object(group[0], PICTURES), masks, seed)
    return {"alone": share(shown), "second_thing": share(second)}


def bleeding(world: World, group: Sequence[Subject], masks: Sequence[ConceptMask], seed: int) -> Figures:
    """How often a plain second thing takes the subject's colours, over all forms, and the subject is right."""
    subject, count = group[0], PER_FORM * len(ALL_FORMS)
    named = subject.said if masks else Said(subject.class_word)
    prompts = prompts_of([named] * count, plain_things(subject, count), ALL_FORMS)
    figures: Figures = {}
    for ending, apart in (("", None), ("_regions", Apart())):
        readings = readings_of(world, prompts, masks, seed, apart)
        rows = {"bleeding": [bleeds(reading, subject) for reading in readings]}
        rows["subject"] = [shows(reading, subject.character) for reading in readings]
        for name, hits in rows.items():
            figures[name + ending] = share(hits)
            for k, form in enumerate(ALL_FORMS):
                figures[f"{name}{ending}: {form}"] = share(hits[k * PER_FORM : (k + 1) * PER_FORM])
        if not masks:
            break
    return figures


def together(world: World, group: Sequence[Subject], masks: Sequence[ConceptMask], seed: int) -> Figures:
    """All subjects in one picture, without regions and with; of pairs also in forms that no search saw."""
    figures: Figures = {}
    for ending, apart in (("", None), ("_regions", Apart())):
        if len(group) > 2:
            request = [entry for order in turns(group) for entry in measure.all_shown(order, PICTURES // len(group))]
            readings = readings_of(world, [prompt for prompt, _ in request], masks, seed, apart)
            figures["together" + ending] = share([right(reading, group) for reading in readings])
            continue
        for kind, forms in (("together", PLACES), ("unseen", UNSEEN)):
            prompts = pair_prompts(group, forms)
            readings = readings_of(world, prompts, masks, seed, apart)
            figures[kind + ending] = share([right(reading, group) for reading in readings])
            bled = [any(bleeds(reading, subject) for subject in group) for reading in readings]
            figures[f"{kind}_bleeding{ending}"] = share(bled)
    return figures


def words(world: World, group: Sequence[Subject], masks: Sequence[ConceptMask], seed: int) -> Figures:
    """What the untouched model draws with every attribute in words."""
    request = [entry for order in turns(group) for entry in measure.all_described(order, PICTURES // len(group))]
    return {"words": share(judged(world, request, masks, seed))}


def looks(world: World, group: Sequence[Subject], masks: Sequence[ConceptMask], seed: int) -> Figures:
    """How well the mask of a subject's attention map covers the subject, in the pictures that show it."""
    prompts = [prompt for prompt, _ in measure.subject_shown(group[0], PICTURES)]
    seeds = range(1000 * (seed + 1), 1000 * (seed + 1) + PICTURES)
    steps = world.budget.sampling_steps
    pictures, maps = sample_with_maps(world.pipeline, prompts, [(masks[0], 1.0)], seeds=seeds, steps=steps)
    readings = read(world.judge, pictures)
    return {"attention_iou": share(attention_iou(maps[:, 0], pictures, readings, group[0].character))}


def guided(world: World, group: Sequence[Subject], masks: Sequence[ConceptMask], seed: int) -> Figures:
    """Both of a pair in one picture with the gradient methods, at one step size each."""
    prompts = pair_prompts(group, PLACES)[::GUIDED_OF]
    figures: Figures = {}
    for loss, step in GRADIENT_STEPS.items():
        readings = readings_of(world, prompts, masks, seed, gradients=GradientGuidance(loss, step))
        figures[loss] = share([right(reading, group) for reading in readings])
    return figures


def turns(group: Sequence[Subject]) -> list[Sequence[Subject]]:
    """The subjects in every order in which each comes first once."""
    return [[*group[k:], *group[:k]] for k in range(len(group))]


def pair_prompts(group: Sequence[Subject], forms: Sequence[str]) -> list[str]:
    """A pair in these forms, each subject first in half of the prompts."""
    first, second = (subject.said for subject in group)
    return prompts_of([first] * PICTURES, [second] * PICTURES, forms)


def right(reading: Reading, group: Sequence[Subject]) -> bool:
    """Whether every subject is there, with every attribute."""
    return all(shows(reading, subject.character) for subject in group)


def readings_of(
    world: World,
    prompts: Sequence[str],
    masks: Sequence[ConceptMask],
    seed: int,
    apart: Apart | None = None,
    gradients: GradientGuidance | None = None,
) -> list[Reading]:
    """What the judge reads in a picture of each prompt."""
    shut: Strengths = [(mask, 1.0) for mask in masks]
    seeds = range(1000 * (seed + 1), 1000 * (seed + 1) + len(prompts))
    steps = world.budget.sampling_steps
    pictures = sample(world.pipeline, prompts, shut, seeds=seeds, steps=steps, apart=apart, gradients=gradients)
    return read(world.judge, pictures)


def judged(world: World, request: measure.PictureRequest, masks: Sequence[ConceptMask], seed: int) -> list[bool]:
    """Which pictures show what was asked."""
    readings = readings_of(world, [prompt for prompt, _ in request], masks, seed)
    return [expected(reading) for (_, expected), reading in zip(request, readings, strict=True)]


share = partial(mean_with_error, digits=6)
MAKERS: dict[str, Callable[[World, Sequence[Subject], Sequence[ConceptMask], int], Figures]] = {
    "alone": alone,
    "bleeding": bleeding,
    "pair": together,
    "tuned": together,
    "triple": together,
    "words": words,
    "looks": looks,
    "guided": guided,
}
