"""Make everything that is generated from the pack's nodes by running a real ComfyUI.

    python tools/build_examples.py [--pictures | --only NAME] [PATH OF COMFYUI]

Without a path: the ComfyUI that find_host finds. Writes workflows/*.json and locales/en. With --pictures also runs
the toy workflows as they are shipped: the searches give the example masks in concept_masks/, the pictures that come out
give the thumbnails. Minutes per concept. With --only, one workflow instead of all, by its name.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

ROOT = Path(__file__).absolute().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT)]

import build_locales  # noqa: E402 - found through the line above
import build_workflows  # noqa: E402

from cones_ops.laboratory.comfyui.checkout import find_host  # noqa: E402
from cones_ops.laboratory.comfyui.server import PromptRun, Server, started  # noqa: E402
from cones_ops.laboratory.comfyui.workflow import Prompt  # noqa: E402
from cones_ops.laboratory.demo.comfyui import searching_everywhere  # noqa: E402

log = logging.getLogger("cones")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    log.info("wrote %s", path.relative_to(ROOT))


def nodes_of(prompt: Prompt, class_type: str) -> list[str]:
    """The ids of the nodes of a type."""
    return [node_id for node_id, node in prompt.items() if node["class_type"] == class_type]


def only(prompt: Prompt, class_type: str) -> str:
    """The id of the only node of a type."""
    (node_id,) = nodes_of(prompt, class_type)
    return node_id


def find_mask(server: Server, object_info: dict[str, Any], name: str) -> tuple[PromptRun, Prompt]:
    """Run find-a-concept for the subject in a mask's name; the mask becomes an example of the pack."""
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


def save_sheet(
    path: Path, rows: Sequence[Sequence[np.ndarray]], side: int = 128, filter: int = Image.Resampling.NEAREST
) -> None:
    """Rows of pictures, each fitted into a white square, as one JPEG."""
    sheet = Image.new("RGB", (side * max(len(row) for row in rows), side * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(ImageOps.pad(Image.fromarray(picture), (side, side), filter, "white"), (side * x, side * y))
    sheet.save(path, quality=75, optimize=True)
    log.info("wrote %s", path.relative_to(ROOT))


def thumbnail(run: PromptRun, prompt: Prompt) -> list[list[np.ndarray]]:
    """Rows of pictures: what the run learned from, if the workflow shows it, then without and with the concepts."""
    *references, without = nodes_of(prompt, "PreviewImage") or [None]
    rows = [run.images(node_id)[:4] for node_id in references[:1]]
    shown = [*([without] if without else []), *nodes_of(prompt, "SaveImage")]
    return rows + [run.images(node_id) for node_id in shown]


def make_pictures(server: Server, object_info: dict[str, Any], wanted: str) -> None:
    """The example masks and the thumbnails of the toy workflows, or only those of the wanted workflow."""
    finding = build_workflows.find_a_concept()
    if wanted in ("", finding.name):
        runs = [find_mask(server, object_info, name) for name in build_workflows.MASKS]
        save_sheet(ROOT / "workflows" / f"{finding.name}.jpg", thumbnail(*runs[0]))
    for make in build_workflows.WITH_MASKS:
        graph = make()
        if wanted in ("", graph.name):
            prompt = graph.api(object_info)
            run = server.run(prompt, timeout=3600)
            for node_id in nodes_of(prompt, "PreviewAny"):
                log.info("%s\n%s", graph.name, run.text(node_id))
            path = ROOT / "workflows" / f"{graph.name}.jpg"
            if figures := nodes_of(prompt, "ConesInspectConceptMask"):
                row = [run.image(figures[0]), run.image(only(prompt, "SaveImage"))]
                save_sheet(path, [row], 360, Image.Resampling.LANCZOS)
            elif taught := nodes_of(prompt, "ConesTeachConcept"):
                save_sheet(path, [[run.image(taught[0])]], 480, Image.Resampling.LANCZOS)
            else:
                save_sheet(path, thumbnail(run, prompt))


def main(arguments: Sequence[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    toys = (build_workflows.find_a_concept, *build_workflows.WITH_MASKS)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("host", nargs="?", help="the ComfyUI checkout")
    parser.add_argument("--pictures", action="store_true", help="also the example masks and all thumbnails")
    parser.add_argument(
        "--only", default="", choices=[make().name for make in toys], help="also the thumbnail of this workflow"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as base, started(find_host(options.host), Path(base)) as server:
        object_info = server.object_info()
        for path, text in build_workflows.files(object_info).items():
            write(path, text)
        write(ROOT / "locales" / "en" / "nodeDefs.json", build_locales.dumped(build_locales.locale(object_info)))
        if options.pictures or options.only:
            make_pictures(server, object_info, options.only)


if __name__ == "__main__":
    main(sys.argv[1:])
