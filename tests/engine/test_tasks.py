"""Tasks in this process, claims between processes, and the manifest; tests/diffusers/test_find_many.py has Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cones_ops.engine import manifest
from cones_ops.engine.claims import claimed, said
from cones_ops.engine.manifest import Record
from cones_ops.engine.run import results
from cones_ops.engine.tasks import TaskResult, Workers
from cones_ops.errors import ConesError

HOLD = """
import sys, time
from pathlib import Path
from cones_ops.engine.claims import claimed
with claimed(Path(sys.argv[1])) as claim:
    claim.say("step 1")
    print("held", flush=True)
    time.sleep(600)
"""


def test_tasks_one_after_another_and_their_errors() -> None:
    def work(name: str) -> tuple[str, int]:
        if name == "b":
            raise ConesError("b is empty")
        if name == "c":
            raise ZeroDivisionError("by 0")
        return name, torch.get_num_threads()

    before = torch.get_num_threads()
    ended = list(results(work, ["a", "b", "c", "d"], Workers(cores=3)))
    assert ended == [
        TaskResult("a", ("a", 3)),
        TaskResult("b", error="b is empty"),
        TaskResult("c", error="ZeroDivisionError: by 0"),
        TaskResult("d", ("d", 3)),
    ]
    assert torch.get_num_threads() == before
    assert list(results(work, [], Workers(count=2))) == []


def test_workers_out_of_range_are_refused() -> None:
    with pytest.raises(ConesError, match=r"count=0, cores=-1, retries=-2"):
        Workers(count=0, cores=-1, retries=-2)


@pytest.mark.slow
def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    claim = tmp_path / "claims" / "dog"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(claim)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        assert said(claim) == "step 1"
        with claimed(claim) as mine:
            assert mine is None
    finally:
        holder.kill()  # as kill -9
        holder.wait()
    with claimed(claim) as mine:
        assert mine is not None
        with claimed(claim) as second:
            assert second is None
    assert said(claim) == "" and not claim.exists()


def test_the_last_record_of_a_name_counts_and_a_broken_line_does_not(tmp_path: Path) -> None:
    assert manifest.read(tmp_path) == {}
    failed, saved = Record("dog", "failed", error="no pictures"), Record("dog", "saved", "key", held_out_gain=0.5)
    manifest.append(tmp_path, failed)
    with (tmp_path / manifest.FILE).open("a") as file:
        file.write('{"name": "cat", "st')  # by a process that was killed
    manifest.append(tmp_path, saved)
    (tmp_path / manifest.FILE).open("a").write('["cat"]\n{"name": "cat", "state": "lost"}\n{"state": "saved"}\n')
    assert manifest.read(tmp_path) == {"dog": saved}
