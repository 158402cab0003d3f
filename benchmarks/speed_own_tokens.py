"""Sampling steps with masks at own tokens, against the same steps of the vanilla model.

A batch of two texts (CFG), two own tokens per mask. Each pair is two calls of the model as the host makes them, one for
the vanilla model and one with the masks, in alternating order within one run; the first call with masks, which computes
what later calls use, is reported apart. `hooks_over_vanilla_step` is the time inside our hooks alone, which a busy
machine disturbs less than a ratio of steps.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from speed_model import conditioning, pack, random_latent, random_masks, ratios, seconds


class Paired:
    """A sampler that, instead of sampling, times calls of the model with and without the masks."""

    def __init__(self, pairs: int) -> None:
        self.pairs, self.first = pairs, 0.0
        self.seconds: list[tuple[float, float]] = []  # without, with
        self.hooks: list[float] = []  # seconds inside our hooks, a call of the model with masks

    def sample(self, model: Any, sigmas: Any, extra_args: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        with_masks, without = extra_args["model_options"], vanilla(extra_args["model_options"])
        x = args[1] * float(sigmas[0])  # callback, noise, ...
        sigma = sigmas[:1].expand(len(x))

        def timed(options: dict[str, Any]) -> float:
            return seconds(lambda: model(x, sigma, model_options=options, seed=0))

        timed(without)
        self.first = timed(with_masks)
        spent = timed_hooks()
        for k in range(self.pairs):
            order = (without, with_masks) if k % 2 else (with_masks, without)
            taken = [timed(options) for options in order]
            self.seconds.append((taken[0], taken[1]) if k % 2 else (taken[1], taken[0]))
            self.hooks.append(sum(spent))
            spent.clear()
        return x


def timed_hooks() -> list[float]:
    """From now on, the seconds of every call of a hook on a masked layer."""
    module = pack("nodes.host.apply.token_hooks")
    original, spent = module.corrected, []

    def corrected(*args: Any) -> Any:
        began = time.perf_counter()
        y = original(*args)
        spent.append(time.perf_counter() - began)
        return y

    module.corrected = corrected
    return spent


def vanilla(options: dict[str, Any]) -> dict[str, Any]:
    """The options the host would pass for the model without masks."""
    key = pack("nodes.host.apply.token_hooks").KEY
    transformer = {name: value for name, value in options["transformer_options"].items() if not name.startswith(key)}
    wrappers = transformer.get("wrappers", {})
    transformer["wrappers"] = {
        kind: {name: functions for name, functions in named.items() if name != key} for kind, named in wrappers.items()
    }
    return {**options, "transformer_options": transformer}


def measured(model: Any, pairs: int, masks: int, density: float, latent: int) -> dict[str, Any]:
    """Steps of sampling with a text in which `masks` concepts are named, against the same steps without the masks."""
    import comfy.samplers

    applied = pack("nodes.host.apply.apply_masks").apply_masks(model, random_masks(model, masks, density))
    guider = comfy.samplers.CFGGuider(applied)
    guider.set_conds(conditioning(model, masks, 2), conditioning(model, 0, 3))
    guider.set_cfg(7.0)
    timing, noise = Paired(pairs), random_latent(latent)
    with torch.inference_mode():
        guider.sample(noise, torch.zeros_like(noise), timing, torch.tensor([10.0, 0.0]))
    plain, masked = zip(*timing.seconds, strict=True)
    return {
        "own_tokens_sampling_ratio": ratios(masked, plain),
        "hooks_over_vanilla_step": statistics.median(timing.hooks) / statistics.median(plain),
        "first_step_over_vanilla": timing.first / statistics.median(plain),
        "vanilla_step_seconds": statistics.median(plain),
        "masks": masks,
        "density": density,
        "latent": latent,
        "threads": torch.get_num_threads(),
    }
