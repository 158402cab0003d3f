"""`cones shelf` and the Load node's list over many masks: generates them in a temporary folder, prints JSON.

Masks are as those of SD 1.5 (16 layers, text K+V), 100 to a subfolder, each with words of its own. `first` reads every
header, `later` none. With COMFYUI_PATH, the host's list of that folder: `list_at_start` is its walk over the folder,
which the pack asks for when it is loaded, `list_request` the slowest of ten later requests, as the page makes them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cones_ops.engine.shelf import FILE, read_shelf
from cones_ops.masks.concept_mask import ConceptMask
from cones_ops.masks.mask_file import stable_bytes
from cones_ops.masks.mask_header import key_of, metadata_of
from cones_ops.masks.rice_coding import encode_index

WIDTHS = (320,) * 5 + (640,) * 5 + (1280,) * 6


def write_masks(folder: Path, count: int) -> None:
    """Concept masks with 100 neurons in each weight."""
    shapes = {
        f"input_blocks.{i}.1.transformer_blocks.0.attn2.to_{kind}.weight": (width, 768)
        for i, width in enumerate(WIDTHS)
        for kind in "kv"
    }
    index = {name: torch.arange(0, 10_000, 100) for name in shapes}
    coded = {key_of(name): encode_index(i, shapes[name][0] * 768) for name, i in index.items()}
    for number in range(count):
        mask = ConceptMask(
            index, shapes, f"id{number}", "dog", "own tokens", "0" * 64, {"seed": str(number)}, "8:" + "A" * 2730
        )
        file = folder / f"{number // 100:03}" / f"{number:05}.safetensors"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(stable_bytes(coded, metadata_of(mask, coded)))


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, and what it returns."""
    began = time.perf_counter()
    value = call()
    return round(time.perf_counter() - began, 4), value


def host_list(folder: Path) -> dict[str, float]:
    """Seconds of the list that Load Concept Mask shows, in the ComfyUI of COMFYUI_PATH."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    import folder_paths

    folder_paths.folder_names_and_paths["concept_masks"] = ([str(folder)], {".safetensors"})
    times = [seconds(lambda: folder_paths.get_filename_list("concept_masks"))[0] for _ in range(11)]
    return {"list_at_start": times[0], "list_request": max(times[1:])}


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="masks")
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_masks(folder, count)
        report: dict[str, Any] = {"masks": count}
        for when in ("first", "later"):
            report[when], entries = seconds(lambda: read_shelf(folder))
            assert len(entries) == count
        report["index_bytes"] = (folder / FILE).stat().st_size
        if "COMFYUI_PATH" in os.environ:
            report |= host_list(folder)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
