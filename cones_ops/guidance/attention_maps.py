"""Where groups of tokens look: the attention that each pixel pays to them, read while a model samples.

A group is the tokens of a concept, of another thing or of any word. `AttentionMaps` collects a map for each group of
each row (B, C, h, w) over layers and steps, at the finest grid of at most `FINEST` pixels: coarse enough to be smooth,
as the literature reads it (FreeFuse, arXiv 2510.23515: 32x32 for a picture of 1024x1024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConesError

FINEST = 1024  # pixels of the grid
THRESHOLD = 0.4  # of a map's range: the best of 0.3 to 0.6 in an earlier toy world (docs/results/several-subjects.md)


def attention_to(query: Tensor, key: Tensor, groups: Tensor, mask: Tensor | None = None) -> Tensor:
    """Share of its attention that each pixel pays to each group, mean over heads: (B, C, N) in fp32.

    query (B, H, N, D), key (B, H, S, D), groups boolean (B, C, S). Attention with the groups as its values gives the
    shares, whatever kernel computes it, without (N, S) tensors; values hold D groups at a time.
    mask: added to the logits, as the model does.
    """
    parts = [_shares(query, key, part, mask) for part in torch.split(groups, key.shape[-1], dim=1)]
    return torch.cat(parts, dim=1)


def _shares(query: Tensor, key: Tensor, groups: Tensor, mask: Tensor | None) -> Tensor:
    """`attention_to` at most D groups."""
    rows, heads, keys, channels = key.shape
    values = torch.zeros(rows, 1, keys, channels, dtype=query.dtype, device=query.device)
    values[:, 0, :, : groups.shape[1]] = groups.transpose(1, 2).to(query)
    shares = F.scaled_dot_product_attention(query, key, values.expand(-1, heads, -1, -1), attn_mask=mask)
    return shares[..., : groups.shape[1]].float().mean(dim=1).transpose(1, 2)


def grid_of(pixels: int, height: int, width: int) -> tuple[int, int] | None:
    """(h, w) with h * w = pixels that a latent (height, width) has after some halvings, rounded up; None if none."""
    while height * width > pixels:
        height, width = (height + 1) // 2, (width + 1) // 2
    return (height, width) if height * width == pixels else None


def normalised(maps: Tensor) -> Tensor:
    """Maps (B, C, h, w) as means over 3x3 pixels that sum to 1: words that draw more attention weigh no more."""
    smooth = F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)
    return smooth / smooth.sum(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(smooth.dtype).tiny)


def masks_of(maps: Tensor, size: tuple[int, int], threshold: float = THRESHOLD) -> Tensor:
    """Maps (B, C, h, w) -> boolean (B, C, H, W): where a map, enlarged, is above a share of its range."""
    large = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    low, high = large.amin(dim=(-2, -1), keepdim=True), large.amax(dim=(-2, -1), keepdim=True)
    return large > low + threshold * (high - low)


@dataclass
class AttentionMaps:
    """Maps of groups of tokens, added up over layers and steps."""

    finest: int = FINEST
    total: Tensor | None = None  # (B, C, h, w)
    count: int = 0
    coarsest: int = 0  # pixels of the coarsest grid that was too fine

    def wants(self, pixels: int) -> bool:
        """Whether a layer with so many pixels would be recorded."""
        if pixels > self.finest:
            self.coarsest = min(self.coarsest or pixels, pixels)
            return False
        return self.total is None or pixels >= self.total.shape[-2:].numel()

    def add(self, shares: Tensor, grid: tuple[int, int]) -> None:
        """Add the shares (B, C, N) of one layer; the first layer of a finer grid starts anew."""
        maps = shares.reshape(*shares.shape[:2], *grid)
        if self.total is None or maps.shape != self.total.shape:
            self.total, self.count = torch.zeros_like(maps), 0
        self.total += maps
        self.count += 1

    def end_step(self) -> None:
        """After a step in which every layer's grid was too fine, accept the coarsest of them."""
        if self.total is None and self.coarsest:
            self.finest = self.coarsest

    def mean(self) -> Tensor:
        """The mean map of each group (B, C, h, w). ConesError if nothing was recorded."""
        if self.total is None:
            raise ConesError("no attention was recorded: none of the model's layers read the text in these steps")
        return self.total / self.count
