"""The templates and blueprints: small enough to open readable, in step with their description, and they run.

Their prompts come from the file and /object_info alone; the browser test opens and runs them in the frontend.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.prompts import Prompt, nodes_with, shortened

from cones_ops.laboratory.comfyui.workflow import NOTES, to_prompt

ROOT = Path(__file__).absolute().parents[3]
FILES = sorted((ROOT / "workflows").glob("*.json"))
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
WIDTH, HEIGHT = 1660, 910  # fits 75 % of a window of 1280 x 720 at 57 %, where the canvas still draws titles

template = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem[:1])


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def prompt_of(server: Any, number: int) -> Prompt:
    """The prompt of a template by its number."""
    return to_prompt(read(FILES[number - 1]), server.object_info())


def only(prompt: Prompt, class_type: str) -> str:
    (node_id,) = nodes_with(prompt, class_type)
    return node_id


@pytest.fixture(scope="module")
def descriptions() -> Iterator[ModuleType]:
    """tools/build_workflows.py as a module."""
    sys.path.insert(0, str(ROOT / "tools"))
    import build_workflows

    yield build_workflows
    sys.path.remove(str(ROOT / "tools"))


def test_names_are_numbered_titles():
    assert [path.stem[:4] for path in FILES] == [f"{number} - " for number in range(1, len(FILES) + 1)]
    assert 5 <= len(FILES) <= 7 and [path.suffixes for path in FILES].count([".app", ".json"]) == 1
    assert all(re.fullmatch(r"[\w ,-]+(\.app)?", path.stem) for path in FILES + BLUEPRINTS)


@template
def test_a_template_is_small_enough_to_open_readable(path):
    nodes = read(path)["nodes"]
    boxes = [(*node["pos"], node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1]) for node in nodes]
    left, top, right, bottom = zip(*boxes, strict=True)
    assert len(nodes) <= 9 and max(right) - min(left) <= WIDTH and max(bottom) - min(top) + 30 <= HEIGHT
    (note,) = (node for node in nodes if node["type"] in NOTES)
    assert note["size"][0] == 500 and "`" not in note["widgets_values"][0]


@pytest.mark.parametrize("path", FILES + BLUEPRINTS, ids=lambda path: path.stem)
def test_nodes_do_not_overlap(path):
    workflow = read(path)
    for level in (workflow, *workflow.get("definitions", {}).get("subgraphs", ())):
        boxes = [(n["pos"][0], n["pos"][1] - 30, *n["size"], n["type"]) for n in level["nodes"]]
        for i, (x, y, width, height, name) in enumerate(boxes):
            for other_x, other_y, other_width, other_height, other in boxes[i + 1 :]:
                beside = x + width <= other_x or other_x + other_width <= x
                apart = y + height + 30 <= other_y or other_y + other_height + 30 <= y
                assert beside or apart, f"{name} and {other}"


def test_own_photos_take_few_nodes_and_one_folder():
    workflow = read(FILES[2])
    types = [node["type"] for node in workflow["nodes"] if node["type"] not in NOTES]
    assert len(types) <= 8 and len(workflow["links"]) <= 14
    assert types.count("LoadImageDataSetFromFolder") == 1 and "LoadImage" not in types


def test_files_are_what_the_descriptions_say(server, descriptions):
    """The graphs, whatever the host; the bytes, on the host whose stock nodes they were written with."""
    info = server.object_info()
    written = {ROOT / "workflows": [make() for make in descriptions.WORKFLOWS]}
    written[ROOT / "subgraphs"] = [make().blueprint() for make in descriptions.BLUEPRINTS]
    files = {folder / f"{graph.name}.json": graph for folder, graphs in written.items() for graph in graphs}
    assert set(files) == {*FILES, *BLUEPRINTS}
    for path, graph in files.items():
        assert to_prompt(read(path), info) == graph.api(info)
        assert comparable(read(path)) == comparable(json.loads(json.dumps(graph.workflow(info))))


def comparable(workflow: dict[str, Any]) -> dict[str, Any]:
    """Without the outputs of stock nodes that nothing uses: newer hosts have more."""
    for level in (workflow, *workflow.get("definitions", {}).get("subgraphs", ())):
        for node in level["nodes"]:
            if not node["type"].startswith("Cones"):
                node["outputs"] = [output for output in node["outputs"] if output["links"]]
    return workflow


@template
def test_thumbnail(path):
    """A .jpg of the same name: the only kind the template browser shows."""
    with Image.open(path.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG" and picture.width >= 256


@pytest.mark.parametrize("number", [1, 7])
def test_it_draws_what_its_tag_names(server, number):
    prompt = shortened(prompt_of(server, number))
    saved = only(prompt, "SaveImage")
    tagged = np.stack(server.run(prompt).images(saved))
    prompt[only(prompt, "ConesPromptWithConcepts")]["inputs"]["text"] = "a sks cat on paper"
    words = np.stack(server.run(prompt).images(saved))
    assert tagged.shape == words.shape == (4, 384, 384, 3) and not np.array_equal(tagged, words)


def test_teach_a_concept_saves_and_shows_it(server):
    prompt = shortened(prompt_of(server, 2))
    teach = only(prompt, "ConesTeachConcept")
    prompt[teach]["inputs"] |= {"name": "shortened/taught", "identifier": "hta"}
    run = server.run(prompt)
    assert "a <concept:shortened/taught>" in run.text(teach) and "a hta mug" in run.text(teach)
    assert run.image(teach).std() > 0


def test_own_photos_become_a_concept_and_a_picture(server, sd15_checkpoint):
    """With a small checkpoint of random weights, so that the search may find nothing; photos of several sizes."""
    prompt = shortened(prompt_of(server, 3))
    folder = server.base / "input" / "my-photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for k in range(3):
        pixels = generator.integers(0, 256, (40 + 8 * k, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    teach = only(prompt, "ConesTeachConcept")
    prompt[only(prompt, "CheckpointLoaderSimple")]["inputs"]["ckpt_name"] = sd15_checkpoint
    prompt[only(prompt, "EmptyLatentImage")]["inputs"] |= {"width": 32, "height": 32}
    prompt[teach]["inputs"] |= {"size": 32, "beside": 2}
    run = server.run(prompt)
    assert "sks dog" in run.text(teach) or "NOT FOUND" in run.text(teach)
    assert run.image(only(prompt, "SaveImage")).shape == (32, 32, 3)


def test_own_photos_can_be_tried_in_the_toy_world(server):
    """As the note says; the toy subject is a cat."""
    prompt = shortened(prompt_of(server, 3))
    teach, text = only(prompt, "ConesTeachConcept"), only(prompt, "ConesPromptWithConcepts")
    prompt[only(prompt, "CheckpointLoaderSimple")] = {"class_type": "ConesToyWorld", "inputs": {}}
    subject = {"subject": "sks", "pictures": 6, "seed": 0, "beside": 0}
    prompt[only(prompt, "LoadImageDataSetFromFolder")] = {"class_type": "ConesToySubject", "inputs": subject}
    prompt[teach]["inputs"] |= {"class_word": "cat", "beside": 0}
    prompt[text]["inputs"]["text"] = prompt[text]["inputs"]["text"].replace("dog", "cat")
    prompt[only(prompt, "EmptyLatentImage")]["inputs"] |= {"width": 96, "height": 96}
    run = server.run(prompt)
    assert "a sks cat" in run.text(teach)
    assert run.image(only(prompt, "SaveImage")).shape == (96, 96, 3)


@pytest.mark.parametrize("number", [4, 5, 6])
def test_before_and_after_differ(server, number):
    """The pairs that are saved are those under the slider, side by side."""
    prompt = shortened(prompt_of(server, number))
    for node_id in nodes_with(prompt, "KSampler"):
        prompt[node_id]["inputs"]["steps"] = 6  # concepts are kept apart from the second step on
    run = server.run(prompt)
    views = run.outputs[only(prompt, "ImageCompare")]
    before, after = ([server.image(entry) for entry in views[f"{side}_images"]] for side in "ab")
    pairs = run.images(only(prompt, "SaveImage"))
    assert len(before) == len(after) == len(pairs) >= 2
    for pair, left, right in zip(pairs, before, after, strict=True):
        assert pair.shape == (384, 776, 3) and not np.array_equal(left, right)
        assert np.array_equal(pair[:, :384], left) and np.array_equal(pair[:, -384:], right)


@pytest.mark.slow
def test_a_thing_is_swapped_where_its_word_looked_and_the_rest_stays(server):
    """The cat is on the left; the mug on the right is that of the picture before."""
    prompt = prompt_of(server, 5)
    views = server.run(prompt).outputs[only(prompt, "ImageCompare")]
    before, after = (
        np.stack([server.image(entry) for entry in views[f"{side}_images"]]).astype(float) for side in "ab"
    )
    change = np.abs(after - before).mean(axis=(0, 1, 3))  # by column
    assert change[:192].mean() > 4 * change[216:].mean()


def test_the_blueprint_for_two_concepts_tunes_them(server, descriptions):
    """Its inputs come from outside: the toy world, two masks and pictures of their subjects."""
    from workflow_blueprints import tune_two

    graph = descriptions.Graph("tuned")
    world = graph.add("ConesToyWorld", (0, 0))
    inputs = {"model": world[0], "clip": world[1], "vae": world[2]}
    for k, (identifier, name) in enumerate((("sks", "toy-sks-cat"), ("zwx", "toy-zwx-robot")), start=1):
        mask = graph.add("ConesLoadConceptMask", (0, 0), mask_name=f"{name}.safetensors")
        subject = graph.add("ConesToySubject", (0, 0), subject=identifier, pictures=2, beside=0)
        inputs |= {f"mask_{k}": mask[0], f"images_{k}": subject[0]}
        inputs |= {f"captions_{k}": subject[5], f"phrase_{k}": subject[1]}
    tuned = graph.add_subgraph(tune_two(), (0, 0), (340, 300), **inputs, zoom=1.0)
    shown = graph.add("PreviewAny", (0, 0), source=tuned[2])
    report = server.run(shortened(graph.api(server.object_info()))).text(str(shown.id))
    assert "2 joint steps on 2 masks" in report and "zwx robot" in report
