"""Small models of the host's own classes with random weights, and conditionings made by hand for them."""

from __future__ import annotations

from typing import Any

import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import torch
from cones_concept_neurons.nodes.host.token_places import KEY, TokenPlaces

CPU = torch.device("cpu")
WIDTH, TOKENS = 256, 8  # of the text; wide enough for every quantised format
UNET = {
    "image_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 256,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "num_heads": 4,
    "num_head_channels": -1,
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
    "transformer_depth_middle": 1,
    "context_dim": WIDTH,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "adm_in_channels": None,
    "legacy": False,
}


def random_state(module: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Normal with 1/sqrt(fan in); norms at one."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in module.state_dict().items():
        if value.ndim == 1:
            state[name] = torch.full(value.shape, float(name.endswith("weight")))
        else:
            state[name] = torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5
    return state


def small_unet(dtype: torch.dtype = torch.float32, quantised: str = "", seed: int = 0) -> Any:
    """An SD1.5-like UNet as a MODEL: stored as dtype, text K and V in one of the host's quantised formats."""
    config = sd15(dtype)
    if quantised:
        config.custom_operations = comfy.ops.mixed_precision_ops({}, compute_dtype=dtype)
    model = config.get_model({}, device=CPU)
    plain = sd15(torch.float32).get_model({}, device=CPU)  # quantised layers do not tell the shapes of their weights
    model.diffusion_model.load_state_dict(random_state(plain.diffusion_model, seed))
    if quantised:
        quantise(model.diffusion_model, quantised)
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def sd15(dtype: torch.dtype) -> Any:
    config = comfy.supported_models.SD15(dict(UNET))
    config.set_inference_dtype(dtype, torch.float32 if dtype.itemsize == 1 else None)
    return config


def quantise(unet: torch.nn.Module, format: str) -> None:
    """Put text K and V into a quantised format, as the host's loader leaves them."""
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    layout = QUANT_ALGOS[format]["comfy_tensor_layout"]
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            weight = QuantizedTensor.from_float(module.weight.detach(), layout)
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
            module.layout_type, module.quant_format = layout, format


def conditioning(positions: dict[tuple[str, str], list[int]], seed: int = 0, tokens: int = TOKENS) -> Any:
    """A CONDITIONING with random text and the given places, as Encode Prompt with Concepts leaves it."""
    text = torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(100 + seed))
    places = {concept: torch.tensor(some, dtype=torch.int64) for concept, some in positions.items()}
    return [[text, {KEY: TokenPlaces(text, places, "identifier + class word")}]]
