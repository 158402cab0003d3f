"""Train the toy UNet: v-prediction on cached latents, captions with random omissions, EMA, resumable by wall clock.

The learning rate follows the share of the time budget that is spent, so a run that is interrupted and resumed, or
run on a faster machine, ends its schedule all the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...hosts.diffusers.host_model import alphas_cumprod
from ...toy_world.bundle import ToyPipeline
from ...toy_world.captions import caption
from ...toy_world.world import Scene

BATCH = 32
PEAK_RATE = 1.2e-3
EMA_DECAY = 0.9990
EMPTY_SHARE = 0.1  # captions left empty, for classifier-free guidance


def learning_rate(step: int, share: float) -> float:
    """Linear warm-up over 300 steps, then cosine over the share of the budget spent (0..1)."""
    return PEAK_RATE * min(1.0, (step + 1) / 300) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def noised_batch(latents: Tensor, alphas: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Timesteps biased towards noise (sqrt of uniform for three quarters), noised latents and v targets."""
    uniform = torch.rand(len(latents), generator=generator)
    biased = torch.where(torch.rand(len(latents), generator=generator) < 0.75, uniform.sqrt(), uniform)
    timesteps = (biased * len(alphas)).long().clamp(max=len(alphas) - 1)
    signal = alphas[timesteps].sqrt()[:, None, None, None]
    noise_level = (1 - alphas[timesteps]).sqrt()[:, None, None, None]
    noise = torch.randn(latents.shape, generator=generator)
    return timesteps, signal * latents + noise_level * noise, signal * noise - noise_level * latents


@dataclass
class TrainingRun:
    """A training run that can be put down and taken up again: network, optimizer, EMA, steps and seconds spent."""

    unet: torch.nn.Module
    optimizer: torch.optim.Optimizer
    average: list[Tensor]
    step: int = 0
    spent: float = 0.0

    @classmethod
    def resumed(cls, unet: torch.nn.Module, checkpoint: Path) -> TrainingRun:
        """From the checkpoint if there is one, else from the start."""
        optimizer = torch.optim.AdamW(unet.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        run = cls(unet, optimizer, [p.detach().clone() for p in unet.parameters()])
        if checkpoint.is_file():
            state = torch.load(checkpoint, weights_only=True)
            unet.load_state_dict(state["unet"])
            optimizer.load_state_dict(state["optimizer"])
            run.average, run.step, run.spent = state["average"], state["step"], state["spent"]
        return run

    def save(self, path: Path) -> None:
        """Write the resumable state; a crash while writing leaves the previous one."""
        state = {"unet": self.unet.state_dict(), "optimizer": self.optimizer.state_dict(), "average": self.average}
        torch.save(state | {"step": self.step, "spent": self.spent}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def descend(self, loss: Tensor, rate: float) -> None:
        """One optimizer step at this learning rate; the EMA follows."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        parameters = list(self.unet.parameters())
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizer.step()
        decay = min(EMA_DECAY, (self.step + 1) / (self.step + 100))
        torch._foreach_lerp_(self.average, [p.detach() for p in parameters], 1 - decay)
        self.step += 1


def train_unet(
    pipeline: ToyPipeline,
    scenes: list[Scene],
    latents: Tensor,
    minutes: float,
    checkpoint: Path,
    log: Callable[[str], None],
    seed: int = 0,
) -> None:
    """Train `pipeline.unet` for `minutes` in all, resuming `checkpoint`; ends with the EMA weights in it."""
    unet, alphas = pipeline.unet.requires_grad_(True).train(), alphas_cumprod(pipeline.schedule).float()
    run = TrainingRun.resumed(unet, checkpoint)
    generator = torch.Generator().manual_seed(seed + run.step)
    words = np.random.default_rng([seed, run.step])
    began, saved, running = time.monotonic() - run.spent, time.monotonic(), 1.0
    while run.spent < minutes * 60:
        rate = learning_rate(run.step, run.spent / (minutes * 60))
        which = words.integers(len(scenes), size=BATCH)
        texts = ["" if words.random() < EMPTY_SHARE else caption(scenes[i], words)[0] for i in which]
        timesteps, noisy, target = noised_batch(latents[which].float(), alphas, generator)
        loss = F.mse_loss(unet(noisy, timesteps, encoder_hidden_states=pipeline.encode_text(texts)).sample, target)
        run.descend(loss, rate)
        run.spent = time.monotonic() - began
        running += (loss.item() - running) * max(0.01, 1 / run.step)
        if run.step % 200 == 0:
            speed = f"{run.step * BATCH / run.spent:.0f} samples/s {run.spent / 60:.1f} min"
            log(f"unet step {run.step} loss {running:.4f} rate {rate:.2e} {speed}")
        if time.monotonic() - saved > 240:
            run.save(checkpoint)
            saved = time.monotonic()
    run.save(checkpoint)
    with torch.no_grad():
        for parameter, mean in zip(unet.parameters(), run.average, strict=True):
            parameter.copy_(mean)
    unet.requires_grad_(False).eval()
