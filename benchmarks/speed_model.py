"""What the speed benchmarks share: host and pack imported, a UNet with random weights, texts, masks, and ratios.

The UNet is the host's own class in the size of Stable Diffusion 1.5, or a tiny one for a quick look.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
PACK = "cones_concept_neurons"
TOKENS = 77
DENSITY = 0.01  # share of the text K and V in a mask that acts everywhere
SD15 = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "num_heads": 8,
    "num_head_channels": -1,
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "adm_in_channels": None,
    "legacy": False,
}
TINY = SD15 | {
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "num_heads": 4,
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "context_dim": 64,
}


def load_pack(comfyui: Path | None, gpu: bool = False) -> None:
    """Make `comfy` and the pack importable, for work on the CPU or the GPU."""
    here = str(ROOT)
    sys.path.insert(0, here)
    from cones_ops.laboratory.comfyui.checkout import find_host

    sys.path.remove(here)  # our nodes/ would hide the host's nodes.py
    sys.path.insert(0, str(find_host(comfyui)))
    from comfy.cli_args import args

    args.cpu = not gpu
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[here])
    assert spec is not None and spec.loader is not None
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])


def pack(name: str) -> Any:
    return importlib.import_module(f"{PACK}.{name}")


def device() -> torch.device:
    """Where the host's models run."""
    import comfy.model_management

    return torch.device(comfy.model_management.get_torch_device())


def on_gpu() -> bool:
    return device().type == "cuda"


def unet_model(unet: dict[str, Any], dtype: torch.dtype = torch.float32, **_: Any) -> Any:
    """A MODEL of Stable Diffusion 1.5's kind with random weights; the host can load it once more."""
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD15(dict(unet))
    config.set_inference_dtype(dtype, None)
    cpu = torch.device("cpu")
    model = config.get_model({}, device=cpu)
    generator = torch.Generator(device()).manual_seed(0)
    for value in model.diffusion_model.parameters():
        scale = 1 / max(value[0].numel(), 1) ** 0.5 if value.ndim > 1 else 0.02
        value.data.copy_(torch.empty_like(value, device=device()).normal_(0, scale, generator=generator))
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device(), offload_device=cpu)
    patcher.cached_patcher_init = (unet_model, (unet, dtype))  # the host's trainer works on a second load of the model
    return patcher


def targets_of(model: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the text K and V."""
    every = pack("nodes.host.parameters").parameter_shapes(model)
    return {name: every[name] for name in pack("cones_ops.models.targets").select_targets(every)}


def random_text(model: Any, seed: int) -> torch.Tensor:
    """What a text encoder would give, (1, TOKENS, width)."""
    width = int(model.model.model_config.unet_config["context_dim"])
    return torch.randn(1, TOKENS, width, generator=torch.Generator().manual_seed(seed))


def conditioning(model: Any, count: int, seed: int) -> Any:
    """A random text in which `count` concepts have two tokens each."""
    places = pack("nodes.host.text.token_positions")
    text = random_text(model, seed)
    own = {(f"id{k}", "thing"): torch.tensor([2 + 4 * k, 3 + 4 * k]) for k in range(count)}
    return [[text, {places.KEY: places.TokenPositions(text, own, "identifier + class word")}]]


def random_masks(
    model: Any, count: int, density: float, where: str = "own tokens", fingerprint: str = ""
) -> list[tuple[Any, float]]:
    """Masks of `count` concepts, each with its own neurons, and strength 1."""
    shapes = targets_of(model)
    generator = torch.Generator().manual_seed(1)
    make = pack("cones_ops.masks.concept_mask").ConceptMask
    masks = []
    for k in range(count):
        index = {n: (torch.rand(s, generator=generator) < density).flatten().nonzero()[:, 0] for n, s in shapes.items()}
        masks.append((make(index, shapes, f"id{k}", "thing", where, fingerprint), 1.0))
    return masks


def random_latent(side: int) -> torch.Tensor:
    return torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(4))


def seconds(run: Callable[[], Any]) -> float:
    """Seconds until run(), and what it started on a GPU, has ended."""
    finish()
    began = time.perf_counter()
    run()
    finish()
    return time.perf_counter() - began


def finish() -> None:
    """Wait for the GPU, where there is work on one."""
    if on_gpu():
        torch.cuda.synchronize()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Of paired ratios, or of anything else measured several times."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values), "pairs": len(values)}


def ratios(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    """Pair by pair."""
    return spread([a / b for a, b in zip(over, under, strict=True)])
