"""Taps: exact dL/dW of chosen Linear layers of a loaded model, without autograd ever seeing a weight.

While `tapped(...)` is open, the forward of every Linear and convolution below diffusion_model is replaced on the
instance by one of forwards.py. Everything replaced is put back in `finally`; no parameter, requires_grad flag or
mode of the model is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.cli_args
import comfy.ldm.common_dit
import comfy.model_management
import comfy.quant_ops
import torch

from ....cones_ops.masks.concept_mask import Where
from ....cones_ops.models.weight_names import layer_and_rows
from ..parameters import is_linear
from .checkpointing import blocks_in, checkpointed_forward
from .forwards import copying, new_forward
from .tapped_layers import Taps

try:
    from comfy_kitchen.backends.eager import rope
except ImportError:  # an older host
    rope = None


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
    new_call = diffusion_model.register_forward_pre_hook(lambda *_: taps.begin_call())
    try:
        for path, module in diffusion_model.named_modules():
            if module in blocks:
                forward = checkpointed_forward(module, taps.as_now, wanted)
            else:
                forward = new_forward(path, module, targets, taps)
            if forward is not None:
                module.__dict__["forward"] = forward
                replaced.append(module)
        yield
    finally:
        new_call.remove()
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


def rope_names() -> list[str]:
    """The functions of the host's plain PyTorch kernels for rotary embeddings; those that write in place left out."""
    return [name for name in dir(rope) if name.startswith(("apply_rope", "rms_rope")) and not name.endswith("_")]


@contextmanager
def training_kernels() -> Iterator[None]:
    """Kernels with a backward: by the host's switch, and plain PyTorch where it has none (Cosmos-Predict2)."""
    management: Any = comfy.model_management
    kernels = getattr(comfy.quant_ops, "ck", None)
    with ExitStack() as stack:
        if hasattr(management, "in_training"):
            stack.enter_context(replaced(management, "in_training", True))
        for name in rope_names() if kernels is not None else ():
            if hasattr(kernels, name):
                stack.enter_context(replaced(kernels, name, getattr(rope, name)))
        if hasattr(comfy.cli_args.args, "disable_comfy_compiler"):  # it would reuse memory that autograd has saved
            stack.enter_context(replaced(comfy.cli_args.args, "disable_comfy_compiler", True))
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
