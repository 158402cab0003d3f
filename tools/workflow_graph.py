"""One description of a graph, two forms: the frontend's workflow file and the server's API prompt.

`Graph.add` records a node by its id, position and inputs (values, or outputs of other nodes written `node[0]`); the
notes on the canvas come from workflow_notes.md. Both forms also take the server's node definitions, which say what
defaults widgets have and in which order they are stored; inputs that do not exist are refused. Nothing here talks to a
server.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cones_ops.laboratory.comfyui.workflow import InputSpec, Prompt, companions, input_specs, is_widget, to_prompt

if TYPE_CHECKING:
    from workflow_subgraph import Subgraph

REGISTRY_ID = "cones-concept-neurons"
NOTE_COLOURS = {"color": "#432", "bgcolor": "#653"}
NOTES_FILE = Path(__file__).with_name("workflow_notes.md")
DEFAULT_SIZE = (340, 110)
SIZES = {
    "ConesEncodePrompt": (340, 360),
    "ConesLayPictures": (340, 300),
    "ConesPromptWithConcepts": (360, 420),
    "ConesToyWorld": (340, 90),
    "ConesTuneConceptMasks": (420, 800),
    "ImageScaleBy": (300, 82),
    "KSampler": (300, 270),
    "VAEDecode": (300, 50),
    "VAEEncode": (340, 50),
}
USERS_OWN = {"ckpt_name"}  # choices that differ from user to user: the frontend takes the first
Pair = tuple[int, int]  # x and y, or width and height, in pixels
Info = Mapping[str, Any]  # node type -> definition, as in /object_info
Link = dict[str, Any]


@dataclass(eq=False)
class Node:
    """One node of a graph; node[k] is its k-th output."""

    id: int
    type: str
    position: Pair
    size: Pair
    inputs: dict[str, Any]
    title: str = ""

    def __getitem__(self, index: int) -> Output:
        return Output(self, index)


@dataclass(frozen=True)
class Output:
    """The index-th output of a node, to be put in as another node's input."""

    node: Node
    index: int


@dataclass
class Graph:
    """A workflow under construction; nodes are numbered from `first` in the order of add."""

    name: str
    first: int = 1
    nodes: list[Node] = field(default_factory=list)
    notes: list[Node] = field(default_factory=list)
    subgraphs: dict[str, Subgraph] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def add(self, node_type: str, position: Pair, title: str = "", size: Pair | None = None, **inputs: Any) -> Node:
        self.nodes.append(
            self._numbered(node_type, position, size or SIZES.get(node_type, DEFAULT_SIZE), inputs, title)
        )
        return self.nodes[-1]

    def add_subgraph(self, subgraph: Subgraph, position: Pair, size: Pair, title: str = "", **inputs: Any) -> Node:
        """A node that holds a subgraph; its title is the subgraph's name if none is given."""
        self.subgraphs[subgraph.id] = subgraph
        return self.add(subgraph.id, position, title or subgraph.name, size, **inputs)

    def note(self, position: Pair, size: Pair, title: str) -> None:
        """A Markdown note on the canvas: the section of workflow_notes.md with this title."""
        self.notes.append(self._numbered("MarkdownNote", position, size, {"text": note_text(title)}, title))

    def _numbered(self, *fields: Any) -> Node:
        return Node(self.first + len(self.nodes) + len(self.notes), *fields)

    def as_app(self, inputs: Sequence[tuple[Node, str]], outputs: Sequence[Node]) -> None:
        """Open as an App that shows these widgets and the pictures of these nodes, instead of as a graph."""
        fields = [[str(node.id), widget] for node, widget in inputs]
        data = {"inputs": fields, "outputs": [str(node.id) for node in outputs]}
        self.extra |= {"linearMode": True, "linearData": data}

    def api(self, object_info: Info) -> Prompt:
        """The prompt that POST /prompt takes, every widget at its value or default."""
        return to_prompt(self.workflow(object_info), object_info)

    def workflow(self, object_info: Info) -> dict[str, Any]:
        """The file that is dropped on the canvas."""
        info = {**object_info, **{key: subgraph.info(object_info) for key, subgraph in self.subgraphs.items()}}
        entries, links = linked(self.nodes, info)
        notes = [note_entry(note, k) for k, note in enumerate(self.notes, start=len(self.nodes))]
        definitions = [subgraph.definition(object_info) for subgraph in self.subgraphs.values()]
        return {
            "id": unique_id(self.name),
            "revision": 0,
            "last_node_id": max((entry["id"] for entry in all_nodes(entries, notes, definitions)), default=0),
            "last_link_id": len(links),
            "nodes": [*entries, *notes],
            "links": [list(link.values()) for link in links],
            "groups": [],
            **({"definitions": {"subgraphs": definitions}} if definitions else {}),
            "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [160, 160]}, **self.extra},
            "version": 0.4,
        }


def unique_id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{REGISTRY_ID}/{name}"))


