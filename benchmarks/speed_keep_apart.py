"""Sampling with Keep Concepts Apart against sampling without it: a UNet of SD 1.5's size, and Flux's joint attention.

    python benchmarks/speed_keep_apart.py [--pairs N] [--latent SIDE] [--heads N] [PATH OF COMFYUI]

Prints JSON. Processor seconds of paired calls in alternating order, which a busy machine disturbs less than a clock.
`unet`: 20 steps, of which 2 read attention and 18 have the bias, over 20 plain ones. `joint_attention`: a call of the
host's attention with 4096 pixels and 512 tokens in which two concepts have regions, over the same call without.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from speed_model import SD15, conditioning, load_pack, pack, random_latent, unet_model

STEPS, READ = 20, 2
Figure = dict[str, Any]  # value, standard_error, n


def processor_seconds(call: Callable[[], Any]) -> float:
    """Seconds of all processors for one call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def paired(plain: Callable[[], Any], other: Callable[[], Any], pairs: int) -> tuple[list[float], list[float]]:
    """Processor seconds of both, in alternating order, after one call of each."""
    plain(), other()
    seconds: dict[Callable[[], Any], list[float]] = {plain: [], other: []}
    for k in range(pairs):
        for call in (plain, other) if k % 2 else (other, plain):
            seconds[call].append(processor_seconds(call))
    return seconds[plain], seconds[other]


def ratio(plain: list[float], other: list[float]) -> Figure:
    """Median of the pairs' ratios."""
    ratios = [b / a for a, b in zip(plain, other, strict=True)]
    error = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else None
    return {"value": statistics.median(ratios), "standard_error": error, "n": len(ratios)}


class PairedSteps:
    """A sampler that times calls of the model: plain, while attention is read, and with the bias."""

    def __init__(self, pairs: int) -> None:
        self.pairs = pairs
        self.ratios: dict[str, Figure] = {}

    def sample(self, model: Any, sigmas: Any, extra_args: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        options = extra_args["model_options"]
        x = args[1] * float(sigmas[0])  # callback, noise, ...
        plain = {**options, "transformer_options": {"sample_sigmas": sigmas}}

        def step(number: int, chosen: dict[str, Any]) -> Callable[[], Any]:
            return lambda: model(x, sigmas[number : number + 1].expand(len(x)), model_options=chosen, seed=0)

        for name, number in (("read", 0), ("bias", READ)):
            self.ratios[name] = ratio(*paired(step(number, plain), step(number, options), self.pairs))
        return x


def unet_ratio(pairs: int, latent: int) -> dict[str, Figure]:
    """Ratios of steps of a UNet with two concepts in the prompt, and of 20 steps."""
    import comfy.samplers

    apart = pack("nodes.host.guidance.keep_apart").keep_apart(unet_model(SD15), ())
    guider = comfy.samplers.CFGGuider(apart)
    guider.set_conds(conditioning(apart, 2, 2), conditioning(apart, 0, 3))
    guider.set_cfg(7.0)
    timing, noise = PairedSteps(pairs), random_latent(latent)
    with torch.inference_mode():
        guider.sample(noise, torch.zeros_like(noise), timing, torch.linspace(10.0, 0.0, STEPS + 1))
    read, bias = timing.ratios["read"], timing.ratios["bias"]
    shares = ((read, READ / STEPS), (bias, 1 - READ / STEPS))
    errors = [(figure["standard_error"] or 0.0) * share for figure, share in shares]
    value = sum(figure["value"] * share for figure, share in shares)
    whole = {"value": value, "standard_error": sum(error**2 for error in errors) ** 0.5, "n": pairs}
    return {"unet": whole, "unet_read_step": read, "unet_bias_step": bias}


def joint_ratio(pairs: int, heads: int, pixels: int = 64, tokens: int = 512, width: int = 128) -> dict[str, Figure]:
    """Ratio of a joint attention with the bias of two concepts over the plain one."""
    from comfy.ldm.modules.attention import attention_pytorch

    run, layouts = pack("nodes.host.guidance.apart_run"), pack("nodes.host.guidance.attention_layout")
    override = pack("nodes.host.guidance.attention_override").overriding
    length = tokens + pixels**2
    q, k, v = (torch.randn(1, heads, length, width) for _ in range(3))
    halves = torch.zeros(1, 2, pixels, pixels)
    halves[:, 0, :, : pixels // 2], halves[:, 1, :, pixels // 2 :] = 1.0, 1.0
    bias = pack("cones_ops.guidance.regions").Bias()
    prompt = run.PromptRun(torch.tensor([True, True]), None, bias, coverage=halves)
    rows = run.GroupedRows(prompt, 0, 1, (torch.tensor([1, 2]), torch.tensor([5, 6])))
    layout = layouts.AttentionLayout((pixels, pixels), tokens, 0, joint=True)

    class OnePass(run.ModelPass):  # type: ignore[misc, name-defined]
        """A pass whose next attention is a joint one."""

        def layout(self, queries: int, keys: int) -> Any:
            return layout

    one_pass = OnePass(run.ApartRun((), {}, {}, (), set()), [rows], None, tokens, ())

    def plain() -> Any:
        return attention_pytorch(q, k, v, heads, skip_reshape=True)

    def biased() -> Any:
        return override(one_pass, None)(attention_pytorch, q, k, v, heads, skip_reshape=True)

    with torch.inference_mode():
        return {"joint_attention": ratio(*paired(plain, biased, pairs))}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("host", nargs="?", type=Path, help="the ComfyUI checkout")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of calls")
    parser.add_argument("--latent", type=int, default=64, help="side of the UNet's latents")
    parser.add_argument("--heads", type=int, default=24, help="heads of the joint attention")
    asked = parser.parse_args()
    load_pack(asked.host)
    figures = unet_ratio(asked.pairs, asked.latent) | joint_ratio(asked.pairs, asked.heads)
    settings = {"latent": asked.latent, "heads": asked.heads, "threads": torch.get_num_threads()}
    print(json.dumps({"sampling_ratio": figures, **settings}, indent=1))


if __name__ == "__main__":
    main()
