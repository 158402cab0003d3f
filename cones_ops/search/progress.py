"""A search under way: records its losses, reports its steps, and keeps its state if it is to resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from .host_model import HostModel, Key
from .resume import State, Tensors
from .settings import OnStep, Phase, Step


class Progress:
    """What a search does after each step. `history`: the loss of each step of the search so far."""

    def __init__(self, on_step: OnStep | None = None, state: State | None = None) -> None:
        self._on_step = on_step
        self._state = state
        self._kept = None if state is None else state.read()
        self._next_write = time.monotonic() + (0.0 if state is None else state.seconds)
        self.history: list[float] = [] if self._kept is None else self._kept["history"]

    @property
    def phase(self) -> Phase | None:
        """The phase in which the kept state is, if there is one."""
        return None if self._kept is None else self._kept["phase"]

    def resumed(self, phase: Phase, tensors: Tensors) -> tuple[int, Mapping[str, Any]]:
        """The steps of this phase that are done, and the numbers kept with them; the tensors become the kept ones.

        (0, nothing) if there is no state of this phase; then the tensors stay as they are.
        """
        if self._state is None or self._kept is None or self.phase != phase or not self._state.fill(tensors):
            self.history.clear() if phase == "search" else None
            return 0, {}
        return self._kept["step"], self._kept["numbers"]

    def step(self, step: Step, tensors: Tensors | None = None, **numbers: Any) -> None:
        """One step is done. tensors and numbers: what the next ones need; numbers are floats and lists of them."""
        if step.phase == "search":
            self.history.append(step.loss)
        write = partial(self._write, step.phase, step.step, tensors or {}, numbers)
        last = step.phase == "choose" and step.step == step.total  # then all of the result is there
        written = tensors is not None and (last or time.monotonic() >= self._next_write) and write()
        try:
            if self._on_step:
                self._on_step(step)
        except BaseException:
            if tensors is not None and not written:
                write()
            raise

    @contextmanager
    def keeping(self, phase: Phase, step: int, tensors: Tensors, **numbers: Any) -> Iterator[None]:
        """Inside, what stops the next step (a cancel in the middle of it) keeps the state after `step`."""
        try:
            yield
        except BaseException:
            if step:  # before the first there is nothing to keep
                self._write(phase, step, tensors, numbers)
            raise

    def scores(self, model: HostModel, search: Callable[[], dict[Key, Tensor]]) -> dict[Key, Tensor]:
        """The scores of `search`, or those that it ended with before it was stopped."""
        if self.phase == "choose":
            kept = {key: model.new_statistic(weight) for key, weight in sorted(model.weights.items())}
            if self._state is not None and self._state.fill({"scores": kept}):
                return kept
            self._kept = None
            self.history.clear()
        scores = search()
        self._kept = None
        self._write("choose", 0, {"scores": scores}, {})
        return scores

    def _write(self, phase: Phase, step: int, tensors: Tensors, numbers: Mapping[str, Any]) -> bool:
        """Keep the state, if it is kept at all."""
        if self._state is not None:
            facts = {"phase": phase, "step": step, "numbers": numbers, "history": self.history}
            self._next_write = time.monotonic() + self._state.write(facts, tensors)
        return True
