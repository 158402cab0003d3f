"""GGUF layers for a model of the host: a small stand-in with their contract, and the real ones of ComfyUI-GGUF.

The contract: a Linear whose weight is a tensor of bytes that tells the shape it stands for, with the patches of the
ModelPatcher riding on it; the layer unpacks it, applies them, and hands out weight and bias itself.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.lora
import comfy.model_patcher
import comfy.ops
import comfy.utils
import pytest
import torch


class Packed(torch.Tensor):
    """int8 numbers in steps of 1/64, behind each other."""

    @staticmethod
    def of(weight: torch.Tensor) -> Packed:
        packed = (weight * 64).round().clamp(-127, 127).to(torch.int8).flatten().as_subclass(Packed)
        packed.stands_for, packed.patches = weight.shape, []
        return packed

    @property
    def shape(self) -> torch.Size:
        return self.stands_for

    def detach(self) -> Packed:
        return self

    def to(self, *args: Any, **kwargs: Any) -> Packed:
        moved = super().to(*args, **kwargs)
        moved.stands_for, moved.patches = self.stands_for, list(self.patches)
        return moved


class PackedOps(comfy.ops.manual_cast):
    """The host's layers, with Linears that may be packed."""

    class Linear(comfy.ops.manual_cast.Linear):
        def is_ggml_quantized(self) -> bool:
            return isinstance(self.weight, Packed)

        def get_weight(self, packed: Any, dtype: torch.dtype) -> torch.Tensor:
            weight = (packed.as_subclass(torch.Tensor).to(dtype) / 64).reshape(packed.stands_for)
            for patches, key in packed.patches:
                weight = comfy.lora.calculate_weight(patches, weight, key)
            return weight

        def cast_bias_weight(self, dtype: Any, device: Any, bias_dtype: Any) -> tuple[Any, Any]:
            bias = None if self.bias is None else self.bias.to(device, bias_dtype)
            return self.get_weight(self.weight.to(device), dtype), bias

        def forward_comfy_cast_weights(self, input: torch.Tensor) -> torch.Tensor:
            if not self.is_ggml_quantized():
                return super().forward_comfy_cast_weights(input)
            return torch.nn.functional.linear(input, *self.cast_bias_weight(input.dtype, input.device, input.dtype))


class PackedPatcher(comfy.model_patcher.ModelPatcher):
    """Lets the patches of packed weights ride on them."""

    def patch_weight_to_device(self, key: str, device_to: Any = None, inplace_update: bool = False, **more: Any) -> Any:
        weight = comfy.utils.get_attr(self.model, key)
        if not isinstance(weight, Packed):
            return super().patch_weight_to_device(key, device_to, inplace_update, **more)
        if key in self.patches:
            weight.patches = [(self.patches[key], key)]
        return None

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> Any:
        for value in self.model.parameters() if unpatch_weights else ():
            if isinstance(value, Packed):
                value.patches = []
        return super().unpatch_model(device_to, unpatch_weights)

    def load(self, *args: Any, force_patch_weights: bool = False, **kwargs: Any) -> Any:
        return super().load(*args, force_patch_weights=True, **kwargs)


STAND_IN = SimpleNamespace(ops=PackedOps, patcher=PackedPatcher, pack=Packed.of)


def comfyui_gguf() -> Any:
    """The real loader's parts; skips where the node pack or its package is not installed."""
    installed = Path(comfy.ops.__file__).parents[1] / "custom_nodes" / "ComfyUI-GGUF"
    folder = Path(os.environ.get("COMFYUI_GGUF_PATH", installed))
    if not folder.is_dir():
        pytest.skip("no ComfyUI-GGUF; install it into the host's custom_nodes, or set COMFYUI_GGUF_PATH")
    gguf = pytest.importorskip("gguf")
    spec = importlib.util.spec_from_file_location(
        "comfyui_gguf", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules["comfyui_gguf"] = pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    from comfyui_gguf.nodes import GGUFModelPatcher
    from comfyui_gguf.ops import GGMLOps, GGMLTensor

    kind = gguf.GGMLQuantizationType.Q8_0

    def pack_weight(weight: torch.Tensor) -> Any:
        blocks = torch.from_numpy(gguf.quants.quantize(weight.numpy(), kind))
        return GGMLTensor(blocks, tensor_type=kind, tensor_shape=weight.shape)

    return SimpleNamespace(ops=GGMLOps, patcher=GGUFModelPatcher, pack=pack_weight)
