"""Where a search keeps its statistics, up to 21 bytes for every searched weight: in memory, or in temporary files.

Files are mapped into memory, so that the system writes them out when memory is short and the same operations work on
them in place. They have no name on POSIX, and vanish with the tensors on any system, also when the program is killed.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConesError

NewStatistic = Callable[[Tensor], Tensor]  # a weight -> an fp32 tensor of its shape, to be written before it is read
FILE = 2**28  # bytes; a process may often have no more than 1024 files open
ALIGNED = 64  # bytes


def in_memory(like: Tensor) -> Tensor:
    """On the weight's own device."""
    return torch.empty_like(like, dtype=torch.float32)


def on_disk(folder: str | Path) -> NewStatistic:
    """In files in `folder`, each reserved whole at once: ConesError where the disk has no room for it.

    Tensors that are asked for one after the other share a file, so that few are open.
    """
    file: Any = b""
    used = 0

    def new_statistic(like: Tensor) -> Tensor:
        nonlocal file, used
        size = -(-torch.float32.itemsize * like.numel() // ALIGNED) * ALIGNED
        if used + size > len(file):
            file, used = _mapped(Path(folder), max(size, FILE)), 0
        part = torch.frombuffer(file, dtype=torch.float32, count=like.numel(), offset=used)
        used += size
        return part.view(like.shape)

    return new_statistic


def _mapped(folder: Path, size: int) -> mmap.mmap:
    """A new temporary file of `size` bytes, as memory."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a hole in the file would be an error when written to
            else:
                file.truncate(size)
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise ConesError(
            f"no room for {size / 1e6:,.0f} MB of a search's statistics in {folder} ({error.strerror}); "
            "make room there, or search fewer weights (text V or text K alone)"
        ) from None
