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
from ...masks.mask_file import load_mask, save_mask
from ...models.phrases import PHRASE
from ...models.targets import TargetChoice
from ...search.find import find_concept_neurons
from ...search.host_model import Key
from ...search.objective import Term, concept_implanting_loss, draw_terms
from ...search.settings import recommended
from ..baselines import FineTuning, descend
from ..sampling import OwnWeights, model_of
from .inputs import HALF, Implanted, MethodInputs, text_weights

Weights = Mapping[Key, Tensor]
RELAX_STEPS, RELAX_RATE = 150, 0.02  # Adam on the multipliers of neurons that were found


def searched(
    where: Where,
    inputs: MethodInputs,
    method: Any = "learned",
    targets: TargetChoice = "text K+V",
    class_word: bool = True,
    distill: bool = False,
    **changed: Any,
) -> Implanted:
    """A search of ours, with `recommended` settings but for what is `changed`."""
    budget = inputs.world.budget
    settings = replace(recommended(where, method, inputs.seed), steps=budget.steps, batch=budget.batch)
    words = (inputs.subject.identifier, inputs.subject.class_word if class_word else "")
    prior = None if where == "own tokens" else inputs.prior
    started = time.monotonic()
    result = find_concept_neurons(
        model_of(inputs.pipeline, where, targets),
        inputs.examples(words),
        prior,
        identifier=words[0],
        class_word=words[1],
        settings=replace(settings, **changed),
        distill=distill,
        own_words=PHRASE,
    )
    return masked(inputs, result.mask, time.monotonic() - started, {"targets": targets, "words": " ".join(words)})


def default(where: Where, inputs: MethodInputs) -> Implanted:
    """The default search, which keeps its mask."""
    implanted = searched(where, inputs)
    assert implanted.mask is not None
    save_mask(implanted.mask, inputs.kept(f"learned-{where}"), "overwrite")
    return implanted


def default_mask(inputs: MethodInputs, where: Where) -> ConceptMask:
    """The default search's mask, from an earlier cell or found now."""
    file = inputs.kept(f"learned-{where}")
    if not file.is_file():
        default(where, inputs)
    return load_mask(file)


def masked(inputs: MethodInputs, mask: ConceptMask, seconds: float, settings: dict[str, Any]) -> Implanted:
    """A mask as a thing to measure."""
    facts = {key: value for key, value in mask.provenance.items() if not key.startswith("held_out_")}
    density = mask.count / text_weights(inputs.pipeline)
    return Implanted(inputs.pipeline, mask, None, density, file_bytes(mask), seconds, {**facts, **settings})


def moved(found_where: Where, where: Where, inputs: MethodInputs) -> Implanted:
    """The default mask of one place of action, used at the other."""
    return masked(inputs, replace(default_mask(inputs, found_where), where=where), 0.0, {})


def random(where: Where, inputs: MethodInputs) -> Implanted:
    """As many neurons in each weight as the default mask has, chosen at random: the control."""
    mask = default_mask(inputs, where)
    generator = torch.Generator().manual_seed(inputs.seed)
    index = {
        name: torch.randperm(prod(mask.shapes[name]), generator=generator)[: len(neurons)].sort().values
        for name, neurons in mask.index.items()
    }
    return masked(inputs, replace(mask, index=index), 0.0, {"method": "random"})


def relaxed(levels: int | None, inputs: MethodInputs) -> Implanted:
    """Multipliers in [0, 1] instead of 0 on the neurons of the default mask, maybe rounded to k / levels.

    The paper's float and quaternary neurons, as far as they are known: its own levels and optimiser are not.
    """
    mask, started = default_mask(inputs, "own tokens"), time.monotonic()
    model, factors = model_of(inputs.pipeline), multipliers(mask)
    shut = {key: factor == 0 for key, factor in factors.items()}
    if factors:  # none where the search found nothing
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

    steps = min(RELAX_STEPS, inputs.world.budget.steps)
    descend(factors.values(), FineTuning(steps, RELAX_RATE, inputs.world.budget.batch, inputs.seed, clamp), step)


def file_bytes(mask: ConceptMask) -> int:
    """Size of the mask's file."""
    with tempfile.TemporaryDirectory() as folder:
        return save_mask(mask, Path(folder) / "mask.safetensors").stat().st_size
