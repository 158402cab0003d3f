"""Pictures -> latents by a fixed linear transform of patches (a strided convolution), and roughly back.

The rows of the transform are the leading principal components of PATCH x PATCH patches of drawn scenes, scaled so that
channels have comparable size. The way back is exact up to what the components leave out; `decoder.Decoder` does better.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 12  # pixels of one latent's side: 96 pixels are 8 latents
CHANNELS = 48


class PatchTransform(nn.Module):
    """Pixels (B, 3, H, W) in [-1, 1] <-> latents (B, C, H/12, W/12). H and W are multiples of 12."""

    encode_weight: Tensor
    encode_bias: Tensor
    decode_weight: Tensor
    decode_bias: Tensor

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.register_buffer("encode_weight", torch.zeros(channels, 3, PATCH, PATCH))
        self.register_buffer("encode_bias", torch.zeros(channels))
        self.register_buffer("decode_weight", torch.zeros(channels, 3, PATCH, PATCH))
        self.register_buffer("decode_bias", torch.zeros(3))

    @property
    def channels(self) -> int:
        """Latent channels C."""
        return self.encode_weight.shape[0]

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents of pictures in [-1, 1]."""
        return F.conv2d(pixels, self.encode_weight.to(pixels), self.encode_bias.to(pixels), stride=PATCH)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of latents, not clamped."""
        weight, bias = self.decode_weight.to(latents), self.decode_bias.to(latents)
        return F.conv_transpose2d(latents, weight, bias, stride=PATCH)
