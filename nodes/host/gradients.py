"""Taps: exact dL/dW of chosen Linear layers of a loaded model, without autograd ever seeing a weight.

While `tapped(...)` is open, the forward of every Linear and convolution below diffusion_model is replaced on the
instance by one of tapped_layers.py. Everything replaced is put back in `finally`; no parameter, requires_grad flag or
mode of the model is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...cones_ops.concept_mask import Where
from ...cones_ops.errors import ConesError
from .checkpointing import blocks_in, checkpointed_forward
from .parameters import is_linear
from .tapped_layers import Forward, FrozenConv, FrozenLinear, TappedLinear, TappedOwnTokens, Taps, with_own_rows


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
        if not taps.own:
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
    if is_linear(module):
        return frozen_forward(module, FrozenLinear)
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
    targets = {name.removesuffix(".weight"): name for name in names}
    blocks = {one for one in blocks_in(diffusion_model) if "forward" not in one.__dict__}
    replaced: list[Any] = []
    try:
        for path, module in diffusion_model.named_modules():
            if module in blocks:
                forward = checkpointed_forward(module, lambda: taps.at(taps.own), checkpoint)
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
        stack.enter_context(training_kernels())
        yield taps
