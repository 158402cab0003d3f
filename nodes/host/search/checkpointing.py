"""Less memory for a backward pass: blocks keep their inputs only and are run again when their gradient is needed.

With taps a block does not keep its weights either, so a pass holds a few tensors per block, for about one forward more
of time. A block is a ResBlock or SpatialTransformer of a UNet, or else a member of an outermost ModuleList that has
layers of its own, as the blocks of transformers are. What a block writes into its inputs stays inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch.utils.checkpoint import checkpoint

UNET_BLOCKS = (ResBlock, SpatialTransformer)
CONTAINERS = (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.Sequential)
ROOM = 2  # forward passes that must fit beside what is kept: one for a block that is run again, one for gradients


def blocks_in(module: torch.nn.Module, listed: bool = False) -> Iterator[torch.nn.Module]:
    """The outermost blocks below module; listed: whether module is a ModuleList."""
    for child in module.children():
        repeated = listed and not isinstance(child, CONTAINERS) and next(child.children(), None) is not None
        if isinstance(child, UNET_BLOCKS) or repeated:
            yield child
        else:
            yield from blocks_in(child, isinstance(child, torch.nn.ModuleList))


def when_short(inner_model: Any, input_shape: list[int], device: torch.device) -> Callable[[], bool]:
    """Whether free memory is less than ROOM forward passes need; asked again and again while a pass keeps more."""
    needed = ROOM * inner_model.memory_required(input_shape)
    return lambda: comfy.model_management.get_free_memory(device) < needed


def checkpointed_forward(
    module: Any, again: Callable[[], AbstractContextManager[None]], wanted: Callable[[], bool]
) -> Callable[..., Any]:
    """A forward that keeps only its inputs where a graph is recorded and wanted() says so.

    again: called with each forward; gives what must be in force when the block is run once more for its gradient.
    """
    original = module.forward

    def block(*args: Any, **kwargs: Any) -> Any:
        return original(*map(fresh, args), **{name: fresh(value) for name, value in kwargs.items()})

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled() or not wanted():
            return original(*args, **kwargs)
        then = again()
        settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        args = tuple(value if isinstance(value, torch.Tensor) else fresh(value) for value in args)
        kwargs = {name: value if isinstance(value, torch.Tensor) else fresh(value) for name, value in kwargs.items()}
        return checkpoint(block, *args, **settings, context_fn=lambda: (nullcontext(), then), **kwargs)

    return forward


def fresh(value: Any) -> Any:
    """What a block may write into: some blocks add to their input in place, and the host notes in dicts where it is."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    return dict(value) if isinstance(value, dict) else value
