"""What a step keeps in memory: bytes that autograd saves for its backward pass, and the process's resident peak.

Saved bytes count each storage once while anything holds on to it, without the model's own parameters, which are there
anyway; a tensor that a block run again (checkpointing) keeps for itself alone is not seen here, but in the peak. The
resident peak (Linux) holds everything: saved tensors, temporaries, gradients, scratch memory of the kernels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Kept:
    """Most bytes at one time."""

    saved: int = 0
    resident: int | None = None  # beyond what was resident before; None where the system does not tell
    holders: dict[int, int] = field(default_factory=dict)  # of each storage
    now: int = 0

    def hold(self, storage: Any) -> int:
        key = int(storage.data_ptr())
        self.holders[key] = self.holders.get(key, 0) + 1
        if self.holders[key] == 1:
            self.now += storage.nbytes()
            self.saved = max(self.saved, self.now)
        return key

    def release(self, key: int, size: int) -> None:
        self.holders[key] -= 1
        if not self.holders[key]:
            del self.holders[key]
            self.now -= size


class Saved:
    """What autograd holds in place of a tensor; its storage counts for as long."""

    def __init__(self, tensor: torch.Tensor, kept: Kept) -> None:
        self.tensor, self.kept = tensor, kept
        self.size = tensor.untyped_storage().nbytes()
        self.key = kept.hold(tensor.untyped_storage())

    def __del__(self) -> None:
        self.kept.release(self.key, self.size)


@contextmanager
def keeping(*models: torch.nn.Module) -> Iterator[Kept]:
    """Inside, one step runs; afterwards its Kept is filled in. models: those whose parameters do not count."""
    kept = Kept()
    known = {value.untyped_storage().data_ptr() for model in models for value in model.parameters()}

    def pack(tensor: torch.Tensor) -> Any:
        given = not tensor.numel() or tensor.untyped_storage().data_ptr() in known
        return tensor if given else Saved(tensor, kept)

    def unpack(saved: Any) -> Any:
        return saved.tensor if isinstance(saved, Saved) else saved

    before = resident()
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield kept
    if before is not None:
        kept.resident = max(0, status("VmHWM") - before)


def resident() -> int | None:
    """Bytes of the process in memory once what is free has gone back to the system; a new peak starts. Linux only."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        CLEAR.write_text("5")
        return status("VmRSS")
    except (OSError, AttributeError):
        return None


def status(name: str) -> int:
    """Bytes of one line of the process's status."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024
