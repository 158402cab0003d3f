"""The templates in the real frontend: in its browser with their pictures, opened readable, run, and used as an App."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cones_ops.laboratory.comfyui.workflow import to_prompt

ROOT = Path(__file__).absolute().parent.parent.parent
NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
BLUEPRINTS = sorted(path.stem for path in (ROOT / "subgraphs").glob("*.json"))
PACK = "cones-concept-neurons"
SMALLEST = 8 / 14  # zoom at which the classic canvas still draws titles
NODES_2 = pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes-2"])


def test_the_template_browser_lists_our_workflows_with_pictures(canvas):
    canvas.complaints.clear()
    canvas.page.locator(".templates-tab-button").click()
    canvas.page.get_by_role("button", name=PACK).click()
    for name in NAMES:
        canvas.page.get_by_test_id(f"template-workflow-{name}").scroll_into_view_if_needed(timeout=60_000)
    shown = """() => Object.fromEntries(
        [...document.querySelectorAll("[data-testid^='template-workflow-']")].map(card => {
            const picture = card.querySelector("img");
            return [card.dataset.testid, picture?.complete ? [picture.naturalWidth, picture.naturalHeight] : [0, 0]];
        }))"""
    canvas.page.wait_for_function(f"Object.values(({shown})()).every(size => size[0])", timeout=20_000)
    canvas.screenshot("templates")
    paths = {name: ROOT / "workflows" / f"{name}.jpg" for name in NAMES}
    sizes = {f"template-workflow-{name}": list(Image.open(path).size) for name, path in paths.items()}
    assert canvas.evaluate(shown) == sizes
    assert not canvas.ours()


@NODES_2
@pytest.mark.parametrize(("width", "height", "smallest"), [(1600, 1000, 0.6), (1280, 720, SMALLEST)])
def test_templates_open_readable(window, server, width, height, smallest, nodes_2):
    """Large enough to read, nothing missing or covered, no errors, and the prompt that the file says."""
    info = server.object_info()
    with window(width, height, nodes_2) as canvas:
        for name in [name for name in NAMES if not name.endswith(".app")]:
            canvas.complaints.clear()
            workflow = canvas.open_template(name)
            canvas.screenshot(f"{name[0]}-{width}-{'nodes-2' if nodes_2 else 'classic'}")
            assert canvas.evaluate("window.app.canvas.ds.scale") >= smallest, name
            assert not canvas.evaluate("window.app.canvas.low_quality"), name
            assert canvas.missing_nodes() == canvas.overlaps() == canvas.cut_off_notes() == [], name
            assert canvas.page.get_by_test_id("error-overlay-see-errors").count() == 0, name
            assert without_choices(canvas.prompt()) == without_choices(to_prompt(workflow, info)), name
            assert not canvas.ours(), name


def without_choices(prompt: dict[str, Any]) -> dict[str, Any]:
    """Classes and inputs, but for what the frontend fills in for the user, and what a slider shows."""
    left_out = ("ckpt_name", "compare_view")
    return {
        node_id: (node["class_type"], {name: value for name, value in node["inputs"].items() if name not in left_out})
        for node_id, node in prompt.items()
    }


@NODES_2
@pytest.mark.parametrize("number", [1, 2, 4, 5, 6])
def test_a_template_runs_and_shows_its_result(window, server, number, nodes_2):
    """With few steps; then nothing covers anything else, and the result is on the node that is to show it."""
    with window(1600, 1000, nodes_2) as canvas:
        canvas.open_template(NAMES[number - 1])
        canvas.set_widgets("KSampler", steps=6)
        canvas.set_widgets("ConesFindConceptNeurons", steps=4, batch=16, density=0.01)
        canvas.set_widgets("ConesSaveConceptMask", name="from the browser")
        canvas.set_widgets("ConesTeachConcept", steps=4, beside=4, name="taught in the browser")
        canvas.complaints.clear()
        canvas.press_run()
        canvas.wait_for_outputs("ConesTeachConcept" if number == 2 else "SaveImage", timeout=400)
        canvas.page.wait_for_timeout(2500)
        canvas.screenshot(f"{number}-run-{'nodes-2' if nodes_2 else 'classic'}")
        assert canvas.overlaps() == []
        if number >= 4:
            before, after = compared(canvas)
            assert before == after >= 2
        assert not canvas.ours()


def compared(canvas: Any) -> list[int]:
    """How many pictures the slider has on each side."""
    script = """() => {
        const node = window.app.graph.nodes.find(node => node.type === "ImageCompare");
        const views = window.app.nodeOutputs[node.id];
        return [views.a_images.length, views.b_images.length];
    }"""
    return list(canvas.evaluate(script))


def test_the_app_has_three_fields_and_runs(window, server):
    (name,) = (name for name in NAMES if name.endswith(".app"))
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    fields = workflow["extra"]["linearData"]["inputs"]
    saved = server.base / "output" / "cones"
    before = set(saved.glob("*.png"))
    with window(1600, 1000, False) as canvas:
        canvas.open_template(name)
        skip = canvas.page.get_by_role("button", name="Skip")
        if skip.count():
            skip.first.click()
        panel = canvas.page.get_by_test_id("linear-widgets")
        assert [widget for _, widget in fields] == ["text", "batch_size", "seed"]
        canvas.screenshot("app")
        text = canvas.page.locator("textarea:visible").first
        text.fill("a <concept:toy-zwx-robot> on paper")
        canvas.page.get_by_role("button", name=re.compile("^Run")).last.click()
        canvas.wait_for_outputs("SaveImage", timeout=200)
        canvas.page.wait_for_timeout(2500)
        canvas.screenshot("app-run")
        assert len(set(saved.glob("*.png")) - before) == 4
        assert panel.count() == 1


def test_the_node_library_offers_our_subgraphs(canvas):
    """Search, click, click on the canvas: a node that holds the subgraph."""
    canvas.page.keyboard.press("n")
    for name in BLUEPRINTS:
        canvas.evaluate("window.app.graph.clear()")
        canvas.page.get_by_placeholder(re.compile("search", re.IGNORECASE)).first.fill(name)
        canvas.page.get_by_text(name, exact=True).first.click()
        canvas.page.wait_for_timeout(500)
        canvas.page.mouse.move(950, 480)
        canvas.page.mouse.click(960, 500)
        canvas.screenshot("node-library")
        canvas.page.wait_for_function("window.app.graph.nodes.some(node => node.subgraph?.nodes.length)")
