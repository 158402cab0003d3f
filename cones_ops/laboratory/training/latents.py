"""Fit the patch transform to drawn pictures: principal components, in seconds and exactly reproducible."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ...toy_world.drawing.scene import draw_all
from ...toy_world.patches import CHANNELS, PATCH, PatchTransform
from ...toy_world.scenes import random_scene
from ...toy_world.world import Scene

WHITENING = 0.7  # channels are divided by std**WHITENING: 0 keeps their sizes, 1 makes all equal


def drawn(scenes: list[Scene]) -> Tensor:
    """Pictures (n, 3, SIDE, SIDE) of scenes, in [-1, 1]."""
    return draw_all(scenes) * 2 - 1


def fit_patch_transform(pictures: Tensor, channels: int = CHANNELS) -> PatchTransform:
    """Fit to pictures (n, 3, H, W) in [-1, 1]; `channels` principal components are kept."""
    mean = pictures.mean((0, 2, 3))  # (3,)
    patches = rearrange(pictures - mean[:, None, None], "n c (h p) (w q) -> (n h w) (c p q)", p=PATCH, q=PATCH)
    values, vectors = torch.linalg.eigh(patches.T.double() @ patches.double() / len(patches))  # ascending
    kept = values.flip(0)[:channels]
    basis = rearrange(vectors.flip(1)[:, :channels].T.float(), "k (c p q) -> k c p q", c=3, p=PATCH, q=PATCH)
    overall = (kept ** (1 - WHITENING)).mean().sqrt()  # the latents' mean square over all channels becomes one
    scale = (kept.sqrt() ** WHITENING * overall).float()[:, None, None, None]
    transform = PatchTransform(channels)
    transform.encode_weight.copy_(basis / scale)
    transform.encode_bias.copy_(-(transform.encode_weight.sum((2, 3)) @ mean))
    transform.decode_weight.copy_(basis * scale)
    transform.decode_bias.copy_(mean)
    return transform


def fitted_patch_transform(count: int = 2000, seed: int = 12345) -> PatchTransform:
    """The transform fitted to `count` random scenes."""
    generator = np.random.default_rng(seed)
    return fit_patch_transform(drawn([random_scene(generator) for _ in range(count)]))
