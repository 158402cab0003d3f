"""A map laid over its picture, in colours that mean the same in every picture beside it."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

RAMP = np.array([[24, 15, 70], [126, 36, 130], [222, 76, 74], [254, 176, 74], [252, 253, 191]], np.float32)  # 0 to top


def density(maps: Tensor) -> Tensor:
    """Maps (B, C, h, w) in units of each one's own mean, so that words that draw more attention compare with others."""
    return maps / maps.mean(dim=(-2, -1), keepdim=True).clamp(min=1e-12)


def overlay(picture: np.ndarray, values: Tensor, top: float) -> np.ndarray:
    """A picture (H, W, 3) uint8 in grey under `values` (h, w), coloured from 0 to `top`: (H, W, 3) uint8."""
    height, width = picture.shape[:2]
    large = F.interpolate(values[None, None].float(), (height, width), mode="bilinear", align_corners=False)[0, 0]
    place = np.clip(large.numpy() / max(top, 1e-12), 0, 1) * (len(RAMP) - 1)
    low = np.minimum(place.astype(int), len(RAMP) - 2)
    part = (place - low)[..., None]
    colour = RAMP[low] * (1 - part) + RAMP[low + 1] * part
    grey = picture.astype(np.float32).mean(axis=-1, keepdims=True)
    mixed: np.ndarray = (0.4 * grey + 0.6 * colour).round().astype(np.uint8)
    return mixed
