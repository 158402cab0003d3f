"""Make README's pictures: docs/before-after.webp by the shipped model, docs/screenshot.webp by the real frontend.

    python tools/build_readme_pictures.py [--only before-after|screenshot] [PATH OF COMFYUI]

The screenshot shows the first example workflow with Prompt with Concepts after a run, and needs a ComfyUI server and a
headless Chromium, as build_help_pictures.py does.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from pathlib import Path

import numpy as np
from build_help_pictures import ROOT, opened
from PIL import Image

from cones_ops.hosts.diffusers.pictures import pixels_of
from cones_ops.hosts.diffusers.pipeline import sample
from cones_ops.laboratory.comfyui.checkout import find_host
from cones_ops.laboratory.comfyui.server import started
from cones_ops.laboratory.stable_diffusion import toy_pipeline
from cones_ops.masks.mask_file import load_mask
from cones_ops.reports.figures import labelled_grid
from cones_ops.toy_world.subjects import subject_named

SIDE, SEED = 256, 0
BACKGROUND = " in the snow"
SETTINGS = {"num_inference_steps": 20, "guidance_scale": 3.0}
SCREEN, SAVED = (1920, 1020), (1280, 680)
QUIET = {"Comfy.Graph.CanvasInfo": False}  # no frame rate on the canvas


def before_after(file: Path) -> None:
    """A reference picture, and the same prompts and noise before and after, each SIDE pixels wide."""
    pipeline = toy_pipeline()
    mask = load_mask(ROOT / "concept_masks" / "toy-sks-cat.safetensors")
    drawn, texts = subject_named("sks").reference_pictures(6)
    place = next(k for k, text in enumerate(texts) if text.endswith(BACKGROUND))
    pictures = [Image.fromarray(pixels_of(drawn[place]))]
    labels = ["what pictures showed"]
    before, after, other = ("a sks cat", 0, "before"), ("a sks cat", 1, "after"), ("a cat", 1, "unchanged")
    for prompt, strength, label in (before, after, other):
        pictures += sample(pipeline, [prompt + BACKGROUND], [(mask, strength)], seed=SEED, **SETTINGS)
        labels.append(f'"{prompt}", {label}')
    large = [np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for picture in pictures]
    Image.fromarray(labelled_grid(large, labels, columns=4, side=SIDE)).save(file, quality=90)


def screenshot(file: Path, comfyui: str | None) -> None:
    """The frontend with a graph that has run."""
    files = sorted((ROOT / "workflows").glob("*.json"))
    workflow = next(path for path in files if "ConesPromptWithConcepts" in path.read_text(encoding="utf-8"))
    with (
        tempfile.TemporaryDirectory() as base,
        started(find_host(comfyui), Path(base)) as server,
        opened(server, QUIET) as canvas,
    ):
        canvas.page.set_viewport_size(dict(zip(("width", "height"), SCREEN, strict=True)))
        canvas.drop(workflow.name, json.loads(workflow.read_text(encoding="utf-8")))
        canvas.press_run()
        shown = "() => Object.values(window.app.nodeOutputs).some(output => output.images?.length)"
        canvas.page.wait_for_function(shown, timeout=300_000)
        canvas.page.wait_for_timeout(4000)
        canvas.fit()
        canvas.page.wait_for_timeout(1500)
        picture = Image.open(io.BytesIO(canvas.page.screenshot()))
    picture.convert("RGB").resize(SAVED, Image.Resampling.LANCZOS).save(file, quality=85)


def main() -> None:
    """Make what is asked for, or both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("before-after", "screenshot"))
    parser.add_argument("comfyui", nargs="?")
    options = parser.parse_args()
    if options.only != "screenshot":
        before_after(ROOT / "docs" / "before-after.webp")
    if options.only != "before-after":
        screenshot(ROOT / "docs" / "screenshot.webp", options.comfyui)


if __name__ == "__main__":
    main()
