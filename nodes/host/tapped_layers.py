"""Layers as autograd functions that never see a weight: frozen ones, and tapped ones that hand out dL/dW.

A frozen layer saves nothing: its backward asks the host for the weight again (cast, dequantised, patched, wherever it
lives). A tapped layer also saves its input x and hands g^T x in fp32 to `Taps.sink`; its weight acts as
theta * multiplier where one is set, at own tokens in the rows of `Taps.own` only, which alone give gradients there.
With several concepts each has own rows, multipliers and gradients, under the names `slot(k, name)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...cones_ops.concept_mask import Where
from ...cones_ops.together import slot
from .parameters import weight_in_use

Forward = Callable[..., Tensor]
OwnRows = tuple[Tensor, Tensor]  # (n,) rows of the batch and (n,) tokens of theirs


class Taps:
    """What the replaced forwards share: the multiplier now in force, and where gradients go."""

    def __init__(self, where: Where = "everywhere", concepts: int = 1) -> None:
        self.where: Where = where
        self.concepts = concepts
        self.own: tuple[OwnRows | None, ...] = ()  # each concept's own tokens in the batch under way; () = none at all
        self.multiplier: Mapping[str, Tensor] = {}
        self.sink: dict[str, Tensor] = {}
        self.anchor: Tensor | None = None  # set while gradients are recorded; makes tapped outputs differentiable

    @contextmanager
    def recording(self) -> Iterator[Tensor]:
        """Inside, tapped layers take part in autograd; a backward pass fills the (fresh) sink. Yields the anchor."""
        self.sink = {}
        self.anchor = torch.zeros((), requires_grad=True)
        try:
            with torch.enable_grad():
                yield self.anchor
        finally:
            self.anchor = None

    def names(self, name: str) -> list[str]:
        """A target as each concept knows it."""
        return [name] if self.concepts == 1 else [slot(k, name) for k in range(self.concepts)]

    def own_names(self, name: str) -> list[tuple[str, OwnRows]]:
        """Those of them that have own tokens in the batch under way."""
        return [(one, own) for one, own in zip(self.names(name), self.own, strict=True) if own is not None]

    @contextmanager
    def at(self, own: tuple[OwnRows | None, ...]) -> Iterator[None]:
        """Inside, the batch under way has these own tokens."""
        before, self.own = self.own, own
        try:
            yield
        finally:
            self.own = before

    def add(self, name: str, gradient: Tensor) -> None:
        """Accumulate dL/dW_eff of one call of the layer."""
        self.sink[name] = self.sink[name].add_(gradient) if name in self.sink else gradient

    @staticmethod
    @contextmanager
    def multiplied_weight(
        module: Any, multiplier: Tensor | None, like: Tensor
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """(theta * multiplier, bias) in like's dtype and device."""
        with weight_in_use(module, like.dtype, like.device) as (weight, bias):
            if multiplier is not None:
                weight = (weight.float() * multiplier.to(like.device)).to(like.dtype)
            yield weight, bias


class FrozenLinear(torch.autograd.Function):
    """y = forward(x); backward g @ W with W fetched again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Any, forward: Forward) -> Tensor:
        ctx.module = module
        return forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        with weight_in_use(ctx.module, g.dtype, g.device) as (weight, _):
            return g @ weight, None, None


class FrozenConv(torch.autograd.Function):
    """The same for a convolution: only the input's shape is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Any, forward: Forward) -> Tensor:
        ctx.module, ctx.shape = module, x.shape
        return forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        m = ctx.module
        x = g.new_empty(1).expand(ctx.shape)  # only its shape matters for the gradient of the input
        with weight_in_use(m, g.dtype, g.device) as (weight, _):
            dx, _, _ = torch.ops.aten.convolution_backward(
                g, x, weight, None, m.stride, m.padding, m.dilation, False, [0] * len(m.stride), m.groups,
                [True, False, False],
            )  # fmt: skip
        return dx, None, None


class TappedLinear(torch.autograd.Function):
    """y = x (theta * multiplier)^T + b; backward hands g^T x to the sink."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, taps: Taps, name: str, module: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.taps, ctx.name, ctx.module, ctx.multiplier = taps, name, module, taps.multiplier.get(name)
        with taps.multiplied_weight(module, ctx.multiplier, x) as (weight, bias):
            return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        (x,) = ctx.saved_tensors
        ctx.taps.add(ctx.name, g.flatten(0, -2).float().T @ x.flatten(0, -2).float())  # (out, in)
        dx = None
        if ctx.needs_input_grad[0]:
            with ctx.taps.multiplied_weight(ctx.module, ctx.multiplier, g) as (weight, _):
                dx = g @ weight
        return dx, torch.zeros(()), None, None, None


class TappedOwnTokens(torch.autograd.Function):
    """The same where only own tokens see theta * multiplier; only their rows go to the sink."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, taps: Taps, name: str, module: Any, forward: Forward) -> Tensor:
        own = taps.own_names(name)
        ctx.save_for_backward(*[x[rows] for _, rows in own])
        ctx.taps, ctx.module, ctx.own = taps, module, [(one, rows, taps.multiplier.get(one)) for one, rows in own]
        return with_own_rows(forward(x), x, taps, name, module)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        dx = None
        if ctx.needs_input_grad[0]:
            with weight_in_use(ctx.module, g.dtype, g.device) as (weight, _):
                dx = g @ weight
        for (name, rows, multiplier), x in zip(ctx.own, ctx.saved_tensors, strict=True):  # x (n, in)
            ctx.taps.add(name, g[rows].float().T @ x.float())  # (out, in)
            if dx is not None:
                with ctx.taps.multiplied_weight(ctx.module, multiplier, g) as (weight, _):
                    dx[rows] = g[rows] @ weight
        return dx, torch.zeros(()), None, None, None, None


def with_own_rows(y: Tensor, x: Tensor, taps: Taps, name: str, module: Any) -> Tensor:
    """y = W x + b, in place with what theta * multiplier makes of x at own tokens."""
    for one, rows in taps.own_names(name):
        with taps.multiplied_weight(module, taps.multiplier.get(one), x) as (weight, bias):
            y[rows] = torch.nn.functional.linear(x[rows], weight, bias)
    return y
