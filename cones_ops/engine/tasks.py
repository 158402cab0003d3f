"""One task, `work(name)`, and what it is given: a number of threads. What it raises becomes its result's error.

Its value is anything that Python can pickle. A task has the same number of threads wherever it runs, so that its
floating-point sums, and all that follows from them, are the same bit for bit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ConesError

log = logging.getLogger("cones")

Work = Callable[[str], Any]


@dataclass(frozen=True)
class Workers:
    """How many tasks run at a time, and what each of them gets.

    address: of a Ray cluster; None: `count` workers on this machine, of which the first needs no Ray.
    retries: how often a task is run again after the death of its worker.
    """

    count: int = 1
    cores: int = 1
    gpus: int = 0
    address: str | None = None
    retries: int = 2

    def __post_init__(self) -> None:
        wrong = [f"{name}={getattr(self, name)}" for name in ("count", "cores") if getattr(self, name) < 1]
        wrong += [f"{name}={getattr(self, name)}" for name in ("gpus", "retries") if getattr(self, name) < 0]
        if wrong:
            raise ConesError(f"workers out of range: {', '.join(wrong)}")

    @property
    def in_this_process(self) -> bool:
        """Whether tasks run one after another, without Ray."""
        return self.count == 1 and self.address is None


@dataclass(frozen=True)
class TaskResult:
    """A task's value, or why it has none."""

    name: str
    value: Any = None
    error: str = ""


def attempted(work: Work, cores: int, name: str) -> TaskResult:
    """One task on so many threads, whatever it raises; Ctrl-C is not its own."""
    try:
        with threads(cores):
            return TaskResult(name, work(name))
    except (ConesError, OSError) as error:
        return TaskResult(name, error=str(error))
    except Exception as error:  # the other tasks shall run on
        log.exception("%s failed", name)
        return TaskResult(name, error=f"{type(error).__name__}: {error}")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, torch computes on `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
