"""A workflow file -> the prompt of the server, where the file has subgraphs: checked against a prompt by hand."""

from __future__ import annotations

import pytest

from cones_ops.errors import ConesError
from cones_ops.laboratory.comfyui.workflow import INPUTS, OUTPUTS, to_prompt

INFO = {
    "Load": {"input": {"required": {}}, "input_order": {"required": []}},
    "Text": {"input": {"required": {"words": ["STRING", {}]}}, "input_order": {"required": ["words"]}},
    "Draw": {
        "input": {"required": {"model": ["MODEL"], "words": ["STRING", {}], "seed": ["INT", {}], "steps": ["INT", {}]}},
        "input_order": {"required": ["model", "words", "seed", "steps"]},
    },
    "Look": {
        "input": {"required": {"picture": ["IMAGE"], "view": ["VIEW", {"socketless": True}]}},
        "input_order": {"required": ["picture", "view"]},
    },
}
DRAWING = {
    "id": "drawing",
    "nodes": [
        {
            "id": 100,
            "type": "Draw",
            "inputs": [{"name": "model", "link": 1}, {"name": "words", "link": 2}, {"name": "seed", "link": 3}],
            "widgets_values": ["inner words", 1, "fixed", 20],
        }
    ],
    "links": [
        {"id": 1, "origin_id": INPUTS, "origin_slot": 0, "target_id": 100, "target_slot": 0},
        {"id": 2, "origin_id": INPUTS, "origin_slot": 1, "target_id": 100, "target_slot": 1},
        {"id": 3, "origin_id": INPUTS, "origin_slot": 2, "target_id": 100, "target_slot": 2},
        {"id": 4, "origin_id": 100, "origin_slot": 0, "target_id": OUTPUTS, "target_slot": 0},
    ],
}
WORDS, SEED = {"name": "words", "widget": {"name": "words"}}, {"name": "seed", "widget": {"name": "seed"}, "link": None}


def host(words_link: int | None, values: list[object]) -> dict[str, object]:
    """Node 3, which holds the drawing."""
    sockets = [{"name": "model", "link": 1}, {**WORDS, "link": words_link}, SEED]
    return {"id": 3, "type": "drawing", "inputs": sockets, "widgets_values": values}


def workflow(words_link: int | None, values: list[object]) -> dict[str, object]:
    nodes = [
        {"id": 1, "type": "Load", "inputs": []},
        {"id": 2, "type": "Text", "inputs": [], "widgets_values": ["outer words"]},
        host(words_link, values),
        {"id": 4, "type": "Look", "inputs": [{"name": "picture", "link": 3}]},
        {"id": 5, "type": "MarkdownNote", "inputs": [], "widgets_values": ["a note"]},
    ]
    links = [[1, 1, 0, 3, 0, "MODEL"], [2, 2, 0, 3, 1, "STRING"], [3, 3, 0, 4, 0, "IMAGE"]]
    return {"nodes": nodes, "links": links, "definitions": {"subgraphs": [DRAWING]}}


@pytest.mark.parametrize(
    ("words_link", "values", "words", "seed"),
    [
        (2, ["ignored", 7], ["2", 0], 7),  # a link wins over the value that the node stores
        (None, ["shown words", 7], "shown words", 7),
        (None, [], "inner words", 1),  # a file without values of the node: those inside count
    ],
)
def test_a_subgraph_becomes_its_inner_nodes(words_link, values, words, seed):
    assert to_prompt(workflow(words_link, values), INFO) == {
        "1": {"class_type": "Load", "inputs": {}},
        "2": {"class_type": "Text", "inputs": {"words": "outer words"}},
        "3:100": {"class_type": "Draw", "inputs": {"model": ["1", 0], "words": words, "seed": seed, "steps": 20}},
        "4": {"class_type": "Look", "inputs": {"picture": ["3:100", 0], "view": {}}},
    }


def test_a_subgraph_in_a_subgraph_is_numbered_by_its_path():
    outer = {
        "id": "outer",
        "nodes": [{**host(None, ["deep words", 5]), "id": 200}],
        "links": [
            {"id": 1, "origin_id": INPUTS, "origin_slot": 0, "target_id": 200, "target_slot": 0},
            {"id": 2, "origin_id": 200, "origin_slot": 0, "target_id": OUTPUTS, "target_slot": 0},
        ],
    }
    nodes = [
        {"id": 1, "type": "Load", "inputs": []},
        {"id": 3, "type": "outer", "inputs": [{"name": "model", "link": 1}]},
        {"id": 4, "type": "Look", "inputs": [{"name": "picture", "link": 2}]},
    ]
    links = [[1, 1, 0, 3, 0, "MODEL"], [2, 3, 0, 4, 0, "IMAGE"]]
    prompt = to_prompt({"nodes": nodes, "links": links, "definitions": {"subgraphs": [outer, DRAWING]}}, INFO)
    assert prompt["3:200:100"]["inputs"] == {"model": ["1", 0], "words": "deep words", "seed": 5, "steps": 20}
    assert prompt["4"]["inputs"]["picture"] == ["3:200:100", 0]


def test_a_choice_that_a_file_leaves_to_the_user_is_left_out():
    file = {"nodes": [{"id": 1, "type": "Text", "inputs": [], "widgets_values": [None]}], "links": []}
    assert to_prompt(file, INFO) == {"1": {"class_type": "Text", "inputs": {}}}


def test_an_unknown_node_is_reported():
    with pytest.raises(ConesError, match="does not know Mystery"):
        to_prompt({"nodes": [{"id": 1, "type": "Mystery", "inputs": []}], "links": []}, INFO)
