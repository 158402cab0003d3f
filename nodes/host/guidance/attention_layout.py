"""Which attention calls of a model let pixels look at the text, and where pixels and text are in their sequences.

The host calls one function for every attention; that the next call reads the text is known from the K projection that
was called just before. Pixels attend to the text alone (cross-attention), or pixels and text attend to each other in
one sequence (joint attention), in which the text comes first in every family that is supported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....cones_ops.guidance.attention_maps import grid_of
from ....cones_ops.models.targets import own_tokens_at, targets, text_layout


@dataclass(frozen=True)
class AttentionLayout:
    """Where the pixels are among the queries, row by row of `grid`, and where the text is among the keys."""

    grid: tuple[int, int]
    first_pixel: int
    first_token: int
    joint: bool  # whether queries and keys are one sequence

    @property
    def pixels(self) -> slice:
        """The pixels' part of the queries."""
        return slice(self.first_pixel, self.first_pixel + self.grid[0] * self.grid[1])


def text_projections(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The K projections whose input has the text's tokens, in the order in which a model's blocks are numbered."""
    names = [target.name for target in targets(shapes) if target.role == "k" and own_tokens_at(target.name, shapes)]
    return sorted(names, key=_by_number)


def read_projections(shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """The projections whose attention is read: all of a UNet, whose grids differ, and else one block's.

    That is the last one in the first half of the blocks, which for Flux is the last double block, as in FreeFuse.
    """
    texts = text_projections(shapes)
    if any("transformer_blocks" in name and "_block" in name.split(".")[0] for name in texts):
        return set(texts)
    every = [target for target in targets(shapes) if target.role == "k" and target.kind in ("text", "joint")]
    return set(texts[: max(1, len(every) // 2)][-1:])


def layout_of(
    diffusion_model: Any, name: str, queries: int, keys: int, tokens: int, latent: tuple[int, ...]
) -> AttentionLayout | None:
    """The layout of the attention after a projection; None where text or pixels are not where they are expected.

    queries, keys: the lengths of its sequences; tokens: the prompts' length; latent: the shape of the latents.
    """
    if len(latent) == 5 and latent[2] != 1:  # a film
        return None
    if queries != keys or (keys == tokens and re.search(r"attn2|cross_attn", name)):
        grid = grid_of(queries, *latent[-2:])
        return AttentionLayout(grid, 0, 0, joint=False) if grid and keys >= tokens else None  # others add tokens behind
    patch = _patch_size(diffusion_model)
    height, width = (-(-side // patch) for side in latent[-2:])
    pixels = height * width
    layout = text_layout(name)
    if layout is not None and layout.at == "end":  # tokens of the model's own come before the text
        first = queries - pixels - tokens
        return AttentionLayout((height, width), first + tokens, first, joint=True) if first >= 0 else None
    multiple = getattr(diffusion_model, "pad_tokens_multiple", None) or 1
    first_pixel = -(-tokens // multiple) * multiple
    if first_pixel + pixels > queries:
        return None
    return AttentionLayout((height, width), first_pixel, 0, joint=True)


def _patch_size(diffusion_model: Any) -> int:
    patch = getattr(diffusion_model, "patch_size", 1)
    return int(patch[-1] if isinstance(patch, list | tuple) else patch)


def _by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts block 10 behind block 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"[.]", name)]
