"""Latents -> pictures, robust to the noise that sampled latents still have.

Residual convolutions at 8, 24 and 48 pixels' resolution (for latents of 8), pixel shuffle between them and at the end.
What the network computes is added to the linear way back, which alone is the answer of an untrained decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .patches import PatchTransform

WIDTHS = (128, 64, 32)


class Residual(nn.Module):
    """x + two convolutions of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


class Decoder(nn.Module):
    """Latents (B, C, h, w) -> what the linear pictures (B, 3, 12 h, 12 w) lack."""

    def __init__(self, channels: int, widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        coarse, middle, fine = widths
        self.layers = nn.Sequential(
            nn.Conv2d(channels, coarse, 3, padding=1), Residual(coarse), Residual(coarse),
            nn.Conv2d(coarse, middle * 9, 1), nn.PixelShuffle(3), Residual(middle), Residual(middle),
            nn.Conv2d(middle, fine * 4, 1), nn.PixelShuffle(2), Residual(fine), Residual(fine),
            nn.Conv2d(fine, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip
        last = self.layers[-2]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, latents: Tensor) -> Tensor:
        correction: Tensor = self.layers(latents)
        return correction


class Autoencoder(nn.Module):
    """The world's way between pictures in [-1, 1] and latents: linear there, linear and a network back."""

    def __init__(self, transform: PatchTransform, decoder: Decoder) -> None:
        super().__init__()
        self.transform, self.decoder = transform, decoder

    @property
    def channels(self) -> int:
        """Latent channels."""
        return self.transform.channels

    @property
    def linear_decoding(self) -> tuple[Tensor, Tensor]:
        """Weight (C, 3, 12, 12) and bias (3): roughly the colours of a patch by its latents."""
        return self.transform.decode_weight, self.transform.decode_bias

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents of pictures in [-1, 1]."""
        return self.transform.encode(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of latents, not clamped."""
        return self.transform.decode(latents) + self.decoder(latents)


def random_autoencoder(channels: int, seed: int = 0) -> Autoencoder:
    """An untrained stand-in whose pictures are noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transform = PatchTransform(channels)
        for buffer in transform.buffers():
            buffer.normal_(std=0.05)
        return Autoencoder(transform, Decoder(channels))
