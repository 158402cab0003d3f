"""Damaged files and odd command lines are read or refused, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers")
ROOT = Path(__file__).absolute().parents[2]


@pytest.mark.slow
def test_no_case_brings_out_a_foreign_exception_a_hang_or_much_memory() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), "--cases", "4000", "--seed", "7"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    report = json.loads(run.stdout)
    assert (report["foreign"], report["slow"], report["large"], run.returncode) == ([], [], [], 0)
    assert set(report["outcomes"]) == {"read", "refused"} and min(report["outcomes"].values()) > 400
