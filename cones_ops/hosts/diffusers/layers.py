"""Borrowing a diffusers UNet: its target layers, and context managers that lend it other forwards, modes and flags.

Each context manager is named for the state it changes and gives that state back on every path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from ...errors import ConesError
from ...models.targets import TargetChoice, select_targets
from .names import canonical_names

Forward = Callable[[Tensor], Tensor]


def check_plain(unet: nn.Module) -> None:
    """ConesError for a compiled UNet, or one with adapters, whose weights have other names and act otherwise."""
    if hasattr(unet, "_orig_mod"):
        raise ConesError("this UNet is compiled; use its plain one, pipeline.unet._orig_mod, and compile afterwards")
    if adapted := [name for name, _ in unet.named_parameters() if ".base_layer." in name]:
        raise ConesError(
            f"this UNet has adapters at {len(adapted)} layers, such as {adapted[0]}; fuse or unload them first"
        )


def target_modules(unet: nn.Module, choice: TargetChoice) -> dict[str, nn.Linear]:
    """Canonical parameter name -> the linear layer that holds it, for the chosen targets."""
    check_plain(unet)
    names = canonical_names(unet.config, (name for name, _ in unet.named_parameters()))  # type: ignore[arg-type]
    shapes = {name: tuple(unet.get_parameter(theirs).shape) for name, theirs in names.items()}
    return {name: linear(unet, names[name]) for name in select_targets(shapes, choice)}


def linear(unet: nn.Module, name: str) -> nn.Linear:
    """The linear layer of a diffusers parameter name; attention must call it (no fused projections)."""
    module = unet.get_submodule(name.removesuffix(".weight"))
    attention = unet.get_submodule(name.rsplit(".", 2)[0])
    if not isinstance(module, nn.Linear):
        raise ConesError(f"{name}: expected a plain linear layer, found {type(module).__name__}; unload adapters first")
    if getattr(attention, "fused_projections", False):
        raise ConesError(f"{name}: this UNet's projections are fused; call unfuse_qkv_projections() first")
    return module


@contextmanager
def forwards(replacements: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Lend modules another forward; whatever they had before is put back."""
    before = [(module, module.__dict__.get("forward")) for module in replacements]
    try:
        for module, forward in replacements.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, own in before:
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; every module gets its own mode back."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient; each gets its own setting back."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
