"""Train the UNet: v-prediction on latents, captions made anew at every use, EMA, resumable by processor time.

The learning rate follows the share of the time budget that is spent: warm-up, stable, decay in the last quarter (the
schedule of MiniCPM, arXiv 2404.06395). A run that is interrupted and resumed, or run on a faster machine, ends its
schedule all the same, and a later run with more minutes can go on from any checkpoint at the rate of its share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...hosts.diffusers.host_model import alphas_cumprod
from ...toy_world.bundle import ToyPipeline
from ...toy_world.captions import random_caption
from .scenes import TrainingScenes

BATCH = 32
PEAK_RATE = 1.2e-3
EMA_DECAY = 0.9992
EMPTY_SHARE = 0.1  # captions left empty, for classifier-free guidance
SAVE_SECONDS = 180


def learning_rate(step: int, share: float) -> float:
    """Linear warm-up over 300 steps, then the peak, then linear to nearly 0 over the last quarter (share 0.75..1)."""
    return PEAK_RATE * min(1.0, (step + 1) / 300) * min(1.0, max(0.01, (1 - share) / 0.25))


def noised_batch(latents: Tensor, alphas: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Timesteps biased towards noise (sqrt of uniform for every other), noised latents and v targets."""
    uniform = torch.rand(len(latents), generator=generator)
    biased = torch.where(torch.rand(len(latents), generator=generator) < 0.5, uniform.sqrt(), uniform)
    timesteps = (biased * len(alphas)).long().clamp(max=len(alphas) - 1)
    signal = alphas[timesteps].sqrt()[:, None, None, None]
    noise_level = (1 - alphas[timesteps]).sqrt()[:, None, None, None]
    noise = torch.randn(latents.shape, generator=generator)
    return timesteps, signal * latents + noise_level * noise, signal * noise - noise_level * latents


@dataclass
class Run:
    """A training run that can be put down and taken up again: network, optimizer, EMA, steps and seconds spent."""

    unet: torch.nn.Module
    optimizer: torch.optim.Optimizer
    average: list[Tensor]
    step: int = 0
    spent: float = 0.0  # seconds of processor time

    @classmethod
    def resumed(cls, unet: torch.nn.Module, checkpoint: Path) -> Run:
        """From the checkpoint if there is one, else from the start."""
        optimizer = torch.optim.AdamW(unet.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        run = cls(unet, optimizer, [p.detach().clone() for p in unet.parameters()])
        if checkpoint.is_file():
            state = torch.load(checkpoint, weights_only=True, map_location=run.average[0].device)
            run.average = [mean.detach().clone() for mean in state["average"]]
            if "optimizer" in state:  # else the weights of a model file, which the UNet has already
                unet.load_state_dict(state["unet"])
                optimizer.load_state_dict(state["optimizer"])
                run.step, run.spent = state["step"], state["spent"]
        return run

    def save(self, path: Path) -> None:
        """Write the resumable state; a crash while writing leaves the previous one."""
        state: dict[str, Any] = {"unet": self.unet.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"average": self.average, "step": self.step, "spent": self.spent}
        torch.save(state, path.with_suffix(".part"))
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


def loss_of(
    pipeline: ToyPipeline, scenes: TrainingScenes, alphas: Tensor, words: np.random.Generator, noise: torch.Generator
) -> Tensor:
    """The v-prediction loss of one random batch."""
    chosen, latents = scenes.batch(BATCH, words)
    texts = ["" if words.random() < EMPTY_SHARE else random_caption(scene, words).text for scene in chosen]
    hidden = pipeline.encode_text(texts)
    timesteps, noisy, target = (tensor.to(hidden.device) for tensor in noised_batch(latents, alphas, noise))
    predicted = pipeline.unet(noisy, timesteps, encoder_hidden_states=hidden).sample
    return F.mse_loss(predicted, target)


def train_unet(
    pipeline: ToyPipeline, scenes: TrainingScenes, minutes: float, checkpoint: Path, log: Callable[[str], None]
) -> None:
    """Train `pipeline.unet` for `minutes` of processor time in all, resuming `checkpoint`; ends with the EMA in it.

    UNet and text encoder must be on one device; latents and noise are drawn on the CPU.
    """
    unet, alphas = pipeline.unet.requires_grad_(True).train(), alphas_cumprod(pipeline.schedule).float()
    run = Run.resumed(unet, checkpoint)
    noise, words = torch.Generator().manual_seed(run.step), np.random.default_rng([0, run.step])
    first, running = run.step, 0.0
    began, saved = time.process_time() - run.spent, time.monotonic()
    while run.spent < minutes * 60:
        loss = loss_of(pipeline, scenes, alphas, words, noise)
        run.descend(loss, learning_rate(run.step, run.spent / (minutes * 60)))
        run.spent = time.process_time() - began
        running += (loss.item() - running) * max(0.01, 1 / (run.step - first))
        if run.step % 100 == 0:
            speed = f"{run.step * BATCH / run.spent:.1f} samples/s {run.spent / 60:.1f} CPU min"
            log(f"unet step {run.step} loss {running:.4f} {speed} {len(scenes)} scenes")
        if time.monotonic() - saved > SAVE_SECONDS:
            run.save(checkpoint)
            scenes.take_new()
            saved = time.monotonic()
    run.save(checkpoint)
    load_average(unet, run.average)


def load_average(unet: torch.nn.Module, average: list[Tensor]) -> None:
    """Put the EMA weights into a UNet and freeze it."""
    with torch.no_grad():
        for parameter, mean in zip(unet.parameters(), average, strict=True):
            parameter.copy_(mean)
    unet.requires_grad_(False).eval()
