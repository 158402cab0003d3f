"""One set-up for every test, with or without a ComfyUI host, under `pytest` and `python -m pytest`.

The repository root leaves sys.path (our `nodes` package would hide the host's nodes.py). The pack is loaded once, as
the package `cones_concept_neurons`, and `cones_concept_neurons.cones_ops.x` is the very module `cones_ops.x`, so each
class exists once. Tests below tests/comfyui and tests/browser need a host: COMFYUI_PATH, else the ComfyUI this pack is
installed in, else ~/comfy/ComfyUI. Without one they skip with one line that says how to get it. With one it is prepared
(on the CPU, its folders in a temporary directory) before those files are collected, so they may import comfy and nodes.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).absolute().parent.parent
PACK = "cones_concept_neurons"
LIBRARY = "cones_ops"
HOST_FOLDERS = (ROOT / "tests" / "comfyui", ROOT / "tests" / "browser")
HOW_TO_GET_A_HOST = (
    "no ComfyUI found: `git clone https://github.com/Comfy-Org/ComfyUI ~/comfy/ComfyUI` (or set COMFYUI_PATH), "
    "then `uv pip install -r ~/comfy/ComfyUI/requirements.txt`"
)

sys.path[:] = [entry for entry in sys.path if Path(entry or os.getcwd()).resolve() != ROOT.resolve()]


def load_module(name: str, file: Path, package: bool = False) -> ModuleType:
    """Import one file under a name of our choice, wherever sys.path points."""
    folder = [str(file.parent)] if package else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=folder)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Alias(ModuleType):
    """A package of the library under its second name: it has what the real one has; imports leave no trace on it."""

    def __init__(self, name: str, real: ModuleType) -> None:
        super().__init__(name)
        self.__dict__.update(real=real, __path__=[])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["real"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__"):  # not a submodule, which the import system sets on its package
            super().__setattr__(name, value)


class OneLibrary(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers an import of `cones_concept_neurons.cones_ops.x` with the module `cones_ops.x`."""

    prefix = f"{PACK}.{LIBRARY}"

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        ours = fullname == self.prefix or fullname.startswith(self.prefix + ".")
        return importlib.machinery.ModuleSpec(fullname, self) if ours else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(spec.name[len(PACK) + 1 :])
        spec.loader_state = module.__spec__
        return Alias(spec.name, module) if hasattr(module, "__path__") else module

    def exec_module(self, module: ModuleType) -> None:
        if not isinstance(module, Alias):
            assert module.__spec__ is not None
            module.__spec__ = module.__spec__.loader_state  # the import system has just put the alias there


if PACK not in sys.modules:
    sys.meta_path.insert(0, OneLibrary())
    load_module(LIBRARY, ROOT / LIBRARY / "__init__.py", package=True)
    load_module(PACK, ROOT / "__init__.py", package=True)

server_module = load_module("cones_test_server", ROOT / "tests" / "comfyui" / "server.py")
StartServer = Callable[..., AbstractContextManager[Any]]


@dataclass(frozen=True)
class Host:
    """A ComfyUI checkout that these tests can use, and the temporary base directory they use it with."""

    path: Path
    version: str
    base: Path


def find_checkout() -> Path | None:
    """The ComfyUI checkout to test against; a wrong COMFYUI_PATH is an error, never a skip."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        path = Path(named).expanduser().absolute()
        if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
            raise pytest.UsageError(f"COMFYUI_PATH={named} is not a ComfyUI checkout (no main.py and comfy/ there)")
        return path
    candidates = [Path.home() / "comfy" / "ComfyUI"]
    if ROOT.parent.name == "custom_nodes":
        candidates.insert(0, ROOT.parent.parent)
    return next((path for path in candidates if (path / "main.py").is_file() and (path / "comfy").is_dir()), None)


def missing_requirements() -> list[str]:
    """Packages of a host's requirements.txt that this environment lacks (those a server cannot start without)."""
    needed = "aiohttp alembic av comfy_aimdo comfy_kitchen comfyui_frontend_package scipy torchaudio torchsde"
    return [name for name in needed.split() if importlib.util.find_spec(name) is None]


