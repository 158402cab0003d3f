"""Make the pictures of the in-app help: every node as the real frontend draws it, in web/docs/<NodeId>/node.png.

    python tools/build_help_pictures.py [--only NODE ID ...] [PATH OF COMFYUI]

Starts a ComfyUI server and a headless Chromium, opens a workflow of docs/workflows in which
the node is used, or a small graph around it, and cuts the node out. Nodes that show a figure and need no model are run
first. Needs pytest, Playwright, Pillow, and a chromium or google-chrome on PATH.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).absolute().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "support" / "browser"), str(ROOT / "tools"), str(ROOT)]

from canvas import FLAGS, SETTINGS, Canvas  # noqa: E402 - tests/support/browser, found through the line above
from workflow_graph import Graph  # noqa: E402
from workflow_pieces import MASKS, load_masks  # noqa: E402

from cones_ops.laboratory.comfyui.checkout import find_host  # noqa: E402
from cones_ops.laboratory.comfyui.server import Server, started  # noqa: E402

log = logging.getLogger("cones")

SCALE, MARGIN, TITLE = 1.5, 9, 30  # pixels: a node unit on the screen, beside the node, its title bar in node units
COLOURS = 64  # of a picture
NO_FRILLS = {
    "Comfy.Minimap.Visible": False,
    "Comfy.Canvas.SelectionToolbox": False,
    "Comfy.NodeBadge.NodeIdBadgeMode": "None",
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "Comfy.NodeBadge.NodeLifeCycleBadgeMode": "None",
}
RUN = ("ConesInspectConceptMask", "ConesCompareConceptMasks")  # they show a figure, and need no model for it
EXAMPLES = {
    "find-a-concept": ("ConesFindConceptNeurons", "ConesSaveConceptMask", "ConesToyWorld", "ConesToySubject"),
    "compose-two-concepts": ("ConesEncodePrompt", "ConesApplyConceptMasks", "ConesLoadConceptMask"),
    "tune-two-concepts": ("ConesTuneConceptMasks", "ConesLayPictures"),
    "inspect-and-compare": (*RUN, "ConesSplitConceptMask", "ConesLabelPictures"),
}
SMALL = (
    *("ConesCombineConceptMasks", "ConesExportAsLora", "ConesConceptMaskHook", "ConesPromptWithConcepts"),
    *("ConesKeepApart", "ConesSeeConcepts", "ConesTeachConcept"),
)


def small_graph(node_id: str) -> Graph:
    """A node that no example workflow has, with what it needs at its left."""
    graph = Graph(node_id)
    first, second = load_masks(graph, (0, 0), MASKS[0], MASKS[-1])
    world = graph.add("ConesToyWorld", (0, 400))
    inputs = {
        "ConesCombineConceptMasks": {"mask_1": first[0], "mask_2": second[0]},
        "ConesExportAsLora": {"model": world[0], "concept_mask": second[0]},
        "ConesConceptMaskHook": {"mask": second[0]},
        "ConesTeachConcept": {"model": world[0], "clip": world[1], "vae": world[2]},
        "ConesPromptWithConcepts": {
            "model": world[0],
            "clip": world[1],
            "text": "a <concept:rex> next to a <concept:tom:0.8>",
        },
        "ConesKeepApart": {"model": world[0], "things": "mug, paper"},
        "ConesSeeConcepts": {"model": world[0], "concept": "sks cat"},
    }
    graph.add(node_id, (420, 0), **inputs[node_id])
    return graph


def views(object_info: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], Sequence[str]]]:
    """(name, workflow file, ids of the nodes to cut out of it)."""
    for name, nodes in EXAMPLES.items():
        yield name, json.loads((ROOT / "docs" / "workflows" / f"{name}.json").read_text(encoding="utf-8")), nodes
    for node_id in SMALL:
        yield node_id, small_graph(node_id).workflow(object_info), (node_id,)


@contextmanager
def opened(server: Server, settings: dict[str, Any] | None = None) -> Iterator[Canvas]:
    """The frontend of a server with these settings, loaded and idle; requests to other machines are refused."""
    from playwright.sync_api import sync_playwright

    server.request("/settings", {**SETTINGS, **NO_FRILLS, **(settings or {})})
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1800})
        page.route(lambda url: not url.startswith((server.url, "data:", "blob:")), lambda route: route.abort())
        canvas = Canvas(page, server.url)
        page.goto(server.url)
        ready = "!!(window.LiteGraph?.registered_node_types?.KSampler && window.app?.graph?.nodes.length)"
        page.wait_for_function(ready, timeout=120_000)
        page.wait_for_timeout(1000)
        yield canvas
        browser.close()


def run(canvas: Canvas, node_id: str) -> None:
    """Run what the first node of a type needs, and nothing else, until it shows its figure."""
    number = canvas.evaluate(
        "async type => { const node = window.app.graph.nodes.find(node => node.type === type);"
        " await window.app.queuePrompt(0, 1, [String(node.id)]); return node.id; }",
        node_id,
    )
    shown = "id => window.app.nodeOutputs[id]?.images?.length"
    canvas.page.wait_for_function(shown, arg=number, timeout=120_000)
    canvas.page.wait_for_timeout(1500)


def cut_out(canvas: Canvas, node_id: str) -> bytes:
    """A PNG of the first node of a type, at SCALE: by itself, without links, as low as it can be without its figure."""
    script = """([type, whole, scale, title]) => {
        const canvas = window.app.canvas, node = window.app.graph.nodes.find(node => node.type === type);
        node.title = node.constructor.title;
        node.pos = [20000, 3000 * node.id];  // away from all others
        if (!whole) node.setSize([node.size[0], node.computeSize()[1]]);
        canvas.links_render_mode = LiteGraph.HIDDEN_LINK;
        canvas.deselectAll();
        canvas.ds.scale = scale;
        canvas.ds.offset[0] = 300 / scale - node.pos[0];
        canvas.ds.offset[1] = 150 / scale - node.pos[1];
        canvas.setDirty(true, true);
        const at = canvas.canvas.getBoundingClientRect();
        return [at.left + 300, at.top + 150 - title * scale, node.size[0] * scale, (node.size[1] + title) * scale];
    }"""
    left, top, width, height = canvas.evaluate(script, [node_id, node_id in RUN, SCALE, TITLE])
    canvas.page.mouse.move(5, 5)
    canvas.page.wait_for_timeout(800)
    clip = {"x": left - MARGIN, "y": top - MARGIN, "width": width + 2 * MARGIN, "height": height + 2 * MARGIN}
    return bytes(canvas.page.screenshot(clip=clip))


def save(picture: bytes, path: Path) -> None:
    """As PNG of few colours: every user downloads it with the package."""
    path.parent.mkdir(exist_ok=True)
    shown = Image.open(io.BytesIO(picture)).convert("RGB")
    shown.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    log.info("wrote %s, %d bytes", path.relative_to(ROOT), path.stat().st_size)


def main(arguments: Sequence[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    every = sorted([*SMALL, *(node_id for nodes in EXAMPLES.values() for node_id in nodes)])
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("host", nargs="?", help="the ComfyUI checkout")
    parser.add_argument("--only", nargs="+", default=every, choices=every, metavar="NODE ID", help="these nodes only")
    wanted = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as base,
        started(find_host(wanted.host), Path(base)) as server,
        opened(server) as canvas,
    ):
        for name, workflow, nodes in views(server.object_info()):
            if asked := [node_id for node_id in nodes if node_id in wanted.only]:
                canvas.drop(f"{name}.json", workflow)
            for node_id in asked:
                if node_id in RUN:
                    run(canvas, node_id)
                save(cut_out(canvas, node_id), ROOT / "web" / "docs" / node_id / "node.png")


if __name__ == "__main__":
    main(sys.argv[1:])
