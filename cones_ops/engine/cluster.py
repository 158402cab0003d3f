"""Tasks on Ray: a cluster that is there already, or one of our own on this machine that ends with the run.

Our own listens on 127.0.0.1 alone, has no dashboard and sends no usage statistics. Ray restarts a task whose worker
died, so many times as `Workers.retries` says; a task's own errors are results (see tasks.py) and are not tried again.
A worker process keeps what its tasks have loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from typing import Any

from ..errors import ConesError
from .tasks import TaskResult, Work, Workers, attempted

INSTALL = "pip install cones-concept-neurons[cluster]"
STARTS = 3
WINDOW = 1000  # tasks that Ray is given at a time
OBJECTS = 80 * 2**20  # bytes of Ray's shared memory; results are short texts
LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on any system: bind to 127.0.0.1
    "RAY_USAGE_STATS_ENABLED": "0",
}


def results_on_ray(work: Work, names: Sequence[str], workers: Workers) -> Iterator[TaskResult | None]:
    """See `run.results`."""
    with connected(workers) as ray:
        resources = {"num_cpus": workers.cores, "num_gpus": workers.gpus}
        task = ray.remote(**resources, max_retries=workers.retries, max_calls=0)(attempted)
        waiting = iter(names)
        running: dict[Any, str] = {}
        while True:
            for name in islice(waiting, WINDOW - len(running)):
                running[task.remote(work, workers.cores, name)] = name
            if not running:
                return
            ended, _ = ray.wait([*running], num_returns=1, timeout=1.0)
            if not ended:
                yield None
            for reference in ended:
                yield _result(ray, reference, running.pop(reference), workers)


def _result(ray: Any, reference: Any, name: str, workers: Workers) -> TaskResult:
    try:
        result: TaskResult = ray.get(reference)
        return result
    except ray.exceptions.RayError as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return TaskResult(name, error=f"its worker died {workers.retries + 1} times ({reason[:200]}); is memory short?")


@contextmanager
def connected(workers: Workers) -> Iterator[Any]:
    """Inside, the module `ray`, connected to the cluster; ConesError where Ray is missing or cannot start."""
    with environment({} if workers.address else LOCAL):
        try:
            import ray
        except ImportError as error:
            raise ConesError(f"{error}; several workers need Ray: {INSTALL}, or use one worker") from None
        options: dict[str, Any] = {"address": workers.address or "local"}
        if not workers.address:
            options |= {"num_cpus": workers.count * workers.cores, "num_gpus": workers.count * workers.gpus}
            options |= {"include_dashboard": False, "object_store_memory": OBJECTS}
        try:
            _start(ray, workers.address, {**options, "log_to_driver": False, "logging_level": "error"})
            yield ray
        finally:
            ray.shutdown()


def _start(ray: Any, address: str | None, options: Mapping[str, Any]) -> None:
    """Start or connect; a few times, because Ray gives its own processes 15 s to start, too few on a busy machine."""
    for attempt in range(STARTS):
        try:
            ray.init(**options)
            return
        except Exception as error:  # of many kinds
            ray.shutdown()
            if address or attempt + 1 == STARTS:
                raise ConesError(f"Ray cannot connect to {address or 'a cluster of its own here'} ({error})") from error


def has_ray() -> bool:
    """Whether Ray is installed."""
    return find_spec("ray") is not None


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Inside, these environment variables are set, for us and the processes we start."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
