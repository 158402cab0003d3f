"""A page of the real frontend that tests drive, and its settings. Screenshots go to artifacts/, which git ignores."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).absolute().parents[3]
ARTIFACTS = ROOT / "artifacts"
PACK = "cones-concept-neurons"
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Release.Status": "what's new seen",
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.Persist": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # draw words at any zoom, for the screenshots
}
NEW_USER = {**SETTINGS, "LiteGraph.Canvas.MinFontSizeForLOD": 8}
EXPECTED = ("missing", "user.css", "userdata", "before initialization", "my-subject", "v1-5-pruned", "removeChild")


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

    def ours(self) -> list[str]:
        """Complaints but for the frontend's own: a fresh user folder, files the user is to choose, and (removeChild) a
        text box of the start graph that is drawn while another graph replaces it, seen on a busy machine.
        """
        return [text for text in self.complaints if not any(word in text for word in EXPECTED)]

    def drop_file(self, name: str, content: bytes, kind: str) -> None:
        """Drop a file on the canvas, as a user does."""
        script = """([name, content, kind]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name, { type: kind }));
            document.querySelector("#graph-canvas").dispatchEvent(
                new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: transfer }));
        }"""
        self.evaluate(script, [name, base64.b64encode(content).decode(), kind])

    def wait_for_nodes(self, types: list[str]) -> None:
        """Wait until the canvas has nodes of these types and no other, and is drawn."""
        same = "types => window.app.graph.nodes.map(node => node.type).sort().join() === types"
        self.page.wait_for_function(same, arg=",".join(sorted(types)))
        self.page.wait_for_timeout(1000)

    def drop(self, name: str, workflow: dict[str, Any]) -> None:
        """Drop a workflow file on the canvas and wait until its nodes are there."""
        self.drop_file(name, json.dumps(workflow).encode(), "application/json")
        self.wait_for_nodes([node["type"] for node in workflow["nodes"]])

    def open(self, name: str) -> dict[str, Any]:
        """Drop a workflow of docs/workflows; returns what its file says."""
        workflow = dict(json.loads((ROOT / "docs" / "workflows" / f"{name}.json").read_text(encoding="utf-8")))
        self.drop(f"{name}.json", workflow)
        return workflow

    def open_template(self, name: str) -> dict[str, Any]:
        """Choose a template of the pack in the template browser; returns what its file says."""
        workflow = dict(json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8")))
        self.page.locator(".templates-tab-button").click()
        self.page.get_by_role("button", name=PACK).click()
        card = self.page.get_by_test_id(f"template-workflow-{name}")
        card.scroll_into_view_if_needed(timeout=60_000)
        card.click()
        self.wait_for_nodes([node["type"] for node in workflow["nodes"]])
        return workflow

    def press_run(self) -> None:
        self.page.get_by_role("button", name=re.compile("^Run")).first.click()

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

    def cut_off_notes(self) -> list[str]:
        """Titles of notes whose text is taller than its box (its own scroll bar hides the rest)."""
        script = """() => window.app.graph.nodes.filter(node => node.type === "MarkdownNote").filter(node => {
            const box = node.widgets[0].element?.querySelector(".tiptap, .ProseMirror") ?? node.widgets[0].element;
            return !box || box.scrollHeight > box.clientHeight + 4;
        }).map(node => node.title)"""
        return list(self.evaluate(script))

    def watch_nodes(self) -> None:
        """Keep what every drawn frame shows of nodes at work, in `window.seen`: bar, and width of the preview."""
        script = """() => {
            window.seen = [];
            const look = () => {
                for (const node of window.app.graph.nodes) {
                    const urls = window.app.nodePreviewImages[node.id];
                    const preview = urls ? (node.imgs?.[0]?.naturalWidth ?? 0) : 0;
                    if (node.progress !== undefined || preview)
                        window.seen.push({ type: node.type, id: node.id, progress: node.progress ?? null, preview });
                }
                requestAnimationFrame(look);
            };
            look();
        }"""
        self.evaluate(script)

    def progress_of(self, node_type: str) -> list[float]:
        """The different positions of the bar of a type's first node at work, in order."""
        seen = [look for look in self.evaluate("window.seen") if look["type"] == node_type]
        bars = [look["progress"] for look in seen if look["id"] == seen[0]["id"] and look["progress"] is not None]
        return [bar for bar, before in zip(bars, [None, *bars], strict=False) if bar != before]

    def add_node(self, node_type: str) -> None:
        self.evaluate("type => { window.app.graph.add(LiteGraph.createNode(type)); }", node_type)

    def select(self, node_type: str) -> None:
        """Select the first node of a type, and bring it into view."""
        script = """type => {
            const node = window.app.graph.nodes.find(node => node.type === type);
            window.app.canvas.ds.scale = 1;
            window.app.canvas.ds.offset[0] = 500 - node.pos[0];
            window.app.canvas.ds.offset[1] = 300 - node.pos[1];
            window.app.canvas.deselectAll();
            window.app.canvas.selectNode(node);
            window.app.canvas.setDirty(true, true);
        }"""
        self.evaluate(script, node_type)

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

    def kept(self) -> dict[str, Any]:
        """What a file keeps of the graph: types, titles and widget values by node, and links to inputs by name."""
        script = """() => {
            const saved = window.app.graph.serialize();
            const nodes = saved.nodes.map(node => [node.id, [node.type, node.title, node.widgets_values ?? []]]);
            const inputs = Object.fromEntries(saved.nodes.map(node => [node.id, node.inputs]));
            const links = saved.links.map(
                ([, from, slot, to, input, type]) => [from, slot, to, inputs[to][input].name, type]);
            return { nodes: Object.fromEntries(nodes), links };
        }"""
        kept = dict(self.evaluate(script))
        return {**kept, "links": sorted(kept["links"])}

    def prompt(self) -> dict[str, Any]:
        """The API form the frontend itself makes of the canvas."""
        return dict(self.evaluate("window.app.graphToPrompt().then(both => both.output)"))

    def screenshot(self, name: str) -> Path:
        ARTIFACTS.mkdir(exist_ok=True)
        path = ARTIFACTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path
