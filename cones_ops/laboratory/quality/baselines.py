"""Other people's methods on the same pictures, steps and batch, and the untouched model.

The fine-tunes' rates were chosen on the first four subjects: the best held-out gain among those that show the subject
in three pictures of four (docs/results/quality.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...toy_world.bundle import ToyPipeline
from .. import baselines
from .inputs import HALF, Implanted, MethodInputs, text_weights

RATES = {
    "kv_finetune": 2e-4,
    "kv_finetune own tokens": 2e-4,
    "lora": 3e-4,
    "dreambooth": 1e-4,
    "textual_inversion": 1e-2,
}


def nothing(inputs: MethodInputs) -> Implanted:
    """The untouched model."""
    return Implanted(inputs.pipeline)


def kv_finetune(inputs: MethodInputs) -> Implanted:
    """Custom Diffusion's recipe: all text K and V."""
    return _trained(
        inputs, "kv_finetune", lambda how: baselines.fine_tune(inputs.pipeline, inputs.examples(), inputs.prior, how)
    )


def kv_finetune_own_tokens(inputs: MethodInputs) -> Implanted:
    """The same at own tokens: what a mask there could reach if it could hold any number."""
    name = "kv_finetune own tokens"
    started = time.monotonic()
    how = inputs.fine_tuning(RATES[name])
    weights = baselines.fine_tune_own_tokens(inputs.pipeline, inputs.examples(), inputs.subject, how)
    size = HALF * text_weights(inputs.pipeline)
    return Implanted(inputs.pipeline, None, weights, 1.0, size, time.monotonic() - started, {"rate": RATES[name]})


def lora(inputs: MethodInputs) -> Implanted:
    """LoRA of rank 4 on every attention layer, by peft."""
    numbers = 0

    def train(how: baselines.FineTuning) -> ToyPipeline:
        nonlocal numbers
        tuned, numbers = baselines.lora(inputs.pipeline, inputs.examples(), inputs.prior, how)
        return tuned

    trained = _trained(inputs, "lora", train)
    return replace(trained, file_bytes=HALF * numbers)


def dreambooth(inputs: MethodInputs) -> Implanted:
    """All weights of the UNet."""
    unet: Any = inputs.pipeline.unet
    trained = _trained(
        inputs, "dreambooth", lambda how: baselines.dreambooth(inputs.pipeline, inputs.examples(), inputs.prior, how)
    )
    return replace(trained, file_bytes=HALF * sum(parameter.numel() for parameter in unet.parameters()))


def textual_inversion(inputs: MethodInputs) -> Implanted:
    """The identifier's embedding."""
    words, captions = inputs.subject.identifier, inputs.pictures[1]
    trained = _trained(
        inputs,
        "textual_inversion",
        lambda how: baselines.textual_inversion(inputs.pipeline, inputs.examples(), captions, words, how),
    )
    width: int = inputs.pipeline.text_encoder.config.hidden_size
    return replace(trained, density=0.0, file_bytes=HALF * width)


def _trained(inputs: MethodInputs, name: str, train: Callable[[baselines.FineTuning], ToyPipeline]) -> Implanted:
    started = time.monotonic()
    tuned = train(inputs.fine_tuning(RATES[name]))
    size = HALF * text_weights(inputs.pipeline)
    return Implanted(tuned, None, None, 1.0, size, time.monotonic() - started, {"rate": RATES[name]})
