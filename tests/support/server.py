"""What only tests ask of a ComfyUI server: its messages while a prompt runs, and prompts that must fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any


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
