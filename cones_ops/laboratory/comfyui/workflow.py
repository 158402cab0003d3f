"""A workflow file in the form that POST /prompt takes, from the file and the server's /object_info alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import ConesError

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
NOTES = {"Note", "MarkdownNote"}
Prompt = dict[str, dict[str, Any]]
InputSpec = tuple[Any, dict[str, Any], bool]  # type or choices, options, whether it is optional


def input_specs(info: Mapping[str, Any]) -> Iterator[tuple[str, InputSpec]]:
    """A node's inputs by name, in the order of its definition."""
    for part in ("required", "optional"):
        for name in info["input_order"].get(part, ()):
            kind, options = (*info["input"][part][name], {})[:2]
            yield name, (kind, options, part == "optional")


def is_widget(spec: InputSpec) -> bool:
    """Whether an input is a widget, which stores a value, rather than a socket only."""
    kind, options, _ = spec
    return (isinstance(kind, list) or kind in WIDGET_TYPES) and not options.get("forceInput")


def companions(name: str, spec: InputSpec) -> Iterator[str]:
    """The values that the frontend stores after a widget's own: the next seed's rule, the kind of an upload."""
    if spec[1].get("control_after_generate") or name in ("seed", "noise_seed"):
        yield "fixed"
    if spec[1].get("image_upload"):
        yield "image"


def widget_values(node: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """Widget name -> the value a workflow file stores, without companions; widgets that the file lacks are left out."""
    stored, values = list(node.get("widgets_values") or ()), {}
    for name, spec in input_specs(info):
        if stored and is_widget(spec):
            values[name], *stored = stored
            del stored[: len(list(companions(name, spec)))]
    if stored:
        raise ConesError(f"{node['type']} stores values that no widget takes: {stored}")
    return values


def to_prompt(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> Prompt:
    """The prompt of a workflow file: node id -> class and inputs (values, or [node id, slot] for a link)."""
    links = {link[0]: link for link in workflow["links"]}
    prompt: Prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        if node["type"] not in object_info:
            raise ConesError(f"ComfyUI does not know {node['type']}; its log says why this pack was not loaded")
        inputs = widget_values(node, object_info[node["type"]])
        for socket in node.get("inputs", ()):
            if socket.get("link") is not None:
                _, origin, slot, *_ = links[socket["link"]]
                inputs[socket["name"]] = [str(origin), slot]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt
