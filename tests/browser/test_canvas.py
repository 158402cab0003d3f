"""The pack's nodes and workflows on the canvas of the real frontend. Screenshots go to artifacts/."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).absolute().parent.parent.parent
NAMES = sorted(path.stem for path in (ROOT / "docs" / "workflows").glob("*.json"))
NOTES = {"Note", "MarkdownNote"}


def test_the_nodes_are_there_with_their_names(canvas, server):
    names = canvas.evaluate(
        "Object.values(LiteGraph.registered_node_types)"
        ".filter(type => type.comfyClass?.startsWith('Cones')).map(type => [type.comfyClass, type.title])"
    )
    known = {name: info["display_name"] for name, info in server.object_info().items() if name.startswith("Cones")}
    assert len(known) == 20 and dict(names) == known
    assert not canvas.ours()


@pytest.mark.parametrize("name", NAMES)
def test_a_dropped_workflow_loads_as_it_was_meant(canvas, name):
    canvas.complaints.clear()
    workflow = canvas.open(name)
    canvas.fit()
    canvas.screenshot(name)
    assert canvas.missing_nodes() == []
    assert not canvas.ours()
    shown = canvas.prompt()
    assert {node["class_type"] for node in shown.values()} == {n["type"] for n in workflow["nodes"]} - NOTES
    kept = canvas.kept()
    for node in workflow["nodes"]:
        stored = node["widgets_values"]
        assert kept["nodes"][str(node["id"])][2][: len(stored)] == stored, node["type"]
    inputs = {node["id"]: [entry["name"] for entry in node.get("inputs", [])] for node in workflow["nodes"]}
    links = [[source, slot, to, inputs[to][place], kind] for _, source, slot, to, place, kind in workflow["links"]]
    assert kept["links"] == sorted(links)  # to inputs of these names: appended ones move the others' places
    assert canvas.overlaps() == []
    assert canvas.cut_off_notes() == []
