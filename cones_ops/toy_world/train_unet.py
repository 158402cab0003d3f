"""Train the toy UNet: v-prediction on cached latents, captions with random omissions, EMA, resumable by wall clock.

The learning rate follows the share of the time budget that is spent, so a run that is interrupted and resumed, or
run on a faster machine, ends its schedule all the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .bundle import ToyPipeline
from .captions import caption
from .world import Scene

BATCH = 32
PEAK_RATE = 1.2e-3
EMA_DECAY = 0.9990
EMPTY_SHARE = 0.1  # captions left empty, for classifier-free guidance


def learning_rate(step: int, share: float) -> float:
    """Linear warm-up over 300 steps, then cosine over the share of the budget spent (0..1)."""
    return PEAK_RATE * min(1.0, (step + 1) / 300) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def noised_batch(latents: Tensor, alphas_cumprod: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Timesteps biased towards noise (sqrt of uniform for three quarters), noised latents and v targets."""
    uniform = torch.rand(len(latents), generator=generator)
    biased = torch.where(torch.rand(len(latents), generator=generator) < 0.75, uniform.sqrt(), uniform)
    timesteps = (biased * len(alphas_cumprod)).long().clamp(max=len(alphas_cumprod) - 1)
    signal = alphas_cumprod[timesteps].sqrt()[:, None, None, None]
    noise_level = (1 - alphas_cumprod[timesteps]).sqrt()[:, None, None, None]
    noise = torch.randn(latents.shape, generator=generator)
    return timesteps, signal * latents + noise_level * noise, signal * noise - noise_level * latents


def train_unet(
    pipeline: ToyPipeline,
    scenes: list[Scene],
    latents: Tensor,
    minutes: float,
    checkpoint: Path,
    log: Callable[[str], None],
    seed: int = 0,
    compiled: bool = False,
) -> None:
    """Train `pipeline.unet` for `minutes` in all, resuming `checkpoint`; ends with the EMA weights in it."""
    unet, alphas = pipeline.unet, pipeline.alphas_cumprod()
    unet.requires_grad_(True).train()
    parameters = list(unet.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    average = [p.detach().clone() for p in parameters]
    step, spent = 0, 0.0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        unet.load_state_dict(state["unet"])
        optimizer.load_state_dict(state["optimizer"])
        average, step, spent = state["average"], state["step"], state["spent"]
    network = torch.compile(unet.to(memory_format=torch.channels_last)) if compiled else unet
    generator = torch.Generator().manual_seed(seed + step)
    words = np.random.default_rng([seed, step])
    began, saved, running = time.monotonic() - spent, time.monotonic(), 1.0
    while (spent := time.monotonic() - began) < minutes * 60:
        rate = learning_rate(step, spent / (minutes * 60))
        for group in optimizer.param_groups:
            group["lr"] = rate
        which = words.integers(len(scenes), size=BATCH)
        texts = ["" if words.random() < EMPTY_SHARE else caption(scenes[i], words)[0] for i in which]
        timesteps, noisy, target = noised_batch(latents[which].float(), alphas, generator)
        predicted = network(noisy, timesteps, encoder_hidden_states=pipeline.encode_text(texts)).sample
        loss = F.mse_loss(predicted, target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(EMA_DECAY, (step + 1) / (step + 100))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        running += (loss.item() - running) * min(1.0, max(0.01, 1 / (step + 1)))
        step += 1
        if step % 200 == 0:
            speed = f"{step * BATCH / spent:.0f} samples/s {spent / 60:.1f} min"
            log(f"unet step {step} loss {running:.4f} rate {rate:.2e} {speed}")
        if time.monotonic() - saved > 240:
            _save(checkpoint, unet, optimizer, average, step, spent)
            saved = time.monotonic()
    _save(checkpoint, unet, optimizer, average, step, spent)
    with torch.no_grad():
        for parameter, mean in zip(parameters, average, strict=True):
            parameter.copy_(mean)
    unet.requires_grad_(False).eval()


def _save(
    path: Path, unet: torch.nn.Module, optimizer: torch.optim.Optimizer, average: list[Tensor], step: int, spent: float
) -> None:
    """Write the resumable state; a crash while writing leaves the previous one."""
    state = {
        "unet": unet.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average,
        "step": step,
        "spent": spent,
    }
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)
