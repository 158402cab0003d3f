"""Layers as autograd functions that never see a weight: frozen ones, and tapped ones that hand out dL/dW.

A frozen layer saves nothing: its backward asks the host for the weight again (cast, dequantised, patched, wherever it
lives). A tapped layer also saves its input x and hands g^T x in fp32 to `Taps.sink`; its weight acts as
theta * multiplier where one is set, at own tokens in the rows of `Taps.own` only, which alone give gradients there.
A layer may hold several targets, each in rows of its own (`Parts`): K and V of a fused projection.
Each concept has rows, multipliers and gradients of its own, by (concept, name); everywhere there is concept 0 alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from ....cones_ops.errors import ConesError
from ....cones_ops.masks.concept_mask import Where
from ....cones_ops.search.host_model import Key, Multiplier
from ....cones_ops.search.statistics_store import NewStatistic
from ..parameters import weight_in_use
from ..text.layout import alike, text_in

Forward = Callable[..., Tensor]
OwnRows = tuple[Tensor, Tensor]  # (n,) rows of the batch and (n,) tokens of their text
Parts = Sequence[tuple[str, slice]]  # a layer's targets and their rows in its weight
Factors = list[tuple[slice, Tensor]]  # the multipliers that are set for a layer, with their rows
Owned = list[tuple[int, OwnRows, Tensor]]  # concept, its own tokens in a layer's input x, and x there (n, in)


class Taps:
    """What the replaced forwards share: the multiplier now in force, and where gradients go."""

    def __init__(self, where: Where = "everywhere", concepts: int = 1) -> None:
        self.where: Where = where
        self.concepts = concepts
        self.text_shape = (0, 0)  # (B, L) of the batch under way, where it has own tokens
        self.own: tuple[OwnRows | None, ...] = ()  # each concept's own tokens in the batch under way; () = none at all
        self.first: dict[str, Owned] = {}  # by target, what it was given first in the model call under way
        self.called: set[str] = set()  # targets whose layers have taken part in a recorded pass
        self.multiplier: Multiplier = {}
        self.sink: dict[Key, Tensor] = {}
        self.store: torch.device | None = None  # where gradients are put as soon as they are there; None: left
        self.new_statistic: NewStatistic | None = None  # what they are put into there; None: left
        self.copies = False  # whether norms keep copies of their inputs
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

    def factors(self, parts: Parts, concept: int = 0) -> Factors:
        """What a layer's targets are multiplied with now, where anything is set for them."""
        keys = [((concept, name), rows) for name, rows in parts]
        return [(rows, self.multiplier[key]) for key, rows in keys if key in self.multiplier]

    def owned(self, parts: Parts, x: Tensor) -> Owned:
        """Each concept's own tokens in x, the input of the layer with these targets; none in another text.

        A layer that is called again in one model call with other text works for another node (normalised attention
        guidance). ConesError where x (B, L or more, in) cannot be the text of the batch under way.
        """
        name, (batch, length) = parts[0][0], self.text_shape
        before = self.first.get(name)
        text = text_in(name, x, batch, length)
        if text is None:
            if before is not None:
                return []
            raise ConesError(
                f"{name} reads something of shape {tuple(x.shape)}, in which the tokens of {batch} prompts of "
                f"{length} cannot be found; search with where = everywhere"
            )
        width, start = text[0].shape[1], text[1]
        owned: Owned = []
        for concept, own in enumerate(self.own):
            if own is not None:
                row, token = own[0], own[1] + start
                index = (row, token) if len(x) == batch else (torch.zeros_like(row), row * width + token)
                owned.append((concept, index, x[index].detach()))
        if before is None:
            self.first[name] = owned
        elif not all(alike(now, known) for (_, _, now), (_, _, known) in zip(owned, before, strict=True)):
            return []
        return owned

    def begin_call(self) -> None:
        """The model is called: what its layers were given before does not count any more."""
        self.first = {}

    def as_now(self) -> AbstractContextManager[None]:
        """What puts the batch under way in force again, for a block that is run once more."""
        return self.at(self.own, self.text_shape, self.first)

    @contextmanager
    def at(
        self, own: tuple[OwnRows | None, ...], text_shape: tuple[int, int], first: dict[str, Owned] | None = None
    ) -> Iterator[None]:
        """Inside, the batch under way has these own tokens in its text, (B, L)."""
        before = self.own, self.text_shape, self.first
        self.own, self.text_shape, self.first = own, text_shape, {} if first is None else first
        try:
            yield
        finally:
            self.own, self.text_shape, self.first = before

    def add(self, parts: Parts, g: Tensor, x: Tensor, concept: int = 0) -> None:
        """Accumulate dL/dW_eff of one call of the layer: g (..., out), x (..., in)."""
        g, x = g.flatten(0, -2).float(), x.flatten(0, -2).float()
        for name, rows in parts:
            key, part = (concept, name), g[:, rows].T  # (out, n)
            if key not in self.sink and self.new_statistic is not None:  # before the product: freed last, no hole
                self.sink[key] = self.new_statistic(torch.empty(len(part), x.shape[1], device="meta")).zero_()
            gradient = (part @ x).to(self.store)  # (out, in)
            self.sink[key] = self.sink[key].add_(gradient) if key in self.sink else gradient


