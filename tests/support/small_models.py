"""Small models of the host's own classes with random weights, and conditionings made by hand for them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import comfy.memory_management
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.supported_models
import torch
from comfy.patcher_extension import WrappersMP
from cones_concept_neurons.cones_ops.models.targets import select_targets
from cones_concept_neurons.nodes.host.parameters import parameter_shapes
from cones_concept_neurons.nodes.host.text.token_positions import KEY, TokenPositions
from support.masks import random_mask

CPU = torch.device("cpu")
DEVICE = comfy.model_management.get_torch_device()  # the CPU, or the GPU if CONES_TEST_GPU is set
DYNAMIC = comfy.model_patcher.CoreModelPatcher is not comfy.model_patcher.ModelPatcher
SKS, ZWX = ("sks", "star"), ("zwx", "heart")
POSITIVE = {SKS: [1, 2], ZWX: [5, 6]}
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


@contextmanager
def all_weights() -> Iterator[None]:
    """Inside, the host's layers are made with all their weights; with dynamic VRAM only a file gives them any."""
    memory = comfy.memory_management
    before, memory.aimdo_enabled = memory.aimdo_enabled, False
    try:
        yield
    finally:
        memory.aimdo_enabled = before


def inner_model(config: Any, told: Any = (), prefix: str = "") -> Any:
    """The host's model of a configuration, on the CPU."""
    with all_weights():
        return config.get_model(dict(told), prefix, device=CPU)


def random_state(module: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Normal with 1/sqrt(fan in); norms at one."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in module.state_dict().items():
        if value.ndim <= 1:
            state[name] = torch.full(value.shape, float(name.endswith("weight")))
        else:
            state[name] = torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5
    return state


def fill(module: torch.nn.Module, seed: int) -> None:
    """Give a module the weights of `random_state`, in the types it has."""
    with all_weights():
        module.load_state_dict(random_state(module, seed))


def small_unet(
    dtype: torch.dtype = torch.float32, quantised: str = "", seed: int = 0, disable_dynamic: bool = False
) -> Any:
    """An SD1.5-like UNet as a MODEL: stored as dtype, text K and V in one of the host's quantised formats."""
    config = sd15(dtype)
    if quantised:
        config.custom_operations = comfy.ops.mixed_precision_ops({}, compute_dtype=dtype)
    model = inner_model(config)
    plain = inner_model(sd15(torch.float32))  # quantised layers do not tell the shapes of their weights
    with all_weights():
        model.diffusion_model.load_state_dict(random_state(plain.diffusion_model, seed))
    if quantised:
        quantise(model.diffusion_model, quantised)
    patcher = patcher_of(model, disable_dynamic)
    patcher.cached_patcher_init = (small_unet, (dtype, quantised, seed))  # hooks make the host load it once more
    return patcher


def patcher_of(model: Any, disable_dynamic: bool = False) -> Any:
    """A MODEL as the host's loaders make one."""
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    return kind(model, load_device=DEVICE, offload_device=CPU)


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


def encode(positions: dict[tuple[str, str], list[int]] | None = None, seed: int = 0, tokens: int = TOKENS) -> Any:
    """A CONDITIONING of random text with the given places (POSITIVE's), as Encode Prompt with Concepts leaves it."""
    text = torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(100 + seed))
    some = POSITIVE if positions is None else positions
    places = {concept: torch.tensor(one, dtype=torch.int64) for concept, one in some.items()}
    return [[text, {KEY: TokenPositions(text, places)}]]


def mask_of(model, concept, seed, density=0.2):
    every = parameter_shapes(model)
    shapes = {name: every[name] for name in select_targets(every)}
    return random_mask(shapes, seed, density, *concept, where="own tokens")


def sampled(model, positive, negative, steps=1, cfg=3.0, rows=2, seed=0, shape=(4, 8, 8)):
    latent = torch.zeros(rows, *shape)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, steps, cfg, "euler", "normal", positive, negative, latent, seed=seed)


