"""The positive control: plain fine-tuning of all text K and V projections (Custom Diffusion's recipe).

Adam on L_subject + L_prior, the prior on class pictures that the untouched model sampled. It tells what a K/V method
can reach on this model at all; a subject that fine-tuning cannot implant is no test of a mask.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from ..loss import Examples, concept_implanting_loss, draw
from .bundle import ToyPipeline
from .sampling import examples, model_of, sample
from .subjects import Subject
from .world import BACKGROUNDS

STEPS, RATE, BATCH, CLASS_PICTURES = 250, 2e-3, 8, 20


def subject_examples(
    pipeline: ToyPipeline, subject: Subject, pictures: int = 5, seed: int = 0, beside: int = 0
) -> Examples:
    """The subject's reference pictures (`beside` of them with a neighbour) and their captions, own tokens marked."""
    drawn, texts = subject.reference_pictures(pictures, seed, beside)
    return examples(pipeline, torch.from_numpy(drawn), texts, subject.identifier, subject.class_word)


def class_examples(pipeline: ToyPipeline, subject: Subject, count: int = CLASS_PICTURES, seed: int = 0) -> Examples:
    """Class pictures sampled from the pipeline itself, for the prior term."""
    texts = [f"{subject.class_prompt} on a {list(BACKGROUNDS)[i % len(BACKGROUNDS)]} background" for i in range(count)]
    return examples(pipeline, sample(pipeline, texts, seeds=range(seed, seed + count)), texts)


def fine_tune(
    pipeline: ToyPipeline,
    subject: Examples,
    prior: Examples,
    *,
    steps: int = STEPS,
    rate: float = RATE,
    batch: int = BATCH,
    seed: int = 0,
    on_step: Callable[[int, float], object] | None = None,
) -> ToyPipeline:
    """A copy of the pipeline whose text K and V are fine-tuned; the original is not touched.

    Every step takes `batch` subject and `batch` prior rows. `on_step` hears the step, from 1, and its loss.
    """
    tuned = replace(pipeline, unet=copy.deepcopy(pipeline.unet))
    model = model_of(tuned, "everywhere")
    weights = dict(model.weights)  # fp32 views of the copy's own parameters
    optimizer = torch.optim.Adam(weights.values(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        draws = draw(subject, batch, generator), draw(prior, batch, generator)
        loss_of = partial(concept_implanting_loss, model, subject, draws[0], prior, draws[1])
        loss, gradients = model.gradients(loss_of)
        for name, weight in weights.items():
            weight.grad = gradients[name]
        optimizer.step()
        if on_step:
            on_step(step, float(loss))
    return tuned
