"""What newer hosts give a Linear besides its input: y = residual + residual_scale * Linear(act(x)).

Hosts from 0.39 on do the activation and the sum in kernels that have no backward pass and read weights by themselves.
Here both are plain PyTorch. Names, order and formulas are the host's (comfy/ops.py, Linear.forward and
linear_input_act); an argument that is not among them is refused, because leaving it out would change the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ...cones_ops.errors import ConesError, listed

ORDER = ("input_act", "act_weight", "residual", "residual_scale")  # of positional arguments after the input


@dataclass(frozen=True)
class LinearArguments:
    """act_weight: of "rms_norm", a tensor (in,) with act_eps, or a RMSNorm; residual_scale: broadcast to the output."""

    input_act: str | None = None
    act_weight: Any = None
    act_eps: float | None = None
    residual: Tensor | None = None
    residual_scale: Tensor | float | None = None

    def activated(self, x: Tensor) -> Tensor:
        """act(x); x (..., in), or (..., 2 in) for "swiglu"."""
        if self.input_act is None:
            return x
        if self.input_act == "gelu_tanh":
            return torch.nn.functional.gelu(x, approximate="tanh")
        if self.input_act == "swiglu":
            gate, value = x.chunk(2, dim=-1)
            return torch.nn.functional.silu(gate) * value
        if isinstance(self.act_weight, torch.nn.Module):
            return self.act_weight(x)  # type: ignore[no-any-return]
        weight = None if self.act_weight is None else self.act_weight.to(x, copy=True)  # autograd keeps it
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, self.act_eps or 0.0)

    def summed(self, y: Tensor) -> Tensor:
        """residual + residual_scale * y, as a new tensor; y itself without a residual."""
        if self.residual is None:
            return y
        return self.residual + (y if self.residual_scale is None else self.residual_scale * y)


PLAIN = LinearArguments()
_KNOWN = tuple(field.name for field in fields(LinearArguments))
_ACTIVATIONS = (None, "gelu_tanh", "swiglu", "rms_norm")


def linear_arguments(name: str, args: Sequence[Any], keywords: Mapping[str, Any]) -> LinearArguments:
    """The arguments of a call of the layer `name` after its input. ConesError for one that is not known here."""
    if not args and not keywords:
        return PLAIN
    passed = dict(zip(ORDER, args, strict=False)) | {key: v for key, v in keywords.items() if v is not None}
    unknown = [key for key in passed if key not in _KNOWN] + [f"argument {k + 2}" for k in range(len(ORDER), len(args))]
    arguments = LinearArguments(**{key: value for key, value in passed.items() if key in _KNOWN})
    weight = arguments.act_weight
    if arguments.input_act not in _ACTIVATIONS:
        unknown.append(f"input_act={arguments.input_act!r}")
    if isinstance(weight, torch.nn.Module) and not isinstance(weight, torch.nn.RMSNorm):
        unknown.append(f"act_weight={type(weight).__name__}")
    if arguments.residual_scale is not None and arguments.residual is None:
        unknown.append("residual_scale without residual")
    if unknown:
        raise ConesError(
            f"{name}: this version of ComfyUI calls the layer with {listed(unknown)}, which this pack does not know; "
            "update the pack, or use a ComfyUI version that docs/reference/models.md lists"
        )
    return arguments
