"""Click to patched model: files read, patches made and the weights in the model, for masks and for one LoRA.

The LoRA has rank 16 and the same targets, the text K and V; masks act everywhere. Each starts with the files, whose
bytes the system has in memory, and ends when the host has loaded the patched model; the vanilla model is loaded before.
What a patched model keeps beside the vanilla one is measured too: patches, and the weights that the host keeps to take
them out again.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from speed_memory import resident, resident_in_ram
from speed_model import DENSITY, on_gpu, pack, random_masks, ratios, seconds, spread, targets_of

COUNTS = (1, 8, 64)


def save_lora(model: Any, file: Path, rank: int = 16) -> None:
    """A LoRA with random weights for the text K and V."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, (rows, columns) in targets_of(model).items():
        key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        tensors[key + ".lora_up.weight"] = torch.randn(rows, rank, generator=generator) * 1e-2
        tensors[key + ".lora_down.weight"] = torch.randn(rank, columns, generator=generator) * 1e-2
        tensors[key + ".alpha"] = torch.tensor(float(rank))
    save_file(tensors, file)


def save_masks(model: Any, count: int, folder: Path) -> list[Path]:
    files = [folder / f"{k}.safetensors" for k in range(count)]
    fingerprint, parameters = pack("cones_ops.masks.fingerprint").fingerprint, pack("nodes.host.parameters")
    base = fingerprint({name: parameters.base_weight(model, parameters.PREFIX + name) for name in targets_of(model)})
    for file, (mask, _) in zip(files, random_masks(model, count, DENSITY, "everywhere", base), strict=True):
        pack("cones_ops.masks.mask_file").save_mask(mask, file)
    return files


def with_lora(model: Any, file: Path) -> Any:
    """As the host's Load LoRA node."""
    import comfy.sd
    import comfy.utils

    return comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(str(file), safe_load=True), 1.0, 0)[0]


def with_masks(model: Any, files: list[Path]) -> Any:
    """As Load Concept Mask and Apply Concept Masks."""
    load = pack("cones_ops.masks.mask_file").load_mask
    return pack("nodes.host.apply.apply_masks").apply_masks(model, [(load(file), 1.0) for file in files])


def loaded(model: Any) -> Any:
    import comfy.model_management

    comfy.model_management.load_models_gpu([model])
    return model


def click(model: Any, patched: Callable[[], Any]) -> float:
    """Seconds from the files to the patched model, which was vanilla before."""
    with torch.inference_mode():
        loaded(model)
        gc.collect()
        taken = seconds(lambda: loaded(patched()))
        loaded(model)
    return taken


def kept_beside(model: Any, patched: Callable[[], Any], where: Callable[[], int | None]) -> int | None:
    """Bytes that a patched model adds to a vanilla one; where: reads the bytes in use."""
    with torch.inference_mode():
        loaded(model)
        gc.collect()
        before = where()
        other = loaded(patched())
        gc.collect()
        after = where()
        loaded(model)
        del other
    return None if before is None or after is None else max(0, after - before)


def measured(model: Any, pairs: int) -> dict[str, Any]:
    """The figures of applying, under the names they have in the report."""
    with tempfile.TemporaryDirectory() as folder:
        lora, files = Path(folder) / "lora.safetensors", save_masks(model, max(COUNTS), Path(folder))
        save_lora(model, lora)
        makes = {f"{n}_masks": lambda n=n: with_masks(model, files[:n]) for n in COUNTS}
        makes["lora"] = lambda: with_lora(model, lora)
        taken: dict[str, list[float]] = {name: [] for name in makes}
        for k in range(-1, pairs):  # the first is a warm-up
            for name in makes if k % 2 else reversed(makes):
                clicked = click(model, makes[name])
                taken[name] += [clicked] if k >= 0 else []
        kept = {name: kept_beside(model, make, resident) for name, make in makes.items()}
        in_ram = {name: kept_beside(model, make, resident_in_ram) for name, make in makes.items()} if on_gpu() else kept
    size = sum(value.nbytes for value in model.model.diffusion_model.parameters())
    return {
        **{f"apply_{n}_masks_over_lora": ratios(taken[f"{n}_masks"], taken["lora"]) for n in COUNTS},
        "apply_seconds": {name: spread(values) for name, values in taken.items()},
        "apply_kept_over_model": {name: n if n is None else n / size for name, n in kept.items()},
        "apply_kept_in_ram_over_model": {name: n if n is None else n / size for name, n in in_ram.items()},
        "apply_density": DENSITY,
    }
