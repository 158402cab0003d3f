"""Make the thumbnail of find-a-concept-sd15, which cannot run here: the graph itself, with pictures of a toy subject.

    python tools/build_sd15_thumbnail.py [PATH OF COMFYUI]

Starts a ComfyUI server and a headless Chromium, as build_help_pictures.py does.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import tempfile
from pathlib import Path

from build_help_pictures import ROOT, opened
from PIL import Image

from cones_ops.laboratory.comfyui.checkout import find_host
from cones_ops.laboratory.comfyui.server import started
from cones_ops.toy_world.subjects import subject_named

NAME = "find-a-concept-sd15"
LEFT, TOP, WIDTH, HEIGHT = -20, 540, 1680, 1024  # the part of the graph that tells what it does, in node units
SIZE = (640, 390)


def main(arguments: list[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    workflow = json.loads((ROOT / "workflows" / f"{NAME}.json").read_text(encoding="utf-8"))
    files = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "LoadImage"]
    pictures, _ = subject_named("sks").reference_pictures(len(files))
    with tempfile.TemporaryDirectory() as base:
        folder, checkpoints = Path(base) / "input", Path(base) / "models" / "checkpoints"
        folder.mkdir()
        checkpoints.mkdir(parents=True)
        for node in workflow["nodes"]:
            if node["type"] == "CheckpointLoaderSimple":
                (checkpoints / node["widgets_values"][0]).touch()  # only its name is looked at
        for file, picture in zip(files, pictures, strict=True):
            pixels = (255 * picture.transpose(1, 2, 0)).round().astype("uint8")
            Image.fromarray(pixels).resize((256, 256), Image.Resampling.NEAREST).save(folder / file)
        with started(find_host(*arguments[:1]), Path(base)) as server, opened(server) as canvas:
            canvas.drop(f"{NAME}.json", workflow)
            script = """([left, top, width]) => {
                const canvas = window.app.canvas, at = canvas.canvas.getBoundingClientRect();
                canvas.deselectAll();
                canvas.ds.scale = 1400 / width;
                canvas.ds.offset[0] = 150 / canvas.ds.scale - left;
                canvas.ds.offset[1] = 300 / canvas.ds.scale - top;
                canvas.setDirty(true, true);
                return [at.left + 150, at.top + 300];
            }"""
            left, top = canvas.evaluate(script, [LEFT, TOP, WIDTH])
            canvas.page.mouse.move(5, 5)
            canvas.page.wait_for_timeout(1500)
            clip = {"x": left, "y": top, "width": 1400, "height": 1400 * HEIGHT / WIDTH}
            shown = Image.open(io.BytesIO(canvas.page.screenshot(clip=clip))).convert("RGB")
    path = ROOT / "workflows" / f"{NAME}.jpg"
    shown.resize(SIZE, Image.Resampling.LANCZOS).save(path, quality=75, optimize=True)
    logging.getLogger("cones").info("wrote %s", path.relative_to(ROOT))


if __name__ == "__main__":
    main(sys.argv[1:])
