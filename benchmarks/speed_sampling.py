"""Sampling steps with masks that act everywhere, against the same steps of the vanilla model.

Each pair is three calls of the UNet for each of the two, in turn first; the host puts the other weights in between, as
it does before a run of sampling. The batch is two texts, as CFG makes it. Masks at own tokens: own_tokens_speed.py.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from own_tokens_speed import measured as own_tokens
from speed_apply import loaded
from speed_model import device, pack, random_latent, random_masks, random_text, ratios, seconds, spread

COUNTS = (1, 8)
STEPS = 3  # single ones differ by a tenth and more here


def step_of(model: Any, side: int) -> float:
    """Seconds of a call of a model, once it is loaded: the mean of STEPS."""
    x, sigma = random_latent(side).expand(2, -1, -1, -1), torch.tensor([1.0, 1.0])
    text = torch.cat([random_text(model, 2), random_text(model, 3)])
    x, sigma, text = (one.to(device()) for one in (x, sigma, text))
    with torch.inference_mode():
        inner = loaded(model).model
        call = partial(inner.apply_model, x, sigma, c_crossattn=text, transformer_options={})
        return sum(seconds(call) for _ in range(STEPS)) / STEPS


def measured(model: Any, side: int, pairs: int, density: float, own_density: float) -> dict[str, Any]:
    """The figures of sampling, under the names they have in the report."""
    masks = random_masks(model, max(COUNTS), density, "everywhere")
    report: dict[str, Any] = {}
    step_of(model, side)
    for count in COUNTS:
        patched = pack("nodes.host.applying").apply_masks(model, masks[:count])
        plain, masked = [], []
        for k in range(pairs):
            for one in (model, patched) if k % 2 else (patched, model):
                (plain if one is model else masked).append(step_of(one, side))
        report[f"sampling_ratio_{count}_mask{'s' * (count > 1)}"] = ratios(masked, plain)
        report[f"sampling_seconds_beside_{count}"] = {"vanilla": spread(plain), "masked": spread(masked)}
    loaded(model)
    own = own_tokens(model, pairs, 4, own_density, side)
    ratio = own.pop("own_tokens_sampling_ratio")
    return report | {"own_tokens_sampling_ratio_4_masks": ratio, "own_tokens": own}
