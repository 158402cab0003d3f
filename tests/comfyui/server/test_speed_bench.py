"""`cones bench speed --quick`: the whole benchmark on a tiny model, in a process of its own as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from math import isfinite
from pathlib import Path

import pytest

ROOT = Path(__file__).absolute().parents[3]
TIMES = (
    "search_step_over_forward",
    "search_step_over_full_backward",
    "search_step_over_native_lora_step",
    "checkpointed_step_over_plain",
    "sampling_ratio_1_mask",
    "sampling_ratio_8_masks",
    "own_tokens_sampling_ratio_4_masks",
    "apply_8_masks_over_lora",
    "apply_64_masks_over_lora",
)
BYTES = ("saved_bytes_over_native", "checkpointed_saved_bytes_over_native")


@pytest.mark.server
def test_every_figure_is_there(host, tmp_path):
    if tuple(map(int, host.version.split(".")[:2])) < (0, 33):
        pytest.skip("the benchmark drives the host's trainer as it is since 0.33.0")
    file = tmp_path / "speed.json"
    command = [sys.executable, "-m", "cones_ops.cli", "bench", "speed", "--quick", "--json", str(file)]
    command += ["--comfyui", str(host.path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # on a busy machine threads of tiny layers wait for each other
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    report = json.loads(file.read_text(encoding="utf-8"))
    assert json.loads(ran.stdout) == report
    for name in (*TIMES, *BYTES):
        found = report[name]
        assert 0 < found["min"] <= found["median"] <= found["max"], name
        assert isfinite(found["max"])
        assert f"`{name}`" in ran.stderr  # the table
    assert report["checkpointed_saved_bytes_over_native"]["max"] < report["saved_bytes_over_native"]["min"] < 1
    memory = report["step_memory"]
    assert memory["forward"]["saved_bytes"] == 0
    assert memory["checkpointed_search"]["saved_bytes"] < memory["search"]["saved_bytes"]
    assert memory["search"]["saved_bytes"] < memory["full_backward"]["saved_bytes"]
