"""One set-up for every test, with or without a ComfyUI host, under `pytest` and `python -m pytest`.

tests/support holds what several test files share; they import it as `support.<module>`. Tests below tests/comfyui,
tests/browser and tests/newer_hosts/with_host need a host (support/host.py) and skip without one.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # threads of several processes on the same cores wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")

TESTS = Path(__file__).absolute().parent
pytest.register_assert_rewrite("support")
sys.modules["support"] = support = ModuleType("support")
support.__path__ = [str(TESTS / "support")]

from support.host import Host, HostModule, find_host  # noqa: E402
from support.pack import PACK, ROOT, load_pack  # noqa: E402

load_pack()
hypothesis.settings.register_profile("cones", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("cones")

HOST_FOLDERS = (TESTS / "comfyui", TESTS / "browser", TESTS / "newer_hosts" / "with_host")
SERVER_FIXTURES = {"server", "start_server", "browser"}
StartServer = Callable[..., AbstractContextManager[Any]]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """A process for each core where the whole suite runs; files and tests that are named run in this one."""
    return None if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if any(folder in module_path.parents for folder in HOST_FOLDERS):
        return HostModule.from_parent(parent, path=module_path)
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses a server or a browser is marked `server`."""
    for item in items:
        if SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("server")


def pytest_sessionfinish() -> None:
    if find_host.cache_info().currsize and isinstance(host := find_host(), Host):
        shutil.rmtree(host.base, ignore_errors=True)


@pytest.fixture(scope="session")
def host() -> Host:
    """The ComfyUI whose modules this process imports; skips when there is none."""
    if isinstance(found := find_host(), str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The pack, as the package `cones_concept_neurons`."""
    return sys.modules[PACK]


@pytest.fixture(scope="session")
def start_server(host: Host) -> StartServer:
    """`with start_server(base, *arguments) as server:` runs a fresh server of the host with the pack."""
    from cones_ops.laboratory.comfyui.server import started

    return lambda base, *arguments: started(host.path, base, *arguments, pack=ROOT)


@pytest.fixture(scope="session")
def server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The one server that most tests share."""
    with start_server(tmp_path_factory.mktemp("comfyui")) as running:
        yield running
