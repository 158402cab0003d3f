"""Make everything that is generated from the pack's nodes by running a real ComfyUI.

    python tools/build_examples.py [--pictures] [PATH OF COMFYUI]     (default: COMFYUI_PATH, else ~/comfy/ComfyUI)

Writes workflows/*.json and locales/en. With --pictures also runs the toy workflows as they are shipped: the searches
give the example masks in concept_masks/, the pictures that come out give the thumbnails. Minutes per concept.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).absolute().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "comfyui")]

import build_locales  # noqa: E402 - found through the line above
import build_workflows  # noqa: E402
from server import Run, Server, started  # noqa: E402

from cones_ops.toy_world.demo_comfyui import searching_everywhere  # noqa: E402

log = logging.getLogger("cones")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    log.info("wrote %s", path.relative_to(ROOT))


def only(prompt: dict[str, dict[str, Any]], class_type: str) -> str:
    (node_id,) = [node_id for node_id, node in prompt.items() if node["class_type"] == class_type]
    return node_id


def find_mask(server: Server, object_info: dict[str, Any], name: str) -> tuple[Run, dict[str, dict[str, Any]]]:
    """Run find-a-concept for the subject that a mask's name tells; the mask becomes an example of the pack."""
    prompt = build_workflows.find_a_concept().api(object_info)
    identifier, class_word, *everywhere = name.split("-")[1:]
    prompt[only(prompt, "ConesToySubject")]["inputs"]["subject"] = identifier
    prompt[only(prompt, "ConesSaveConceptMask")]["inputs"]["name"] = name
    if everywhere:
        searching_everywhere(prompt)
    for node in prompt.values():
        if node["class_type"] == "ConesEncodePrompt" and isinstance(node["inputs"]["text"], str):
            text = node["inputs"]["text"]
            node["inputs"]["text"] = text.replace("a sks star", f"a {identifier} {class_word}")
    run = server.run(prompt, timeout=3600)
    log.info("%s\n%s", name, run.text(only(prompt, "PreviewAny")))
    (ROOT / "concept_masks").mkdir(exist_ok=True)
    shutil.copy(server.base / "models" / "concept_masks" / f"{name}.safetensors", ROOT / "concept_masks")
    return run, prompt


def without_and_with(run: Run, prompt: dict[str, dict[str, Any]]) -> list[list[np.ndarray]]:
    """Rows of pictures: the last previews (without concepts), the saved ones (with)."""
    previews = [node_id for node_id, node in prompt.items() if node["class_type"] == "PreviewImage"]
    saved = [node_id for node_id, node in prompt.items() if node["class_type"] == "SaveImage"]
    return [run.images(node_id) for node_id in (previews[-1], *saved)]


def save_thumbnail(path: Path, rows: Sequence[Sequence[np.ndarray]], side: int = 128) -> None:
    """Rows of square pictures as one JPEG."""
    sheet = Image.new("RGB", (side * max(len(row) for row in rows), side * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST), (side * x, side * y))
    sheet.save(path, quality=90)
    log.info("wrote %s", path.relative_to(ROOT))


def make_pictures(server: Server, object_info: dict[str, Any]) -> None:
    """The example masks and the thumbnails of the toy workflows."""
    found = [find_mask(server, object_info, name) for name in build_workflows.MASKS]
    run, prompt = found[0]
    subject = next(node_id for node_id, node in prompt.items() if node["class_type"] == "PreviewImage")
    rows = [run.images(subject)[:4], *without_and_with(run, prompt)]
    save_thumbnail(ROOT / "workflows" / "find-a-concept.jpg", rows)
    for graph in (build_workflows.compose_two_concepts(), build_workflows.compare_where_masks_act()):
        prompt = graph.api(object_info)
        run = server.run(prompt, timeout=600)
        save_thumbnail(ROOT / "workflows" / f"{graph.name}.jpg", without_and_with(run, prompt))


def main(arguments: Sequence[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    paths = [argument for argument in arguments if argument != "--pictures"]
    named = paths[0] if paths else os.environ.get("COMFYUI_PATH", "~/comfy/ComfyUI")
    with tempfile.TemporaryDirectory() as base, started(Path(named).expanduser(), ROOT, Path(base)) as server:
        object_info = server.object_info()
        for path, text in build_workflows.files(object_info).items():
            write(path, text)
        write(ROOT / "locales" / "en" / "nodeDefs.json", build_locales.dumped(build_locales.locale(object_info)))
        if "--pictures" in arguments:
            make_pictures(server, object_info)


if __name__ == "__main__":
    main(sys.argv[1:])
