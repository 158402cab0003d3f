"""A real ComfyUI server as a subprocess, spoken to over HTTP: the standard library, numpy and Pillow only.

The server runs on the CPU, on a free port of 127.0.0.1, with everything it writes below a base directory of ours and
this pack as its only custom node; it is ended by its own process id. `to_api` turns a shipped workflow file into the
form the server takes.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ConesError

PACK = Path(__file__).resolve().parents[2]
FOLDER_NAME = "cones-concept-neurons"
CLONE = "git clone https://github.com/Comfy-Org/ComfyUI ~/comfy/ComfyUI"
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
Prompt = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def request(self, path: str, body: Any = None, timeout: float = 60) -> bytes:
        """The raw answer to a GET, or to a POST of `body`."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            raise ConesError(f"ComfyUI refused {path}: {error.read().decode(errors='replace')[:2000]}") from None

    def run(self, prompt: Prompt, patience: float = 3600) -> dict[str, Any]:
        """Queue a prompt, wait for its end, return the outputs of its nodes."""
        prompt_id = json.loads(self.request("/prompt", {"prompt": prompt}))["prompt_id"]
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and self.process.poll() is None:
            entry = json.loads(self.request(f"/history/{prompt_id}")).get(prompt_id)
            if entry is None:
                time.sleep(0.2)
                continue
            if entry["status"]["status_str"] != "success":
                failed = dict(entry["status"]["messages"]).get("execution_error", {})
                raise ConesError(f"ComfyUI: {failed.get('node_type')}: {failed.get('exception_message')}")
            return dict(entry["outputs"])
        raise ConesError(f"ComfyUI did not finish:\n{self.log.read_text(errors='replace')[-2000:]}")

    def pictures(self, output: Mapping[str, Any]) -> np.ndarray:
        """The pictures one node saved or previewed, uint8 (n, H, W, 3)."""
        keys = ("filename", "subfolder", "type")
        queries = [urllib.parse.urlencode({key: entry[key] for key in keys}) for entry in output["images"]]
        files = [io.BytesIO(self.request(f"/view?{query}")) for query in queries]
        return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])


def find_host(path: Path | None = None) -> Path:
    """The ComfyUI checkout: `path`, COMFYUI_PATH, the one this pack is installed in, or ~/comfy/ComfyUI."""
    named = path or (Path(os.environ["COMFYUI_PATH"]) if os.environ.get("COMFYUI_PATH") else None)
    places = [named] if named else [PACK.parent.parent, Path("~/comfy/ComfyUI")]
    for place in places:
        found = place.expanduser().resolve()
        if (found / "main.py").is_file() and (found / "comfy").is_dir():
            return found
    raise ConesError(f"no ComfyUI at {', '.join(map(str, places))}; give its folder: --comfyui PATH, or `{CLONE}`")


def find_python(host: Path) -> str:
    """A Python that has the host's requirements: the host's own environment, or this one."""
    places = (".venv/bin/python", "venv/bin/python", ".venv/Scripts/python.exe", "venv/Scripts/python.exe")
    own = [host / place for place in (*places, "../python_embeded/python.exe")]
    for python in [*(str(one) for one in own if one.is_file()), sys.executable]:
        probe = [python, "-c", "import torch, torchvision, torchaudio, aiohttp, comfyui_frontend_package"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return python
    raise ConesError(f"ComfyUI's requirements are not installed: uv pip install -r {host / 'requirements.txt'}")


@contextmanager
def started(host: Path, base: Path, patience: float = 300) -> Iterator[Server]:
    """Start `host` with `base` as its base directory, yield the server, stop it."""
    _lay_out(base)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [find_python(host), "main.py", "--cpu", "--port", str(port), "--base-directory", str(base)]
    command += ["--database-url", "sqlite:///:memory:", "--disable-auto-launch", "--disable-api-nodes"]
    log = base / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=host, stdout=out, stderr=subprocess.STDOUT)
    server = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait_until_up(server, patience)
        yield server
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def to_api(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> Prompt:
    """A workflow file in the form POST /prompt takes."""
    links = {link[0]: link for link in workflow["links"]}
    prompt: Prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in ("Note", "MarkdownNote"):
            continue
        if node["type"] not in object_info:
            raise ConesError(f"ComfyUI does not know {node['type']}; its log says why this pack was not loaded")
        inputs = _widget_values(node, object_info[node["type"]])
        for entry in node.get("inputs", ()):
            if entry.get("link") is not None:
                _, origin, slot, *_ = links[entry["link"]]
                inputs[entry["name"]] = [str(origin), slot]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def _widget_values(node: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    stored, values = list(node.get("widgets_values") or ()), {}
    for part in ("required", "optional"):
        for name in info["input_order"].get(part, ()):
            kind, options = (*info["input"][part][name], {})[:2]
            if not stored or not (isinstance(kind, list) or kind in WIDGETS) or options.get("forceInput"):
                continue
            values[name] = stored.pop(0)
            if name == "seed" or options.get("control_after_generate"):
                stored.pop(0)  # fixed, randomize, ...
    return values


def _lay_out(base: Path) -> None:
    for folder in ("models/concept_masks", "input", "output", "temp", "user", "custom_nodes"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    pack = base / "custom_nodes" / FOLDER_NAME
    if not (PACK / "nodes").is_dir():
        raise ConesError(f"{PACK} holds the library only; run this from a checkout of the whole pack")
    try:
        pack.symlink_to(PACK, target_is_directory=True)
    except OSError:  # Windows without the right to make links
        shutil.copytree(PACK, pack, ignore=shutil.ignore_patterns(".*", "checkpoints", "demo-out", "tests"))


def _wait_until_up(server: Server, patience: float) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and server.process.poll() is None:
        with suppress(OSError):
            server.request("/system_stats", timeout=5)
            return
        time.sleep(0.3)
    raise ConesError(f"ComfyUI did not start:\n{server.log.read_text(errors='replace')[-2000:]}")
