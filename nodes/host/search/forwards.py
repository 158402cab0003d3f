"""What replaces the forwards of layers during a search: one function of the input, with the host's arguments around it.

`honouring` does what newer hosts ask of a Linear besides (linear_arguments.py) under autograd, so that the functions of
tapped_layers.py see an input and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ....cones_ops.errors import ConesError
from ..linear_arguments import linear_arguments
from ..parameters import is_linear
from .tapped_layers import (
    Forward,
    FrozenConv,
    FrozenLinear,
    Parts,
    TappedLinear,
    TappedOwnTokens,
    Taps,
    multiplied_weight,
    with_own_rows,
)


def new_forward(path: str, module: Any, targets: Mapping[str, Parts], taps: Taps) -> Forward | None:
    """What replaces module.forward, or None to leave it."""
    foreign = "forward" in module.__dict__  # another node has already replaced it
    if path in targets:
        if foreign or not is_linear(module):
            raise ConesError(
                f"{targets[path][0][0]}: the layer is not a plain Linear (another node has replaced its forward, or it "
                f"is {type(module).__name__}); find concept neurons on the model without that node"
            )
        make = own_tokens_forward if taps.where == "own tokens" else tapped_forward
        return honouring(path, make(module, targets[path], taps), taps)
    if foreign:
        return None
    if is_linear(module):
        return honouring(path, frozen_forward(module, FrozenLinear), taps)
    if isinstance(module, torch.nn.LayerNorm | torch.nn.RMSNorm):
        return copying(module.forward, taps)
    plain_conv = isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d) and not isinstance(
        module.padding, str
    )
    if plain_conv and module.padding_mode == "zeros":
        return input_only(path, module, frozen_forward(module, FrozenConv))
    return None


def honouring(path: str, bare: Forward, taps: Taps) -> Forward:
    """A Linear's forward: bare(x), with the activation and the residual that a newer host passes."""

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not args and not kwargs:
            return bare(x)
        arguments = linear_arguments(path, args, kwargs)
        if arguments.input_act is not None and taps.copies and torch.is_grad_enabled() and x.requires_grad:
            x = x.clone()  # the activation keeps its input
        return arguments.summed(bare(arguments.activated(x)))

    return forward


def input_only(path: str, module: Any, bare: Forward) -> Forward:
    """A convolution's forward; ConesError where a graph is recorded and the host passes more than the input."""
    original = module.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not any(value is not None for value in (*args, *kwargs.values())):
            return bare(x)
        if torch.is_grad_enabled() and x.requires_grad:
            raise ConesError(f"{path}: this version of ComfyUI calls the layer with {sorted(kwargs)}; update the pack")
        with torch.no_grad():
            y = original(x, *args, **kwargs)
        return writable(y)

    return forward


def frozen_forward(module: Any, function: type[torch.autograd.Function]) -> Forward:
    """x -> y for a layer whose weight gets no gradient."""
    original = module.forward

    def forward(x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return function.apply(x, module, original)  # type: ignore[no-any-return]
        with torch.no_grad():
            y = original(x)
        return writable(y)

    return forward


def writable(y: Tensor) -> Tensor:
    """y, made without a graph, as something a block may add to in place with one: not a view made without one."""
    base = y._base
    return y if base is None or base.numel() != y.numel() or not y.is_contiguous() else base.view(y.shape)


def copying(original: Forward, taps: Taps) -> Forward:
    """A norm, which saves its input: a copy of it where blocks add to their input in place (Flux, LTXV)."""

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kept = x.clone() if taps.copies and torch.is_grad_enabled() and x.requires_grad else x
        return original(kept, *args, **kwargs)  # type: ignore[no-any-return]

    return forward


def tapped_forward(module: Any, parts: Parts, taps: Taps) -> Forward:
    """x -> y for a layer with targets."""

    def forward(x: Tensor) -> Tensor:
        if taps.anchor is not None and torch.is_grad_enabled():
            taps.called.update(name for name, _ in parts)
            return TappedLinear.apply(x, taps.anchor, taps, parts, module)  # type: ignore[no-any-return]
        with torch.no_grad(), multiplied_weight(module, taps.factors(parts), x) as (weight, bias):
            return torch.nn.functional.linear(x, weight, bias)

    return forward


def own_tokens_forward(module: Any, parts: Parts, taps: Taps) -> Forward:
    """The same for one that is searched at own tokens; a batch without them sees the untouched layer."""
    original = module.forward
    untouched = frozen_forward(module, FrozenLinear)

    def forward(x: Tensor) -> Tensor:
        if taps.anchor is not None and torch.is_grad_enabled():
            taps.called.update(name for name, _ in parts)
        owned = taps.owned(parts, x) if taps.own else []
        if not owned:
            return untouched(x)
        if taps.anchor is not None and torch.is_grad_enabled():
            return TappedOwnTokens.apply(x, taps.anchor, taps, parts, module, original, owned)  # type: ignore[no-any-return]
        with torch.no_grad():
            return with_own_rows(original(x), taps, parts, module, owned)

    return forward
