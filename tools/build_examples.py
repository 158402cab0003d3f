"""Make everything that is generated from the pack's nodes by running a real ComfyUI.

    python tools/build_examples.py [--pictures | --only NUMBER] [PATH OF COMFYUI]

Without a path: the ComfyUI that find_host finds. Writes workflows/*.json, subgraphs/*.json and locales/en. With
--pictures also runs searches for the example masks in concept_masks/, tunes four of them together, and runs the
templates for their thumbnails; minutes for each concept. With --only, the thumbnail of one template.
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
from workflow_graph import Graph  # noqa: E402
from workflow_pieces import MASKS, TOGETHER, ZOOM, encoded, load_masks  # noqa: E402
from workflow_thumbnails import only, thumbnail  # noqa: E402

from cones_ops.laboratory.comfyui.checkout import find_host  # noqa: E402
from cones_ops.laboratory.comfyui.server import Server, started  # noqa: E402
from cones_ops.laboratory.comfyui.workflow import Prompt, to_prompt  # noqa: E402
from cones_ops.laboratory.demo.comfyui import searching_everywhere  # noqa: E402

log = logging.getLogger("cones")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    log.info("wrote %s", path.relative_to(ROOT))


def find_mask(server: Server, object_info: dict[str, Any], name: str) -> None:
    """Run docs/workflows/find-a-concept.json for the subject in a mask's name, and save the mask on the server."""
    workflow = json.loads((ROOT / "docs" / "workflows" / "find-a-concept.json").read_text(encoding="utf-8"))
    prompt = to_prompt(workflow, object_info)
    identifier, _, *everywhere = name.split("-")[1:]
    prompt[only(prompt, "ConesToySubject")]["inputs"]["subject"] = identifier
    prompt[only(prompt, "ConesSaveConceptMask")]["inputs"]["name"] = name
    if everywhere:
        searching_everywhere(prompt)
    run = server.run(prompt, timeout=3600)
    log.info("%s\n%s", name, run.text(only(prompt, "PreviewAny")))


def tuned_together(object_info: dict[str, Any], names: Sequence[str]) -> Prompt:
    """Joint steps on saved masks of toy subjects, with collages of the subjects; the masks are saved again."""
    graph = Graph("tuned together")
    world = graph.add("ConesToyWorld", (0, 0))
    masks, inputs, collages = {}, {}, {}
    for k, (name, mask) in enumerate(zip(names, load_masks(graph, (0, 0), *names), strict=True), start=1):
        subject = {"subject": name.split("-")[1]}
        shown = graph.add("ConesToySubject", (0, 0), **subject, pictures=30, beside=24)
        alone = graph.add("ConesToySubject", (0, 0), **subject, pictures=6, beside=0)
        masks[f"mask_{k}"] = mask[0]
        inputs[f"latents_{k}"] = graph.add("VAEEncode", (0, 0), pixels=shown[0], vae=world[2])[0]
        words = {"mask_1": mask[0], "prompt_per_line": True}
        inputs[f"conditioning_{k}"] = encoded(graph, (0, 0), "", world[1], shown[5], **words)
        collages |= {f"images_{k}": alone[0], f"phrase_{k}": alone[1]}
    laid = graph.add("ConesLayPictures", (0, 0), **collages, zoom=ZOOM)
    inputs["together_latents"] = graph.add("VAEEncode", (0, 0), pixels=laid[0], vae=world[2])[0]
    inputs["together_conditioning"] = encoded(graph, (0, 0), "", world[1], laid[1], **masks, prompt_per_line=True)
    tuned = graph.add("ConesTuneConceptMasks", (0, 0), model=world[0], **masks, **inputs)
    graph.add("PreviewAny", (0, 0), source=tuned[4])
    for k, name in enumerate(names):
        graph.add("ConesSaveConceptMask", (0, 0), concept_mask=tuned[k], name=name, if_exists="overwrite")
    return graph.api(object_info)


def make_masks(server: Server, object_info: dict[str, Any]) -> None:
    """The example masks: each found alone, then four of them tuned together."""
    for name in MASKS:
        find_mask(server, object_info, name)
    prompt = tuned_together(object_info, TOGETHER)
    log.info("%s", server.run(prompt, timeout=3600).text(only(prompt, "PreviewAny")))
    (ROOT / "concept_masks").mkdir(exist_ok=True)
    for name in MASKS:
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
            make_masks(server, object_info)
        if options.pictures or options.only:
            make_pictures(server, object_info, options.only)


if __name__ == "__main__":
    main(sys.argv[1:])
