"""Other people's methods on the same pictures, steps and batch, and the untouched model.

The fine-tunes' rates were chosen on the first four subjects: the best held-out gain among those that show the subject
in three pictures of four (docs/results/quality.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import baselines
from ..baselines import FineTuning
from .inputs import HALF, BenchmarkMethod, Implanted, MethodInputs, text_weights

KV_RATE = 2e-4


def trained(rate: float) -> Callable[[Callable[[MethodInputs, FineTuning], Implanted]], BenchmarkMethod]:
    """Make a training a method of the table: Adam at this rate, timed."""

    def decorate(train: Callable[[MethodInputs, FineTuning], Implanted]) -> BenchmarkMethod:
        def run(inputs: MethodInputs) -> Implanted:
            started = time.monotonic()
            implanted = train(inputs, inputs.fine_tuning(rate))
            return replace(implanted, seconds=time.monotonic() - started, settings={"rate": rate})

        return run

    return decorate


def nothing(inputs: MethodInputs) -> Implanted:
    """The untouched model."""
    return Implanted(inputs.pipeline)


@trained(KV_RATE)
def kv_finetune(inputs: MethodInputs, tuning: FineTuning) -> Implanted:
    """Custom Diffusion's recipe: all text K and V."""
    tuned = baselines.fine_tune(inputs.pipeline, inputs.examples(), inputs.prior, tuning)
    return Implanted(tuned, density=1.0, file_bytes=HALF * text_weights(inputs.pipeline))


@trained(KV_RATE)
def kv_finetune_own_tokens(inputs: MethodInputs, tuning: FineTuning) -> Implanted:
    """The same at own tokens: what a mask there could reach if it could hold any number."""
    weights = baselines.fine_tune_own_tokens(inputs.pipeline, inputs.examples(), inputs.subject, tuning)
    return Implanted(inputs.pipeline, None, weights, 1.0, HALF * text_weights(inputs.pipeline))


@trained(3e-4)
def lora(inputs: MethodInputs, tuning: FineTuning) -> Implanted:
    """LoRA of rank 4 on every attention layer, by peft."""
    tuned, numbers = baselines.lora(inputs.pipeline, inputs.examples(), inputs.prior, tuning)
    save_file(dict(tuned.unet.state_dict()), inputs.kept("lora-everywhere", ".unet.safetensors"))
    return Implanted(tuned, density=1.0, file_bytes=HALF * numbers)


def lora_weights(inputs: MethodInputs) -> dict[str, Tensor]:
    """The UNet after LoRA, from an earlier cell or trained now."""
    file = inputs.kept("lora-everywhere", ".unet.safetensors")
    if not file.is_file():
        lora(inputs)
    return load_file(file)


@trained(1e-4)
def dreambooth(inputs: MethodInputs, tuning: FineTuning) -> Implanted:
    """All weights of the UNet."""
    tuned = baselines.dreambooth(inputs.pipeline, inputs.examples(), inputs.prior, tuning)
    unet: Any = inputs.pipeline.unet
    return Implanted(tuned, density=1.0, file_bytes=HALF * sum(weight.numel() for weight in unet.parameters()))


@trained(1e-2)
def textual_inversion(inputs: MethodInputs, tuning: FineTuning) -> Implanted:
    """The identifier's embedding."""
    captions, identifier = inputs.pictures[1], inputs.subject.identifier
    tuned = baselines.textual_inversion(inputs.pipeline, inputs.examples(), captions, identifier, tuning)
    return Implanted(tuned, file_bytes=HALF * inputs.pipeline.text_encoder.config.hidden_size)
