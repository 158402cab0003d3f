"""benchmarks/soak.py: its prompts are repeatable and valid, and it knows what is wrong when it happens."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cones_ops.laboratory.comfyui.server import PromptRefusedError

ROOT = Path(__file__).absolute().parents[3]


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    """benchmarks/soak.py as a module; its parts are soak_prompts, soak_clients and soak_faults."""
    before = [*sys.path]
    sys.path.insert(0, str(ROOT / "benchmarks"))
    module = importlib.import_module("soak")
    sys.path[:] = before  # the module adds the root, whose nodes/ would hide the host's nodes.py
    return module


@pytest.fixture(scope="module")
def prompts(soak: ModuleType) -> ModuleType:
    return sys.modules["soak_prompts"]


def test_a_prompt_depends_on_the_seed_and_its_number(prompts: ModuleType) -> None:
    cases = [prompts.case(4, number) for number in range(300)]
    assert cases == [prompts.case(4, number) for number in range(300)]
    assert cases != [prompts.case(5, number) for number in range(300)]
    assert {case.kind for case in cases} == {
        *("picture", "hook", "search", "tuning", "export", "combined", "broken", "unknown")
    }
    assert len({json.dumps(case.prompt) for case in cases}) <= prompts.DISTINCT
    for case in cases:
        links = [value for node in case.prompt.values() for value in node["inputs"].values() if isinstance(value, list)]
        assert all(node_id in case.prompt for node_id, _ in links)


@pytest.mark.parametrize(
    ("status", "error", "full", "answer", "wrong", "repeats"),
    [
        ("success", "", False, "success", 0, []),
        ("interrupted", "", False, None, 0, ["cancelled"]),
        ("error", "[Errno 28] No space left on device", True, None, 0, ["disk full"]),
        ("error", "[Errno 28] No space left on device", False, "error", 1, []),
        ("error", "the loss is nan", True, "error", 1, []),
    ],
)
def test_what_is_an_error_and_what_is_queued_again(
    soak: ModuleType, status: str, error: str, full: bool, answer: str | None, wrong: int, repeats: list[str]
) -> None:
    clients = sys.modules["soak_clients"]
    case = SimpleNamespace(kind="picture", prompt={}, answer="success", saved=None)
    run = SimpleNamespace(status=status, error=error, node_id="7", outputs={})
    outcome = clients.settle(clients.Outcome(), case, run, full)
    assert (outcome.answer, len(outcome.errors), outcome.repeats) == (answer, wrong, repeats)


@pytest.mark.slow
def test_every_kind_of_prompt_gets_the_answer_that_it_should(server: Any, prompts: ModuleType) -> None:
    sys.modules["soak_faults"].write_lora(server.base / "models" / "loras" / prompts.LORA)
    first = {case.kind: case for case in (prompts.case(0, number) for number in range(200))}
    for kind, case in first.items():
        try:
            answer = server.wait(server.queue(case.prompt)).status
        except PromptRefusedError:
            answer = "refused"
        assert answer == case.answer, kind


def test_which_files_are_lost(soak: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "concept_masks"
    folder.mkdir(parents=True)
    for name in ("whole", "both"):
        shutil.copy(ROOT / "concept_masks" / "toy-sks-cat.safetensors", folder / f"{name}.safetensors")
    (folder / "half.safetensors").write_bytes((folder / "whole.safetensors").read_bytes()[:4000])
    cases = [SimpleNamespace(prompt={"1": seed}) for seed in (1, 1, 2, 3)]
    names = (["whole", "gone"], ["whole"], ["both"], ["both"])
    outcomes = {
        k: SimpleNamespace(files=[f"concept_masks/{name}.safetensors" for name in saved])
        for k, saved in enumerate(names)
    }
    lost = sorted(line.removeprefix("concept_masks/") for line in soak.lost_files(tmp_path, cases, outcomes))
    assert lost[0] == "both.safetensors: of 2 different prompts" and lost[1] == "gone.safetensors: not there"
    assert lost[2].startswith("half.safetensors: not a readable safetensors file") and len(lost) == 3
