"""Our methods: searches with any setting changed, random neurons, and float or quaternary ones."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch

from ...masks.concept_mask import ConceptMask, Where, multipliers
from ...masks.mask_file import save_mask
from ...models.targets import TargetChoice
from ...search.find import find_concept_neurons
from ...search.objective import draw, per_draw_loss
from ...search.settings import SearchSettings, recommended
from ..sampling import OwnWeights, model_of
from .budget import Budget
from .inputs import HALF, BenchmarkMethod, Implanted, MethodInputs, text_weights

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
        settings = search_settings(where, method, inputs.seed, inputs.budget, changed)
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


def search_settings(
    where: Where, method: Any, seed: int, budget: Budget, changed: dict[str, Any] | None = None
) -> SearchSettings:
    """`recommended`, with the budget's steps and batch."""
    settings = replace(recommended(where, method, seed), steps=budget.steps, batch=budget.batch)
    return replace(settings, **(changed or {}))


def masked(inputs: MethodInputs, mask: ConceptMask, seconds: float, told: dict[str, Any]) -> Implanted:
    """A mask as a thing to measure."""
    facts = {key: value for key, value in mask.provenance.items() if not key.startswith("held_out_")}
    density = mask.count / text_weights(inputs.pipeline)
    return Implanted(inputs.pipeline, mask, None, density, file_bytes(mask), seconds, {**facts, **told})


def random(of: Callable[[MethodInputs], ConceptMask]) -> BenchmarkMethod:
    """As many neurons in each weight as another mask has, chosen at random: the control."""

    def run(inputs: MethodInputs) -> Implanted:
        found = of(inputs)
        generator = torch.Generator().manual_seed(inputs.seed)
        index = {
            name: torch.randperm(prod(found.shapes[name]), generator=generator)[: len(one)].sort().values
            for name, one in found.index.items()
        }
        return masked(inputs, replace(found, index=index), 0.0, {"method": "random"})

    return run


def relaxed(of: Callable[[MethodInputs], ConceptMask], levels: int | None = None) -> BenchmarkMethod:
    """Multipliers in [0, 1] instead of 0 on the neurons of another mask at own tokens, maybe rounded to k / levels.

    The paper's float and quaternary neurons, as far as they are known: its own levels and optimiser are not.
    """

    def run(inputs: MethodInputs) -> Implanted:
        mask, model, examples = of(inputs), model_of(inputs.pipeline), inputs.examples()
        started = time.monotonic()
        factors = multipliers(mask)
        shut = {key: factor == 0 for key, factor in factors.items()}
        optimizer = torch.optim.Adam(factors.values(), lr=RELAX_RATE)
        generator = torch.Generator().manual_seed(inputs.seed)
        for _ in range(min(RELAX_STEPS, inputs.budget.steps)):
            loss = partial(per_draw_loss, model, examples, draw(examples, inputs.budget.batch, generator))
            with model.multiplied(factors):
                _, gradients = model.gradients(lambda loss=loss: loss().mean())  # type: ignore[misc]
            for key, factor in factors.items():
                factor.grad = gradients[key] * model.weights[key] * shut[key]
            optimizer.step()
            for factor in factors.values():
                factor.clamp_(0, 1)
        if levels:
            factors = {
                key: torch.where(shut[key], (f * levels).round().clamp(max=levels - 1) / levels, f)
                for key, f in factors.items()
            }
        weights = {key: model.weights[key] * factor for key, factor in factors.items()}
        own = OwnWeights(weights, inputs.subject.identifier, inputs.subject.class_word)
        told = {"steps": RELAX_STEPS, "rate": RELAX_RATE, "levels": levels}
        found = masked(inputs, mask, time.monotonic() - started, told)
        size = found.file_bytes + round(mask.count * (2 / 8 if levels else HALF))
        return replace(found, mask=None, own_weights=own, file_bytes=size)

    return run


def file_bytes(mask: ConceptMask) -> int:
    """Size of the mask's file."""
    with tempfile.TemporaryDirectory() as folder:
        return save_mask(mask, Path(folder) / "mask.safetensors").stat().st_size
