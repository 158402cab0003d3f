"""Pictures <-> 8x8 latents by a fixed linear patch transform (a strided convolution), the toy world's autoencoder.

The rows of the transform are the leading principal components of 8x8-pixel patches of drawn scenes, each divided by
std**WHITENING so that channels have comparable size; decoding multiplies it back. It is fitted in seconds, exactly
reproducible, and the same module serves the diffusers pipeline and ComfyUI's VAE nodes.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 8
WHITENING = 0.7


class PatchTransform(nn.Module):
    """Pixels (B, 3, H, W) in [-1, 1] <-> latents (B, C, H/8, W/8). H and W are multiples of 8."""

    encode_weight: Tensor
    encode_bias: Tensor
    decode_weight: Tensor
    decode_bias: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("encode_weight", torch.zeros(channels, 3, PATCH, PATCH))
        self.register_buffer("encode_bias", torch.zeros(channels))
        self.register_buffer("decode_weight", torch.zeros(channels, 3, PATCH, PATCH))
        self.register_buffer("decode_bias", torch.zeros(3))

    @property
    def channels(self) -> int:
        """Latent channels C."""
        return self.encode_weight.shape[0]

    @property
    def linear_decoding(self) -> tuple[Tensor, Tensor]:
        """Weight (C, 3, 8, 8) and bias (3): the colours of a patch by its latents."""
        return self.decode_weight, self.decode_bias

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents of pictures in [-1, 1]."""
        return F.conv2d(pixels, self.encode_weight.to(pixels), self.encode_bias.to(pixels), stride=PATCH)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of latents, not clamped."""
        weight, bias = self.decode_weight.to(latents), self.decode_bias.to(latents)
        return F.conv_transpose2d(latents, weight, bias, stride=PATCH)


def fit_patch_transform(pictures: Tensor, channels: int) -> PatchTransform:
    """Fit to pictures (n, 3, H, W) in [0, 1]; `channels` principal components are kept."""
    pixels = pictures * 2 - 1
    mean = pixels.mean((0, 2, 3))  # (3,)
    patches = rearrange(pixels - mean[:, None, None], "n c (h p) (w q) -> (n h w) (c p q)", p=PATCH, q=PATCH)
    values, vectors = torch.linalg.eigh(patches.T.double() @ patches.double() / len(patches))  # ascending
    kept = values.flip(0)[:channels]
    basis = vectors.flip(1)[:, :channels].T.float()  # (C, 3*8*8)
    overall = float((kept ** (1 - WHITENING)).mean().sqrt())  # makes the latents' mean square over all channels one
    scale = kept.sqrt().float() ** WHITENING * overall
    basis = rearrange(basis, "k (c p q) -> k c p q", c=3, p=PATCH, q=PATCH)
    transform = PatchTransform(channels)
    transform.encode_weight.copy_(basis / scale[:, None, None, None])
    transform.encode_bias.copy_(-(transform.encode_weight.sum((2, 3)) @ mean))
    transform.decode_weight.copy_(basis * scale[:, None, None, None])
    transform.decode_bias.copy_(mean)
    return transform
