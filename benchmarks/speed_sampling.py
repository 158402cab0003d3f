"""Sampling steps with masks that act everywhere, against the same steps of the vanilla model.

Each pair is three calls of the UNet for each of the two, in alternating order; the host loads the other weights in
between, as it does before a run of sampling. The batch is two texts, as CFG makes it. Masks at own tokens:
speed_own_tokens.py.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from speed_apply import loaded
from speed_model import DENSITY, device, pack, random_latent, random_masks, random_text, ratios, seconds, spread
from speed_own_tokens import measured as own_tokens

COUNTS = (1, 8)
OWN_TOKENS_MASKS, OWN_TOKENS_DENSITY = 4, 0.1
STEPS = 3  # single ones differ by a tenth and more here


def step_of(model: Any, side: int) -> tuple[float, float]:
    """Seconds of a call of a model, once it is loaded, and seconds of the processors for it: the mean of STEPS."""
    x, sigma = random_latent(side).expand(2, -1, -1, -1), torch.tensor([1.0, 1.0])
    text = torch.cat([random_text(model, 2), random_text(model, 3)])
    x, sigma, text = (tensor.to(device()) for tensor in (x, sigma, text))
    with torch.inference_mode():
        inner = loaded(model).model
        call = partial(inner.apply_model, x, sigma, c_crossattn=text, transformer_options={})
        used = time.process_time()
        taken = sum(seconds(call) for _ in range(STEPS))
        return taken / STEPS, (time.process_time() - used) / STEPS


def measured(model: Any, side: int, pairs: int) -> dict[str, Any]:
    """The figures of sampling, under the names they have in the report."""
    masks = random_masks(model, max(COUNTS), DENSITY, "everywhere")
    report: dict[str, Any] = {}
    step_of(model, side)
    for count in COUNTS:
        patched = pack("nodes.host.apply.apply_masks").apply_masks(model, masks[:count])
        plain, masked = [], []
        for k in range(pairs):
            for patcher in (model, patched) if k % 2 else (patched, model):
                (plain if patcher is model else masked).append(step_of(patcher, side))
        name = f"{count}_mask{'s' * (count > 1)}"
        (wall, cpu), (plain_wall, plain_cpu) = zip(*masked, strict=True), zip(*plain, strict=True)
        report[f"sampling_ratio_{name}"] = ratios(wall, plain_wall)
        report[f"sampling_processor_ratio_{name}"] = ratios(cpu, plain_cpu)  # what other programs disturb less
        report[f"sampling_seconds_beside_{count}"] = {"vanilla": spread(plain_wall), "masked": spread(wall)}
    loaded(model)
    figures = own_tokens(model, pairs, OWN_TOKENS_MASKS, OWN_TOKENS_DENSITY, side)
    ratio = figures.pop("own_tokens_sampling_ratio")
    return report | {f"own_tokens_sampling_ratio_{OWN_TOKENS_MASKS}_masks": ratio, "own_tokens": figures}
