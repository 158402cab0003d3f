"""Where a layer's input holds the text: as (B, L, channels), all prompts in one row, or among further tokens."""

from __future__ import annotations

from torch import Tensor

from ....cones_ops.models.targets import own_tokens_at


def by_prompt(x: Tensor, batch: int, length: int) -> Tensor | None:
    """x as (batch, length or more, channels), a view; None for what cannot be the text of so many prompts."""
    if x.ndim != 3:
        return None
    if len(x) == 1 and batch > 1 and x.shape[1] % batch == 0:  # prompts behind each other in one row
        x = x.view(batch, -1, x.shape[2])
    return x if len(x) == batch and x.shape[1] >= length else None


def before_the_text(name: str, count: int, length: int) -> int:
    """How many of the `count` tokens that the layer of a target reads come before the text's `length`."""
    return count - length if own_tokens_at(name) == "end" else 0
