"""A graph inside one node: its inner nodes, what goes in and what comes out.

A template that uses a subgraph holds a copy of it; a blueprint is a file with one subgraph, which the node search of
the frontend offers like a node.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from workflow_graph import Graph, Info, Node, Output, linked, shown_inputs, unique_id

from cones_ops.laboratory.comfyui.workflow import INPUTS, OUTPUTS, InputSpec

CATEGORY = "Cones"
EMPTY = {"lastGroupId": 0, "lastNodeId": 0, "lastLinkId": 0, "lastRerouteId": 0}
END_WIDTH, MARGIN = 140, 60  # pixels of the boxes for what goes in and out, and between them and the nodes


@dataclass
class Subgraph(Graph):
    """Nodes numbered from `first`, which keeps them apart from those of other subgraphs in a file."""

    description: str = ""
    names: list[str] = field(default_factory=list)  # of the inputs, in order
    start: Node = field(default_factory=lambda: Node(INPUTS, "", (0, 0), (0, 0), {}))
    end: Node = field(default_factory=lambda: Node(OUTPUTS, "", (0, 0), (0, 0), {}))

    @property
    def id(self) -> str:
        return unique_id(f"subgraph/{self.name}")

    def input(self, name: str) -> Output:
        """A new input, to be put into inner nodes."""
        self.names.append(name)
        return Output(self.start, len(self.names) - 1)

    def output(self, **results: Output) -> None:
        """What comes out, by name."""
        self.end.inputs.update(results)

    def specs(self, object_info: Info) -> dict[str, InputSpec]:
        """Name -> type, options of each input: those of the first inner input that it goes into."""
        specs: dict[str, InputSpec] = {}
        for node in self.nodes:
            shown = dict(shown_inputs(node, object_info[node.type]))
            for name, source in node.inputs.items():
                if isinstance(source, Output) and source.node is self.start:
                    specs.setdefault(self.names[source.index], shown[name])
        return {name: specs[name] for name in self.names}

    def outputs(self, object_info: Info) -> dict[str, str]:
        """Name -> type of each output."""
        return {name: object_info[out.node.type]["output"][out.index] for name, out in self.end.inputs.items()}

    def info(self, object_info: Info) -> dict[str, Any]:
        """The definition of a node that holds this subgraph, in the form of /object_info."""
        specs, outputs = self.specs(object_info), self.outputs(object_info)
        inputs = {name: [kind, {"default": "", **options}] for name, (kind, options, _) in specs.items()}
        return {
            "subgraph": True,
            "input": {"required": inputs},
            "input_order": {"required": self.names},
            "output": list(outputs.values()),
            "output_name": list(outputs),
        }

    def definition(self, object_info: Info) -> dict[str, Any]:
        """The entry under definitions.subgraphs of a workflow file."""
        specs = self.specs(object_info)
        kinds = {name: "COMBO" if isinstance(kind, list) else kind for name, (kind, *_) in specs.items()}
        begin: list[dict[str, Any]] = [{"name": name, "type": kind, "links": None} for name, kind in kinds.items()]
        outgoing = [{"name": name, "type": kind, "link": None} for name, kind in self.outputs(object_info).items()]
        ends = {self.start: {"inputs": [], "outputs": begin}, self.end: {"inputs": outgoing}}
        entries, links = linked(self.nodes, object_info, ends, self.first)
        left = min(node.position[0] for node in self.nodes) - MARGIN - END_WIDTH
        right = max(node.position[0] + node.size[0] for node in self.nodes) + MARGIN
        return {
            "id": self.id,
            "version": 1,
            "state": {**EMPTY, "lastNodeId": entries[-1]["id"], "lastLinkId": links[-1]["id"]},
            "revision": 0,
            "config": {},
            "name": self.name,
            "inputNode": {"id": INPUTS, "bounding": [left, 0, END_WIDTH, 48 + 20 * len(begin)]},
            "outputNode": {"id": OUTPUTS, "bounding": [right, 0, END_WIDTH, 48 + 20 * len(outgoing)]},
            "inputs": [self._slot(entry, entry["links"]) for entry in begin],
            "outputs": [self._slot(entry, [entry["link"]]) for entry in outgoing],
            "widgets": [],
            "nodes": entries,
            "groups": [],
            "links": links,
            "extra": {},
            "category": CATEGORY,
            "description": self.description,
        }

    def _slot(self, entry: dict[str, Any], links: list[int]) -> dict[str, Any]:
        name = entry["name"]
        return {"id": unique_id(f"{self.id}/{name}"), "name": name, "type": entry["type"], "linkIds": links}

    def blueprint(self) -> Graph:
        """A workflow of one node that holds this subgraph."""
        graph = Graph(self.name, extra={"BlueprintDescription": self.description})
        graph.add_subgraph(self, (0, 0), (340, 420))
        return graph
