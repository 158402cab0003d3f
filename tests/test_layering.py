"""Imports point one way (CONTRIBUTING.md): the syntax tree of every Python file in the repository is walked.

`cones_ops` is a house of floors (FLOORS below): a room imports from the rooms under it, never from one above or beside
it. Only nodes/host meets ComfyUI, and what nodes load never needs diffusers or the laboratory. Relative imports are
resolved first; imports inside functions and under TYPE_CHECKING count. No two modules import each other in a circle.
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
FIGURES = ("cones_ops/reports/figures.py",)  # may import matplotlib, on first use
TOP_OF_TREE = {"benchmarks", "tests", "tools"}
LIBRARY_HOSTS = {"diffusers"}

# Which rooms of cones_ops a room may import from, itself and errors.py aside.
FLOORS: dict[str, set[str]] = {"errors": set(), "models": set(), "images": set(), "toy_world": set()}
FLOORS["masks"] = {"models"}
FLOORS["search"] = FLOORS["guidance"] = FLOORS["masks"] | {"masks"}
FLOORS["reports"] = FLOORS["search"] | {"search"}
FLOORS["hosts"] = FLOORS["reports"] | {"reports", "guidance", "images"}
FLOORS["engine"] = FLOORS["hosts"] | {"hosts"}
FLOORS["laboratory"] = FLOORS["engine"] | {"engine", "toy_world"}
FLOORS["cli"] = FLOORS["laboratory"] | {"laboratory"}
FLOORS["cones_ops"] = FLOORS["reports"] | {"reports", "images"}  # its __init__: the library's public names
CORE_ROOMS = {*FLOORS} - {"hosts", "engine", "toy_world", "laboratory", "cli", "cones_ops"}


def layer(file: str) -> str:
    """The layer of a file, by its path from the repository root; inside cones_ops the room."""
    parts = file.split("/")
    if file == "__init__.py":
        return "registration"
    if parts[0] == "nodes":
        return "host" if len(parts) > 2 and parts[1] == "host" else "nodes"
    if parts[0] == "cones_ops":
        return room("/" + ".".join(parts).removesuffix(".py"))
    return "top"


def room(name: str) -> str:
    """The room of cones_ops that `/cones_ops.search.find` names; names of cones_ops/__init__.py are in "cones_ops"."""
    parts = name.removeprefix("/").split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else "cones_ops"


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
    if where in CORE_ROOMS or where == "cones_ops":
        return top in CORE or (top == "matplotlib" and file in FIGURES)
    if where == "host":
        return top not in DIFFUSERS
    if where in ("nodes", "registration"):
        return top not in HOST | DIFFUSERS
    return top not in HOST and top != "comfy_api"  # hosts, engine, toy_world, laboratory, cli


def allowed_inside(where: str, file: str, name: str) -> bool:
    if where == "registration":
        return within(name, "nodes")
    if where in ("host", "nodes"):
        below = within(name, "nodes.host" if where == "host" else "nodes")
        return below or (within(name, "cones_ops") and room(name) in CORE_ROOMS | {"toy_world", "cones_ops"})
    if not within(name, "cones_ops"):
        return False
    if where == "hosts" and room(name) == "hosts":
        other_hosts = {host for host in LIBRARY_HOSTS | {"comfyui"} if not file.startswith(f"cones_ops/hosts/{host}")}
        return not within(name, *(f"cones_ops.hosts.{host}" for host in other_hosts))
    return room(name) in FLOORS[where] | {where, "errors"}


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


def module_graph() -> dict[str, set[str]]:
    """Which of our files each file imports; packages' own __init__ aside, which every import of a part runs."""
    graph = {}
    for file in files():
        if layer(file) == "top":
            continue
        targets = {target for _, name in imported(file, (ROOT / file).read_text(encoding="utf-8"))
                   for target in files_of(name)}  # fmt: skip
        graph[file] = {target for target in targets if not target.endswith("__init__.py")} - {file}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The files of one circle of imports, or none: what is left when files that import nothing left are taken away."""
    left = dict(graph)
    while free := [file for file, targets in left.items() if not targets & left.keys()]:
        for file in free:
            del left[file]
    return sorted(left)


def test_imports_point_one_way() -> None:
    found = [line for file in files() for line in violations(file, (ROOT / file).read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["a", "b", "c", "d"]
    assert not circle(module_graph())


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
        assert layer(file) not in ("hosts", "engine", "laboratory", "cli"), f"{file} is loaded by the nodes"
        waiting |= {f for _, name in imported(file, load_time(source)) for f in files_of(name)} - seen


def test_every_room_was_looked_at() -> None:
    rooms = {layer(file) for file in files()}
    assert {"models", "masks", "images", "search", "reports", "hosts", "toy_world", "laboratory", "cli"} <= rooms
    assert "engine" in rooms
    assert layer("cones_ops/masks/shut.py") == "masks" and layer("cones_ops/__init__.py") == "cones_ops"
    direct = [path for path in (ROOT / "cones_ops").iterdir() if path.is_file()]
    assert len(direct) <= 6, "cones_ops keeps its modules in rooms"
    tidy = {(ROOT / file).parent for file in files() if layer(file) != "top" or file.startswith("tests/")}
    crowded = [folder for folder in tidy if len([*folder.glob("*.py")]) > 13]
    assert not crowded, "at most twelve modules side by side, and their __init__ or conftest"
    assert not [*(ROOT / "tests").rglob("__init__.py")], "pytest imports tests by their paths"


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("cones_ops/search/objective.py", "import comfy.samplers"),
        ("cones_ops/search/objective.py", "def f():\n    from diffusers import UNet2DConditionModel"),
        ("cones_ops/search/objective.py", "import matplotlib.pyplot"),
        ("cones_ops/search/objective.py", "from PIL import Image"),
        ("cones_ops/search/objective.py", "from .. import toy_world"),
        ("cones_ops/search/objective.py", "from ..hosts.diffusers.host_model import DiffusersModel"),
        ("cones_ops/search/density.py", "from .. import cli"),
        ("cones_ops/search/density.py", "from ..reports import text"),
        ("cones_ops/search/density.py", "from ..images.collages import collages"),
        ("cones_ops/search/density.py", "from ...nodes.host.apply import weight_patch"),
        ("cones_ops/search/density.py", "from .... import anything"),
        ("cones_ops/search/objective.py", "import cones_ops.cli"),
        ("cones_ops/search/objective.py", "from ..cli.find import load"),
        ("cones_ops/search/objective.py", "if TYPE_CHECKING:\n    from cones_ops import hosts"),
        ("cones_ops/masks/shut.py", "from ..search.settings import Step"),
        ("cones_ops/models/targets.py", "from ..masks import concept_mask"),
        ("cones_ops/errors.py", "from .models import targets"),
        ("cones_ops/__init__.py", "from .hosts.diffusers import find"),
        ("cones_ops/hosts/diffusers/host_model.py", "from ....nodes import find"),
        ("cones_ops/hosts/diffusers/host_model.py", "from ...toy_world import bundle"),
        ("cones_ops/hosts/diffusers/host_model.py", "from ..comfyui import names"),
        ("cones_ops/hosts/diffusers/host_model.py", "import folder_paths"),
        ("cones_ops/engine/tasks.py", "from ..laboratory import judge"),
        ("cones_ops/engine/tasks.py", "from ..cli import find"),
        ("nodes/find.py", "from ..cones_ops.engine import tasks"),
        ("cones_ops/toy_world/bundle.py", "from ...nodes.host.search import host_model"),
        ("cones_ops/toy_world/bundle.py", "from cones_ops.cli import main"),
        ("cones_ops/toy_world/bundle.py", "from ..laboratory import judge"),
        ("cones_ops/laboratory/judge.py", "from ..cli import main"),
        ("cones_ops/cli/__init__.py", "from ...nodes import find"),
        ("nodes/find.py", "import comfy.utils"),
        ("nodes/find.py", "from comfy import utils"),
        ("nodes/find.py", "def f():\n    import folder_paths"),
        ("nodes/find.py", "import nodes"),
        ("nodes/find.py", "from ..cones_ops.hosts import diffusers"),
        ("nodes/find.py", "from ..cones_ops.laboratory import judge"),
        ("nodes/find.py", "from .. import comfy_entrypoint"),
        ("nodes/host/apply/weight_patch.py", "from ...find import ConesFindConceptNeurons"),
        ("nodes/host/apply/weight_patch.py", "import diffusers"),
        ("nodes/host/apply/weight_patch.py", "from ....tests import conftest"),
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
            "cones_ops/search/objective.py",
            "import torch\nimport torch.nn.functional as F\nfrom ..errors import ConesError\nimport json",
        ),
        ("cones_ops/search/density.py", "from ..masks.concept_mask import Where\nfrom .settings import Step"),
        ("cones_ops/masks/split.py", "from ..models.weight_names import places"),
        ("cones_ops/reports/figures.py", "def f():\n    from matplotlib.figure import Figure"),
        ("cones_ops/reports/text.py", "from ..search.find import SearchResult"),
        (
            "cones_ops/hosts/diffusers/host_model.py",
            "import diffusers\nfrom ...search.objective import draw\nfrom .names import rename",
        ),
        ("cones_ops/hosts/diffusers/names.py", "from . import apply_masks"),
        ("cones_ops/laboratory/sampling.py", "from ..hosts.diffusers.host_model import DiffusersModel"),
        ("cones_ops/laboratory/judge.py", "from ..toy_world import world"),
        ("cones_ops/toy_world/bundle.py", "from ..errors import ConesError\nfrom . import world\nimport diffusers"),
        ("cones_ops/cli/__init__.py", "from ..hosts import diffusers\nfrom ..toy_world import bundle\nimport tqdm"),
        ("nodes/find.py", "from comfy_api.latest import io\nfrom .host import apply\nfrom ..cones_ops import shut_"),
        (
            "nodes/host/apply/weight_patch.py",
            "import comfy.lora\nimport folder_paths\nfrom ....cones_ops.masks.shut import shut_",
        ),
        ("__init__.py", "from comfy_api.latest import ComfyExtension\ndef f():\n    from .nodes import ConesExtension"),
        ("benchmarks/search.py", "from cones_ops.toy_world import bundle\nimport comfy"),
    ],
)
def test_what_is_allowed_passes(file: str, source: str) -> None:
    assert violations(file, source) == []
