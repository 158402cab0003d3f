"""Train the decoder: noisy latents of drawn pictures -> the pictures. Resumable by processor time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...toy_world.decoder import Autoencoder
from ...toy_world.scenes import random_scene
from .latents import drawn

BATCH, POOL = 12, 300
PEAK_RATE = 1.5e-3
NOISE = 0.5  # latents get normal noise of a standard deviation between 0 and this


def picture_loss(pictures: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error, and that of the differences between neighbouring pixels: outlines, eyes and mouths."""
    across = F.l1_loss(pictures.diff(dim=3), wanted.diff(dim=3))
    down = F.l1_loss(pictures.diff(dim=2), wanted.diff(dim=2))
    return F.l1_loss(pictures, wanted) + across + down


def noisy_latents(autoencoder: Autoencoder, pictures: Tensor, noise: torch.Generator) -> Tensor:
    """Latents with noise; the standard deviation is 0 for some, up to NOISE for others, mostly small."""
    latents = autoencoder.encode(pictures)
    level = NOISE * torch.rand(len(latents), 1, 1, 1, generator=noise) ** 1.5
    return latents + level * torch.randn(latents.shape, generator=noise)


def train_decoder(
    autoencoder: Autoencoder, minutes: float, checkpoint: Path, log: Callable[[str], None], seed: int = 3
) -> None:
    """Train `autoencoder.decoder` for `minutes` of processor time in all, resuming `checkpoint`."""
    decoder = autoencoder.decoder.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), fused=True)
    state: dict[str, Any] = {"step": 0, "spent": 0.0}
    if checkpoint.is_file():
        state |= torch.load(checkpoint, weights_only=True)
        decoder.load_state_dict(state["decoder"])
        if "optimizer" in state:  # else the weights of a model file
            optimizer.load_state_dict(state["optimizer"])
    step, spent = state["step"], state["spent"]
    generator, noise = np.random.default_rng([seed, step]), torch.Generator().manual_seed(step)
    pool: list[Tensor] = []
    began, running = time.process_time() - spent, 0.0
    while spent < minutes * 60:
        if len(pool) < POOL or step % 3 == 0:
            pool = [*pool[-POOL:], drawn([random_scene(generator) for _ in range(BATCH)])]
        pictures = pool[-1] if len(pool) <= POOL else pool[int(generator.integers(len(pool)))]
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1, (step + 1) / 100) * max(0.02, 1 - spent / (minutes * 60))
        loss = picture_loss(autoencoder.decode(noisy_latents(autoencoder, pictures, noise)), pictures)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        step, spent = step + 1, time.process_time() - began
        running += (loss.item() - running) * max(0.01, 1 / step)
        if step % 200 == 0:
            log(
                f"decoder step {step} loss {running:.4f} {step * BATCH / spent:.1f} pictures/s {spent / 60:.1f} CPU min"
            )
            _save(checkpoint, decoder, optimizer, step, spent)
    _save(checkpoint, decoder, optimizer, step, spent)
    decoder.requires_grad_(False).eval()


def _save(path: Path, decoder: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, spent: float) -> None:
    state = {"decoder": decoder.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent": spent}
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)
