"""The host's attention, read in passing and with a bias on the logits of concepts' tokens.

Rows of prompts without a bias are computed as they would be alone, by the same function and without a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor

from ....cones_ops.guidance.attention_maps import attention_to
from .apart_run import GroupedRows, ModelPass
from .attention_layout import AttentionLayout

Attention = Callable[..., Tensor]
WITHOUT_MASKS = ("attention_sage", "attention3_sage")  # some versions of these kernels ignore the mask


def overriding(model_pass: ModelPass, previous: Attention | None) -> Attention:
    """An `optimized_attention_override` for one pass of the model. previous: another node's, which is called by it."""

    def override(function: Attention, *args: Any, **kwargs: Any) -> Tensor:
        query, key, value = args[:3]
        read = model_pass.next_text in model_pass.run.read
        layout = model_pass.layout(query.shape[-2], key.shape[-2])
        guided = [rows for rows in model_pass.rows if rows.prompt.coverage is not None] if layout else []
        if guided and function.__name__ in WITHOUT_MASKS:
            function = attention_pytorch

        def attend(*inputs: Any, **options: Any) -> Tensor:
            return function(*inputs, **options) if previous is None else previous(function, *inputs, **options)

        if layout is None:
            return attend(*args, **kwargs)
        options = dict(zip(("heads", "mask"), args[3:], strict=False)) | kwargs
        mask, heads = options.pop("mask", None), options.pop("heads")
        if read:
            separate = bool(options.get("skip_reshape"))  # (B, H, N, D) instead of (B, N, H * D)
            read_maps(model_pass, layout, *by_head(query, key, heads, separate), mask)
        if not guided:
            return attend(*args, **kwargs)
        parts = []
        for start, stop, rows in segments(guided, len(query)):
            part = rows_of(mask, start, stop)
            if rows is not None:
                bias = rows.bias(layout, model_pass.tokens, query.shape[-2], key.shape[-2], query)
                part = bias if part is None else as_bias(part, query) + bias
            inputs = (tensor[start:stop] for tensor in (query, key, value))
            parts.append(attend(*inputs, heads, mask=part, **options))
        return torch.cat(parts)

    return override


@torch.no_grad()
def read_maps(model_pass: ModelPass, layout: AttentionLayout, query: Tensor, key: Tensor, mask: Tensor | None) -> None:
    """Add the attention of the pixels to each prompt's groups to its maps. query, key (B, H, N, D)."""
    pixels = layout.grid[0] * layout.grid[1]
    for rows in model_pass.rows:
        if not rows.prompt.maps.wants(pixels):
            continue
        groups = torch.zeros(rows.stop - rows.start, len(rows.positions), key.shape[2], dtype=torch.bool)
        groups[:, :, layout.first_token : layout.first_token + model_pass.tokens] = rows.groups(
            model_pass.tokens, groups.device
        )
        part = rows_of(mask, rows.start, rows.stop)
        if part is not None:
            part = as_bias(part if part.shape[-2] == 1 else part[:, :, layout.pixels], query)
        of_rows = query[rows.start : rows.stop, :, layout.pixels], key[rows.start : rows.stop]
        rows.prompt.maps.add(attention_to(*of_rows, groups.to(query.device), part), layout.grid)


def by_head(query: Tensor, key: Tensor, heads: int, separate: bool) -> tuple[Tensor, Tensor]:
    """Both as (B, H, N, D); where several heads of Q share one of K, that one is repeated."""
    if not separate:
        width = query.shape[-1] // heads
        query, key = (tensor.unflatten(-1, (-1, width)).transpose(1, 2) for tensor in (query, key))
    return query, key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)


def segments(guided: Sequence[GroupedRows], batch: int) -> Iterator[tuple[int, int, GroupedRows | None]]:
    """(start, stop, rows with a bias or None) that cover a batch in order."""
    position = 0
    for rows in sorted(guided, key=lambda rows: rows.start):
        if position < rows.start:
            yield position, rows.start, None
        yield rows.start, rows.stop, rows
        position = rows.stop
    if position < batch:
        yield position, batch, None


def rows_of(mask: Tensor | None, start: int, stop: int) -> Tensor | None:
    """Rows [start, stop) of a mask of the host, (N, S), (B, N, S) or (B, H, N, S), with all four dimensions."""
    if mask is None:
        return None
    mask = mask[None, None] if mask.ndim == 2 else mask[:, None] if mask.ndim == 3 else mask
    return mask if len(mask) == 1 else mask[start:stop]


def as_bias(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as what is added to logits; a boolean one says which may be attended to."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill_(~mask, -torch.inf)
    return mask.to(like)
