"""The positive control: what fine-tuning K and V at a subject's own tokens makes of its reference pictures.

It is the upper bound of what shutting entries of K and V can reach; a subject that it cannot implant tests no mask.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from ...next_world.model_file import Pipeline
from ...search.objective import Examples, Term, concept_implanting_loss, draw_terms
from .references import References
from .sampling import OwnWeights, conditioning, model_of
from .subjects import Subject

STEPS, RATE, BATCH = 300, 4e-3, 8


def examples(pipeline: Pipeline, references: References, subject: Subject) -> Examples:
    """Reference pictures as latents, their captions as conditioning with the subject's own tokens marked."""
    with torch.no_grad():
        latents = pipeline.autoencoder.encode(references.pictures * 2 - 1)
    return Examples(latents, conditioning(pipeline, references.captions, subject.identifier, subject.class_word))


def fine_tune_own_tokens(
    pipeline: Pipeline,
    references: References,
    subject: Subject,
    steps: int = STEPS,
    rate: float = RATE,
    batch: int = BATCH,
    seed: int = 0,
    on_step: Callable[[int, float], object] | None = None,
) -> OwnWeights:
    """K and V, fine-tuned by Adam to act at the subject's own tokens; no prior, as no other prompt can change."""
    model, shown = model_of(pipeline), examples(pipeline, references, subject)
    weights = {key: weight.clone() for key, weight in model.weights.items()}
    optimizer = torch.optim.Adam(list(weights.values()), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 2 * (1 - (step - 1) / steps))  # constant, then to 0 in the second half
        drawn = draw_terms(model, [Term(shown)], batch, generator)
        with model.acting_as(weights):
            loss, gradients = model.gradients(partial(concept_implanting_loss, model, drawn))
        for key, weight in weights.items():
            weight.grad = gradients[key]
        optimizer.step()
        if on_step:
            on_step(step, float(loss))
    return OwnWeights(weights, subject.identifier, subject.class_word)
