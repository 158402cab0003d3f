"""Losses on attention maps whose gradient moves the latents while sampling: two published ways to keep subjects apart.

Here for comparison with regions.py, which needs no gradient. Maps are those of single tokens or groups, (B, T, h, w);
`owners` (B, T) says which concept a map belongs to, -1 for none. Each loss is (B,), smaller is better.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend_and_excite(maps: Tensor, owners: Tensor) -> Tensor:
    """Attend-and-Excite (arXiv 2301.13826): 1 - the peak of the most neglected concept's smoothed map.

    Here a concept's map is the sum over its tokens, smoothed by means over 3x3 pixels.
    """
    groups, present = by_concept(maps, owners)
    peaks = F.avg_pool2d(groups, 3, stride=1, padding=1, count_include_pad=False).amax(dim=(-2, -1))
    return torch.where(present, 1.0 - peaks, 0.0).amax(dim=1)


def focus(maps: Tensor, owners: Tensor) -> Tensor:
    """FOCUS (arXiv 2510.02315): half the divergence within concepts, half what is missing of it between them.

    Maps are cubed and normalised over pixels; the divergence is Jensen and Shannon's, 0 for equal maps, 1 for disjoint.
    """
    densities = maps.flatten(2).pow(3)
    densities = densities / densities.sum(dim=2, keepdim=True).clamp(min=1e-30)
    members = torch.stack([owners == concept for concept in range(concepts_in(owners))], dim=1)  # (B, C, T)
    present = members.any(dim=2)
    within = divergence(densities[:, None].expand(-1, members.shape[1], -1, -1), members)  # (B, C)
    within = (within * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
    weights = members.to(densities) / members.sum(dim=2, keepdim=True).clamp(min=1)
    between = divergence(weights @ densities, present)
    return 0.5 * within + 0.5 * torch.where(present.sum(dim=1) > 1, 1.0 - between, 0.0)


def divergence(densities: Tensor, members: Tensor) -> Tensor:
    """Jensen-Shannon divergence (...,) of the `members` (..., n) among densities (..., n, pixels), in [0, 1]."""
    count = members.sum(dim=-1)
    weights = members.to(densities) / count.clamp(min=1)[..., None].to(densities)
    mean = (weights[..., None] * densities).sum(dim=-2)
    gap = entropy(mean) - (weights * entropy(densities)).sum(dim=-1)
    return torch.where(count > 1, gap / count.clamp(min=2).to(gap).log(), torch.zeros_like(gap))


def entropy(densities: Tensor) -> Tensor:
    """Entropy over the last dimension, in nats."""
    return -(densities * densities.clamp(min=1e-30).log()).sum(dim=-1)


def by_concept(maps: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of each concept's maps (B, C, h, w), and which concepts have any (B, C)."""
    members = torch.stack([owners == concept for concept in range(concepts_in(owners))], dim=1)
    return torch.einsum("bct,bthw->bchw", members.to(maps), maps), members.any(dim=2)


def concepts_in(owners: Tensor) -> int:
    """How many concepts there are."""
    return int(owners.max()) + 1
