"""Layers and a small network that call and are called as ComfyUI 0.39 and later do it, on the host at hand.

The formulas of `dense` are written out by hand; they share no code with the pack or the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import pi, sqrt
from typing import Any

import comfy.ops
import torch
from torch import Tensor

WIDTH, TOKENS, ROWS = 8, 5, 2
EPS = 1e-5
K, V = "blocks.0.cross_attn.k.weight", "blocks.0.cross_attn.v.weight"
NORM = torch.linspace(0.5, 1.5, WIDTH)  # the weight of an RMSNorm
CASES = ("gelu_tanh", "swiglu", "rms_norm", "rms_norm module", "residual", "residual_scale")


class Linear(comfy.ops.manual_cast.Linear):
    """The host's layer with the arguments of newer ones."""

    def forward(
        self,
        input: Tensor,
        input_act: str | None = None,
        act_weight: Any = None,
        residual: Tensor | None = None,
        residual_scale: Any = None,
        act_eps: float = 0.0,
        segments: Any = None,
    ) -> Tensor:
        if isinstance(act_weight, torch.nn.Module):
            act_weight, act_eps = act_weight.weight, act_weight.eps
        y = super().forward(activated(input, input_act, act_weight, act_eps))
        return added(y, residual, residual_scale)


def activated(x: Tensor, act: str | None, weight: Any, eps: float) -> Tensor:
    """Each activation by its formula."""
    if act == "gelu_tanh":
        return 0.5 * x * (1 + torch.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))
    if act == "swiglu":
        half = x.shape[-1] // 2
        return x[..., :half] * torch.sigmoid(x[..., :half]) * x[..., half:]
    if act == "rms_norm":
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight
    return x


def added(y: Tensor, residual: Tensor | None, scale: Any) -> Tensor:
    return y if residual is None else residual + (1.0 if scale is None else scale) * y


def arguments(case: str, x: Tensor, norm: torch.nn.Module) -> tuple[Tensor, dict[str, Any]]:
    """A layer's input and the further arguments of a call of it, in one of CASES; x (..., WIDTH)."""
    return {
        "": (x, {}),
        "gelu_tanh": (x, {"input_act": "gelu_tanh"}),
        "swiglu": (torch.cat([x, 0.5 * x.flip(-1)], -1), {"input_act": "swiglu"}),
        "rms_norm": (x, {"input_act": "rms_norm", "act_weight": NORM, "act_eps": EPS}),
        "rms_norm module": (x, {"input_act": "rms_norm", "act_weight": norm}),
        "residual": (x, {"residual": x.flip(-1)}),
        "residual_scale": (x, {"residual": x.flip(-1), "residual_scale": NORM - 2}),
        "unknown": (x, {"segments": [1, 2]}),
    }[case]


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k, self.v = (Linear(WIDTH, WIDTH, device="cpu", dtype=torch.float32) for _ in range(2))


class Block(torch.nn.Module):
    """Cross-attention, and a feed-forward layer after it."""

    def __init__(self) -> None:
        super().__init__()
        self.cross_attn = Attention()
        self.norm = comfy.ops.manual_cast.RMSNorm(WIDTH, eps=EPS, device="cpu", dtype=torch.float32)
        self.out = Linear(WIDTH, WIDTH, device="cpu", dtype=torch.float32)


class Network(torch.nn.Module):
    """target_case: how K and V are called, case: how the layer after them is. second: a text of another node's."""

    def __init__(self, target_case: str = "", case: str = "", second: Tensor | None = None) -> None:
        super().__init__()
        self.target_case, self.case, self.second = target_case, case, second
        self.skip: set[str] = set()  # "k", "v": layers that are not called
        self.blocks = torch.nn.ModuleList([Block()])
        generator = torch.Generator().manual_seed(0)
        for name, value in self.named_parameters():
            noise = torch.randn(value.shape, generator=generator) / WIDTH**0.5
            value.data = NORM.clone() if name.endswith("norm.weight") else noise
            value.requires_grad_(False)

    def attended(self, x: Tensor, text: Tensor) -> Tensor:
        block = self.blocks[0]
        text, more = arguments(self.target_case, text, block.norm)
        attention = block.cross_attn
        k, v = (
            text[..., :WIDTH] if name in self.skip else getattr(attention, name)(text, **more) for name in ("k", "v")
        )
        return torch.softmax(x @ k.transpose(-1, -2), -1) @ v

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        h = x + self.attended(x, text)
        if self.second is not None:  # as normalised attention guidance does
            h = h - 0.5 * self.attended(x, self.second.expand_as(text))
        h, more = arguments(self.case, h, self.blocks[0].norm)
        return self.blocks[0].out(h, **more)


def inputs() -> tuple[Tensor, Tensor]:
    """A picture (ROWS, 3, WIDTH) and a text (ROWS, TOKENS, WIDTH)."""
    generator = torch.Generator().manual_seed(1)
    x, text = (torch.randn(ROWS, n, WIDTH, generator=generator) for n in (3, TOKENS))
    return x, text


def make_dense(network: Network, weights: Mapping[str, Tensor], own: Any = None) -> None:
    """Plain autograd instead of the layers: rows `own` (row, token) of their output by other weights; None: all rows.

    In a call with another text than that of `inputs` no row is.
    """
    text = arguments(network.target_case, inputs()[1], network.blocks[0].norm)[0]

    def forward_of(layer: Any, weight: Tensor) -> Callable[..., Tensor]:
        def forward(x: Tensor, **more: Any) -> Tensor:
            act_weight, eps = more.get("act_weight"), more.get("act_eps", 0.0)
            if isinstance(act_weight, torch.nn.Module):
                act_weight, eps = NORM, EPS
            a = activated(x, more.get("input_act"), act_weight, eps)
            if own is None:
                y = torch.nn.functional.linear(a, weight, layer.bias)
            else:
                y = torch.nn.functional.linear(a, layer.weight, layer.bias)
                if torch.equal(x, text):
                    y = y.index_put(own, torch.nn.functional.linear(a[own], weight, layer.bias))
            return added(y, more.get("residual"), more.get("residual_scale"))

        return forward

    for name, weight in weights.items():
        layer = network.get_submodule(name.removesuffix(".weight"))
        layer.__dict__["forward"] = forward_of(layer, weight)
