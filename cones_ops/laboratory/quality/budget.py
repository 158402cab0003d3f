"""How much work a cell is: the same steps and pictures for every method, and how much is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...errors import ConesError


@dataclass(frozen=True)
class Budget:
    """Of one run of the benchmark; every cell records its own."""

    steps: int = 300  # of every search and fine-tune
    batch: int = 8  # rows of each term in a step
    beside: int = 24  # collages of the subject with another thing, beside 4 pictures of it alone
    class_pictures: int = 8  # of the class alone in the prior, and as many collages as the subject has
    joint_steps: int = 200  # of tuning masks together
    samples: int = 16  # pictures per figure
    sampling_steps: int = 20
    held_out: int = 96  # paired draws of the subject's term, half as many of the prior's


FULL = Budget()
SMOKE = Budget(steps=40, batch=4, beside=4, class_pictures=4, joint_steps=30, samples=4, sampling_steps=10, held_out=16)


def budget_of(smoke: bool = False, beside: int | None = None) -> Budget:
    """The full run's budget or the smoke run's, maybe with another number of collages; ConesError below 0."""
    budget = SMOKE if smoke else FULL
    if beside is not None and beside < 0:
        raise ConesError(f"{beside} collages beside each subject; give 0 or more")
    return budget if beside is None else replace(budget, beside=beside)
