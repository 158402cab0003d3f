"""A real ComfyUI server as a subprocess, spoken to over HTTP: on a free port of 127.0.0.1, ended by its own process id.

`started(host, base)` runs a checkout on the CPU with this pack as its only custom node; everything the server writes
goes below `base`. `Server.run(prompt)` waits for the end of a prompt and returns its `PromptRun`. Needs the standard
library, numpy and Pillow only.
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
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import ConesError
from .checkout import PACK

FOLDER_NAME = "cones-concept-neurons"
FOLDERS = ("models/concept_masks", "models/checkpoints", "models/loras", "input", "output", "temp", "user")
SITE = """import os, sys
sys.path[:] = [entry for entry in sys.path if not os.path.isdir(os.path.join(entry, 'cones_ops'))]
"""


class PromptRefusedError(ConesError):
    """The server's validation refused a prompt before running it."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(f"ComfyUI refused the prompt: {json.dumps(answer, indent=1)}")
        self.answer = answer


@dataclass(frozen=True)
class PromptRun:
    """What became of one prompt: status "success", "error" or "interrupted"."""

    server: Server
    prompt_id: str
    status: str
    outputs: dict[str, Any]
    error: str = ""
    node_id: str = ""

    def images(self, node_id: str) -> list[np.ndarray]:
        """The pictures one node showed or saved, each (H, W, 3) uint8."""
        return [self.server.image(entry) for entry in self.outputs[node_id]["images"]]

    def image(self, node_id: str) -> np.ndarray:
        """The only picture of a node."""
        (picture,) = self.images(node_id)
        return picture

    def text(self, node_id: str) -> str:
        """The text a node showed (Preview Any and nodes with a text preview)."""
        return "\n".join(str(part) for part in self.outputs[node_id]["text"])


@dataclass
class Server:
    """A running server; `base` is its base directory."""

    url: str
    base: Path
    process: subprocess.Popen[bytes]
    client_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def request(self, path: str, body: Any = None, timeout: float = 60) -> bytes:
        """The raw answer to a GET, or to a POST of `body`."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return bytes(response.read())

    def json(self, path: str, body: Any = None) -> Any:
        """The answer as JSON."""
        return json.loads(self.request(path, body) or b"null")

    def log(self) -> str:
        """What the server has printed so far."""
        return (self.base / "server.log").read_text(errors="replace")

    def object_info(self) -> dict[str, Any]:
        """The definitions of all nodes."""
        return dict(self.json("/object_info"))

    def image(self, entry: Mapping[str, str]) -> np.ndarray:
        """A picture that a node showed or saved, (H, W, 3) uint8."""
        query = urllib.parse.urlencode({key: entry[key] for key in ("filename", "subfolder", "type")})
        return np.asarray(Image.open(io.BytesIO(self.request(f"/view?{query}"))).convert("RGB"))

    def queue(self, prompt: Mapping[str, Any]) -> str:
        """Queue a prompt, return its id; PromptRefusedError holds the node errors of an invalid one."""
        try:
            answer = self.json("/prompt", {"prompt": prompt, "client_id": self.client_id})
        except urllib.error.HTTPError as error:
            raise PromptRefusedError(json.loads(error.read())) from None
        if answer["node_errors"]:  # the host would run the valid part of the prompt
            raise PromptRefusedError(answer)
        return str(answer["prompt_id"])

    def wait(self, prompt_id: str, timeout: float = 900) -> PromptRun:
        """Wait until a queued prompt has ended, in whatever way."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.json(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                return self._run(prompt_id, entry)
            if self.process.poll() is not None:
                raise ConesError(f"ComfyUI ended with {self.process.returncode}:\n{self.log()[-3000:]}")
            time.sleep(0.05)
        raise ConesError(f"ComfyUI: prompt {prompt_id} still runs after {timeout:.0f} s:\n{self.log()[-3000:]}")

    def _run(self, prompt_id: str, entry: Mapping[str, Any]) -> PromptRun:
        messages = dict(entry["status"]["messages"])
        failure = messages.get("execution_error", {})
        status = "interrupted" if "execution_interrupted" in messages else entry["status"]["status_str"]
        node_id = str(failure.get("node_id", messages.get("execution_interrupted", {}).get("node_id", "")))
        return PromptRun(self, prompt_id, status, entry["outputs"], failure.get("exception_message", ""), node_id)

    def run(self, prompt: Mapping[str, Any], timeout: float = 900) -> PromptRun:
        """Run a prompt that must succeed."""
        run = self.wait(self.queue(prompt), timeout)
        if run.status != "success":
            where = f"node {run.node_id} ({prompt.get(run.node_id, {}).get('class_type')})"
            raise ConesError(f"ComfyUI: {run.status} at {where}: {run.error}\n{self.log()[-3000:]}")
        return run


@contextmanager
def started(
    host: Path, base: Path, *arguments: str, pack: Path = PACK, python: str = sys.executable, patience: float = 300
) -> Iterator[Server]:
    """Start the ComfyUI at `host` with `pack` as its only custom node and `base` as its base directory; stop it."""
    _lay_out(base, pack)
    (base / "site").mkdir(exist_ok=True)  # takes checkouts off sys.path: a user has no top-level cones_ops
    (base / "site" / "sitecustomize.py").write_text(SITE)
    site = os.pathsep.join(filter(None, (str(base / "site"), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": site, "HF_HUB_OFFLINE": "1"}
    options = ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    options += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", FOLDER_NAME, *arguments]
    with serving(python, host, base, *options, environment=environment, patience=patience) as server:
        yield server


@contextmanager
def serving(
    python: str, host: Path, base: Path, *options: str, environment: Mapping[str, str], patience: float
) -> Iterator[Server]:
    """Run the ComfyUI at `host` on the CPU as it is, logging to `base`; yield the server when it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "main.py", "--cpu", "--port", str(port), "--disable-auto-launch", "--disable-api-nodes"]
    command += options
    with (base / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=host, env=environment, stdout=log, stderr=subprocess.STDOUT)
    server = Server(f"http://127.0.0.1:{port}", base, process)
    try:
        _wait_until_up(server, patience)
        yield server
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _lay_out(base: Path, pack: Path) -> None:
    if not (pack / "nodes").is_dir():
        raise ConesError(f"{pack} holds the library only; run this from a checkout of the whole pack")
    for folder in (*FOLDERS, "custom_nodes"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / FOLDER_NAME
    if link.exists():
        return
    try:
        link.symlink_to(pack, target_is_directory=True)
    except OSError:  # Windows without the right to make links
        shutil.copytree(pack, link, ignore=shutil.ignore_patterns(".*", "checkpoints", "demo-out", "tests"))


def _wait_until_up(server: Server, patience: float) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and server.process.poll() is None:
        with suppress(OSError):
            server.request("/system_stats", timeout=5)
            return
        time.sleep(0.2)
    raise ConesError(f"ComfyUI did not start at {server.url}:\n{server.log()[-4000:]}")
