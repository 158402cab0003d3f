"""A search's progress on a bar."""

from __future__ import annotations

from typing import Any

from ..search.settings import OnStep, Step


def steps_on(bar: Any) -> OnStep:
    """Show a search's steps and loss on a progress bar of tqdm."""

    def on_step(step: Step) -> None:
        bar.set_postfix(loss=f"{step.loss:.4f}", phase=step.phase)
        bar.update(step.phase == "search")

    return on_step
