"""What concept mask files cost: bytes against the entropy bound log2 C(entries, neurons) / 8, and seconds, as JSON.

    OMP_NUM_THREADS=1 python benchmarks/files.py [--repetitions 5] [--only bytes|seconds]

Masks are random: every entry is a neuron with the same chance, in the text K and V of Stable Diffusion 1.5 (32 weights,
19.2 million entries) or SDXL (140 weights, 341 million entries), with the names those weights have in ComfyUI. Real
masks cluster by weight and row and take less. Nothing but the library is needed, no model and no ComfyUI.
`index` is the coded positions alone, `file` the whole file, its header and the shapes of all weights included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cones_ops import ConceptMask, load_mask, save_mask
from cones_ops.masks.fingerprint import sketch
from cones_ops.masks.rice_coding import entropy_bytes

Shapes = dict[str, tuple[int, ...]]
DENSITIES = (0.001, 0.01, 0.05, 0.2)
SD15_BLOCKS = {  # (width, transformer blocks in each): blocks
    (320, 1): ("input_blocks.1", "input_blocks.2", "output_blocks.9", "output_blocks.10", "output_blocks.11"),
    (640, 1): ("input_blocks.4", "input_blocks.5", "output_blocks.6", "output_blocks.7", "output_blocks.8"),
    (1280, 1): ("input_blocks.7", "input_blocks.8", "middle_block", *(f"output_blocks.{n}" for n in (3, 4, 5))),
}
SDXL_BLOCKS = {
    (640, 2): ("input_blocks.4", "input_blocks.5", "output_blocks.3", "output_blocks.4", "output_blocks.5"),
    (1280, 10): ("input_blocks.7", "input_blocks.8", "middle_block", *(f"output_blocks.{n}" for n in (0, 1, 2))),
}


def text_kv(blocks: dict[tuple[int, int], tuple[str, ...]], text_width: int) -> Shapes:
    """Name -> shape of the text K and V in these blocks."""
    return {
        f"{block}.1.transformer_blocks.{k}.attn2.to_{kind}.weight": (width, text_width)
        for (width, depth), names in blocks.items()
        for block in names
        for k in range(depth)
        for kind in "kv"
    }


SD15_KV, SDXL_KV = text_kv(SD15_BLOCKS, 768), text_kv(SDXL_BLOCKS, 2048)


def random_mask(shapes: Shapes, density: float, seed: int = 0) -> ConceptMask:
    """A mask that has every entry with the chance `density`, with provenance and a sketch as a search writes them."""
    rng = np.random.default_rng(seed)
    chosen = {name: rng.random(prod(shape), dtype=np.float32) < density for name, shape in shapes.items()}
    index = {name: torch.from_numpy(np.flatnonzero(entries)) for name, entries in chosen.items()}
    provenance = {
        "method": "learned",
        "architecture": "stable-diffusion-v1",
        "seed": "0",
        "steps": "150",
        "rank": "uniform",
    }
    base = sketch({name: torch.randn(1000) for name in shapes})
    return ConceptMask(index, shapes, "sks", "cat", "own tokens", "0" * 64, provenance, base)


def sizes(mask: ConceptMask, folder: Path) -> dict[str, float]:
    """Bytes of the mask, saved in `folder`, as they are and over the entropy bound."""
    path = save_mask(mask, folder / "mask.safetensors", "overwrite")
    index = sum(coded.numel() for coded in load_file(path).values())
    bound, whole = entropy_bytes(mask.size, mask.count), path.stat().st_size
    return {
        "index": round(index / bound, 4),
        "file": round(whole / bound, 4),
        "index_bytes": index,
        "file_bytes": whole,
        "bound_bytes": round(bound),
        "neurons": mask.count,
    }


def load_seconds(shapes: Shapes, neurons: int, folder: Path, repetitions: int = 5) -> dict[str, float]:
    """Seconds that `load_mask` takes for about `neurons` neurons spread over `shapes`, the file in the disk's cache."""
    mask = random_mask(shapes, neurons / sum(prod(shape) for shape in shapes.values()))
    path = save_mask(mask, folder / "mask.safetensors", "overwrite")
    return {"neurons": mask.count, **timed(lambda: load_mask(path), repetitions)}


def timed(action: Callable[[], object], repetitions: int) -> dict[str, float]:
    """Least, median and most seconds, after one call that does not count; `cpu_median` leaves waiting out."""
    action()
    samples = []
    for _ in range(repetitions):
        began, used = time.perf_counter(), time.process_time()
        action()
        samples.append((time.perf_counter() - began, time.process_time() - used))
    seconds, processor = zip(*samples, strict=True)
    return {
        "min": min(seconds),
        "median": statistics.median(seconds),
        "max": max(seconds),
        "cpu_median": statistics.median(processor),
        "repetitions": repetitions,
    }


def report(folder: Path, repetitions: int = 5, only: str | None = None) -> dict[str, Any]:
    """All figures of this benchmark; `only` "bytes" or "seconds"."""
    figures: dict[str, Any] = {}
    if only != "seconds":
        by_density = {str(density): sizes(random_mask(SD15_KV, density), folder) for density in DENSITIES}
        figures["file_over_entropy"] = by_density
        figures["file_over_entropy_sdxl"] = {"0.01": sizes(random_mask(SDXL_KV, 0.01), folder)}
        figures["file_bytes_sd15_kv_1pct"] = by_density["0.01"]["file_bytes"]
    if only != "bytes":
        figures["load_1m_neurons_seconds"] = load_seconds(SD15_KV, 1_000_000, folder, repetitions)
        figures["load_20m_neurons_seconds"] = load_seconds(SDXL_KV, 20_000_000, folder, repetitions)
    return figures | {"threads": torch.get_num_threads()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5, help="how often each timed thing is done")
    parser.add_argument("--only", choices=("bytes", "seconds"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(report(Path(folder), options.repetitions, options.only), indent=1))


if __name__ == "__main__":
    main()
