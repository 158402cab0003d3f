"""Prompts in API form for a ComfyUI server, and inputs as the host passes them."""

from __future__ import annotations

from typing import Any

from cones_ops.laboratory.comfyui.prompts import node, toy_picture
from cones_ops.laboratory.comfyui.workflow import Prompt

__all__ = ["Prompt", "as_lists", "node", "toy_picture"]


def as_lists(**inputs: Any) -> dict[str, list[Any]]:
    """Inputs as the host passes them to a node that takes lists; those that are None are not connected."""
    return {name: [value] for name, value in inputs.items() if value is not None}
