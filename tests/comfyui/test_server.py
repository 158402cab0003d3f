"""What "Done when" promises, on a real ComfyUI server."""

from __future__ import annotations


def test_the_server_stands(server):
    assert "KSampler" in server.object_info()