def all_nodes(*groups: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Nodes of a file, and those in its subgraphs."""
    for entry in chain(*groups):
        yield from entry.get("nodes", (entry,))


def linked(
    nodes: Sequence[Node], info: Info, ends: Mapping[Node, dict[str, Any]] = MappingProxyType({}), first: int = 1
) -> tuple[list[dict[str, Any]], list[Link]]:
    """(Entries of nodes, with their links, and the links, numbered from `first`); ends: a subgraph's two ends."""
    entries = {node: node_entry(node, k, info[node.type]) for k, node in enumerate(nodes)}
    sides, links = {**entries, **ends}, []
    for node, entry in sides.items():
        for slot, socket in enumerate(entry["inputs"]):
            source = node.inputs.get(socket["name"])
            if not isinstance(source, Output):
                continue
            origin = sides[source.node]["outputs"][source.index]
            link = {"id": first + len(links), "origin_id": source.node.id, "origin_slot": source.index}
            links.append({**link, "target_id": node.id, "target_slot": slot, "type": origin["type"]})
            socket["link"] = link["id"]
            origin["links"] = [*(origin["links"] or []), link["id"]]
    return list(entries.values()), links


def note_text(title: str) -> str:
    """A section of workflow_notes.md: the sentences of a paragraph, or of a list item, in one line."""
    section = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", NOTES_FILE.read_text(encoding="utf-8"), re.M | re.S)
    if section is None:
        raise KeyError(f"{NOTES_FILE.name} has no section {title!r}")
    return re.sub(r"(?<!\n)\n *(?![\n]|- |\d\. |\Z)", " ", section[0].rstrip()) + "\n"


def note_entry(note: Node, order: int) -> dict[str, Any]:
    """A note in the workflow file."""
    entry = {"inputs": [], "outputs": [], "properties": {}, "widgets_values": [note.inputs["text"]]}
    return {**common_entry(note, order), **entry, **NOTE_COLOURS}


def node_entry(node: Node, order: int, info: Info) -> dict[str, Any]:
    """A node in the workflow file, its sockets not yet linked; info: its definition."""
    specs = dict(shown_inputs(node, info))
    unknown = sorted(set(node.inputs) - set(specs))
    if unknown:
        raise KeyError(f"{node.type} has no input {', '.join(unknown)}; it has {', '.join(specs)}")
    outputs = zip(info["output_name"], info["output"], strict=True)
    pack = REGISTRY_ID if node.type.startswith("Cones") else "comfy-core"
    bare = "subgraph" in info
    properties = {} if bare else {"cnr_id": pack, "Node name for S&R": node.type}
    return {
        **common_entry(node, order),
        "inputs": sockets(node, specs, bare),
        "outputs": [{"name": name, "type": kind, "links": None} for name, kind in outputs],
        "properties": properties,
        "widgets_values": [value for name, spec in specs.items() for value in widget_values(node, name, spec, bare)],
    }


def sockets(node: Node, specs: Mapping[str, InputSpec], all_widgets: bool) -> list[dict[str, Any]]:
    """The sockets of a node: those that are no widget, then those of linked widgets; of a subgraph all, in order."""
    plain = [socket(name, spec) for name, spec in specs.items() if not is_widget(spec)]
    widgets = [
        {**socket(name, spec), "widget": {"name": name}}
        for name, spec in specs.items()
        if is_widget(spec) and (all_widgets or isinstance(node.inputs.get(name), Output))
    ]
    order = list(specs) if all_widgets else []
    return sorted(plain + widgets, key=lambda entry: order.index(entry["name"]) if order else 0)


def common_entry(node: Node, order: int) -> dict[str, Any]:
    entry = {"id": node.id, "type": node.type, "pos": list(node.position), "size": list(node.size), "flags": {}}
    return {**entry, "order": order, "mode": 0, **({"title": node.title} if node.title else {})}


def shown_inputs(node: Node, info: Info) -> Iterator[tuple[str, InputSpec]]:
    """The inputs this node shows: its definition's, with a growing input as one socket per use and one to spare."""
    for name, (kind, options, optional) in input_specs(info):
        if options.get("socketless"):
            continue
        if kind != "COMFY_AUTOGROW_V3":
            yield name, (kind, options, optional)
            continue
        template = options["template"]
        ((grown, _),) = template["input"]["required"].values()
        used = sum(key.startswith(f"{name}.") for key in node.inputs)
        for k in range(used + 1):
            label = template["names"][k] if "names" in template else f"{template['prefix']}{k}"
            yield f"{name}.{label}", (grown, {}, k >= template.get("min", 1))


def socket(name: str, spec: InputSpec) -> dict[str, Any]:
    kind, _, optional = spec
    entry = {"name": name, "type": "COMBO" if isinstance(kind, list) else kind, "link": None}
    if "." in name:
        entry["label"] = name.split(".")[-1]
    return {**entry, "shape": 7} if optional else entry


def widget_values(node: Node, name: str, spec: InputSpec, bare: bool) -> Iterator[Any]:
    """What an input adds to widgets_values: nothing for a socket; bare: without a seed's or picture's second widget."""
    if not is_widget(spec):
        return
    kind, options, optional = spec
    value = node.inputs.get(name)
    if value is None and name in USERS_OWN:
        yield None
        return
    if value is None or isinstance(value, Output):
        if value is None and not optional and "default" not in options:
            raise KeyError(f"{node.type}.{name} has no default and no value")
        value = options.get("default", kind[0] if isinstance(kind, list) and kind else "")
    yield value
    if not bare:
        yield from companions(name, spec)
