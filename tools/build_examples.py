"""Make everything that is generated from the pack's nodes by running a real ComfyUI.

    python tools/build_examples.py [--pictures | --only NUMBER] [PATH OF COMFYUI]

Without a path: the ComfyUI that find_host finds. Writes workflows/*.json, subgraphs/*.json and locales/en. With
--pictures also runs searches for the example masks in concept_masks/, and the templates for their thumbnails; minutes
for each concept. With --only, the thumbnail of one template.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).absolute().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT)]

import build_locales  # noqa: E402 - found through the line above
import build_workflows  # noqa: E402
from workflow_thumbnails import only, thumbnail  # noqa: E402

from cones_ops.laboratory.comfyui.checkout import find_host  # noqa: E402
from cones_ops.laboratory.comfyui.server import Server, started  # noqa: E402
from cones_ops.laboratory.comfyui.workflow import to_prompt  # noqa: E402
from cones_ops.laboratory.demo.comfyui import searching_everywhere  # noqa: E402

log = logging.getLogger("cones")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    log.info("wrote %s", path.relative_to(ROOT))


def find_mask(server: Server, object_info: dict[str, Any], name: str) -> None:
    """Run docs/workflows/find-a-concept.json for the subject in a mask's name; the mask becomes an example."""
    workflow = json.loads((ROOT / "docs" / "workflows" / "find-a-concept.json").read_text(encoding="utf-8"))
    prompt = to_prompt(workflow, object_info)
    identifier, _, *everywhere = name.split("-")[1:]
    prompt[only(prompt, "ConesToySubject")]["inputs"]["subject"] = identifier
    prompt[only(prompt, "ConesSaveConceptMask")]["inputs"]["name"] = name
    if everywhere:
        searching_everywhere(prompt)
    run = server.run(prompt, timeout=3600)
    log.info("%s\n%s", name, run.text(only(prompt, "PreviewAny")))
    (ROOT / "concept_masks").mkdir(exist_ok=True)
    shutil.copy(server.base / "models" / "concept_masks" / f"{name}.safetensors", ROOT / "concept_masks")


def make_pictures(server: Server, object_info: dict[str, Any], wanted: str) -> None:
    """The thumbnails of the templates whose name begins with `wanted`."""
    for graph in (make() for make in build_workflows.WORKFLOWS):
        if graph.name.startswith(wanted):
            path = ROOT / "workflows" / f"{graph.name}.jpg"
            Image.fromarray(thumbnail(server, object_info, graph)).save(path, quality=75, optimize=True)
            log.info("wrote %s", path.relative_to(ROOT))


def main(arguments: Sequence[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("host", nargs="?", help="the ComfyUI checkout")
    parser.add_argument("--pictures", action="store_true", help="also the example masks and all thumbnails")
    parser.add_argument("--only", default="", metavar="NUMBER", help="also the thumbnail of this template")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as base, started(find_host(options.host), Path(base)) as server:
        object_info = server.object_info()
        for path, text in build_workflows.files(object_info).items():
            write(path, text)
        write(ROOT / "locales" / "en" / "nodeDefs.json", build_locales.dumped(build_locales.locale(object_info)))
        if options.pictures:
            for name in build_workflows.MASKS:
                find_mask(server, object_info, name)
        if options.pictures or options.only:
            make_pictures(server, object_info, options.only)


if __name__ == "__main__":
    main(sys.argv[1:])
