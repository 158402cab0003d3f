"""The ComfyUI checkout to test with: COMFYUI_PATH, else the one this pack is installed in, else ~/comfy/ComfyUI.

Test files that need it are skipped without one, with one line that says how to get it. With one, it is prepared before
those files are collected, so that they may import comfy and nodes.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.gpu import use_gpu

HOW_TO_GET_A_HOST = (
    "no ComfyUI found: `git clone https://github.com/Comfy-Org/ComfyUI ~/comfy/ComfyUI` (or set COMFYUI_PATH), "
    "then `uv pip install -r ~/comfy/ComfyUI/requirements.txt`"
)
REQUIREMENTS = "aiohttp alembic av comfy_aimdo comfy_kitchen comfyui_frontend_package scipy torchaudio torchsde"


@dataclass(frozen=True)
class Host:
    """A ComfyUI checkout that these tests can use, and the temporary base directory they use it with."""

    path: Path
    version: str
    base: Path


def find_checkout() -> Path | None:
    """The ComfyUI checkout to test with; a wrong COMFYUI_PATH is an error, never a skip."""
    from cones_ops.errors import ConesError
    from cones_ops.laboratory.comfyui import checkout

    try:
        return checkout.find_host()
    except ConesError as error:
        if os.environ.get("COMFYUI_PATH"):
            raise pytest.UsageError(str(error)) from None
        return None


@functools.cache
def find_host() -> Host | str:
    """The prepared host, or the one line that says what is missing."""
    path = find_checkout()
    if path is None:
        return HOW_TO_GET_A_HOST
    missing = [name for name in REQUIREMENTS.split() if importlib.util.find_spec(name) is None]
    if not missing:
        return prepare_host(path)
    line = f"{path} lacks {', '.join(missing)} in this environment: `uv pip install -r {path}/requirements.txt`"
    if os.environ.get("COMFYUI_PATH"):
        raise pytest.UsageError(line)
    return line


def prepare_host(path: Path) -> Host:
    """Make `import comfy` work here: on the CPU (or the GPU, as CONES_TEST_GPU says), with every folder below a
    temporary one, and without parsing pytest's arguments.
    """
    base = Path(tempfile.mkdtemp(prefix="cones-host-"))
    for folder in ("models/concept_masks", "models/checkpoints", "models/loras", "input", "output"):
        (base / folder).mkdir(parents=True)
    sys.path.insert(0, str(path))
    from comfy.cli_args import args

    args.base_directory = str(base)
    gpu = os.environ.get("CONES_TEST_GPU", "")
    args.cpu = not gpu
    if gpu:
        use_gpu(gpu)
    from comfyui_version import __version__

    return Host(path, __version__, base)


class HostModule(pytest.Module):
    """A test file that is skipped as a whole when there is no host."""

    def collect(self) -> Any:
        if isinstance(host := find_host(), str):
            pytest.skip(host, allow_module_level=True)
        return super().collect()
