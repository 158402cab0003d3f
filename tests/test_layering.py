"""Imports point one way (design.md section 1): the syntax tree of every Python file in the repository is walked.

The core of cones_ops has never heard of a host, a node or the toy world; hosts never import nodes or each other; the
toy world, benchmarks and tests stand on top; only nodes/host meets ComfyUI, and what nodes load never needs diffusers.
Relative imports are resolved first, imports inside functions and under TYPE_CHECKING count.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).absolute().parent.parent
SKIPPED = {".venv", ".git", "node_modules", "build", "dist"}

CORE = {"torch", "numpy", "safetensors", "einops", "__future__", *sys.stdlib_module_names}
HOST = {"comfy", "comfy_extras", "comfy_execution", "folder_paths", "execution", "server", "latent_preview", "nodes"}
DIFFUSERS = {"diffusers", "transformers"}
FIGURES = ("cones_ops/report.py", "cones_ops/figures.py")  # may import matplotlib, on first use
TOP_OF_TREE = {"benchmarks", "tests"}
LIBRARY_HOSTS = {"diffusers", "comfyui"}
UPPER = ("/cones_ops.hosts", "/cones_ops.toy_world", "/cones_ops.cli")  # also cli_models and the like


def layer(file: str) -> str:
    """The layer of a file, by its path from the repository root."""
    parts = file.split("/")
    if file == "__init__.py":
        return "registration"
    if parts[0] == "nodes":
        return "host" if len(parts) > 2 and parts[1] == "host" else "nodes"
    if parts[0] == "cones_ops":
        if len(parts) > 2 and parts[1] in ("hosts", "toy_world"):
            return parts[1]
        return "cli" if parts[1].startswith(("cli", "__main__")) else "core"
    return "top"


def imported(file: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of each import; ours from the repository root, as `/cones_ops.loss`."""
    package = file.split("/")[:-1]
    for node in ast.walk(ast.parse(source, file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, ours(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                yield node.lineno, ours(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.ImportFrom):
            if node.level > len(package) + 1:
                yield node.lineno, "outside the pack"
                continue
            base = package[: len(package) + 1 - node.level] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                yield node.lineno, "/" + ".".join([*base, alias.name])


def ours(name: str) -> str:
    """cones_ops can be imported by its absolute name, everything else of ours only relatively (or as a test)."""
    return "/" + name if name.split(".")[0] == "cones_ops" else name


def within(name: str, *packages: str) -> bool:
    return any(name == f"/{package}" or name.startswith(f"/{package}.") for package in packages)


def allowed(where: str, file: str, name: str) -> bool:
    """Whether a file of layer `where` may import `name`."""
    top = name.split(".")[0]
    if where == "top":
        return True
    if name == "outside the pack" or within(name, *TOP_OF_TREE) or top in TOP_OF_TREE:
        return False
    if name.startswith("/"):
        return allowed_inside(where, file, name)
    if where == "core":
        return top in CORE or (top == "matplotlib" and file in FIGURES)
    if where == "host":
        return top not in DIFFUSERS
    if where in ("nodes", "registration"):
        return top not in HOST | DIFFUSERS
    return top not in HOST and top != "comfy_api"  # hosts, toy_world, cli


def allowed_inside(where: str, file: str, name: str) -> bool:
    core = within(name, "cones_ops") and not name.startswith(UPPER)
    if where == "core":
        return core
    if where == "hosts":
        others = {host for host in LIBRARY_HOSTS if not file.startswith(f"cones_ops/hosts/{host}")}
        sideways = any(name.startswith(f"/cones_ops.hosts.{host}") for host in others)
        return core or (within(name, "cones_ops.hosts") and not sideways)
    if where == "toy_world":
        return core or within(name, "cones_ops.toy_world", "cones_ops.hosts")
    if where == "cli":
        return within(name, "cones_ops")
    if where == "host":
        return within(name, "nodes.host") or core or within(name, "cones_ops.toy_world")
    if where == "nodes":
        return within(name, "nodes") or core or within(name, "cones_ops.toy_world")
    return within(name, "nodes")  # registration


def violations(file: str, source: str) -> list[str]:
    where = layer(file)
    return [f"{file}:{line}: {where} imports {name}" for line, name in imported(file, source)
            if not allowed(where, file, name)]  # fmt: skip


class WithoutFunctions(ast.NodeTransformer):
    """Leaves what runs when a module is loaded."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.Pass:
        return ast.copy_location(ast.Pass(), node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.Pass:
        return ast.copy_location(ast.Pass(), node)

    def visit_If(self, node: ast.If) -> ast.AST:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)


def load_time(source: str) -> str:
    return ast.unparse(WithoutFunctions().visit(ast.parse(source)))


def eager_imports(source: str) -> set[str]:
    """Top-level packages imported when the module is loaded."""
    return {name.split(".")[0] for _, name in imported("", load_time(source)) if not name.startswith("/")}


def files_of(name: str) -> Iterator[str]:
    """The file of a name of ours, and the packages it lies in; the name may end in something defined there."""
    parts = name.removeprefix("/").split(".") if name.startswith("/") else []
    for end in range(1, len(parts) + 1):
        for file in ("/".join(parts[:end]) + ".py", "/".join(parts[:end]) + "/__init__.py"):
            if (ROOT / file).is_file():
                yield file


def files() -> list[str]:
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    return sorted(p.as_posix() for p in paths if not SKIPPED & set(p.parts) and not p.parts[0].startswith("."))


def test_imports_point_one_way() -> None:
    found = [line for file in files() for line in violations(file, (ROOT / file).read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


def test_matplotlib_and_nodes_are_imported_on_first_use() -> None:
    for file in FIGURES:
        assert "matplotlib" not in eager_imports((ROOT / file).read_text(encoding="utf-8"))
    if (ROOT / "__init__.py").exists():
        source = (ROOT / "__init__.py").read_text(encoding="utf-8")
        assert not [n for n in ast.parse(source).body if isinstance(n, ast.ImportFrom) and n.level]


def test_what_nodes_load_never_needs_diffusers() -> None:
    """Follows imports at load time from the nodes through cones_ops, as ComfyUI users have no diffusers."""
    waiting, seen = {file for file in files() if layer(file) in ("nodes", "host")}, set()
    while waiting:
        file = waiting.pop()
        seen.add(file)
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not eager_imports(source) & DIFFUSERS, f"{file} is loaded by the nodes and imports diffusers"
        assert not file.startswith("cones_ops/hosts/diffusers"), f"{file} is loaded by the nodes"
        waiting |= {f for _, name in imported(file, load_time(source)) for f in files_of(name)} - seen


def test_the_core_was_looked_at() -> None:
    seen = {file for file in files() if layer(file) == "core"}
    assert {"cones_ops/__init__.py", "cones_ops/shut.py", "cones_ops/search/learned.py"} <= seen


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("cones_ops/loss.py", "import comfy.samplers"),
        ("cones_ops/loss.py", "def f():\n    from diffusers import UNet2DConditionModel"),
        ("cones_ops/loss.py", "import matplotlib.pyplot"),
        ("cones_ops/loss.py", "from PIL import Image"),
        ("cones_ops/loss.py", "from . import toy_world"),
        ("cones_ops/loss.py", "from .hosts.diffusers import Host"),
        ("cones_ops/search/learned.py", "from .. import cli"),
        ("cones_ops/search/learned.py", "from ...nodes.host import adapter"),
        ("cones_ops/search/learned.py", "from .... import anything"),
        ("cones_ops/loss.py", "import cones_ops.cli"),
        ("cones_ops/loss.py", "from .cli_models import load"),
        ("cones_ops/loss.py", "if TYPE_CHECKING:\n    from cones_ops import hosts"),
        ("cones_ops/hosts/diffusers.py", "from ...nodes import find"),
        ("cones_ops/hosts/diffusers.py", "from ..toy_world import bundle"),
        ("cones_ops/hosts/diffusers.py", "from .comfyui import names"),
        ("cones_ops/hosts/diffusers.py", "import folder_paths"),
        ("cones_ops/toy_world/bundle.py", "from ...nodes.host import denoiser"),
        ("cones_ops/toy_world/bundle.py", "from cones_ops.cli import main"),
        ("cones_ops/cli.py", "from ..nodes import find"),
        ("nodes/find.py", "import comfy.utils"),
        ("nodes/find.py", "from comfy import utils"),
        ("nodes/find.py", "def f():\n    import folder_paths"),
        ("nodes/find.py", "import nodes"),
        ("nodes/find.py", "from ..cones_ops.hosts import diffusers"),
        ("nodes/find.py", "from .. import comfy_entrypoint"),
        ("nodes/host/adapter.py", "from ..find import Find"),
        ("nodes/host/adapter.py", "import diffusers"),
        ("nodes/host/adapter.py", "from ...tests import conftest"),
        ("__init__.py", "from .cones_ops import shut_"),
        ("__init__.py", "import folder_paths"),
    ],
)
def test_a_planted_violation_is_found(file: str, source: str) -> None:
    assert len(violations(file, source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "cones_ops/loss.py",
            "import torch\nimport torch.nn.functional as F\nfrom .errors import ConesError\nimport json",
        ),
        ("cones_ops/search/learned.py", "from ..concept_mask import Where\nfrom .settings import Step"),
        ("cones_ops/report.py", "def f():\n    from matplotlib.figure import Figure"),
        (
            "cones_ops/hosts/diffusers.py",
            "import diffusers\nfrom ..loss import draw\nfrom .diffusers_names import rename",
        ),
        ("cones_ops/hosts/diffusers_names.py", "from . import diffusers_apply, own_tokens"),
        ("cones_ops/toy_world/sampling.py", "from ..hosts.diffusers import DiffusersModel"),
        ("cones_ops/toy_world/bundle.py", "from ..errors import ConesError\nfrom . import world\nimport diffusers"),
        ("cones_ops/cli.py", "from .hosts.diffusers import Host\nfrom .toy_world import bundle\nimport tqdm"),
        ("nodes/find.py", "from comfy_api.latest import io\nfrom .host import adapter\nfrom ..cones_ops import shut_"),
        ("nodes/host/adapter.py", "import comfy.lora\nimport folder_paths\nfrom ...cones_ops.shut import shut_"),
        ("__init__.py", "from comfy_api.latest import ComfyExtension\ndef f():\n    from .nodes import ConesExtension"),
        ("benchmarks/search.py", "from cones_ops.toy_world import bundle\nimport comfy"),
    ],
)
def test_what_is_allowed_passes(file: str, source: str) -> None:
    assert violations(file, source) == []
