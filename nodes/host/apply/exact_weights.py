"""Masked weights after the host has loaded a model: exact on every device, and without a second copy.

The host patches a weight through a compute type (fp16 on GPUs) and rounds fp8 at random, which moves entries that no
mask holds; and it keeps the untouched weight beside the patched one until it unloads. A weight with no other patches
than masks is computed again from the untouched one, if it can have been rounded; of the untouched one only the masked
entries are kept: `Untouched` restores the weight, bit for bit, when the host asks its backup for it.
"""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ..parameters import is_packed
from .sparse_entries import put, scale_entries, taken


class Untouched:
    """Replaces, in the host's backup, the untouched copy of a weight that masks have changed."""

    def __init__(self, patcher: Any, key: str, where: Tensor, untouched: Tensor, inplace_update: bool) -> None:
        self.model, self.key, self.where = patcher.model, key, where
        self.device, self.bits = untouched.device, taken(untouched, where)
        self.inplace_update = inplace_update

    @property
    def weight(self) -> Tensor:
        """The untouched weight, a new tensor where the host had put it."""
        weight: Tensor = comfy.utils.get_attr(self.model, self.key).detach().to(self.device, copy=True)
        put(weight, self.where, self.bits)
        return weight


def make_weight_exact(patcher: Any, key: str, where: Tensor, factor: Tensor | None) -> None:
    """Make a loaded weight from its backup, with the entries `where` scaled, and keep only these."""
    backup = patcher.backup.get(key)
    loaded = comfy.utils.get_attr(patcher.model, key)
    if backup is None or isinstance(backup, Untouched) or is_packed(owner(patcher, key)):
        return  # not loaded yet, done before, or bytes that only a GGUF layer can read
    untouched: Tensor = backup.weight
    if type(untouched) not in (torch.Tensor, torch.nn.Parameter) or untouched.dtype != loaded.dtype:
        return
    if rounded(loaded):
        if not patcher.is_dynamic():
            patcher.unpin_weight(key)  # the host has pinned what it offloads; before that memory is free
        exact = untouched.detach().to(loaded.device, copy=True, memory_format=torch.contiguous_format)
        comfy.utils.set_attr_param(patcher.model, key, scale_entries(exact, where, factor))
    if not patcher.is_dynamic():  # which has its untouched weights in the file
        patcher.backup[key] = Untouched(patcher, key, where, untouched.detach(), backup.inplace_update)


def rounded(weight: Tensor) -> bool:
    """Whether the host's patches may have changed entries of a weight that they do not scale."""
    computed: torch.dtype = comfy.model_management.lora_compute_dtype(weight.device)
    return weight.dtype not in {torch.float32: (torch.float32, torch.float16, torch.bfloat16)}.get(
        computed, (computed,)
    )


def owner(patcher: Any, key: str) -> Any:
    """The layer that holds a parameter."""
    return comfy.utils.get_attr(patcher.model, key.rpartition(".")[0])
