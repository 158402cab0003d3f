"""Fit the patch transform to drawn pictures: principal components, in seconds and exactly reproducible."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ....next_world.drawing import draw
from ....next_world.patches import CHANNELS, PATCH, PatchTransform
from ....next_world.scenes import random_scene
from ....next_world.world import Scene

WHITENING = 0.7  # channels are divided by std**WHITENING: 0 keeps their sizes, 1 makes all equal


def draw_all(scenes: list[Scene]) -> Tensor:
    """Pictures (n, 3, SIDE, SIDE) of scenes, in [-1, 1]."""
    return torch.from_numpy(np.stack([draw(scene) for scene in scenes])).float() / 127.5 - 1


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
    return fit_patch_transform(draw_all([random_scene(generator) for _ in range(count)]))
