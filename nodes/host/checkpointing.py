"""Less memory for a backward pass: large blocks keep their input only and are run again when their gradient is needed.

With taps a block does not keep its weights either, so a pass holds a few tensors per block. Small inputs are left:
there the second run would cost more than the memory is worth.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LARGE = 2**20  # entries of a block's input
BLOCKS = (ResBlock, SpatialTransformer)


def checkpointed_forward(module: Any, again: Callable[[], AbstractContextManager[None]]) -> Callable[..., Tensor]:
    """A forward that keeps only its inputs where they are large and a graph is recorded.

    again: called with each forward; gives what must be in force when the block is run once more for its gradient.
    """
    original = module.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_grad_enabled() or x.numel() < LARGE:
            return original(x, *args, **kwargs)  # type: ignore[no-any-return]
        then = again()
        if "transformer_options" in kwargs:  # the host writes into it as it goes
            kwargs["transformer_options"] = dict(kwargs["transformer_options"])
        settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        return checkpoint(  # type: ignore[no-any-return]
            original, x, *args, **settings, context_fn=lambda: (nullcontext(), then), **kwargs
        )

    return forward
