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
from .. import baselines as control
from .inputs import HALF, Given, Implanted, text_weights

RATES = {
    "kv_finetune": 2e-4,
    "kv_finetune own tokens": 2e-4,
    "lora": 3e-4,
    "dreambooth": 1e-4,
    "textual_inversion": 1e-2,
}


def nothing(given: Given) -> Implanted:
    """The untouched model."""
    return Implanted(given.pipeline)


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
