"""Our methods: searches with any setting changed, random neurons, and float or quaternary ones."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...hosts.diffusers.host_model import DiffusersModel
from ...masks.concept_mask import ConceptMask, Where, multipliers
from ...masks.mask_file import save_mask
from ...models.targets import TargetChoice
from ...search.find import find_concept_neurons
from ...search.host_model import Key
from ...search.objective import Term, concept_implanting_loss, draw_terms
from ...search.settings import recommended
from ..baselines import FineTuning, descend
from ..sampling import OwnWeights, model_of
from .inputs import HALF, BenchmarkMethod, Implanted, MethodInputs, text_weights

Weights = Mapping[Key, Tensor]
RELAX_STEPS, RELAX_RATE = 150, 0.02  # Adam on the multipliers of neurons that were found


def searched(
    where: Where,
    method: Any = "learned",
    targets: TargetChoice = "text K+V",
    class_word: bool = True,
    distill: bool = False,
    **changed: Any,
) -> BenchmarkMethod:
    """A search of ours, with `recommended` settings but for what is `changed`."""

    def run(inputs: MethodInputs) -> Implanted:
        settings = recommended(where, method, inputs.seed)
        settings = replace(settings, **{"steps": inputs.budget.steps, "batch": inputs.budget.batch, **changed})
        words = (inputs.subject.identifier, inputs.subject.class_word if class_word else "")
        prior = None if where == "own tokens" else inputs.prior
        started = time.monotonic()
        result = find_concept_neurons(
            model_of(inputs.pipeline, where, targets),
            inputs.examples(words),
            prior,
            identifier=words[0],
            class_word=words[1],
            settings=settings,
            distill=distill,
        )
        return masked(inputs, result.mask, time.monotonic() - started, {"targets": targets, "words": " ".join(words)})

    return run


def masked(inputs: MethodInputs, mask: ConceptMask, seconds: float, settings: dict[str, Any]) -> Implanted:
    """A mask as a thing to measure."""
    facts = {key: value for key, value in mask.provenance.items() if not key.startswith("held_out_")}
    density = mask.count / text_weights(inputs.pipeline)
    return Implanted(inputs.pipeline, mask, None, density, file_bytes(mask), seconds, {**facts, **settings})


def random(mask: ConceptMask) -> BenchmarkMethod:
    """As many neurons in each weight as `mask` has, chosen at random: the control."""

    def run(inputs: MethodInputs) -> Implanted:
        generator = torch.Generator().manual_seed(inputs.seed)
        index = {
            name: torch.randperm(prod(mask.shapes[name]), generator=generator)[: len(neurons)].sort().values
            for name, neurons in mask.index.items()
        }
        return masked(inputs, replace(mask, index=index), 0.0, {"method": "random"})

    return run


def relaxed(mask: ConceptMask, levels: int | None = None) -> BenchmarkMethod:
    """Multipliers in [0, 1] instead of 0 on the neurons of a mask at own tokens, maybe rounded to k / levels.

    The paper's float and quaternary neurons, as far as they are known: its own levels and optimiser are not.
    """

    def run(inputs: MethodInputs) -> Implanted:
        started = time.monotonic()
        model, factors = model_of(inputs.pipeline), multipliers(mask)
        shut = {key: factor == 0 for key, factor in factors.items()}
        _descend(model, factors, shut, inputs)
        if levels:
            factors = {
                key: torch.where(shut[key], (factor * levels).round().clamp(max=levels - 1) / levels, factor)
                for key, factor in factors.items()
            }
        weights = {key: model.weights[key] * factor for key, factor in factors.items()}
        settings = {"steps": RELAX_STEPS, "rate": RELAX_RATE, "levels": levels}
        implanted = masked(inputs, mask, time.monotonic() - started, settings)
        size = implanted.file_bytes + round(mask.count * (2 / 8 if levels else HALF))
        own_weights = OwnWeights(weights, inputs.subject.identifier, inputs.subject.class_word)
        return replace(implanted, mask=None, own_weights=own_weights, file_bytes=size)

    return run


def _descend(model: DiffusersModel, factors: Weights, shut: Weights, inputs: MethodInputs) -> None:
    """Adam on the multipliers of the shut neurons, in place, within [0, 1]."""
    terms = [Term(inputs.examples())]

    def step(batch: int, generator: torch.Generator) -> Tensor:
        drawn = draw_terms(model, terms, batch, generator)
        with model.multiplied(factors):
            loss, gradients = model.gradients(partial(concept_implanting_loss, model, drawn))
        for key, factor in factors.items():
            factor.grad = gradients[key] * model.weights[key] * shut[key]
        return loss

    def clamp(_: int, __: float) -> None:
        for factor in factors.values():
            factor.clamp_(0, 1)

    steps = min(RELAX_STEPS, inputs.budget.steps)
    descend(factors.values(), FineTuning(steps, RELAX_RATE, inputs.budget.batch, inputs.seed, clamp), step)


def file_bytes(mask: ConceptMask) -> int:
    """Size of the mask's file."""
    with tempfile.TemporaryDirectory() as folder:
        return save_mask(mask, Path(folder) / "mask.safetensors").stat().st_size