_found: list[Host | str] = []


def find_host() -> Host | str:
    """The prepared host, or the one line that says what is missing. Decided once per session."""
    if not _found:
        path = find_checkout()
        missing = missing_requirements() if path else []
        if path is None:
            _found.append(HOW_TO_GET_A_HOST)
        elif missing:
            line = f"{path} lacks {', '.join(missing)} in this environment: `uv pip install -r {path}/requirements.txt`"
            if os.environ.get("COMFYUI_PATH"):
                raise pytest.UsageError(line)
            _found.append(line)
        else:
            _found.append(prepare_host(path))
    return _found[0]


def prepare_host(path: Path) -> Host:
    """Make `import comfy` work here: on the CPU (or the GPU if CONES_TEST_GPU says how), with every folder below a
    temporary one, and no argument parsing.
    """
    base = Path(tempfile.mkdtemp(prefix="cones-host-"))
    for folder in ("models/concept_masks", "models/checkpoints", "models/loras", "input", "output"):
        (base / folder).mkdir(parents=True)
    sys.path.insert(0, str(path))
    from comfy.cli_args import args

    gpu = os.environ.get("CONES_TEST_GPU", "")
    if gpu == "dynamic":
        import comfy_aimdo.control

        comfy_aimdo.control.init()  # before its other modules are imported
    args.cpu = not gpu
    args.base_directory = str(base)
    from comfyui_version import __version__

    if gpu:
        use_gpu(gpu)
    load_module("cones_small_models", ROOT / "tests" / "comfyui" / "small_models.py")  # stands on the host's classes
    load_module("cones_packed_layers", ROOT / "tests" / "comfyui" / "packed_layers.py")
    load_module("cones_small_families", ROOT / "tests" / "comfyui" / "small_families.py")
    return Host(path, __version__, base)


def use_gpu(how: str) -> None:
    """Let the host's models load on the GPU, "full" or with "dynamic" VRAM, which its main.py turns on the same way."""
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import comfy_aimdo.control
    import torch

    if how not in ("full", "dynamic"):
        raise pytest.UsageError(f"CONES_TEST_GPU={how}: either full or dynamic")
    torch.backends.cudnn.allow_tf32 = False  # results are compared with fp32 ones
    if how == "dynamic":
        device = comfy.model_management.get_torch_device()
        if not comfy_aimdo.control.init_devices([(device.index, 0)]):
            raise pytest.UsageError(f"comfy-aimdo does not work with {device}")
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
        comfy.memory_management.aimdo_enabled = True


class NeedsHost(pytest.Module):
    """A test file that is skipped as a whole when there is no host."""

    def collect(self) -> Any:
        found = find_host()
        if isinstance(found, str):
            pytest.skip(found, allow_module_level=True)
        return super().collect()


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if any(folder in module_path.parents for folder in HOST_FOLDERS):
        return NeedsHost.from_parent(parent, path=module_path)
    return None


def pytest_sessionfinish() -> None:
    for host in _found:
        if isinstance(host, Host):
            shutil.rmtree(host.base, ignore_errors=True)


@pytest.fixture(scope="session")
def host() -> Host:
    """The ComfyUI whose modules this process imports; skips when there is none."""
    found = find_host()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The pack, as the package `cones_concept_neurons`."""
    return sys.modules[PACK]


@pytest.fixture(scope="session")
def start_server(host: Host) -> StartServer:
    """`with start_server(base, *arguments) as server:` runs a fresh server of the host with the pack."""
    return lambda base, *arguments: server_module.started(host.path, ROOT, base, *arguments)


@pytest.fixture(scope="session")
def server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The one server that most tests share."""
    with start_server(tmp_path_factory.mktemp("comfyui")) as running:
        yield running
