"""A graph comes back from what it was saved in: a workflow file, and a picture that Save Image made of it."""

from __future__ import annotations

import json

WORDS = "a zwx robot in the snow"


def changed(canvas):
    """compose-two-concepts with another prompt, strength and title; returns what a file keeps of it."""
    canvas.open("compose-two-concepts")
    canvas.set_widgets("ConesEncodePrompt", text=WORDS)
    canvas.set_widgets("ConesApplyConceptMasks", strength_2=0.75, enabled_1=False)
    canvas.set_widgets("KSampler", steps=2, seed=11)
    canvas.evaluate("window.app.graph.nodes.find(node => node.type === 'SaveImage').title = 'Mine'")
    return canvas.kept()


def cleared(canvas):
    canvas.evaluate("window.app.graph.clear()")
    assert canvas.kept() == {"nodes": {}, "links": []}


def types(kept):
    return [node[0] for node in kept["nodes"].values()]


def test_a_saved_file_restores_the_graph(canvas):
    before = changed(canvas)
    file = canvas.evaluate("JSON.stringify(window.app.graph.serialize())")
    cleared(canvas)
    canvas.drop_file("mine.json", file.encode(), "application/json")
    canvas.wait_for_nodes(types(before))
    assert canvas.kept() == before
    assert WORDS in json.dumps(before) and "Mine" in json.dumps(before)


def test_a_saved_picture_restores_the_graph(canvas, server):
    before = changed(canvas)
    saved = server.base / "output" / "cones"
    old = set(saved.glob("*.png"))
    canvas.press_run()
    canvas.wait_for_outputs("SaveImage", timeout=120)
    picture = min(set(saved.glob("*.png")) - old)
    cleared(canvas)
    canvas.complaints.clear()
    canvas.drop_file(picture.name, picture.read_bytes(), "image/png")
    canvas.wait_for_nodes(types(before))
    canvas.fit()
    canvas.screenshot("restored-from-a-picture")
    assert canvas.kept() == before
    assert not canvas.ours()
