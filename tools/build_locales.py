"""locales/en/nodeDefs.json from the schemas of the pack's nodes, as a running ComfyUI server reports them.

English is generated (tools/build_examples.py writes it), so it is always in step; other languages are written by hand,
and a test compares their keys with these. Characters with a meaning in the frontend's message format (braces, @, |) are
refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

SPECIAL = re.compile(r"[{}@|]")


def pack_nodes(object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The pack's own node definitions, by id."""
    return {name: info for name, info in sorted(object_info.items()) if name.startswith("Cones")}


def node_texts(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a locale says of one node: its name, description, and every input's and output's name and tooltip."""
    inputs = {}
    for part in ("required", "optional"):
        for name, (_, options) in info["input"].get(part, {}).items():
            inputs[name] = {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}
    outputs = {
        str(k): {"name": name, "tooltip": tooltip}
        for k, (name, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"], strict=True))
    }
    texts = {"display_name": info["display_name"], "description": info["description"]}
    return {**texts, "inputs": inputs, "outputs": outputs}


def locale(object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The whole nodeDefs file in English."""
    texts = {name: node_texts(info) for name, info in pack_nodes(object_info).items()}
    if special := SPECIAL.search("".join(leaves(texts))):
        raise ValueError(f"{special[0]!r} in a text has a meaning in the frontend's message format; replace it")
    return texts


def leaves(tree: Any) -> list[str]:
    """Every text in a nodeDefs tree."""
    return [text for value in tree.values() for text in leaves(value)] if isinstance(tree, dict) else [str(tree)]


def dumped(tree: Any) -> str:
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
