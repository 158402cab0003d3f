"""What masks at own tokens cost while sampling: steps of an SD1.5-size UNet with and without them, in pairs, as JSON.

    python benchmarks/own_tokens_speed.py [--pairs 10] [--masks 4] [--density 0.1] [--latent 32] [--comfyui PATH]

Needs a ComfyUI (COMFYUI_PATH, or ~/comfy/ComfyUI) and its requirements. Random weights, fp32, a batch of two texts
(CFG), two own tokens per mask. Each pair is one call of the model as the host makes it for the vanilla model and one
with the masks, in turn first, inside one run; the first call with masks, which computes what later ones use, is apart.
`hooks_over_vanilla_step` is the time inside our hooks alone, which a busy machine disturbs less than a ratio of steps.
"""

# ruff: noqa: T201 - a benchmark answers by printing

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from speed_model import SD15, conditioning, load_pack, pack, random_latent, random_masks, ratios, seconds, unet_model


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
        kind: {name: some for name, some in given.items() if name != key} for kind, given in wrappers.items()
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
    plain = [one for one, _ in timing.seconds]
    return {
        "own_tokens_sampling_ratio": ratios([one for _, one in timing.seconds], plain),
        "hooks_over_vanilla_step": statistics.median(timing.hooks) / statistics.median(plain),
        "first_step_over_vanilla": timing.first / statistics.median(plain),
        "vanilla_step_seconds": statistics.median(plain),
        "masks": masks,
        "density": density,
        "latent": latent,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--masks", type=int, default=4)
    parser.add_argument("--density", type=float, default=0.1, help="share of the text K and V weights in each mask")
    parser.add_argument("--latent", type=int, default=32, help="side of the latents")
    parser.add_argument("--comfyui", type=Path, help="the ComfyUI checkout")
    given = parser.parse_args()
    load_pack(given.comfyui)
    report = measured(unet_model(SD15), given.pairs, given.masks, given.density, given.latent)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
