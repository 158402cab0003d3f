"""What masks at own tokens cost while sampling: steps of an SD1.5-size UNet with and without them, in pairs, as JSON.

    python benchmarks/own_tokens_speed.py [--pairs 10] [--masks 4] [--density 0.1] [--latent 32] [--comfyui PATH]

Needs a ComfyUI (COMFYUI_PATH, or ~/comfy/ComfyUI) and its requirements. Random weights, fp32, a batch of two texts
(CFG), two own tokens per mask. Each pair is one call of the model as the host makes it for the vanilla model and one
with the masks, in turn first, inside one run; the first call with masks, which computes what later ones use, is apart.
`hooks_over_vanilla_step` is the time inside our hooks alone, which a busy machine disturbs less than a ratio of steps.
"""

# ruff: noqa: T201 - a benchmark answers by printing

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
PACK = "cones_concept_neurons"
TOKENS, WIDTH = 77, 768
UNET = {
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
    "context_dim": WIDTH,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "adm_in_channels": None,
    "legacy": False,
}


def load_pack(comfyui: Path | None) -> None:
    """Make `comfy` and the pack importable."""
    sys.path.insert(0, str(ROOT))
    from cones_ops.toy_world.comfyui_server import find_host

    sys.path[0] = str(find_host(comfyui))  # our nodes/ would hide the host's nodes.py
    from comfy.cli_args import args

    args.cpu = True
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])


def pack(name: str) -> Any:
    return importlib.import_module(f"{PACK}.{name}")


def sd15_size_model() -> Any:
    """A MODEL of Stable Diffusion 1.5's architecture with random weights."""
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD15(dict(UNET))
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    model = config.get_model({}, device=cpu)
    generator = torch.Generator().manual_seed(0)
    for value in model.diffusion_model.parameters():
        value.data.normal_(0, 1 / max(value[0].numel(), 1) ** 0.5 if value.ndim > 1 else 0.02, generator=generator)
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def random_masks(model: Any, count: int, density: float) -> list[tuple[Any, float]]:
    """Own-token masks of `count` concepts."""
    every = pack("nodes.host.parameters").parameter_shapes(model)
    shapes = {name: every[name] for name in pack("cones_ops.targets").select_targets(every)}
    generator = torch.Generator().manual_seed(1)
    masks = []
    for k in range(count):
        index = {n: (torch.rand(s, generator=generator) < density).flatten().nonzero()[:, 0] for n, s in shapes.items()}
        masks.append((pack("cones_ops.concept_mask").ConceptMask(index, shapes, f"id{k}", "thing", "own tokens"), 1.0))
    return masks


def conditioning(count: int, seed: int) -> Any:
    """A random text in which `count` concepts have two tokens each."""
    places = pack("nodes.host.token_places")
    text = torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))
    own = {(f"id{k}", "thing"): torch.tensor([2 + 4 * k, 3 + 4 * k]) for k in range(count)}
    return [[text, {places.KEY: places.TokenPlaces(text, own, "identifier + class word")}]]


class Paired:
    """A sampler that, instead of sampling, times calls of the model with and without the masks."""

    def __init__(self, pairs: int) -> None:
        self.pairs, self.first = pairs, 0.0
        self.seconds: list[tuple[float, float]] = []  # without, with
        self.hooks: list[float] = []  # seconds inside our hooks, a call of the model with masks

    def sample(self, model: Any, sigmas: Any, extra_args: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        with_masks, without = extra_args["model_options"], vanilla(extra_args["model_options"])
        x = args[1] * float(sigmas[0])  # callback, noise, ...
        sigma = sigmas[:1].expand(len(x))

        def timed(options: dict[str, Any]) -> float:
            began = time.perf_counter()
            model(x, sigma, model_options=options, seed=0)
            return time.perf_counter() - began

        timed(without)
        self.first = timed(with_masks)
        spent = timed_hooks()
        for k in range(self.pairs):
            order = (without, with_masks) if k % 2 else (with_masks, without)
            taken = [timed(options) for options in order]
            self.seconds.append((taken[0], taken[1]) if k % 2 else (taken[1], taken[0]))
            self.hooks.append(sum(spent))
            spent.clear()
        return x


def timed_hooks() -> list[float]:
    """From now on, the seconds of every call of a hook on a masked layer."""
    module = pack("nodes.host.own_tokens")
    original, spent = module.corrected, []

    def corrected(*args: Any) -> Any:
        began = time.perf_counter()
        y = original(*args)
        spent.append(time.perf_counter() - began)
        return y

    module.corrected = corrected
    return spent


def vanilla(options: dict[str, Any]) -> dict[str, Any]:
    """The options the host would pass for the model without masks."""
    key = pack("nodes.host.own_tokens").KEY
    transformer = {name: value for name, value in options["transformer_options"].items() if not name.startswith(key)}
    wrappers = transformer.get("wrappers", {})
    transformer["wrappers"] = {
        kind: {name: some for name, some in given.items() if name != key} for kind, given in wrappers.items()
    }
    return {**options, "transformer_options": transformer}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--masks", type=int, default=4)
    parser.add_argument("--density", type=float, default=0.1, help="share of the text K and V weights in each mask")
    parser.add_argument("--latent", type=int, default=32, help="side of the latents")
    parser.add_argument("--comfyui", type=Path, help="the ComfyUI checkout")
    given = parser.parse_args()
    load_pack(given.comfyui)
    import comfy.samplers

    model = sd15_size_model()
    applied = pack("nodes.host.applying").apply_masks(model, random_masks(model, given.masks, given.density))
    guider = comfy.samplers.CFGGuider(applied)
    guider.set_conds(conditioning(given.masks, 2), conditioning(0, 3))
    guider.set_cfg(7.0)
    timing = Paired(given.pairs)
    noise = torch.randn(1, 4, given.latent, given.latent, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        guider.sample(noise, torch.zeros_like(noise), timing, torch.tensor([10.0, 0.0]))
    ratios = sorted(masked / plain for plain, masked in timing.seconds)
    plain = statistics.median(one for one, _ in timing.seconds)
    report = {
        "own_tokens_sampling_ratio": {"min": ratios[0], "median": statistics.median(ratios), "max": ratios[-1]},
        "hooks_over_vanilla_step": statistics.median(timing.hooks) / plain,
        "first_step_over_vanilla": timing.first / plain,
        "vanilla_step_seconds": plain,
        "pairs": given.pairs,
        "masks": given.masks,
        "density": given.density,
        "latent": given.latent,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
