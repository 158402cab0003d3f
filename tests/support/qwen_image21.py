"""A small stand-in for Qwen-Image 2.1 (ComfyUI 0.37 and later): one stream, text first, with its prefix cache.

Text tokens attend to the text alone and are modulated from t = 0, so what they become is the same in every step. With
the cache, which is on unless transformer_options say otherwise, the text goes through to_k and to_v in the first step,
by itself, and only the picture's rows do later.
"""

from __future__ import annotations

from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.supported_models_base
import torch
from comfy.ldm.flux.layers import timestep_embedding
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, operations: Any, **settings: Any) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (operations.Linear(dim, dim, bias=False, **settings) for _ in range(3))
        self.to_out = nn.ModuleList([operations.Linear(dim, dim, bias=False, **settings)])

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.to_q(x), self.to_k(x), self.to_v(x)

    def attended(self, q: Tensor, k: Tensor, v: Tensor, options: Any) -> Tensor:
        return self.to_out[0](optimized_attention(q, k, v, self.heads, transformer_options=options))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, operations: Any, **settings: Any) -> None:
        super().__init__()
        self.attn = Attention(dim, heads, operations, **settings)
        self.img_norm = operations.LayerNorm(dim, elementwise_affine=False, eps=1e-6, **settings)
        self.img_mlp = operations.Linear(dim, dim, bias=False, **settings)

    def forward(self, x: Tensor, scale: Tensor, prefix: int, kept: dict[str, Any] | None, options: Any) -> Tensor:
        """x: text (prefix tokens) and picture; kept: this block's part of the cache; the text's K and V come from it
        where x has no text, and go into it where x is text alone."""
        q, k, v = self.attn.projected(self.img_norm(x) * (1 + scale))
        if kept is not None and prefix == x.shape[1]:
            kept["k"], kept["v"] = k, v
        elif kept is not None:
            k, v = torch.cat([kept["k"], k], 1), torch.cat([kept["v"], v], 1)
        parts = [(0, prefix, prefix), (prefix, x.shape[1], k.shape[1])]
        y = [self.attn.attended(q[:, a:b], k[:, :keys], v[:, :keys], options) for a, b, keys in parts if b > a]
        x = x + torch.cat(y, 1)
        return x + torch.tanh(self.img_mlp(self.img_norm(x) * (1 + scale)))


class Transformer(nn.Module):
    def __init__(
        self, in_channels: int, dim: int, heads: int, num_layers: int, context_in_dim: int, device: Any = None,
        dtype: Any = None, operations: Any = None, image_model: str = "",
    ) -> None:  # fmt: skip
        super().__init__()
        settings = {"device": device, "dtype": dtype}
        self.dtype, self.dim = dtype, dim
        self.img_in = operations.Linear(in_channels, dim, **settings)
        self.txt_in = operations.Linear(context_in_dim, dim, **settings)
        self.modulation = operations.Linear(dim, dim, **settings)
        self.transformer_blocks = nn.ModuleList([Block(dim, heads, operations, **settings) for _ in range(num_layers)])
        self.proj_out = operations.Linear(dim, in_channels, **settings)
        self.cache: tuple[Tensor, list[dict[str, Any]]] | None = None

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, transformer_options: Any, **_: Any) -> Tensor:
        height, width = x.shape[-2:]
        picture, text = self.img_in(x.flatten(2).transpose(1, 2)), self.txt_in(context)
        first, now = (
            self.modulation(timestep_embedding(t, self.dim).to(x.dtype))[:, None]
            for t in (torch.zeros_like(timesteps), timesteps)
        )
        length = text.shape[1]
        if transformer_options.get("qwen_image21_cache", {}).get("device") == "off" or torch.is_grad_enabled():
            h = torch.cat([text, picture], 1)
            scale = torch.cat([first.expand(-1, length, -1), now.expand(-1, h.shape[1] - length, -1)], 1)
            for block in self.transformer_blocks:
                h = block(h, scale, length, None, transformer_options)
            h = h[:, length:]
        else:
            kept = self.cache[1] if self.cache and torch.equal(self.cache[0], context) else None
            if kept is None:
                kept = [{} for _ in self.transformer_blocks]
                for block, part in zip(self.transformer_blocks, kept, strict=True):
                    text = block(text, first, length, part, transformer_options)
                self.cache = context.clone(), kept
            h = picture
            for block, part in zip(self.transformer_blocks, kept, strict=True):
                h = block(h, now, 0, part, transformer_options)
        return self.proj_out(h).transpose(1, 2).reshape(x.shape[0], -1, height, width)


class Model(comfy.model_base.BaseModel):
    def __init__(self, config: Any, device: Any = None) -> None:
        super().__init__(config, comfy.model_base.ModelType.FLOW, device=device, unet_model=Transformer)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        out: dict[str, Any] = super().extra_conds(**kwargs)
        if (text := kwargs.get("cross_attn")) is not None:
            out["c_crossattn"] = comfy.conds.CONDRegular(text)
        return out


class Config(comfy.supported_models_base.BASE):
    unet_config: dict[str, Any] = {"image_model": "qwen_image21"}  # noqa: RUF012
    sampling_settings: dict[str, Any] = {"multiplier": 1.0, "shift": 3.0}  # noqa: RUF012
    unet_extra_config: dict[str, Any] = {}  # noqa: RUF012
    latent_format = comfy.latent_formats.Flux

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> Model:
        return Model(self, device=device)
