"""Every method of the table: pictures of a subject -> what is left behind to sample from.

All get the same references (`references`), the same prior of class pictures with the same collages, steps and batch.
Masks at own tokens and textual inversion have no prior: no other prompt can change. The fine-tunes' rates are those
with the best held-out gain on the first four subjects (docs/science.md).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ...concept_mask import ConceptMask, Where, multipliers
from ...find import find_concept_neurons
from ...loss import Examples, concept_implanting_loss, draw
from ...mask_file import load_mask, save_mask
from ...search import SearchSettings, recommended
from ...targets import TargetChoice
from .. import control
from ..bundle import ToyPipeline
from ..references import Captioned, class_references, references
from ..sampling import OwnWeights, examples, model_of
from ..subjects import Subject
from .budget import Budget

HALF = 2  # bytes of a number in fp16, as other methods' files hold it


@dataclass(frozen=True)
class Implanted:
    """A subject in a model: the pipeline to sample from, the mask to shut in it, or K and V of its own tokens."""

    pipeline: ToyPipeline
    mask: ConceptMask | None = None
    own_weights: OwnWeights | None = None
    density: float = 0.0  # neurons shut, as a share of all text K and V weights; of others, the share trained
    file_bytes: int = 0
    seconds: float = 0.0  # of the search or training alone
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Given:
    """What a method is given: the untouched pipeline, the subject, its pictures and those of its class."""

    pipeline: ToyPipeline
    subject: Subject
    seed: int
    budget: Budget
    pictures: Captioned
    class_pictures: Captioned

    def examples(self, words: tuple[str, str] | None = None) -> Examples:
        """The subject's term; `words`: identifier and class word whose tokens are own."""
        identifier, class_word = words or (self.subject.identifier, self.subject.class_word)
        return examples(self.pipeline, *self.pictures, identifier, class_word)

    @property
    def prior(self) -> Examples:
        """The prior term."""
        return examples(self.pipeline, *self.class_pictures)

    def fine_tuning(self, rate: float) -> control.FineTuning:
        """Adam with the budget's steps."""
        return control.FineTuning(self.budget.steps, rate, self.budget.batch, self.seed)


def given(pipeline: ToyPipeline, subject: Subject, seed: int, budget: Budget) -> Given:
    """The pictures of one seed; other seeds have other drawings."""
    return Given(
        pipeline,
        subject,
        seed,
        budget,
        references(pipeline, subject, seed, budget.beside),
        class_references(pipeline, subject, budget.class_pictures, seed, budget.beside),
    )


Method = Callable[[Given], Implanted]
RATES = {
    "kv_finetune": 2e-4,
    "kv_finetune own tokens": 2e-4,
    "lora": 3e-4,
    "dreambooth": 1e-4,
    "textual_inversion": 1e-2,
}
RELAX_STEPS, RELAX_RATE = 150, 0.02  # Adam on the multipliers of neurons that were found


def nothing(given: Given) -> Implanted:
    """The untouched model."""
    return Implanted(given.pipeline)


def searched(
    where: Where,
    method: Any = "learned",
    targets: TargetChoice = "text K+V",
    class_word: bool = True,
    distill: bool = False,
    **changed: Any,
) -> Method:
    """A search of ours, with `recommended` settings but for what is `changed`."""

    def run(given: Given) -> Implanted:
        settings = search_settings(where, method, given.seed, given.budget, changed)
        words = (given.subject.identifier, given.subject.class_word if class_word else "")
        prior = None if where == "own tokens" else given.prior
        started = time.monotonic()
        result = find_concept_neurons(
            model_of(given.pipeline, where, targets),
            given.examples(words),
            prior,
            identifier=words[0],
            class_word=words[1],
            settings=settings,
            distill=distill,
        )
        return masked(given, result.mask, time.monotonic() - started, {"targets": targets, "words": " ".join(words)})

    return run


def search_settings(
    where: Where, method: Any, seed: int, budget: Budget, changed: dict[str, Any] | None = None
) -> SearchSettings:
    """`recommended`, with the budget's steps and batch."""
    settings = replace(recommended(where, method, seed), steps=budget.steps, batch=budget.batch)
    return replace(settings, **(changed or {}))


def masked(given: Given, mask: ConceptMask, seconds: float, told: dict[str, Any]) -> Implanted:
    """A mask as a thing to measure."""
    facts = {key: value for key, value in mask.provenance.items() if not key.startswith("held_out_")}
    density = mask.count / text_weights(given.pipeline)
    return Implanted(given.pipeline, mask, None, density, file_bytes(mask), seconds, {**facts, **told})


def random(of: Callable[[Given], ConceptMask]) -> Method:
    """As many neurons in each weight as another mask has, chosen at random: the control."""

    def run(given: Given) -> Implanted:
        found = of(given)
        generator = torch.Generator().manual_seed(given.seed)
        index = {
            name: torch.randperm(prod(found.shapes[name]), generator=generator)[: len(one)].sort().values
            for name, one in found.index.items()
        }
        return masked(given, replace(found, index=index), 0.0, {"method": "random"})

    return run


