"""A node's help in the real frontend: select a node, press the info button, read our page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).absolute().parent.parent.parent / "web" / "docs"
NODES = sorted(path.stem for path in DOCS.glob("*.md"))


def test_help_pages_are_served(server):
    for name in (name for name in server.object_info() if name.startswith("Cones")):
        text = server.request(f"/extensions/cones-concept-neurons/docs/{name}.md").decode()
        assert text.startswith("# ")


@pytest.mark.parametrize("name", ["ConesConceptMaskHook", "ConesFindConceptNeurons"])
def test_the_info_button_shows_our_page(canvas, name):
    workflow = "compose-with-hooks" if name == "ConesConceptMaskHook" else "find-a-concept"
    canvas.open(workflow)
    canvas.select(name)
    canvas.page.get_by_test_id("info-button").click()
    page = canvas.page.locator(".node-help-content .markdown-content")
    page.wait_for()
    written = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    headline = written.splitlines()[0].removeprefix("# ")
    assert page.locator("h1").inner_text() == headline
    shown = re.sub(r"\s+", " ", page.inner_text())
    (last,) = re.findall(r"\n([^\n]+)\n*$", written)
    for words in re.split(r"[*`]+", last.removeprefix("- ")):
        assert words.strip() in shown
    pictures = len(re.findall(r"!\[|<img", written))
    sizes = "all => all.map(one => one.complete ? one.naturalWidth : 0)"
    canvas.page.wait_for_timeout(1000)
    canvas.screenshot(f"help-{name}")
    widths = page.locator("img").evaluate_all(sizes)
    assert len(widths) == pictures and all(width > 0 for width in widths)


def test_every_page_comes_out_whole(canvas):
    """All pages at once, as the frontend renders them: a headline, and no picture that is missing."""
    assert len(NODES) == 20
    for name in NODES:
        canvas.add_node(name)
    canvas.page.wait_for_timeout(500)
    seen = {}
    for name in NODES:
        canvas.select(name)
        if not seen:
            canvas.page.get_by_test_id("info-button").click()
        headline = (DOCS / f"{name}.md").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        page = canvas.page.locator(".node-help-content .markdown-content")
        page.locator("h1", has_text=re.compile(f"^{re.escape(headline)}$")).wait_for(timeout=10_000)
        canvas.page.wait_for_function(
            "[...document.querySelectorAll('.node-help-content img')].every(one => one.complete)", timeout=10_000
        )
        seen[name] = page.locator("img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert all(width > 0 for widths in seen.values() for width in widths), seen
