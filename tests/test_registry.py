"""What the ComfyUI registry serves and shows: every tracked file minus .comfyignore, pyproject.toml's [tool.comfy].

Nothing that the nodes need may be left out: their imports are followed through the syntax trees, from __init__.py on,
imports inside functions included. And what is kept must be as harmless as SECURITY.md says.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).absolute().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DATA = ("workflows/", "subgraphs/", "web/", "locales/", "concept_masks/")
SHIPPED_BY_HOST = {"torch", "numpy", "safetensors", "einops", "pillow", "tqdm"}
REACHING_OUT = {"subprocess", "socket", "urllib", "http", "requests", "httpx", "aiohttp", "pickle", "ctypes", "shelve"}
RUNNING = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "pickle.loads"}


def listed(*arguments: str) -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so the tracked files are not known")
    found = subprocess.run(["git", "ls-files", "-z", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(found.stdout.split("\0")) - {""}


def tracked() -> set[str]:
    """The tracked files, and those that are about to be."""
    return listed("-c", "-o", "--exclude-standard")


@pytest.fixture(scope="module")
def kept() -> set[str]:
    """The tracked files that the registry's package holds."""
    files = tracked() - listed("-c", "-o", "-i", "--exclude-from=.comfyignore")
    return {file for file in files if (ROOT / file).exists()}


def imported_files(file: str) -> set[str]:
    """Our files that a file imports, and the packages they lie in."""
    package = file.split("/")[:-1]
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) + 1 - node.level] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                parts = [*base, alias.name]
                for end in range(1, len(parts) + 1):
                    found |= {"/".join(parts[:end]) + ".py", "/".join(parts[:end]) + "/__init__.py"}
    return {one for one in found if (ROOT / one).is_file()}


def needed() -> set[str]:
    """What the nodes import, directly or not."""
    seen: set[str] = set()
    waiting = {"__init__.py"}
    while waiting:
        file = waiting.pop()
        seen.add(file)
        waiting |= imported_files(file) - seen
    return seen


def test_nothing_that_the_nodes_need_is_left_out(kept: set[str]) -> None:
    assert len(needed()) > 50 and not needed() - kept
    assert not {file for file in tracked() if file.startswith(DATA) and (ROOT / file).exists()} - kept
    shown = {"README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md"}
    shown |= {"docs/explanation/method.md", "docs/reference/models.md"}
    assert {"pyproject.toml", "requirements.txt", "cones_ops/toy_world/toy_world.safetensors", *shown} <= kept


def test_what_only_developers_need_is_left_out(kept: set[str]) -> None:
    for folder in ("tests", "tools", "benchmarks", ".ci", ".github", "cones_ops/hosts"):
        assert not [file for file in kept if file.startswith(folder + "/")]
    code = {file for file in kept if file.startswith(("nodes/", "cones_ops/")) and file.endswith(".py")}
    assert code | {"__init__.py"} == needed(), "name new files that the nodes do not need in .comfyignore"
    assert sum((ROOT / file).stat().st_size for file in kept) < 14e6


def test_the_package_reaches_out_to_nothing(kept: set[str]) -> None:
    found = []
    for file in sorted(file for file in kept if file.endswith(".py")):
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found += [f"{file}:{node.lineno} {name}" for name in names if name.split(".")[0] in REACHING_OUT]
            if isinstance(node, ast.Call) and ast.unparse(node.func) in RUNNING:
                found.append(f"{file}:{node.lineno} {ast.unparse(node.func)}")
    assert not found, "\n".join(found)
    assert not [file for file in kept if file.endswith((".js", ".sh", "install.py", ".pt", ".pth", ".ckpt", ".bin"))]


def test_requirements_are_the_dependencies_that_no_host_ships() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    named = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    assert named == set(PROJECT["project"]["dependencies"]) - SHIPPED_BY_HOST


def test_icon_and_banner_are_where_their_addresses_say() -> None:
    comfy, repository = PROJECT["tool"]["comfy"], PROJECT["project"]["urls"]["Repository"]
    raw = repository.replace("https://github.com", "https://raw.githubusercontent.com") + "/main/"
    for field in ("Icon", "Banner"):
        assert comfy[field].startswith(raw) and comfy[field].removeprefix(raw) in tracked()
    icon, banner = (Image.open(ROOT / comfy[field].removeprefix(raw)) for field in ("Icon", "Banner"))
    assert icon.width == icon.height <= 400
    assert banner.width * 9 == banner.height * 21


def test_fields_that_the_registry_wants() -> None:
    project = PROJECT["project"]
    assert re.fullmatch(r"[a-z][a-z0-9-]{1,99}", project["name"]) and "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert (ROOT / project["license"]["file"]).is_file()
    assert re.fullmatch(r">=\d+\.\d+\.\d+", PROJECT["tool"]["comfy"]["requires-comfyui"])
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{project['version']}]" in changes and "## [Unreleased]" in changes


def test_workflows_of_the_repository() -> None:
    publish, checks = (
        (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8") for name in ("publish.yml", "ci.yml")
    )
    assert "Comfy-Org/publish-node-action" in publish and "paths: [pyproject.toml]" in publish
    assert "personal_access_token: ${{ secrets.REGISTRY_ACCESS_TOKEN }}" in publish
    assert 'COMFYUI_PATH="$RUNNER_TEMP/ComfyUI" .ci/run' in checks
    floor = PROJECT["tool"]["comfy"]["requires-comfyui"].removeprefix(">=")
    assert f"v{floor}" in checks


def test_the_newest_host_is_tested_every_week() -> None:
    text = (ROOT / ".github" / "workflows" / "newest-host.yml").read_text(encoding="utf-8")
    assert re.search(r'cron: "\d+ \d+ \* \* [0-6]"', text) and "workflow_dispatch:" in text
    assert "repository: Comfy-Org/ComfyUI" in text and "ref: master" in text
    for tests in ("-m newer_hosts", "tests/comfyui"):
        assert f"uv run --no-sync python -m pytest {tests}\n" in text
    assert not re.search(r"continue-on-error|\|\| true|--exitfirst|if: failure", text)


def test_the_readme_has_the_commands_that_others_rely_on() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert {"pip install uv && uv run cones demo", "uv run pytest"} <= {*lines}
