"""How fast the pack is, against the host's own ways: searching, sampling, applying and files, as JSON.

    cones bench speed [--quick] [--pairs 5] [--json FILE]     (or python benchmarks/speed.py)

Needs a ComfyUI (COMFYUI_PATH, or ~/comfy/ComfyUI) and its requirements, and 16 GB of memory. One UNet of the host's own
class in the size of Stable Diffusion 1.5, random weights, fp32, 32x32 latents, on the CPU; with --gpu on the GPU, bf16,
64x64, all weights loaded. Everything is measured pair by pair in this one process; each ratio is the min, median
and max of its pairs. The table has the goals.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from speed_model import SD15, TINY, load_pack, unet_model

GOALS = {
    "search_step_over_forward": (0.0, 2.1),
    "search_step_over_full_backward": (0.0, 0.60),
    "search_step_over_native_lora_step": (0.0, 0.80),
    "saved_bytes_over_native": (0.0, 0.60),
    "checkpointed_saved_bytes_over_native": (0.0, 0.15),
    "checkpointed_step_over_plain": (0.0, 1.6),
    "sampling_ratio_1_mask": (0.98, 1.02),
    "sampling_ratio_8_masks": (0.98, 1.02),
    "own_tokens_sampling_ratio_4_masks": (0.98, 1.02),
    "apply_8_masks_over_lora": (0.0, 1.2),
    "apply_64_masks_over_lora": (0.0, 4.0),
}  # for the median


def files() -> dict[str, Any]:
    """The figures of mask files, which are for one thread and so need a process of their own."""
    benchmark = Path(__file__).with_name("files.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(benchmark.parents[1])}
    ran = subprocess.run([sys.executable, str(benchmark)], env=environment, capture_output=True, check=True, text=True)
    figures: dict[str, Any] = json.loads(ran.stdout)
    figures["files_threads"] = figures.pop("threads")
    return figures


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, or the parts that were asked for."""
    import speed_apply
    import speed_sampling
    import speed_search

    side = 8 if options.quick else 64 if options.gpu else 32
    model = unet_model(TINY if options.quick else SD15, torch.bfloat16 if options.gpu else torch.float32)
    pairs, apply_pairs, sampling_pairs = (
        (2, 2, 2) if options.quick else (options.pairs, 3 * options.pairs, 6 * options.pairs)
    )
    parts = {
        "search": lambda: speed_search.measured(model, side, pairs),
        "sampling": lambda: speed_sampling.measured(model, side, sampling_pairs),
        "apply": lambda: speed_apply.measured(model, apply_pairs),
        "files": lambda: {} if options.quick else files(),
    }
    report: dict[str, Any] = {
        "machine": {
            "processor": torch.cuda.get_device_name() if options.gpu else platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        },
        "torch": torch.__version__,
        "unet_parameters": sum(value.numel() for value in model.model.diffusion_model.parameters()),
        "latent": side,
    }
    for name, part in parts.items():
        if name in options.only:
            report |= part()
            print(f"{name} done", file=sys.stderr, flush=True)
            write(report, options.json)
    return report


def write(report: dict[str, Any], file: Path | None) -> None:
    """Save the figures after each part; figures of an earlier run that are not measured again are kept."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        file.write_text(json.dumps(before | report, indent=1) + "\n", encoding="utf-8")


def table(report: dict[str, Any]) -> str:
    """The figures that have a goal, as Markdown."""
    lines = ["| figure | median | min | max | goal | met |", "|---|---|---|---|---|---|"]
    for name, (low, high) in GOALS.items():
        if name in report:
            figure, goal = report[name], f"<= {high:g}" if not low else f"{low:g} - {high:g}"
            values = " | ".join(f"{figure[key]:.3f}" for key in ("median", "min", "max"))
            met = "yes" if low <= figure["median"] <= high else "**no**"
            lines.append(f"| `{name}` | {values} | {goal} | {met} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="cones bench speed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny UNet and two pairs: to see that it runs")
    pairs = "steps beside the host's trainer; three times as many other steps and clicks, six times as many of sampling"
    parser.add_argument("--pairs", type=int, default=5, help=pairs)
    parser.add_argument("--gpu", action="store_true", help="on the GPU that ComfyUI takes, bf16")
    kinds = ("search", "sampling", "apply", "files")
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds, help="these parts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    parser.add_argument("--comfyui", type=Path, help="the ComfyUI checkout")
    options = parser.parse_args()
    load_pack(options.comfyui, options.gpu)
    report = measured(options)
    print(json.dumps(report, indent=1))
    print(table(report), file=sys.stderr)


if __name__ == "__main__":
    main()
