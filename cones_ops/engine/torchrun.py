"""A command that several processes run together, started by torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed as dist

from ..search.ranks import ALONE, Ranks


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """Inside, this process's place among those of torchrun, and its device; alone where torchrun did not start it.

    With CUDA each process takes the GPU of its local rank, and they talk through nccl; else through gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield ALONE, device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()
