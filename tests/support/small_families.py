"""The host's own model classes of every family at a few dozen channels, with random weights; importable once it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import comfy.supported_models as families
import torch
from cones_concept_neurons.nodes.host.text.token_positions import KEY, TokenPositions
from support.small_models import SKS, UNET, fill, inner_model, patcher_of

WIDTH, TOKENS, OWN = 32, 8, [1, 2]  # of the text; where the concept's own tokens are
_FLUX: dict[str, Any] = {
    **{"in_channels": 16, "out_channels": 16, "vec_in_dim": 32, "context_in_dim": WIDTH, "hidden_size": 64},
    **{"mlp_ratio": 2.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 1, "axes_dim": [8, 12, 12]},
    **{"theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []},
}
_LUMINA: dict[str, Any] = {
    **{"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "cap_feat_dim": WIDTH, "dim": 64, "n_layers": 2},
    **{"n_heads": 4, "n_kv_heads": 2, "qk_norm": True, "axes_dims": [4, 6, 6], "axes_lens": [64, 64, 64]},
}


@dataclass(frozen=True)
class Family:
    """How the host builds it, and what must be found in it: one weight per K and V of its first block."""

    config: Any  # name of a class of comfy.supported_models, or a stand-in for one
    sizes: dict[str, Any]
    latent: tuple[int, ...]
    first: tuple[str, ...]  # the default's targets in the first block, sorted
    count: int  # of the default's targets
    pooled: int = 0
    own_tokens: bool = True
    before: int = 0  # tokens of the model's own before the text
    one_row: bool = False  # prompts of a batch behind each other
    self_layers: bool = True  # whether some layers read the picture, or the text, alone
    extra: dict[str, tuple[int, ...]] = field(default_factory=dict)  # further tensors of a conditioning


def unet(**changes: Any) -> dict[str, Any]:
    return {**UNET, "model_channels": 32, "context_dim": WIDTH, **changes}


def cross(prefix: str, k: str = "to_k", v: str = "to_v") -> tuple[str, ...]:
    return f"{prefix}.{k}.weight", f"{prefix}.{v}.weight"


def rows(weight: str, *ends: int) -> tuple[str, ...]:
    return tuple(f"{weight}.weight[{start}:{stop}]" for start, stop in pairwise(ends))


_SD = cross("input_blocks.1.1.transformer_blocks.0.attn2")
FAMILIES = {
    "SD 1.5": Family("SD15", unet(), (4, 8, 8), _SD, 8),
    "SD 2 (v)": Family("SD20", unet(model_channels=64, use_linear_in_transformer=True), (4, 8, 8), _SD, 8),
    "SDXL": Family(
        "SDXL",
        unet(model_channels=64, use_linear_in_transformer=True, adm_in_channels=32 + 6 * 256, num_classes="sequential"),
        (4, 8, 8),
        _SD,
        8,
        pooled=32,
    ),
    "SD 3.5": Family(
        "SD3",
        {
            **{"in_channels": 16, "depth": 2, "input_size": None, "patch_size": 2, "adm_in_channels": 32},
            **{"pos_embed_scaling_factor": None, "pos_embed_max_size": 16, "num_patches": 256, "qk_norm": "rms"},
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": WIDTH, "out_features": 128},
            },
            "x_block_self_attn_layers": [0],
        },
        (16, 8, 8),
        rows("joint_blocks.0.context_block.attn.qkv", 128, 256, 384),
        4,
        pooled=32,
    ),
    "Flux": Family(
        "Flux", {"image_model": "flux", **_FLUX}, (16, 8, 8), rows("double_blocks.0.txt_attn.qkv", 64, 128, 192), 4, 32
    ),
    "Flux 2": Family(
        "Flux2",
        {
            **_FLUX,
            **{"image_model": "flux2", "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "patch_size": 1},
            **{"axes_dim": [8, 8, 8, 8], "theta": 2000, "qkv_bias": False, "txt_ids_dims": [3], "mlp_ratio": 3.0},
            **{"global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "default_ref_method": "index"},
            "ref_index_scale": 10.0,
        },
        (128, 4, 4),
        rows("double_blocks.0.txt_attn.qkv", 64, 128, 192),
        4,
        before=512 - TOKENS,
    ),
    "Chroma": Family(
        "Chroma",
        {
            **{key: value for key, value in _FLUX.items() if key != "guidance_embed"},
            **{"image_model": "chroma", "in_channels": 64, "out_channels": 64, "vec_in_dim": None},
            **{"in_dim": 64, "hidden_dim": 64, "out_dim": 64, "n_layers": 2},
        },
        (16, 8, 8),
        rows("double_blocks.0.txt_attn.qkv", 64, 128, 192),
        4,
    ),
    "Lumina 2": Family(  # grouped queries: 4 heads of 16 for Q, 2 for K and for V
        "Lumina2", _LUMINA, (16, 8, 8), rows("layers.0.attention.qkv", 64, 96, 128), 4
    ),
    "Z-Image": Family(
        "ZImage",
        {
            **{**_LUMINA, "dim": 256, "n_heads": 8, "n_kv_heads": 8, "axes_dims": [8, 12, 12]},
            **{"z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32},
        },
        (16, 8, 8),
        rows("layers.0.attention.qkv", 256, 512, 768),
        4,
    ),
    "Wan 2.1": Family(
        "WAN21_T2V",
        {
            **{"image_model": "wan2.1", "model_type": "t2v", "dim": 64, "ffn_dim": 64, "freq_dim": 32, "num_heads": 2},
            **{"text_dim": WIDTH, "num_layers": 2, "in_dim": 16, "out_dim": 16},
        },
        (16, 1, 8, 8),
        cross("blocks.0.cross_attn", "k", "v"),
        4,
    ),
    "HiDream": Family(
        "HiDream",
        {
            **{"image_model": "hidream", "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 1},
            **{"num_single_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2, "text_emb_dim": 32},
            **{"caption_channels": [WIDTH, WIDTH], "axes_dims_rope": (8, 12, 12), "max_resolution": (128, 128)},
            **{"num_routed_experts": 2, "num_activated_experts": 1, "llama_layers": [0, 1]},
        },
        (16, 8, 8),
        cross("double_stream_blocks.0.block.attn1", "to_k_t", "to_v_t"),
        2,
        pooled=32,
        own_tokens=False,
        extra={"conditioning_llama3": (1, 2, TOKENS, WIDTH)},
    ),
    "AuraFlow": Family(
        "AuraFlow",
        {
            **{"cond_seq_dim": WIDTH, "dim": 64, "n_layers": 3, "n_double_layers": 2, "n_heads": 2, "max_seq": 64},
            **{"global_conddim": 64, "in_channels": 4, "out_channels": 4},
        },
        (4, 8, 8),
        cross("double_layers.0.attn", "w1k", "w1v"),
        4,
        before=8,
    ),
    "PixArt": Family(
        "PixArtAlpha",
        {
            **{"image_model": "pixart_alpha", "input_size": 8, "hidden_size": 64, "depth": 2, "num_heads": 2},
            **{"caption_channels": WIDTH, "micro_condition": False, "pe_interpolation": 1},
        },
        (4, 40, 40),
        rows("blocks.0.cross_attn.kv_linear", 0, 64, 128),
        4,
        one_row=True,
    ),
    "HunyuanDiT": Family(
        "HunyuanDiT1",
        {
            **{"image_model": "hydit", "hidden_size": 64, "depth": 4, "num_heads": 2, "text_states_dim": WIDTH},
            **{"text_states_dim_t5": WIDTH, "text_len": TOKENS, "size_cond": False, "use_style_cond": False},
        },
        (4, 8, 8),
        rows("blocks.0.attn2.kv_proj", 0, 64, 128),
        8,
        extra={"conditioning_mt5xl": (1, 256, WIDTH), "attention_mask": (1, TOKENS), "attention_mask_mt5xl": (1, 256)},
    ),
    "Cosmos-Predict2": Family(
        "CosmosT2IPredict2",
        {
            **{"image_model": "cosmos_predict2", "in_channels": 16, "out_channels": 16, "max_img_h": 64},
            **{"max_img_w": 64, "max_frames": 8, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 64},
            **{"num_blocks": 2, "num_heads": 2, "crossattn_emb_channels": WIDTH, "pos_emb_cls": "rope3d"},
            **{"use_adaln_lora": True, "adaln_lora_dim": 16, "rope_enable_fps_modulation": False},
        },
        (16, 1, 8, 8),
        cross("blocks.0.cross_attn", "k_proj", "v_proj"),
        4,
    ),
    "LTXV": Family(
        "LTXV",
        {
            **{"image_model": "ltxv", "in_channels": 128, "cross_attention_dim": 64, "attention_head_dim": 32},
            **{"num_attention_heads": 2, "caption_channels": WIDTH, "num_layers": 2},
        },
        (128, 1, 4, 4),
        cross("transformer_blocks.0.attn2"),
        4,
        extra={"attention_mask": (1, TOKENS)},
    ),
    "HunyuanVideo": Family(
        "HunyuanVideo",
        {
            **{key: value for key, value in _FLUX.items() if key != "txt_ids_dims"},
            **{"image_model": "hunyuan_video", "patch_size": [1, 2, 2], "theta": 256, "byt5": False},
            **{"meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False},
        },
        (16, 1, 8, 8),
        rows("double_blocks.0.txt_attn.qkv", 64, 128, 192),
        4,
        pooled=32,
    ),
}


def model_of(family: Family, seed: int = 0) -> Any:
    """A MODEL of the family."""
    config = getattr(families, str(family.config), family.config)(dict(family.sizes))
    config.unet_config |= family.sizes  # sizes that the host fixes for a family as well
    config.set_inference_dtype(torch.float32, None)
    v_prediction = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    state = {v_prediction: torch.randn(320, generator=torch.Generator().manual_seed(0))}  # the host tells SD 2 by it
    model = inner_model(config, state if family.config == "SD20" else {}, "model.diffusion_model.")
    fill(model.diffusion_model, seed)
    return patcher_of(model)


def prompt_of(family: Family, seed: int = 0, named: bool = True) -> Any:
    """A CONDITIONING of random text, with the concept's own tokens at OWN if it is named."""
    generator = torch.Generator().manual_seed(100 + seed)
    text = torch.randn(1, TOKENS, WIDTH, generator=generator)
    places = TokenPositions(text, {SKS: torch.tensor(OWN)} if named else {})
    extra: dict[str, Any] = {"pooled_output": None, KEY: places}  # None, as the host gives for encoders without one
    for key, shape in family.extra.items():
        extra[key] = torch.ones(shape, dtype=torch.int64) if "mask" in key else torch.randn(shape, generator=generator)
    if family.pooled:
        extra["pooled_output"] = torch.randn(1, family.pooled, generator=generator)
    return [[text, extra]]
