"""The pack, loaded once as the package `cones_concept_neurons`, with and without a ComfyUI host.

The repository root leaves sys.path, where our `nodes` package would hide the host's nodes.py. The module
`cones_concept_neurons.cones_ops.x` is the very module `cones_ops.x`, so that each class exists once.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).absolute().parents[2]
PACK = "cones_concept_neurons"
LIBRARY = "cones_ops"


def load_module(name: str, file: Path) -> ModuleType:
    """Import one file, or the package of an __init__.py, under a name of our choice, wherever sys.path points."""
    folder = [str(file.parent)] if file.name == "__init__.py" else None
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


class LibraryFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
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


def load_pack() -> None:
    """Load the library and the pack, once in a process."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or os.getcwd()).resolve() != ROOT.resolve()]
    if PACK not in sys.modules:
        sys.meta_path.insert(0, LibraryFinder())
        load_module(LIBRARY, ROOT / LIBRARY / "__init__.py")
        load_module(PACK, ROOT / "__init__.py")
