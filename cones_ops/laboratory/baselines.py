"""What other methods make of the same pictures: fine-tuning K and V, LoRA, DreamBooth, textual inversion.

Plain fine-tuning of all text K and V (Custom Diffusion's recipe, here without its extra token) is the positive control:
it shows what a K/V method can reach on this model at all; a subject that it cannot implant is no test of a mask. All
take Adam on L_subject + L_prior with the prior on class pictures that the untouched model sampled, `batch` rows of each
a step, and leave the original alone. Rates: lowest held-out loss on the first four subjects (docs/results/quality.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..hosts.diffusers.host_model import DiffusersModel, TextTokens
from ..search.host_model import Key
from ..search.objective import Examples, Term, concept_implanting_loss, draw, draw_terms, per_draw_loss
from ..toy_world.bundle import ToyPipeline
from ..toy_world.subjects import Subject
from .references import class_references
from .sampling import OwnWeights, examples, model_of

STEPS, RATE, BATCH, CLASS_PICTURES = 250, 2e-3, 8, 20
LORA_RANK = 4
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # every attention layer, as diffusers' own training script has it


@dataclass(frozen=True)
class FineTuning:
    """How to fine-tune: Adam's steps and rate, rows of each term in a step, seed of the noise."""

    steps: int = STEPS
    rate: float = RATE
    batch: int = BATCH
    seed: int = 0
    on_step: Callable[[int, float], object] | None = None  # hears the step, from 1, and its loss


DEFAULT = FineTuning()
StepLoss = Callable[[int, torch.Generator], Tensor]  # rows of each term, noise


def subject_examples(
    pipeline: ToyPipeline, subject: Subject, pictures: int = 5, seed: int = 0, beside: int = 0
) -> Examples:
    """The subject's reference pictures (`beside` of them with a neighbour) and their captions, own tokens marked."""
    drawn, texts = subject.reference_pictures(pictures, seed, beside)
    return examples(pipeline, drawn, texts, [(subject.identifier, subject.class_word)])


def class_examples(pipeline: ToyPipeline, subject: Subject, count: int = CLASS_PICTURES, seed: int = 0) -> Examples:
    """Class pictures sampled from the pipeline itself, for the prior term."""
    return examples(pipeline, *class_references(pipeline, subject, count, seed))


def fine_tune(pipeline: ToyPipeline, subject: Examples, prior: Examples, tuning: FineTuning = DEFAULT) -> ToyPipeline:
    """A copy of the pipeline whose text K and V are fine-tuned."""
    tuned = replace(pipeline, unet=copy.deepcopy(pipeline.unet))
    model = model_of(tuned, "everywhere")
    weights = dict(model.weights)  # fp32 views of the copy's own parameters
    descend(weights.values(), tuning, partial(_tapped_step, model, weights, [Term(subject), Term(prior)]))
    return tuned


def fine_tune_own_tokens(
    pipeline: ToyPipeline, subject: Examples, words: Subject, tuning: FineTuning = DEFAULT
) -> OwnWeights:
    """K and V fine-tuned to act at the subject's own tokens only; no prior, as no other prompt can change."""
    model = model_of(pipeline, "own tokens")
    weights = {key: weight.clone() for key, weight in model.weights.items()}

    def step(batch: int, generator: torch.Generator) -> Tensor:
        with model.acting_as(weights):
            return _tapped_step(model, weights, [Term(subject)], batch, generator)

    descend(weights.values(), tuning, step)
    return OwnWeights(weights, words.identifier, words.class_word)


def lora(
    pipeline: ToyPipeline, subject: Examples, prior: Examples, tuning: FineTuning = DEFAULT
) -> tuple[ToyPipeline, int]:
    """A copy with a LoRA by peft, trained and merged, and how many numbers the LoRA has."""
    import peft

    config = peft.LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=LORA_TARGETS)
    copied: Any = copy.deepcopy(pipeline.unet)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(tuning.seed)
        adapted: Any = peft.get_peft_model(copied, config)
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    _train(pipeline, adapted, parameters, [Term(subject), Term(prior)], tuning)
    merged = adapted.merge_and_unload().requires_grad_(False)
    return replace(pipeline, unet=merged), sum(parameter.numel() for parameter in parameters)


