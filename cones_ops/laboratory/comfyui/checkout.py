"""Where a ComfyUI checkout is, and which Python can run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ...errors import ConesError

PACK = Path(__file__).absolute().parents[3]
CLONE = "git clone https://github.com/Comfy-Org/ComfyUI ~/comfy/ComfyUI"
PYTHONS = (".venv/bin/python", "venv/bin/python", ".venv/Scripts/python.exe", "venv/Scripts/python.exe")


def find_host(path: str | Path | None = None) -> Path:
    """The ComfyUI checkout: `path`, COMFYUI_PATH, the one this pack is installed in, or ~/comfy/ComfyUI."""
    named = path or os.environ.get("COMFYUI_PATH")
    candidates = [Path(named)] if named else [PACK.parent.parent, Path("~/comfy/ComfyUI")]
    for candidate in candidates:
        folder = candidate.expanduser().absolute()
        if (folder / "main.py").is_file() and (folder / "comfy").is_dir():
            return folder
    listed = ", ".join(map(str, candidates))
    raise ConesError(f"no ComfyUI checkout at {listed}; give its folder, set COMFYUI_PATH, or `{CLONE}`")


def find_python(host: Path) -> str:
    """A Python that has the host's requirements: the host's own environment, or this one."""
    environments = [host / python for python in (*PYTHONS, "../python_embeded/python.exe")]
    for python in [*(str(file) for file in environments if file.is_file()), sys.executable]:
        probe = [python, "-c", "import torch, torchvision, torchaudio, aiohttp, comfyui_frontend_package"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return python
    raise ConesError(f"ComfyUI's requirements are not installed: uv pip install -r {host / 'requirements.txt'}")
