"""Regions of a picture that belong to concepts, and the bias on attention logits that keeps the concepts there.

    maps (attention_maps.py) -> `regions`: each pixel belongs to the group with the largest normalised map
    -> `logit_bias`: +1 on the logits of a group's tokens inside its region, -5 outside.

The groups that compete are the concepts, other things that the prompt names, and the background. In the spirit of
FreeFuse (arXiv 2510.23515), which needs no gradient and no extra pass. Regions are coverages in [0, 1] (B, C, h, w),
so coarser layers take means of them; masks that a user draws take their place as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConesError
from .attention_maps import normalised

INSIDE, OUTSIDE = 1.0, -5.0  # FreeFuse's
PROBE = 0.1  # share of the steps in which regions are read before they act: 2 of 20


@dataclass(frozen=True)
class Bias:
    """What is added to the attention logits of a group's tokens inside and outside its region."""

    inside: float = INSIDE
    outside: float = OUTSIDE

    @classmethod
    def of(cls, strength: float) -> Bias:
        """The bias at a strength: 0 none, 1 in full."""
        if not 0.0 <= strength <= 1.0:
            raise ConesError(f"strength {strength}: how far concepts are kept apart is between 0 (not at all) and 1")
        return cls(INSIDE * strength, OUTSIDE * strength)


def competing(groups: Tensor) -> Tensor:
    """Rows (B,) in which two groups or more of (B, C, L) have tokens: with one alone, nothing is to be kept apart."""
    return groups.any(dim=2).sum(dim=1) > 1


def regions(maps: Tensor, groups: Tensor) -> Tensor:
    """Maps (B, C, h, w) -> 1 where a group's normalised map is the largest, 0 elsewhere.

    A group without tokens in a row of `groups` (B, C, L) gets nothing there.
    """
    present = groups.any(dim=2)[:, :, None, None].to(maps.device)
    winners = normalised(maps).masked_fill(~present, -1.0).argmax(dim=1, keepdim=True)
    return torch.zeros_like(maps).scatter_(1, winners, 1.0) * present


def at_grid(coverage: Tensor, grid: tuple[int, int]) -> Tensor:
    """Regions (B, C, h, w) as (B, C, h', w'): means where the grid is coarser, interpolated where it is finer."""
    if tuple(coverage.shape[-2:]) == grid:
        return coverage
    if grid[0] * grid[1] < coverage.shape[-2:].numel():
        return F.adaptive_avg_pool2d(coverage, grid)
    return F.interpolate(coverage, grid, mode="bilinear", align_corners=False)


def logit_bias(coverage: Tensor, groups: Tensor, bias: Bias) -> Tensor:
    """What to add to the logits of pixels and tokens: (B, N, L), 0 for tokens of no group.

    coverage (B, C, h, w) at the layer's grid, N = h * w; groups boolean (B, C, L). A token of two groups is inside
    where one of them is.
    """
    inside = coverage.flatten(2)[:, :, :, None] * groups[:, :, None, :].to(coverage)  # (B, C, N, L)
    owned = groups.any(dim=1)[:, None, :].to(coverage)  # (B, 1, L)
    return bias.outside * owned + (bias.inside - bias.outside) * inside.amax(dim=1)
