"""The one in-place edit: shut neurons, theta_i <- (1 - strength) * theta_i for i in the index, nothing else.

Strength 0 leaves every bit as it was; at strength 1 the entries become exactly 0, whatever they were.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConesError
from .concept_mask import check_strength


def shut_(weight: Tensor, index: Tensor, strength: float = 1.0) -> Tensor:
    """Scale the indexed entries by (1 - strength), in place, and return `weight`. 0 changes nothing, 1 shuts them."""
    check_strength(strength)
    if not index.numel() or strength == 0.0:
        return weight
    top = int(index.max())
    if int(index.min()) < 0 or top >= weight.numel():
        size = weight.numel()
        raise ConesError(f"index up to {top} but the weight has {size} entries; was this mask made for another model?")
    positions = torch.unravel_index(
        index.to(weight.device), weight.shape
    )  # also right for weights that are not contiguous
    with torch.no_grad():
        values = weight[positions]
        weight[positions] = torch.zeros_like(values) if strength == 1.0 else values * (1.0 - strength)
    return weight
