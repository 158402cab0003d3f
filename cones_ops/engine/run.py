"""Run many independent tasks: one after another in this process, or on Ray, on one machine or a cluster.

A task that raises does not stop the others; only the death of its worker makes it run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .cluster import results_on_ray
from .tasks import TaskResult, Work, Workers, attempted


def results(work: Work, names: Sequence[str], workers: Workers) -> Iterator[TaskResult | None]:
    """The results as they come; None about every second in which none comes, for whoever shows progress."""
    if workers.in_this_process or not names:
        return (attempted(work, workers.cores, name) for name in names)
    return results_on_ray(work, names, workers)
