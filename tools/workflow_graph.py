"""One description of a graph, two forms: the frontend's workflow file and the server's API prompt.

`Graph.add` records a node by its id, place and inputs (values, or outputs of other nodes written `node[0]`). Both forms
also take the server's node definitions, which say what defaults widgets have and in which order they are stored; inputs
that do not exist are refused. Nothing here talks to a server.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cones_ops.laboratory.comfyui.workflow import InputSpec, Prompt, companions, input_specs, is_widget, to_prompt

REGISTRY_ID = "cones-concept-neurons"
NOTE_COLOURS = {"color": "#432", "bgcolor": "#653"}
HEADLINE = 26  # pixels of a node's title bar, drawn above its position


@dataclass(eq=False)
class Node:
    """One node of a graph; node[k] is its k-th output."""

    id: int
    type: str
    at: tuple[int, int]
    size: tuple[int, int]
    inputs: dict[str, Any]
    title: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, index: int) -> Output:
        return Output(self, index)


@dataclass(frozen=True)
class Output:
    """The index-th output of a node, to be put in as another node's input."""

    node: Node
    index: int


@dataclass
class Graph:
    """A workflow under construction; nodes are numbered from 1 in the order of add."""

    name: str
    nodes: list[Node] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    notes: list[Node] = field(default_factory=list)

    def add(self, node_type: str, at: tuple[int, int], size: tuple[int, int], title: str = "", **inputs: Any) -> Node:
        node = Node(self._next(), node_type, at, size, inputs, title)
        self.nodes.append(node)
        return node

    def note(self, at: tuple[int, int], size: tuple[int, int], title: str, text: str) -> None:
        """A Markdown note on the canvas."""
        self.notes.append(Node(self._next(), "MarkdownNote", at, size, {}, title, {"text": text, **NOTE_COLOURS}))

    def group(self, title: str, nodes: list[Node], colour: str = "#3f789e") -> None:
        """A titled frame around nodes."""
        left = min(n.at[0] for n in nodes) - 20
        top = min(n.at[1] for n in nodes) - HEADLINE - 54
        right = max(n.at[0] + n.size[0] for n in nodes) + 20
        bottom = max(n.at[1] + n.size[1] for n in nodes) + 20
        bounding = [left, top, right - left, bottom - top]
        entry = {"id": len(self.groups) + 1, "title": title, "bounding": bounding, "color": colour, "font_size": 24}
        self.groups.append({**entry, "flags": {}})

    def _next(self) -> int:
        return len(self.nodes) + len(self.notes) + 1

    def api(self, object_info: Mapping[str, Any]) -> Prompt:
        """The prompt that POST /prompt takes, every widget at its value or default."""
        return to_prompt(self.workflow(object_info), object_info)

    def workflow(self, object_info: Mapping[str, Any]) -> dict[str, Any]:
        """The file that is dropped on the canvas."""
        links: list[list[Any]] = []
        entries = {node.id: self._entry(node, object_info[node.type]) for node in self.nodes}
        for node in self.nodes:
            for slot, socket in enumerate(entries[node.id]["inputs"]):
                source = node.inputs.get(socket["name"])
                if not isinstance(source, Output):
                    continue
                origin = entries[source.node.id]["outputs"][source.index]
                links.append([len(links) + 1, source.node.id, source.index, node.id, slot, origin["type"]])
                socket["link"] = len(links)
                origin["links"] = [*(origin["links"] or []), len(links)]
        notes = [self._note_entry(note, len(self.nodes) + k) for k, note in enumerate(self.notes)]
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{REGISTRY_ID}/{self.name}")),
            "revision": 0,
            "last_node_id": self._next() - 1,
            "last_link_id": len(links),
            "nodes": [*entries.values(), *notes],
            "links": links,
            "groups": self.groups,
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [160, 160]}},
            "version": 0.4,
        }

    def _entry(self, node: Node, info: Mapping[str, Any]) -> dict[str, Any]:
        specs = dict(self._specs(node, info))
        unknown = sorted(set(node.inputs) - set(specs))
        if unknown:
            raise KeyError(f"{node.type} has no input {', '.join(unknown)}; it has {', '.join(specs)}")
        sockets = [socket(name, spec) for name, spec in specs.items() if not is_widget(spec)]
        sockets += [
            {**socket(name, spec), "widget": {"name": name}}
            for name, spec in specs.items()
            if is_widget(spec) and isinstance(node.inputs.get(name), Output)
        ]
        outputs = [
            {"name": name, "type": kind, "links": None}
            for name, kind in zip(info["output_name"], info["output"], strict=True)
        ]
        ours = node.type.startswith("Cones")
        properties = {"cnr_id": REGISTRY_ID if ours else "comfy-core", "Node name for S&R": node.type}
        return {
            **self._common(node, self.nodes.index(node)),
            "inputs": sockets,
            "outputs": outputs,
            "properties": properties,
            "widgets_values": [value for name, spec in specs.items() for value in widget_values(node, name, spec)],
        }

    @staticmethod
    def _specs(node: Node, info: Mapping[str, Any]) -> Iterator[tuple[str, InputSpec]]:
        """The inputs this node shows: its definition's, with a growing input as one socket per use and one to spare."""
        for name, (kind, options, optional) in input_specs(info):
            if kind != "COMFY_AUTOGROW_V3":
                yield name, (kind, options, optional)
                continue
            ((grown, _),) = options["template"]["input"]["required"].values()
            used = sum(given.startswith(f"{name}.") for given in node.inputs)
            for k in range(used + 1):
                yield f"{name}.{options['template']['prefix']}{k}", (grown, {}, k > 0)

    def _note_entry(self, note: Node, order: int) -> dict[str, Any]:
        colours = {name: note.extra[name] for name in NOTE_COLOURS}
        entry = {"inputs": [], "outputs": [], "properties": {}, "widgets_values": [note.extra["text"]]}
        return {**self._common(note, order), **entry, **colours}

    def _common(self, node: Node, order: int) -> dict[str, Any]:
        entry = {"id": node.id, "type": node.type, "pos": list(node.at), "size": list(node.size), "flags": {}}
        return {**entry, "order": order, "mode": 0, **({"title": node.title} if node.title else {})}


def socket(name: str, spec: InputSpec) -> dict[str, Any]:
    kind, _, optional = spec
    entry = {"name": name, "type": "COMBO" if isinstance(kind, list) else kind, "link": None}
    if "." in name:
        entry["label"] = name.split(".")[-1]
    return {**entry, "shape": 7} if optional else entry


def widget_values(node: Node, name: str, spec: InputSpec) -> Iterator[Any]:
    """What one input adds to widgets_values: nothing for a socket; a seed and a picture carry a second widget."""
    if not is_widget(spec):
        return
    kind, options, optional = spec
    value = node.inputs.get(name)
    if value is None or isinstance(value, Output):
        if value is None and not optional and "default" not in options:
            raise KeyError(f"{node.type}.{name} has no default and no value")
        value = options.get("default", kind[0] if isinstance(kind, list) and kind else "")
    yield value
    yield from companions(name, spec)
