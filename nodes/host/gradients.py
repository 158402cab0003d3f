"""Taps: exact dL/dW of chosen Linear layers of a loaded model, without autograd ever seeing a weight.

While `tapped(...)` is open, the forward of every Linear and convolution below diffusion_model is replaced on the
instance. A frozen layer saves nothing: its backward asks the host for the weight again (cast, dequantised, patched,
wherever it lives). A tapped layer also saves its input x and hands g^T x in fp32 to `Taps.sink`; its weight acts as
theta * multiplier where one is set. Everything replaced is put back in `finally`; no parameter, requires_grad flag or
mode of the model is written. At own tokens the multiplier acts in the rows of `Taps.own` only, and only they give
gradients; while it is None there, nothing is multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import torch
from comfy.ops import CastWeightBiasOp, cast_bias_weight, uncast_bias_weight
from torch import Tensor

from ...cones_ops.concept_mask import Where
from ...cones_ops.errors import ConesError
from .checkpointing import BLOCKS, checkpointed_forward
from .parameters import QuantizedTensor

Forward = Callable[..., Tensor]
OwnRows = tuple[Tensor, Tensor]  # (n,) rows of the batch and (n,) tokens of theirs


@contextmanager
def weight_in_use(module: Any, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None]]:
    """(weight, bias) as the layer would use them now; valid inside only, read only."""
    weight, bias, stream = cast_bias_weight(module, dtype=dtype, device=device, bias_dtype=dtype, offloadable=True)
    try:
        plain = (weight.dequantize() if isinstance(weight, QuantizedTensor) else weight).to(dtype)
        smoothing = getattr(module, "pre_quant_scale", None)  # (in,): some quantised layers scale their input first
        yield plain if smoothing is None else plain * smoothing.to(plain), bias
    finally:
        uncast_bias_weight(module, weight, bias, stream)


class Taps:
    """What the replaced forwards share: the multiplier now in force, and where gradients go."""

    def __init__(self, where: Where = "everywhere") -> None:
        self.where: Where = where
        self.own: OwnRows | None = None  # own tokens of the batch under way
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

    @contextmanager
    def at(self, own: OwnRows | None) -> Iterator[None]:
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
        assert taps.own is not None
        ctx.save_for_backward(x[taps.own])
        ctx.taps, ctx.name, ctx.module = taps, name, module
        ctx.multiplier, ctx.own = taps.multiplier.get(name), taps.own
        return with_own_rows(forward(x), x, taps, name, module)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        (x,) = ctx.saved_tensors  # (n, in)
        ctx.taps.add(ctx.name, g[ctx.own].float().T @ x.float())  # (out, in)
        dx = None
        if ctx.needs_input_grad[0]:
            with weight_in_use(ctx.module, g.dtype, g.device) as (weight, _):
                dx = g @ weight
            with ctx.taps.multiplied_weight(ctx.module, ctx.multiplier, g) as (weight, _):
                dx[ctx.own] = g[ctx.own] @ weight
        return dx, torch.zeros(()), None, None, None, None


def with_own_rows(y: Tensor, x: Tensor, taps: Taps, name: str, module: Any) -> Tensor:
    """y = W x + b, in place with what theta * multiplier makes of x at own tokens."""
    with taps.multiplied_weight(module, taps.multiplier.get(name), x) as (weight, bias):
        y[taps.own] = torch.nn.functional.linear(x[taps.own], weight, bias)
    return y


def is_linear(module: Any) -> bool:
    """Whether module is a Linear of the host, quantised ones included."""
    quantised = isinstance(module, CastWeightBiasOp) and hasattr(module, "in_features")
    return quantised or isinstance(module, torch.nn.Linear)


def frozen_forward(module: Any, function: type[torch.autograd.Function]) -> Forward:
    """A forward for a layer whose weight gets no gradient."""
    original = module.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return function.apply(x, module, original)  # type: ignore[no-any-return]
        with torch.no_grad():
            return original(x, *args, **kwargs)

    return forward


def tapped_forward(module: Any, name: str, taps: Taps) -> Forward:
    """A forward for a target."""

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if taps.anchor is not None and torch.is_grad_enabled():
            return TappedLinear.apply(x, taps.anchor, taps, name, module)  # type: ignore[no-any-return]
        with torch.no_grad(), taps.multiplied_weight(module, taps.multiplier.get(name), x) as (weight, bias):
            return torch.nn.functional.linear(x, weight, bias)

    return forward


def own_tokens_forward(module: Any, name: str, taps: Taps) -> Forward:
    """A forward for a target that is searched at own tokens; a batch without them sees the untouched layer."""
    original = module.forward
    untouched = frozen_forward(module, FrozenLinear)

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if taps.own is None:
            return untouched(x, *args, **kwargs)
        if taps.anchor is not None and torch.is_grad_enabled():
            return TappedOwnTokens.apply(x, taps.anchor, taps, name, module, original)  # type: ignore[no-any-return]
        with torch.no_grad():
            return with_own_rows(original(x, *args, **kwargs), x, taps, name, module)

    return forward


def new_forward(path: str, module: Any, targets: Mapping[str, str], taps: Taps) -> Forward | None:
    """What replaces module.forward, or None to leave it."""
    foreign = "forward" in module.__dict__  # another node has already replaced it
    if path in targets:
        if foreign or not is_linear(module):
            raise ConesError(
                f"{targets[path]}: the layer is not a plain Linear (another node has replaced its forward, or it is "
                f"{type(module).__name__}); find concept neurons on the model without that node"
            )
        make = own_tokens_forward if taps.where == "own tokens" else tapped_forward
        return make(module, targets[path], taps)
    if foreign:
        return None
    if isinstance(module, BLOCKS):
        return checkpointed_forward(module, lambda: taps.at(taps.own))
    if is_linear(module):
        return frozen_forward(module, FrozenLinear)
    plain_conv = isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d) and not isinstance(
        module.padding, str
    )
    if plain_conv and module.padding_mode == "zeros":
        return frozen_forward(module, FrozenConv)
    return None


@contextmanager
def replaced_forwards(diffusion_model: torch.nn.Module, names: list[str], taps: Taps) -> Iterator[None]:
    """Put the new forwards in, and take exactly those out again."""
    targets = {name.removesuffix(".weight"): name for name in names}
    replaced: list[Any] = []
    try:
        for path, module in diffusion_model.named_modules():
            forward = new_forward(path, module, targets, taps)
            if forward is not None:
                module.__dict__["forward"] = forward
                replaced.append(module)
        yield
    finally:
        for module in replaced:
            module.__dict__.pop("forward", None)


@contextmanager
def normal_small_parameters(diffusion_model: torch.nn.Module) -> Iterator[None]:
    """Stand-ins for inference-mode parameters and buffers that autograd would have to save (norm scales, tables)."""
    kept: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for module in diffusion_model.modules():
            stand_in = is_linear(module) or isinstance(module, torch.nn.modules.conv._ConvNd) or hasattr(module, "_v")
            if stand_in and "forward" in module.__dict__:
                continue
            for table in (module._parameters, module._buffers):
                for key, value in table.items():
                    if value is None or not (value.is_inference() or value.requires_grad):
                        continue
                    copy = value.detach().clone()
                    kept.append((table, key, value))
                    table[key] = torch.nn.Parameter(copy, False) if table is module._parameters else copy
        yield
    finally:
        for table, key, value in kept:
            table[key] = value


@contextmanager
def training_kernels() -> Iterator[None]:
    """The host's kernels with a backward, where it has a switch for them."""
    management: Any = comfy.model_management
    before = getattr(management, "in_training", None)
    if before is not None:
        management.in_training = True
    try:
        yield
    finally:
        if before is not None:
            management.in_training = before


@contextmanager
def tapped(diffusion_model: torch.nn.Module, names: list[str], where: Where = "everywhere") -> Iterator[Taps]:
    """Taps on the named weights while open; enter outside inference mode, with the model loaded."""
    taps = Taps(where)
    with ExitStack() as stack:
        stack.enter_context(replaced_forwards(diffusion_model, names, taps))
        stack.enter_context(normal_small_parameters(diffusion_model))
        stack.enter_context(training_kernels())
        yield taps
