"""What a step keeps in memory: bytes that autograd saves for its backward pass, and the peak beyond what was there.

Saved bytes count each storage once while anything holds on to it, without the model's own parameters, which are there
anyway; a tensor that a block run again (checkpointing) keeps for itself alone is not seen here, but in the peak. The
resident peak holds everything: saved tensors, temporaries, gradients, scratch memory of the kernels; it is the
process's (Linux), or on a GPU that of torch's allocator.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from speed_model import on_gpu, pack

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Kept:
    """Most bytes at one time."""

    saved: int = 0
    resident: int | None = None  # beyond what was resident before; None where the system does not tell


@contextmanager
def keeping(*models: torch.nn.Module) -> Iterator[Kept]:
    """Inside, one step runs; afterwards its Kept is filled in. models: those whose parameters do not count."""
    kept = Kept()
    known = frozenset(value.untyped_storage().data_ptr() for model in models for value in model.parameters())
    before = resident()
    with pack("cones_ops.search.estimate").saved_bytes(known) as saved:
        yield kept
    kept.saved = saved.most
    if before is not None:
        most = torch.cuda.max_memory_allocated() if on_gpu() else status("VmHWM")
        kept.resident = max(0, most - before)


def resident() -> int | None:
    """Bytes in use once what is free has been given back; a new peak starts. None where the system does not tell."""
    if on_gpu():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return resident_in_ram()


def resident_in_ram() -> int | None:
    """The same of the process's memory; Linux only."""
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
