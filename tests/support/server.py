"""What only tests ask of a server or another process: its messages, prompts that must fail, a kill in a search."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from cones_ops.search.resume import SECONDS, SUFFIX, State

PATIENCE = 600.0  # seconds for anything to happen on a busy machine


@contextmanager
def events(server: Any) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
    """The server's messages about its client's prompts, as (type, data), while the context is open."""
    import websocket

    address = server.url.replace("http", "ws", 1) + f"/ws?clientId={server.client_id}"
    with closing(websocket.create_connection(address, timeout=120)) as connection:
        texts = (text for text in iter(connection.recv, None) if isinstance(text, str) and text)
        yield ((message["type"], message["data"]) for message in map(json.loads, texts))


def failed(server: Any, prompt: Any) -> Any:
    """Run a prompt that must end with an error of a node."""
    run = server.wait(server.queue(prompt))
    assert run.status == "error", f"the prompt ended with {run.status}"
    return run


def wait_for(condition: Callable[[], Any], process: Any) -> Any:
    """The first true value of `condition`; the process must live until then."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    return value


def kill_once_kept(process: Any, folder: Path, seed: int) -> int:
    """Kill a process whose search has begun; the steps that its state in `folder` has.

    A search keeps its state every SECONDS by the clock, so the process is halted for so long instead of computing.
    """
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(SECONDS + 0.5)
    os.kill(process.pid, signal.SIGCONT)
    wait_for(lambda: list(folder.glob(f"*{SUFFIX}")), process)
    time.sleep(random.Random(seed).uniform(0, 0.5))
    process.kill()
    process.wait()
    (file,) = folder.glob(f"*{SUFFIX}")
    facts = State(file, 0).read()
    assert facts is not None
    return int(facts["step"])
