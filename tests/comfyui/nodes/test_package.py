"""The package that the registry serves, nothing else of the repository, in a real server: every node, and a picture."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.prompts import node, toy_picture

ROOT = Path(__file__).absolute().parents[3]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tracked files minus .comfyignore, as they are in the working tree."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so the tracked files are not known")

    def listed(*arguments: str) -> set[str]:
        command = ["git", "ls-files", "-z", *arguments]
        return {*subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")}

    folder = tmp_path_factory.mktemp("package")
    for name in listed("-c", "-o", "--exclude-standard") - listed("-c", "-o", "-i", "--exclude-from=.comfyignore"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def test_the_package_alone_has_every_node_and_draws_a_picture(
    package: Path, host: Any, server: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from cones_ops.laboratory.comfyui.server import started

    prompt = {
        **toy_picture(["apply", 0], "a sks cat"),
        "mask": node("ConesLoadConceptMask", mask_name="toy-sks-cat-everywhere.safetensors"),
        "apply": node("ConesApplyConceptMasks", model=["world", 0], mask_1=["mask", 0], strength_1=1.0),
    }
    ours = {name for name in server.object_info() if name.startswith("Cones")}
    assert len(ours) == 20
    with started(host.path, tmp_path_factory.mktemp("bare"), pack=package) as bare:
        assert {name for name in bare.object_info() if name.startswith("Cones")} == ours
        assert (bare.run(prompt).image("show") == server.run(prompt).image("show")).all()
