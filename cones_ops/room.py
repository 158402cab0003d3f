"""Where a search keeps its statistics, up to 26 bytes for every searched weight: in memory, or in temporary files.

Files are mapped into memory, so that the system writes them out when memory is short and the same operations work on
them in place. They have no name on POSIX, and vanish with the tensors on any system, also when the program is killed.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .errors import ConesError

Room = Callable[[Tensor], Tensor]  # a weight -> an fp32 tensor of its shape, to be written before it is read


def in_memory(like: Tensor) -> Tensor:
    """On the weight's own device."""
    return torch.empty_like(like, dtype=torch.float32)


def on_disk(folder: str | Path) -> Room:
    """In files in `folder`, each reserved whole at once: ConesError where the disk has no room for it."""

    def room(like: Tensor) -> Tensor:
        size = torch.float32.itemsize * like.numel()
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)  # a hole in the file would be an error when written to
                else:
                    file.truncate(size)
                mapped = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise ConesError(
                f"no room for {size / 1e6:,.0f} MB of a search's statistics in {folder} ({error.strerror}); "
                "make room there, or search fewer weights (text V or text K alone)"
            ) from None
        return torch.frombuffer(mapped, dtype=torch.float32).view(like.shape)

    return room
