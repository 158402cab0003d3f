"""Taps: exact dL/dW of chosen Linear layers of a loaded model, without autograd ever seeing a weight.

While `tapped(...)` is open, the forward of every Linear and convolution below diffusion_model is replaced on the
instance by one of tapped_layers.py. Everything replaced is put back in `finally`; no parameter, requires_grad flag or
mode of the model is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.ldm.common_dit
import comfy.model_management
import comfy.quant_ops
import torch
from torch import Tensor

from ....cones_ops.errors import ConesError
from ....cones_ops.masks.concept_mask import Where
from ....cones_ops.models.weight_names import layer_and_rows
from ..parameters import is_linear
from .checkpointing import blocks_in, checkpointed_forward
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

try:
    from comfy_kitchen.backends.eager import rope
except ImportError:  # an older host
    rope = None
ROPE = ("apply_rope", "apply_rope1", "rms_rope", "rms_rope1", "rms_rope_split_half", "rms_rope_split_half1")


def frozen_forward(module: Any, function: type[torch.autograd.Function]) -> Forward:
    """A forward for a layer whose weight gets no gradient."""
    original = module.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return function.apply(x, module, original)  # type: ignore[no-any-return]
        with torch.no_grad():
            y = original(x, *args, **kwargs)
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
    """A forward for a layer with targets."""

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if taps.anchor is not None and torch.is_grad_enabled():
            return TappedLinear.apply(x, taps.anchor, taps, parts, module)  # type: ignore[no-any-return]
        with torch.no_grad(), multiplied_weight(module, taps.factors(parts), x) as (weight, bias):
            return torch.nn.functional.linear(x, weight, bias)

    return forward


def own_tokens_forward(module: Any, parts: Parts, taps: Taps) -> Forward:
    """A forward for one that is searched at own tokens; a batch without them sees the untouched layer."""
    original = module.forward
    untouched = frozen_forward(module, FrozenLinear)

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not taps.own:
            return untouched(x, *args, **kwargs)
        if taps.anchor is not None and torch.is_grad_enabled():
            return TappedOwnTokens.apply(x, taps.anchor, taps, parts, module, original)  # type: ignore[no-any-return]
        with torch.no_grad():
            return with_own_rows(original(x, *args, **kwargs), x, taps, parts, module)

    return forward


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
        return make(module, targets[path], taps)
    if foreign:
        return None
    if is_linear(module):
        return frozen_forward(module, FrozenLinear)
    if isinstance(module, torch.nn.LayerNorm | torch.nn.RMSNorm):
        return copying(module.forward, taps)
    plain_conv = isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d) and not isinstance(
        module.padding, str
    )
    if plain_conv and module.padding_mode == "zeros":
        return frozen_forward(module, FrozenConv)
    return None


@contextmanager
def replaced_forwards(
    diffusion_model: torch.nn.Module, names: list[str], taps: Taps, checkpoint: Callable[[], bool]
) -> Iterator[None]:
    """Put the new forwards in, and take exactly those out again."""
    targets: dict[str, list[tuple[str, slice]]] = {}
    for name in names:
        path, rows = layer_and_rows(name)
        targets.setdefault(path, []).append((name, rows))
    blocks = {block for block in blocks_in(diffusion_model) if "forward" not in block.__dict__}

    def wanted() -> bool:
        again = checkpoint()
        taps.copies |= again  # a block that is run again is not checked for what it writes into: keep copies at once
        return again

    replaced: list[Any] = []
    try:
        for path, module in diffusion_model.named_modules():
            if module in blocks:
                forward = checkpointed_forward(module, lambda: taps.at(taps.own, taps.text_shape), wanted)
            else:
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
def lent_weights_copied(diffusion_model: torch.nn.Module) -> Iterator[None]:
    """Norms whose weights the host casts or fetches for each call get copies of them: autograd saves what they use, and
    the host's next layer may write into the buffer that it was lent.
    """
    changed: list[Any] = []
    try:
        for module in diffusion_model.modules():
            conv = isinstance(module, torch.nn.modules.conv._ConvNd)
            if getattr(module, "comfy_cast_weights", False) and not is_linear(module) and not conv:
                for name in ("weight_function", "bias_function"):
                    setattr(module, name, [*getattr(module, name, ()), torch.clone])
                changed.append(module)
        yield
    finally:
        for module in changed:
            for name in ("weight_function", "bias_function"):
                setattr(module, name, [function for function in getattr(module, name) if function is not torch.clone])


@contextmanager
def training_kernels() -> Iterator[None]:
    """Kernels with a backward: by the host's switch, and plain PyTorch where it has none (Cosmos-Predict2)."""
    management: Any = comfy.model_management
    kernels = getattr(comfy.quant_ops, "ck", None)
    with ExitStack() as stack:
        if hasattr(management, "in_training"):
            stack.enter_context(replaced(management, "in_training", True))
        for name in ROPE if kernels is not None else ():
            if hasattr(kernels, name) and hasattr(rope, name):
                stack.enter_context(replaced(kernels, name, getattr(rope, name)))
        yield


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """owner.name is value while open."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def tapped(
    diffusion_model: torch.nn.Module,
    names: list[str],
    where: Where = "everywhere",
    concepts: int = 1,
    checkpoint: Callable[[], bool] = lambda: False,
) -> Iterator[Taps]:
    """Taps on the named weights while open; enter outside inference mode, with the model loaded.

    checkpoint: asked by each block in a recorded pass, whether to keep its inputs only (checkpointing.py).
    """
    taps = Taps(where, concepts)
    with ExitStack() as stack:
        stack.enter_context(replaced_forwards(diffusion_model, names, taps, checkpoint))
        stack.enter_context(normal_small_parameters(diffusion_model))
        stack.enter_context(lent_weights_copied(diffusion_model))
        stack.enter_context(training_kernels())
        norm = comfy.ldm.common_dit.rms_norm  # a function in LTXV
        stack.enter_context(replaced(comfy.ldm.common_dit, "rms_norm", copying(norm, taps)))
        yield taps