def relaxed(of: Callable[[Given], ConceptMask], levels: int | None = None) -> Method:
    """Multipliers in [0, 1] instead of 0 on the neurons of another mask at own tokens, maybe rounded to k / levels.

    The paper's float and quaternary neurons, as far as they are known: its own levels and optimiser are not.
    """

    def run(given: Given) -> Implanted:
        mask, model, some = of(given), model_of(given.pipeline), given.examples()
        started = time.monotonic()
        factors = multipliers(mask)
        places = {name: factor == 0 for name, factor in factors.items()}
        optimizer = torch.optim.Adam(factors.values(), lr=RELAX_RATE)
        generator = torch.Generator().manual_seed(given.seed)
        for _ in range(min(RELAX_STEPS, given.budget.steps)):
            draws = draw(some, given.budget.batch, generator)
            with model.multiplied(factors):
                _, gradients = model.gradients(partial(concept_implanting_loss, model, some, draws))
            for name, factor in factors.items():
                factor.grad = gradients[name] * model.weights[name] * places[name]
            optimizer.step()
            for factor in factors.values():
                factor.clamp_(0, 1)
        if levels:
            factors = {
                n: torch.where(places[n], (f * levels).round().clamp(max=levels - 1) / levels, f)
                for n, f in factors.items()
            }
        weights = {name: model.weights[name] * factor for name, factor in factors.items()}
        own = OwnWeights(weights, given.subject.identifier, given.subject.class_word)
        told = {"steps": RELAX_STEPS, "rate": RELAX_RATE, "levels": levels}
        found = masked(given, mask, time.monotonic() - started, told)
        size = found.file_bytes + round(mask.count * (2 / 8 if levels else HALF))
        return replace(found, mask=None, own_weights=own, file_bytes=size)

    return run


def kv_finetune(given: Given) -> Implanted:
    """Custom Diffusion's recipe: all text K and V."""
    return _trained(
        given, "kv_finetune", lambda how: control.fine_tune(given.pipeline, given.examples(), given.prior, how)
    )


def kv_finetune_own_tokens(given: Given) -> Implanted:
    """The same at own tokens: what a mask there could reach if it could hold any number."""
    name = "kv_finetune own tokens"
    started = time.monotonic()
    how = given.fine_tuning(RATES[name])
    weights = control.fine_tune_own_tokens(given.pipeline, given.examples(), given.subject, how)
    size = HALF * text_weights(given.pipeline)
    return Implanted(given.pipeline, None, weights, 1.0, size, time.monotonic() - started, {"rate": RATES[name]})


def lora(given: Given) -> Implanted:
    """LoRA of rank 4 on every attention layer, by peft."""
    numbers = 0

    def train(how: control.FineTuning) -> ToyPipeline:
        nonlocal numbers
        tuned, numbers = control.lora(given.pipeline, given.examples(), given.prior, how)
        return tuned

    trained = _trained(given, "lora", train)
    return replace(trained, file_bytes=HALF * numbers)


def dreambooth(given: Given) -> Implanted:
    """All weights of the UNet."""
    unet: Any = given.pipeline.unet
    trained = _trained(
        given, "dreambooth", lambda how: control.dreambooth(given.pipeline, given.examples(), given.prior, how)
    )
    return replace(trained, file_bytes=HALF * sum(parameter.numel() for parameter in unet.parameters()))


def textual_inversion(given: Given) -> Implanted:
    """The identifier's embedding."""
    words, captions = given.subject.identifier, given.pictures[1]
    trained = _trained(
        given,
        "textual_inversion",
        lambda how: control.textual_inversion(given.pipeline, given.examples(), captions, words, how),
    )
    width: int = given.pipeline.text_encoder.config.hidden_size
    return replace(trained, density=0.0, file_bytes=HALF * width)


def _trained(given: Given, name: str, train: Callable[[control.FineTuning], ToyPipeline]) -> Implanted:
    started = time.monotonic()
    tuned = train(given.fine_tuning(RATES[name]))
    size = HALF * text_weights(given.pipeline)
    return Implanted(tuned, None, None, 1.0, size, time.monotonic() - started, {"rate": RATES[name]})


def text_weights(pipeline: ToyPipeline) -> int:
    """How many text K and V weights there are."""
    return sum(weight.numel() for weight in model_of(pipeline).weights.values())


def file_bytes(mask: ConceptMask) -> int:
    """Size of the mask's file."""
    with tempfile.TemporaryDirectory() as folder:
        return save_mask(mask, Path(folder) / "mask.safetensors").stat().st_size


def keep(implanted: Implanted, folder: Path, name: str) -> None:
    """Keep what a cell of several concepts wants again: the mask, or the UNet's weights."""
    folder.mkdir(parents=True, exist_ok=True)
    if implanted.mask is not None:
        save_mask(implanted.mask, folder / f"{name}.safetensors", overwrite=True)
    elif implanted.own_weights is None:
        save_file(dict(implanted.pipeline.unet.state_dict()), folder / f"{name}.unet.safetensors")


def kept_mask(folder: Path, name: str) -> ConceptMask | None:
    """A mask that was kept."""
    file = folder / f"{name}.safetensors"
    return load_mask(file) if file.is_file() else None


def kept_weights(folder: Path, name: str) -> dict[str, torch.Tensor] | None:
    """Weights of a UNet that were kept."""
    file = folder / f"{name}.unet.safetensors"
    return load_file(file) if file.is_file() else None