@contextmanager
def multiplied_weight(module: Any, factors: Factors, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """(theta * multiplier, bias) in like's dtype and device."""
    with weight_in_use(module, like.dtype, like.device) as (weight, bias):
        if [rows for rows, _ in factors] == [slice(None)]:
            weight = (weight.float() * factors[0][1].to(like.device)).to(like.dtype)
        elif factors:
            weight = weight.clone()
            for rows, factor in factors:
                weight[rows] = (weight[rows].float() * factor.to(like.device)).to(like.dtype)
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
        x = g.new_empty(ctx.shape)  # only its shape matters for the gradient of the input; not read, not written
        with weight_in_use(m, g.dtype, g.device) as (weight, _):
            dx, _, _ = torch.ops.aten.convolution_backward(
                g, x, weight, None, m.stride, m.padding, m.dilation, False, [0] * len(m.stride), m.groups,
                [True, False, False],
            )  # fmt: skip
        return dx, None, None


class TappedLinear(torch.autograd.Function):
    """y = x (theta * multiplier)^T + b; backward hands g^T x to the sink."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, taps: Taps, parts: Parts, module: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.taps, ctx.parts, ctx.module, ctx.factors = taps, parts, module, taps.factors(parts)
        with multiplied_weight(module, ctx.factors, x) as (weight, bias):
            return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        (x,) = ctx.saved_tensors
        ctx.taps.add(ctx.parts, g, x)
        dx = None
        if ctx.needs_input_grad[0]:
            with multiplied_weight(ctx.module, ctx.factors, g) as (weight, _):
                dx = g @ weight
        return dx, torch.zeros(()), None, None, None


class TappedOwnTokens(torch.autograd.Function):
    """The same where only own tokens see theta * multiplier; only their rows go to the sink."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor, taps: Taps, parts: Parts, module: Any, forward: Forward, owned: Owned
    ) -> Tensor:
        ctx.save_for_backward(*[vectors for _, _, vectors in owned])
        ctx.taps, ctx.parts, ctx.module = taps, parts, module
        ctx.owned = [(concept, own, taps.factors(parts, concept)) for concept, own, _ in owned]
        return with_own_rows(forward(x), taps, parts, module, owned)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        dx = None
        if ctx.needs_input_grad[0]:
            with weight_in_use(ctx.module, g.dtype, g.device) as (weight, _):
                dx = g @ weight
        for (concept, own, factors), x in zip(ctx.owned, ctx.saved_tensors, strict=True):  # x (n, in)
            ctx.taps.add(ctx.parts, g[own], x, concept)
            if dx is not None:
                with multiplied_weight(ctx.module, factors, g) as (weight, _):
                    dx[own] = g[own] @ weight
        return dx, torch.zeros(()), None, None, None, None, None


def with_own_rows(y: Tensor, taps: Taps, parts: Parts, module: Any, owned: Owned) -> Tensor:
    """y = W x + b, in place with what theta * multiplier makes of x at own tokens."""
    for concept, own, vectors in owned:
        with multiplied_weight(module, taps.factors(parts, concept), vectors) as (weight, bias):
            y[own] = torch.nn.functional.linear(vectors, weight, bias)
    return y
