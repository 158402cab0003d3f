"""One description of a graph, two forms: the frontend's workflow file and the server's API prompt.

`Graph.add` records a node by its id, position and inputs (values, or outputs of other nodes written `node[0]`); the
notes on the canvas come from workflow_notes.md. Both forms also take the server's node definitions, which say what
defaults widgets have and in which order they are stored; inputs that do not exist are refused. Nothing here talks to a
server.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cones_ops.laboratory.comfyui.workflow import InputSpec, Prompt, companions, input_specs, is_widget, to_prompt

REGISTRY_ID = "cones-concept-neurons"
NOTE_COLOURS = {"color": "#432", "bgcolor": "#653"}
HEADLINE = 26  # pixels of a node's title bar, drawn above its position
NOTES_FILE = Path(__file__).with_name("workflow_notes.md")
DEFAULT_SIZE = (340, 110)
SIZES = {
    "BatchImagesNode": (340, 140),
    "CheckpointLoaderSimple": (340, 100),
    "ConditioningSetDefaultCombine": (340, 70),
    "ConditioningSetProperties": (340, 140),
    "ConesApplyConceptMasks": (340, 780),
    "ConesCombineConceptMasks": (340, 220),
    "ConesCompareConceptMasks": (400, 480),
    "ConesEncodePrompt": (340, 360),
    "ConesExportAsLora": (360, 180),
    "ConesFindConceptNeurons": (420, 590),
    "ConesInspectConceptMask": (400, 500),
    "ConesLabelPictures": (340, 140),
    "ConesKeepApart": (340, 150),
    "ConesLayPictures": (340, 300),
    "ConesSaveConceptMask": (340, 150),
    "ConesSeeConcepts": (400, 460),
    "ConesSplitConceptMask": (340, 180),
    "ConesToySubject": (340, 290),
    "ConesToyWorld": (340, 90),
    "ConesTuneConceptMasks": (420, 800),
    "ImageScale": (340, 140),
    "ImageScaleBy": (300, 82),
    "KSampler": (300, 270),
    "LoadImage": (340, 330),
    "MaskComposite": (340, 150),
    "SetHookKeyframes": (340, 60),
    "VAEDecode": (300, 50),
    "VAEEncode": (340, 50),
}
Pair = tuple[int, int]  # x and y, or width and height, in pixels


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
    """A workflow under construction; nodes are numbered from 1 in the order of add."""

    name: str
    nodes: list[Node] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    notes: list[Node] = field(default_factory=list)

    def add(self, node_type: str, position: Pair, title: str = "", size: Pair | None = None, **inputs: Any) -> Node:
        self.nodes.append(
            self._numbered(node_type, position, size or SIZES.get(node_type, DEFAULT_SIZE), inputs, title)
        )
        return self.nodes[-1]

    def note(self, position: Pair, size: Pair, title: str) -> None:
        """A Markdown note on the canvas: the section of workflow_notes.md with this title."""
        self.notes.append(self._numbered("MarkdownNote", position, size, {"text": note_text(title)}, title))

    def _numbered(self, *fields: Any) -> Node:
        return Node(len(self.nodes) + len(self.notes) + 1, *fields)

    def group(self, title: str, nodes: list[Node], colour: str = "#3f789e") -> None:
        """A titled frame around nodes."""
        left = min(n.position[0] for n in nodes) - 20
        top = min(n.position[1] for n in nodes) - HEADLINE - 54
        right = max(n.position[0] + n.size[0] for n in nodes) + 20
        bottom = max(n.position[1] + n.size[1] for n in nodes) + 20
        bounding = [left, top, right - left, bottom - top]
        entry = {"id": len(self.groups) + 1, "title": title, "bounding": bounding, "color": colour, "font_size": 24}
        self.groups.append({**entry, "flags": {}})

    def api(self, object_info: Mapping[str, Any]) -> Prompt:
        """The prompt that POST /prompt takes, every widget at its value or default."""
        return to_prompt(self.workflow(object_info), object_info)

    def workflow(self, object_info: Mapping[str, Any]) -> dict[str, Any]:
        """The file that is dropped on the canvas."""
        links: list[list[Any]] = []
        entries = {node.id: node_entry(node, k, object_info[node.type]) for k, node in enumerate(self.nodes)}
        for node in self.nodes:
            for slot, socket in enumerate(entries[node.id]["inputs"]):
                source = node.inputs.get(socket["name"])
                if not isinstance(source, Output):
                    continue
                origin = entries[source.node.id]["outputs"][source.index]
                links.append([len(links) + 1, source.node.id, source.index, node.id, slot, origin["type"]])
                socket["link"] = len(links)
                origin["links"] = [*(origin["links"] or []), len(links)]
        notes = [note_entry(note, k) for k, note in enumerate(self.notes, start=len(self.nodes))]
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{REGISTRY_ID}/{self.name}")),
            "revision": 0,
            "last_node_id": len(self.nodes) + len(self.notes),
            "last_link_id": len(links),
            "nodes": [*entries.values(), *notes],
            "links": links,
            "groups": self.groups,
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [160, 160]}},
            "version": 0.4,
        }


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


def node_entry(node: Node, order: int, info: Mapping[str, Any]) -> dict[str, Any]:
    """A node in the workflow file, its sockets not yet linked; info: its definition."""
    specs = dict(shown_inputs(node, info))
    unknown = sorted(set(node.inputs) - set(specs))
    if unknown:
        raise KeyError(f"{node.type} has no input {', '.join(unknown)}; it has {', '.join(specs)}")
    sockets = [socket(name, spec) for name, spec in specs.items() if not is_widget(spec)]
    sockets += [
        {**socket(name, spec), "widget": {"name": name}}
        for name, spec in specs.items()
        if is_widget(spec) and isinstance(node.inputs.get(name), Output)
    ]
    outputs = zip(info["output_name"], info["output"], strict=True)
    pack = REGISTRY_ID if node.type.startswith("Cones") else "comfy-core"
    return {
        **common_entry(node, order),
        "inputs": sockets,
        "outputs": [{"name": name, "type": kind, "links": None} for name, kind in outputs],
        "properties": {"cnr_id": pack, "Node name for S&R": node.type},
        "widgets_values": [value for name, spec in specs.items() for value in widget_values(node, name, spec)],
    }


def common_entry(node: Node, order: int) -> dict[str, Any]:
    entry = {"id": node.id, "type": node.type, "pos": list(node.position), "size": list(node.size), "flags": {}}
    return {**entry, "order": order, "mode": 0, **({"title": node.title} if node.title else {})}


def shown_inputs(node: Node, info: Mapping[str, Any]) -> Iterator[tuple[str, InputSpec]]:
    """The inputs this node shows: its definition's, with a growing input as one socket per use and one to spare."""
    for name, (kind, options, optional) in input_specs(info):
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
