"""S x: what masks at own tokens subtract from a layer's output, from the layer's weight as it is used just then."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ....cones_ops.errors import ConesError
from ....cones_ops.models.weight_names import layer_and_rows
from ..linear_arguments import LinearArguments
from ..parameters import is_linear, weight_in_use
from .sampling_run import OTHER_TEXT, ModelCall, Strengths
from .sparse_entries import merged
from .token_groups import OwnTokens

try:
    import comfy.model_prefetch as prefetch
except ImportError:  # an older host
    prefetch = None


def outliving() -> AbstractContextManager[Any]:
    """Memory made inside may outlive the block under way, whose allocations hosts from 0.34 on record and repeat."""
    pause = getattr(prefetch, "pause_malloc_graph", None)
    return nullcontext() if pause is None else pause()


def product_of(
    name: str, call: ModelCall, own: OwnTokens, module: Any, vectors: Tensor, arguments: LinearArguments
) -> Tensor | None:
    """S act(x) of some rows' own tokens, (1 or rows, n, out); None where another node has put other text.

    vectors: x there, (rows, n, in).
    """
    computed = call.computed
    known = computed.products.get((own.uuid, name))
    if known is not None and call.lasting and not call.patched:
        return known
    text = computed.texts[own.uuid]  # (n, D)
    reads_text = vectors.shape[-1] == text.shape[-1] and torch.equal(vectors[0], text.to(vectors))
    if call.patched and not reads_text:
        call.run.warn_once(OTHER_TEXT)
        return None
    like = vectors
    vectors = arguments.activated(vectors[:1] if reads_text else vectors).float()
    parts = vectors.split([count for count, _ in own.owners], dim=1)
    shut = shut_parts(name, call.run.masks, [masks for _, masks in own.owners], module, like)
    product = torch.cat([part @ matrix.T for part, matrix in zip(parts, shut, strict=True)], dim=1)
    if reads_text:
        computed.products[own.uuid, name] = product
    return product


def shut_parts(name: str, masks: Strengths, owners: Sequence[Sequence[int]], module: Any, like: Tensor) -> list[Tensor]:
    """S (out, in) in fp32 for each group of masks (their numbers) that own tokens together."""
    if not is_linear(module):
        raise ConesError(
            f"{name} is a {type(module).__name__}, and its weight cannot be read; choose where = everywhere in Apply "
            "Concept Masks, or load the model from a .safetensors file"
        )
    matrices = []
    _, rows = layer_and_rows(name)
    with torch.no_grad(), weight_in_use(module, like.dtype, like.device) as (whole, _):
        weight = whole[rows]
        flat = weight.reshape(-1)
        for group in owners:
            matrix = torch.zeros(flat.numel(), device=flat.device)
            parts = [(masks[k][0].index[name], 1.0 - masks[k][1]) for k in group if name in masks[k][0].index]
            if parts:
                index, factor = (tensor.to(flat.device) for tensor in merged(parts))
                matrix[index] = flat[index].float() * (1.0 - factor)
            matrices.append(matrix.reshape(weight.shape))
    return matrices
