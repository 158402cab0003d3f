"""Where a layer's input holds the text: as (B, L, channels), all prompts in one row, or among further tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from ....cones_ops.models.targets import TextLayout, text_layout

# a run's transformer_options in which Qwen-Image 2.1 gives its layers the text in every step, and not only in the first
WHOLE_TEXT = {"qwen_image21_cache": {"device": "off"}}


def text_in(name: str, x: Tensor, batch: int, length: int, longer: bool = False) -> tuple[Tensor, int] | None:
    """x, the input of a target's layer, as a view (batch, L or more, channels), and how many tokens come before the
    text's `length`; None for what cannot be the text of so many prompts.

    longer: whether further tokens may follow the text in a layer that otherwise reads nothing else.
    """
    layout = text_layout(name) or TextLayout(further=True)
    texts = by_prompt(x, batch, layout.one_row)
    if texts is None or texts.shape[1] < length:
        return None
    if texts.shape[1] > length and not (longer or layout.further):
        return None
    return texts, texts.shape[1] - length if layout.at == "end" else 0


def by_prompt(x: Tensor, batch: int, one_row: bool) -> Tensor | None:
    """x as (batch, tokens, channels), a view. one_row: whether prompts may be behind each other in one row."""
    if one_row and x.ndim == 3 and len(x) == 1 and batch > 1 and x.shape[1] % batch == 0:
        x = x.view(batch, -1, x.shape[2])
    return x if x.ndim == 3 and len(x) == batch else None


def alike(x: Tensor, other: Tensor) -> bool:
    """Whether two inputs are the same text, up to the rounding of a second computation."""
    if x.shape != other.shape:
        return False
    within = 1e-3 * float(other.abs().max()) if other.numel() else 0.0
    return torch.allclose(x, other.to(x), rtol=1e-2, atol=within)