def dreambooth(pipeline: ToyPipeline, subject: Examples, prior: Examples, tuning: FineTuning = DEFAULT) -> ToyPipeline:
    """A copy whose whole UNet is fine-tuned."""
    unet: Any = copy.deepcopy(pipeline.unet).requires_grad_(True)
    _train(pipeline, unet, unet.parameters(), [Term(subject), Term(prior)], tuning)
    return replace(pipeline, unet=unet.requires_grad_(False))


def textual_inversion(
    pipeline: ToyPipeline,
    subject: Examples,
    captions: Sequence[str],
    identifier: str,
    tuning: FineTuning = DEFAULT,
) -> ToyPipeline:
    """A copy whose text encoder has another embedding for the identifier, and nothing else."""
    encoder: Any = copy.deepcopy(pipeline.text_encoder)
    table: Tensor = encoder.get_input_embeddings().weight
    table_name = next(name for name, parameter in encoder.named_parameters() if parameter is table)
    row = pipeline.vocabulary.words.index(identifier)
    vector = table[row].detach().clone().requires_grad_()
    ids = torch.tensor([pipeline.vocabulary.encode(caption) for caption in captions])
    model = model_of(pipeline)

    def step(batch: int, generator: torch.Generator) -> Tensor:
        draws = draw(subject, batch, generator)
        with model.recording():
            embeddings = table.detach().index_copy(0, torch.tensor([row]), vector[None])
            output: Any = torch.func.functional_call(encoder, {table_name: embeddings}, (ids[draws.which],))
            nobody = torch.zeros(1, ids.shape[1], dtype=torch.bool)
            rows = [TextTokens(hidden, nobody) for hidden in output.last_hidden_state]  # (L, D) each
            batch_examples = Examples(subject.pictures(draws.which), rows)
            loss = per_draw_loss(model, batch_examples, replace(draws, which=torch.arange(len(rows)))).mean()
            loss.backward()
        return loss.detach()

    descend([vector], tuning, step)
    with torch.no_grad():
        table[row] = vector
    return replace(pipeline, text_encoder=encoder)


def descend(parameters: Iterable[Tensor], tuning: FineTuning, step: StepLoss) -> None:
    """Adam: each step leaves gradients on the parameters and returns the loss."""
    optimizer = torch.optim.Adam(parameters, lr=tuning.rate)
    generator = torch.Generator().manual_seed(tuning.seed)
    with torch.enable_grad():
        for k in range(1, tuning.steps + 1):
            optimizer.zero_grad()
            loss = step(tuning.batch, generator)
            optimizer.step()
            if tuning.on_step:
                tuning.on_step(k, float(loss))


def _tapped_step(
    model: DiffusersModel, weights: dict[Key, Tensor], terms: list[Term], batch: int, generator: torch.Generator
) -> Tensor:
    """Gradients of the model's targets."""
    drawn = draw_terms(model, terms, batch, generator)
    loss, gradients = model.gradients(partial(concept_implanting_loss, model, drawn))
    for key, weight in weights.items():
        weight.grad = gradients[key]
    return loss


def _train(
    pipeline: ToyPipeline, unet: nn.Module, parameters: Iterable[Tensor], terms: list[Term], tuning: FineTuning
) -> None:
    """Train parameters of `unet`, a copy of the pipeline's, in place."""
    model = model_of(pipeline)
    model.unet = unet

    def step(batch: int, generator: torch.Generator) -> Tensor:
        drawn = draw_terms(model, terms, batch, generator)
        with model.recording():
            loss = concept_implanting_loss(model, drawn)
            loss.backward()
        return loss.detach()

    descend(parameters, tuning, step)
