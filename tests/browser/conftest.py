"""A page of the real frontend, in a headless Chromium, on the real server.

Skips with one line when Playwright or a Chromium is missing. Requests that leave the machine are refused, so that
nothing depends on them. Screenshots go to artifacts/ in the repository root, which git ignores.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ARTIFACTS = Path(__file__).absolute().parent.parent.parent / "artifacts"
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Release.Status": "what's new seen",
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.Persist": False,
}


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium to drive."""
    pytest.importorskip("playwright.sync_api", reason="no Playwright: `uv sync` installs it")
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium: `apt-get install chromium`, or put a chromium or google-chrome on PATH")


@pytest.fixture(scope="module")  # no longer than its users: while it is open, an event loop counts as running
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        running.close()


class Canvas:
    """The frontend's page, and what it complained about since `load`."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(f"page error: {error}"))
        page.on("console", self._console)

    def _console(self, message: Any) -> None:
        if message.type == "error" and message.location.get("url", "").startswith(self.url):
            self.complaints.append(f"{message.text} ({message.location['url']})")

    def evaluate(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def drop(self, name: str, workflow: dict[str, Any]) -> None:
        """Drop a workflow file on the canvas, as a user does, and wait until its nodes are there."""
        script = """([name, text]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([text], name, { type: "application/json" }));
            document.querySelector("#graph-canvas").dispatchEvent(
                new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: transfer }));
        }"""
        self.evaluate(script, [name, json.dumps(workflow)])
        same = "types => window.app.graph.nodes.map(node => node.type).sort().join() === types"
        self.page.wait_for_function(same, arg=",".join(sorted(node["type"] for node in workflow["nodes"])))
        self.page.wait_for_timeout(1000)

    def fit(self) -> None:
        """Show the whole graph."""
        script = """() => {
            const canvas = window.app.canvas;
            const boxes = window.app.graph.nodes.map(node => [
                node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0], node.pos[1] + node.size[1]]);
            const low = k => Math.min(...boxes.map(box => box[k])), high = k => Math.max(...boxes.map(box => box[k]));
            const [left, top, width, height] = [low(0), low(1), high(2) - low(0), high(3) - low(1)];
            const scale = Math.min(1780 / width, 900 / height);
            canvas.ds.scale = scale;
            canvas.ds.offset[0] = 90 / scale - left;
            canvas.ds.offset[1] = 80 / scale - top;
            canvas.setDirty(true, true);
        }"""
        self.evaluate(script)
        self.page.wait_for_timeout(500)

    def overlaps(self) -> list[list[str]]:
        """Pairs of nodes that cover each other, by their real sizes."""
        script = """() => {
            const boxes = window.app.graph.nodes.map(node => [
                node.type, node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0], node.pos[1] + node.size[1]]);
            return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b =>
                a[1] < b[3] && b[1] < a[3] && a[2] < b[4] && b[2] < a[4]).map(b => [a[0], b[0]]));
        }"""
        return list(self.evaluate(script))

    def set_widgets(self, node_type: str, **values: Any) -> None:
        """Set widgets of every node of a type."""
        script = """([type, values]) => window.app.graph.nodes.filter(node => node.type === type).forEach(node =>
            node.widgets.filter(w => w.name in values).forEach(w => { w.value = values[w.name]; }))"""
        self.evaluate(script, [node_type, values])

    def wait_for_outputs(self, node_type: str, timeout: float) -> None:
        """Wait until the only node of a type shows pictures."""
        script = """type => window.app.graph.nodes.some(node => node.type === type
            && window.app.nodeOutputs[node.id]?.images?.length)"""
        self.page.wait_for_function(script, arg=node_type, timeout=timeout * 1000)

    def missing_nodes(self) -> list[str]:
        """Types on the canvas that the frontend does not know."""
        known = "type => type in LiteGraph.registered_node_types"
        return list(self.evaluate(f"window.app.graph.nodes.map(node => node.type).filter(type => !({known})(type))"))

    def prompt(self) -> dict[str, Any]:
        """The API form the frontend itself makes of the canvas."""
        return dict(self.evaluate("window.app.graphToPrompt().then(both => both.output)"))

    def screenshot(self, name: str) -> Path:
        ARTIFACTS.mkdir(exist_ok=True)
        path = ARTIFACTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path


@pytest.fixture(scope="session")
def settings(server: Any) -> None:
    """No first-run dialogs in the way."""
    server.request("/settings", SETTINGS)


@pytest.fixture
def canvas(browser: Any, server: Any, settings: None) -> Iterator[Canvas]:
    """The frontend, loaded and idle."""
    page = browser.new_page(viewport={"width": 1900, "height": 1000})
    here: Callable[[str], bool] = lambda url: not url.startswith((server.url, "data:", "blob:"))  # noqa: E731
    page.route(here, lambda route: route.abort())
    shown = Canvas(page, server.url)
    page.goto(server.url)
    ready = "window.LiteGraph?.registered_node_types?.KSampler && window.app?.graph?.nodes.length"
    page.wait_for_function(f"!!({ready})", timeout=120_000)
    page.wait_for_timeout(1000)  # until the start graph is drawn
    yield shown
    page.close()
