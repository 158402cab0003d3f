"""Further model families as small as those of small_families.py, the newest ones among them; one is a stand-in."""

from __future__ import annotations

import comfy.supported_models
from support import qwen_image21, small_families
from support.small_families import WIDTH, Family, cross, rows

NEWER = {
    "Qwen-Image": Family(
        "QwenImage",
        {
            **{"image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "axes_dims_rope": (8, 12, 12)},
            **{"num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": WIDTH},
        },
        (16, 1, 8, 8),
        cross("transformer_blocks.0.attn", "add_k_proj", "add_v_proj"),
        4,
    ),
    "Krea 2": Family(  # grouped queries
        "Krea2",
        {
            **{"image_model": "krea2", "features": 64, "tdim": 32, "txtdim": WIDTH // 2, "heads": 4, "kvheads": 2},
            **{"multiplier": 1, "layers": 2, "channels": 16, "txtlayers": 2, "txtheads": 2, "txtkvheads": 2},
        },
        (16, 1, 8, 8),
        cross("blocks.0.attn", "wk", "wv"),
        4,
        self_layers=False,
    ),
    "Ideogram 4": Family(
        "Ideogram4",
        {
            **{"image_model": "ideogram4", "in_channels": 128, "num_layers": 2, "num_attention_heads": 2},
            **{"attention_head_dim": 32, "intermediate_size": 64, "adaln_dim": 32, "llm_features_dim": WIDTH},
            "mrope_section": (6, 5, 5),
        },
        (128, 4, 4),
        rows("layers.0.attention.qkv", 64, 128, 192),
        4,
        self_layers=False,
    ),
    "Mage-Flow": Family(
        "MageFlow",
        {
            **{"image_model": "mage_flow", "in_channels": 128, "out_channels": 128, "axes_dims_rope": (8, 12, 12)},
            **{"num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": WIDTH},
        },
        (128, 4, 4),
        cross("transformer_blocks.0.attn", "add_k_proj", "add_v_proj"),
        4,
    ),
    "Ernie-Image": Family(
        "ErnieImage",
        {
            **{"image_model": "ernie", "hidden_size": 64, "num_attention_heads": 2, "num_layers": 2},
            **{"ffn_hidden_size": 64, "text_in_dim": WIDTH, "rope_axes_dim": (8, 12, 12)},
        },
        (128, 4, 4),
        cross("layers.0.self_attention"),
        4,
        before=4 * 4,  # the picture
        self_layers=False,
    ),
    "JoyImage": Family(
        "JoyImage",
        {
            **{"image_model": "joyimage", "hidden_size": 128, "num_attention_heads": 1, "text_dim": WIDTH},
            **{"mlp_width_ratio": 1.0, "num_layers": 2},
        },
        (16, 1, 8, 8),
        rows("double_blocks.0.attn.txt_attn_qkv", 128, 256, 384),
        4,
    ),
    "Qwen-Image 2.1": Family(
        qwen_image21.Config,
        {
            **{"image_model": "qwen_image21", "in_channels": 16, "dim": 64, "heads": 2, "num_layers": 2},
            "context_in_dim": WIDTH,
        },
        (16, 8, 8),
        cross("transformer_blocks.0.attn"),
        4,
        self_layers=False,
    ),
}
FAMILIES = small_families.FAMILIES | {
    name: family
    for name, family in NEWER.items()
    if family.config is qwen_image21.Config or hasattr(comfy.supported_models, family.config)  # an older host
}
