"""`cones find`, killed with -9 and called again, ends with the mask of a search that was not stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.server import kill_once_kept, wait_for

from cones_ops import cli
from cones_ops.search.resume import SUFFIX

ROOT = Path(__file__).absolute().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="halts a process by a signal")
def test_a_killed_search_resumes_and_ends_alike(model: Path, pictures: Path, tmp_path: Path) -> None:
    find = ["find", str(model), str(pictures), "--class-word", "star", "--size", "16", "--density", "0.3"]
    find += ["--steps", "120", "--batch", "2", "--out"]
    whole, resumed = tmp_path / "whole" / "sks.safetensors", tmp_path / "resumed" / "sks.safetensors"
    assert cli.main([*find, str(whole)]) == 0
    bar = tmp_path / "bar"
    with bar.open("wb") as stream:
        command = [sys.executable, "-m", "cones_ops.cli", *find, str(resumed)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
    try:
        wait_for(lambda: b"| 2/120" in bar.read_bytes() or b"| 3/120" in bar.read_bytes(), process)
        assert 2 <= kill_once_kept(process, resumed.parent, seed=1) < 120
    finally:
        process.kill()
        process.wait()
    assert not resumed.exists()
    assert cli.main([*find, str(resumed)]) == 0
    assert resumed.read_bytes() == whole.read_bytes()
    assert not list(resumed.parent.glob(f"*{SUFFIX}"))
