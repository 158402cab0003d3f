"""A workflow file in the form that POST /prompt takes, from the file and the server's /object_info alone.

Nodes inside a subgraph are numbered as the frontend numbers them: "5:3" is node 3 inside node 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import ConesError

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
NOTES = {"Note", "MarkdownNote"}
INPUTS, OUTPUTS = -10, -20  # ids, in links of a subgraph, of what comes in and what goes out
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
    """Widget name -> the value a file stores, without companions; widgets without a stored value are left out."""
    stored, values = list(node.get("widgets_values") or ()), {}
    for name, spec in input_specs(info):
        if stored and is_widget(spec):
            values[name], *stored = stored
            del stored[: len(list(companions(name, spec)))]
    if stored:
        raise ConesError(f"{node['type']} stores values that no widget takes: {stored}")
    return {name: value for name, value in values.items() if value is not None}


def empty_views(info: Mapping[str, Any]) -> dict[str, Any]:
    """What the frontend sends for parts of a node's face that take no value, such as a comparing slider."""
    return {name: {} for name, (_, options, _) in input_specs(info) if options.get("socketless")}


def to_prompt(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> Prompt:
    """The prompt of a workflow file: node id -> class and inputs (values, or [node id, slot] for a link)."""
    definitions = {entry["id"]: entry for entry in workflow.get("definitions", {}).get("subgraphs", ())}
    links = {link[0]: (link[1], link[2]) for link in workflow["links"]}
    level = Level(definitions, {node["id"]: node for node in workflow["nodes"]}, links, {}, "", ())
    return dict(level.entries(object_info))


@dataclass(frozen=True)
class Level:
    """The nodes of a workflow, or of one subgraph in it, and what comes in from outside."""

    definitions: Mapping[str, Mapping[str, Any]]
    nodes: Mapping[int, Mapping[str, Any]]
    links: Mapping[int, tuple[int, int]]  # link id -> node id and slot it comes from
    results: Mapping[int, int]  # slot of the subgraph's outputs -> link id
    prefix: str
    entering: Sequence[Any]  # by slot: [node id, slot], a value, or None for the value inside

    def entries(self, object_info: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Node id -> class and inputs, of all nodes here and in subgraphs."""
        for node in self.nodes.values():
            if node["type"] in self.definitions:
                yield from self.inside(node).entries(object_info)
            elif node["type"] not in NOTES:
                if node["type"] not in object_info:
                    raise ConesError(f"ComfyUI does not know {node['type']}; its log says why this pack was not loaded")
                inputs = widget_values(node, object_info[node["type"]]) | empty_views(object_info[node["type"]])
                linked = {socket["name"]: self.source(socket.get("link")) for socket in node.get("inputs", ())}
                inputs.update((name, source) for name, source in linked.items() if source is not None)
                yield f"{self.prefix}{node['id']}", {"class_type": node["type"], "inputs": inputs}

    def source(self, link: int | None) -> Any:
        """What a link carries: [node id, slot] of a node that is no subgraph, or a value; None for no link."""
        if link is None:
            return None
        origin, slot = self.links[link]
        if origin == INPUTS:
            return self.entering[slot]
        if self.nodes[origin]["type"] in self.definitions:
            inside = self.inside(self.nodes[origin])
            return inside.source(inside.results[slot])
        return [f"{self.prefix}{origin}", slot]

    def inside(self, node: Mapping[str, Any]) -> Level:
        """The inside of a subgraph's node."""
        definition, stored = self.definitions[node["type"]], list(node.get("widgets_values") or ())
        entering = []
        for socket in node["inputs"]:
            value = stored.pop(0) if "widget" in socket and stored else None
            entering.append(value if socket.get("link") is None else self.source(socket["link"]))
        return Level(
            self.definitions,
            {inner["id"]: inner for inner in definition["nodes"]},
            {link["id"]: (link["origin_id"], link["origin_slot"]) for link in definition["links"]},
            {link["target_slot"]: link["id"] for link in definition["links"] if link["target_id"] == OUTPUTS},
            f"{self.prefix}{node['id']}:",
            entering,
        )
