"""A search's progress on a bar."""

from __future__ import annotations

from typing import Any

from ..search.settings import OnStep, Step


def steps_on(bar: Any) -> OnStep:
    """Show a search's steps and loss on a progress bar of tqdm, and how far the choice of density is after them."""

    def on_step(step: Step) -> None:
        if step.phase == "choose":
            bar.set_postfix_str(f"density {step.step} of {step.total}, loss={step.loss:.4f}")
            return
        bar.set_postfix_str(f"loss={step.loss:.4f}")
        bar.update()

    return on_step