def recording(model):
    """A clone that also keeps what goes into and comes out of every text K and V projection in the last step."""
    seen = {}

    def watch(executor, *args, **kwargs):
        unet = executor.class_obj
        targets = [name for name, _ in unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]

        def keep(name):
            return lambda _, inputs, y: seen.__setitem__(f"{name}.weight", (inputs[0].cpu().clone(), y.cpu().clone()))

        handles = [unet.get_submodule(name).register_forward_hook(keep(name)) for name in targets]
        try:
            return executor(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", watch)
    return clone, seen


def traces(model):
    """What a run could leave behind on the user's model."""
    return {
        name: (len(module._forward_hooks), "forward" in module.__dict__) for name, module in model.model.named_modules()
    }


TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}
T5 = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2}
LLAMA = {**TEXT, "num_key_value_heads": 1}
SMALL_TEXT = {
    "clip_l_model_config": TEXT,
    "clip_h_model_config": TEXT,
    "clip_g_model_config": {**TEXT, "projection_dim": 32},
    "t5xxl_model_config": T5,
    "qwen25_7b_model_config": LLAMA,
}


def small_clip(kind: str) -> Any:
    """The host's own text encoders and tokenizers of a model family, a few layers of 32 channels wide: a CLIP."""
    import comfy.sd
    from comfy import sd1_clip, sdxl_clip
    from comfy.text_encoders import flux, qwen_image, qwen_vl, sd2_clip, sd3_clip

    class Target:
        params: ClassVar[dict[str, Any]] = {}
        clip, tokenizer = {
            "sd15": (sd1_clip.SD1ClipModel, sd1_clip.SD1Tokenizer),
            "sd2": (sd2_clip.SD2ClipModel, sd2_clip.SD2Tokenizer),
            "sdxl": (sdxl_clip.SDXLClipModel, sdxl_clip.SDXLTokenizer),
            "sd3": (sd3_clip.sd3_clip(), sd3_clip.SD3Tokenizer),
            "sd3 without t5": (sd3_clip.sd3_clip(t5=False), sd3_clip.SD3Tokenizer),
            "flux": (flux.flux_clip(), flux.FluxTokenizer),
            "qwen": (qwen_image.te(), qwen_image.QwenImageTokenizer),
        }[kind]

    options = {"dtype": torch.float32, "initial_device": CPU, **SMALL_TEXT}
    if kind == "sd3":
        options["t5xxl_model_config"] = {**T5, "d_model": 4096}  # what CLIP's output is padded to
    tower = qwen_vl.Qwen2VLVisionTransformer  # never used for text; one layer of 32 spares gigabytes
    qwen_vl.Qwen2VLVisionTransformer = functools.partial(tower, num_layers=1)
    try:
        with all_weights():
            clip = comfy.sd.CLIP(Target, model_options=options, disable_dynamic=True)
    finally:
        qwen_vl.Qwen2VLVisionTransformer = tower
    fill(clip.cond_stage_model, 3)
    return clip


def small_model(kind: str, seed: int = 0) -> Any:
    """A MODEL of another family that goes with small_clip(kind)."""
    if kind == "sdxl":
        changes = {"context_dim": 64, "adm_in_channels": 32 + 6 * 256, "num_classes": "sequential"}
        config = comfy.supported_models.SDXL({**UNET, **changes, "use_linear_in_transformer": True})
    else:
        sizes = {"num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 32}
        qwen = {"image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "axes_dims_rope": (8, 12, 12)}
        config = comfy.supported_models.QwenImage({**qwen, **sizes})
    config.set_inference_dtype(torch.float32, None)
    model = inner_model(config)
    fill(model.diffusion_model, seed)
    return patcher_of(model)


def warnings_in(caplog: Any) -> list[str]:
    """What the pack has logged in a test, by pytest's caplog."""
    return [record.message for record in caplog.records if record.name == "cones"]
