"""The template browser of the real frontend: our workflows under the pack's name, with their pictures."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

WORKFLOWS = Path(__file__).absolute().parent.parent.parent / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
PACK = "cones-concept-neurons"


def test_the_template_browser_lists_our_workflows_with_pictures_and_opens_one(canvas):
    canvas.complaints.clear()
    canvas.page.locator(".templates-tab-button").click()
    canvas.page.get_by_role("button", name=PACK).click()
    canvas.page.get_by_test_id(f"template-workflow-{NAMES[0]}").wait_for()
    canvas.page.get_by_test_id(f"template-workflow-{NAMES[-1]}").scroll_into_view_if_needed()
    shown = """() => Object.fromEntries(
        [...document.querySelectorAll("[data-testid^='template-workflow-']")].map(card => {
            const picture = card.querySelector("img");
            return [card.dataset.testid, picture?.complete ? [picture.naturalWidth, picture.naturalHeight] : [0, 0]];
        }))"""
    canvas.page.wait_for_function(f"Object.values(({shown})()).every(size => size[0])", timeout=20_000)
    canvas.screenshot("templates")
    sizes = {f"template-workflow-{name}": list(Image.open(WORKFLOWS / f"{name}.jpg").size) for name in NAMES}
    assert canvas.evaluate(shown) == sizes
    canvas.page.get_by_test_id("template-workflow-inspect-and-compare").click()
    canvas.page.wait_for_function("window.app.graph.nodes.some(node => node.type === 'ConesSplitConceptMask')")
    assert canvas.missing_nodes() == []
    assert not canvas.ours()
