"""A real ComfyUI server for tests: on a free port of 127.0.0.1, given prompts in API form, stopped by its own pid.

`started(...)` is the context manager; `Server.run(prompt)` waits for the end of a prompt and returns its `Run`.
Everything the server writes goes below its base directory, where the pack is a symbolic link in custom_nodes.
Needs the standard library, numpy and Pillow only; `Server.events()` also needs websocket-client.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FOLDER_NAME = "cones-concept-neurons"
Prompt = Mapping[str, Mapping[str, Any]]


class PromptRefusedError(RuntimeError):
    """The server's validation refused a prompt before running it."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(json.dumps(answer, indent=1))
        self.answer = answer


@dataclass(frozen=True)
class Run:
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
    log_file: Path
    client_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def request(self, path: str, body: Any = None, timeout: float = 60) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return bytes(response.read())

    def json(self, path: str, body: Any = None) -> Any:
        return json.loads(self.request(path, body) or b"null")

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def object_info(self) -> dict[str, Any]:
        return dict(self.json("/object_info"))

    def image(self, entry: Mapping[str, str]) -> np.ndarray:
        query = urllib.parse.urlencode({k: entry[k] for k in ("filename", "subfolder", "type")})
        return np.asarray(Image.open(io.BytesIO(self.request(f"/view?{query}"))).convert("RGB"))

    def queue(self, prompt: Prompt) -> str:
        """Queue a prompt, return its id; PromptRefusedError holds the node errors of one that is not valid."""
        try:
            answer = self.json("/prompt", {"prompt": prompt, "client_id": self.client_id})
        except urllib.error.HTTPError as error:
            raise PromptRefusedError(json.loads(error.read())) from None
        if answer["node_errors"]:  # the host runs what is left of a prompt; no test wants that
            raise PromptRefusedError(answer)
        return str(answer["prompt_id"])

    def wait(self, prompt_id: str, timeout: float = 300) -> Run:
        """Wait until a queued prompt has ended, in whatever way."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.json(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                return self._run(prompt_id, entry)
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.log()[-3000:]}")
            time.sleep(0.05)
        raise TimeoutError(f"prompt {prompt_id} still runs after {timeout:.0f} s:\n{self.log()[-3000:]}")

    def _run(self, prompt_id: str, entry: Mapping[str, Any]) -> Run:
        messages = {name: data for name, data in entry["status"]["messages"]}
        failed = messages.get("execution_error", {})
        status = "interrupted" if "execution_interrupted" in messages else entry["status"]["status_str"]
        node_id = str(failed.get("node_id", messages.get("execution_interrupted", {}).get("node_id", "")))
        return Run(self, prompt_id, status, entry["outputs"], failed.get("exception_message", ""), node_id)

    def run(self, prompt: Prompt, timeout: float = 300) -> Run:
        """Run a prompt that must succeed."""
        run = self.wait(self.queue(prompt), timeout)
        if run.status != "success":
            raise RuntimeError(f"prompt {run.status} at node {run.node_id}: {run.error}\n{self.log()[-3000:]}")
        return run

    def fail(self, prompt: Prompt, timeout: float = 300) -> Run:
        """Run a prompt that must end with an error of a node."""
        run = self.wait(self.queue(prompt), timeout)
        assert run.status == "error", f"expected an error, the prompt ended with {run.status}"
        return run

    @contextlib.contextmanager
    def events(self) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
        """The server's messages about this client's prompts, as (type, data), while the context is open."""
        import websocket

        socket_url = self.url.replace("http", "ws", 1) + f"/ws?clientId={self.client_id}"
        connection = websocket.create_connection(socket_url, timeout=120)

        def messages() -> Iterator[tuple[str, dict[str, Any]]]:
            while True:
                text = connection.recv()
                if isinstance(text, str) and text:
                    message = json.loads(text)
                    yield message["type"], message["data"]

        try:
            yield messages()
        finally:
            connection.close()

    def interrupt(self) -> None:
        self.request("/interrupt", {})

    def free(self) -> None:
        """Forget every cached result and unload every model."""
        self.request("/free", {"unload_models": True, "free_memory": True})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_base(base: Path, pack: Path) -> None:
    """Lay out a base directory whose only custom node pack is a link to ours."""
    for folder in ("models/concept_masks", "models/checkpoints", "models/loras", "input", "output", "temp", "user"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    (base / "custom_nodes").mkdir(exist_ok=True)
    link = base / "custom_nodes" / FOLDER_NAME
    if not link.exists():
        link.symlink_to(pack, target_is_directory=True)


def without_our_library(base: Path) -> Path:
    """A folder for PYTHONPATH that takes our checkouts off sys.path: a user has no top-level cones_ops."""
    folder = base / "site"
    folder.mkdir(exist_ok=True)
    code = "import os, sys\nsys.path[:] = [e for e in sys.path if not os.path.isdir(os.path.join(e, 'cones_ops'))]\n"
    (folder / "sitecustomize.py").write_text(code)
    return folder


@contextlib.contextmanager
def started(host: Path, pack: Path, base: Path, *arguments: str, patience: float = 240) -> Iterator[Server]:
    """Start `host` with the pack in `pack`, yield the server, stop it."""
    make_base(base, pack)
    port = free_port()
    command = [sys.executable, "main.py", "--cpu", "--port", str(port), "--base-directory", str(base)]
    command += ["--database-url", "sqlite:///:memory:", "--disable-auto-launch", "--disable-api-nodes"]
    command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", FOLDER_NAME, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(without_our_library(base)), "HF_HUB_OFFLINE": "1"}
    log_file = base / "server.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, cwd=host, env=environment, stdout=log, stderr=subprocess.STDOUT)
    server = Server(f"http://127.0.0.1:{port}", base, process, log_file)
    try:
        wait_until_up(server, patience)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_up(server: Server, patience: float) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(OSError):
            server.request("/system_stats", timeout=5)
            return
        time.sleep(0.2)
    raise RuntimeError(f"no ComfyUI server at {server.url}:\n{server.log()[-4000:]}")
