"""Cones: Concept Neurons. What ComfyUI reads of this pack; everything is imported when it asks."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"
__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint() -> Any:
    """The extension with the pack's nodes."""
    from .nodes import ConesExtension

    return ConesExtension()
