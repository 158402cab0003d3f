"""Names, shapes, untouched values and values in use of a loaded model's parameters.

A canonical name is the host's state-dict name without `diffusion_model.`; the prefix is added and removed in
nodes/host only. Shapes are logical ones (a packed quantised weight reports the shape it stands for). Nothing here
writes to the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.utils
import torch
from comfy.ops import CastWeightBiasOp, cast_bias_weight, uncast_bias_weight
from torch import Tensor

from ...cones_ops.errors import ConesError
from ...cones_ops.masks.fingerprint import Base, base_of
from ...cones_ops.models.targets import part_shapes
from ...cones_ops.models.weight_names import layer_and_rows, weight_and_rows

PREFIX = "diffusion_model."

try:
    from comfy.quant_ops import QuantizedTensor
except ImportError:  # the host runs without its kernels package
    QuantizedTensor = ()


def parameter_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every parameter below diffusion_model, and of the K and V that are parts of one."""
    diffusion_model = getattr(model.model, "diffusion_model", None)
    if diffusion_model is None:
        kind = type(model.model).__name__
        raise ConesError(f"{kind} contains no diffusion model; connect the MODEL of a checkpoint loader")
    return shapes_of(diffusion_model)


def shapes_of(diffusion_model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The same of a diffusion model itself."""
    whole = {name: tuple(value.shape) for name, value in diffusion_model.named_parameters()}
    return whole | part_shapes(whole)


def layer_of(diffusion_model: Any, name: str) -> tuple[Any, slice]:
    """The layer that holds a target, and the target's rows in its weight."""
    path, rows = layer_and_rows(name)
    return diffusion_model.get_submodule(path), rows


def is_quantised(model: Any, key: str) -> bool:
    """Whether the stored parameter is one of the host's quantised tensors."""
    return isinstance(comfy.utils.get_attr(model.model, key), QuantizedTensor)


def base_weight(model: Any, key: str) -> Tensor:
    """A target or other parameter as the checkpoint has it, also while patches are loaded; not to be written to."""
    key, rows = weight_and_rows(key)
    backup = model.backup.get(key)
    weight = comfy.utils.get_attr(model.model, key) if backup is None else backup.weight
    if isinstance(weight, QuantizedTensor):
        weight = weight.dequantize()
    elif is_packed(layer := comfy.utils.get_attr(model.model, key.rpartition(".")[0])):
        weight = unpacked(layer)
    return weight.detach()[rows] if isinstance(weight, torch.Tensor) else weight


def base_identity(model: Any, names: Iterable[str]) -> Base:
    """Fingerprint and sketch of the named targets as the checkpoint has them."""
    names = list(names)
    weights = {name: base_weight(model, PREFIX + name) for name in names}
    return base_of(weights, any(is_coarse(model, PREFIX + name) for name in names))


def is_coarse(model: Any, key: str) -> bool:
    """Whether a target is stored in fewer bits than its entries seem to have."""
    weight, _ = weight_and_rows(key)
    return is_quantised(model, weight) or is_packed(comfy.utils.get_attr(model.model, weight.rpartition(".")[0]))


def is_packed(layer: Any) -> bool:
    """Whether a GGUF loader's layer holds its weight as blocks of bytes, which only the layer itself can read."""
    return hasattr(layer, "is_ggml_quantized") and bool(layer.is_ggml_quantized())


def unpacked(layer: Any) -> Tensor:
    """A packed layer's weight without the patches attached to it, fp32."""
    packed = layer.weight
    patches, packed.patches = getattr(packed, "patches", []), []
    try:
        weight: Tensor = layer.get_weight(packed, torch.float32)
        return weight
    finally:
        packed.patches = patches


@contextmanager
def weight_in_use(module: Any, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None]]:
    """(weight, bias) as the layer would use them now; valid inside only, read only."""
    if is_packed(module):
        yield module.cast_bias_weight(dtype=dtype, device=device, bias_dtype=dtype)
        return
    weight, bias, stream = cast_bias_weight(module, dtype=dtype, device=device, bias_dtype=dtype, offloadable=True)
    try:
        plain = (weight.dequantize() if isinstance(weight, QuantizedTensor) else weight).to(dtype)
        smoothing = getattr(module, "pre_quant_scale", None)  # (in,): some quantised layers scale their input first
        yield plain if smoothing is None else plain * smoothing.to(plain), bias
    finally:
        uncast_bias_weight(module, weight, bias, stream)


def is_linear(module: Any) -> bool:
    """Whether module is a Linear of the host, quantised ones included."""
    quantised = isinstance(module, CastWeightBiasOp) and hasattr(module, "in_features")
    return quantised or isinstance(module, torch.nn.Linear)
