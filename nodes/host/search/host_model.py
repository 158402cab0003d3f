"""The boundary `HostModel` for a model loaded in ComfyUI: latents + conditioning + sigma -> denoised, and gradients.

Conditionings and latents are looked up by the caller's labels; `latents[label]` are the model's internal latents. The
host makes the predictions, with its own loading, prediction type and noise schedule; taps hand out the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ....cones_ops.errors import ConesError, listed
from ....cones_ops.masks.fingerprint import Base
from ....cones_ops.models.targets import size_of
from ....cones_ops.search.host_model import Key, Multiplier, Where
from ....cones_ops.search.objective import Pictures
from ....cones_ops.search.statistics_store import NewStatistic, in_memory
from ..notices import warn
from ..parameters import layer_of, shapes_of, weight_in_use
from .statistics_store import statistics_store
from .tapped_layers import Taps

APART = {"area", "control", "default", "gligen", "hooks", "mask", "strength", "timestep_end", "timestep_start"}
ON_DEVICE_LIMIT = 2**27  # beyond this many, searched weights, their gradients and statistics are on the CPU


class BorrowedModel:
    """HostModel of a model that the host has just loaded; made by `borrow`, dead after it."""

    def __init__(
        self,
        inner_model: Any,
        taps: Taps,
        names: Sequence[str],
        conds: Mapping[str, Any],
        latents: Mapping[str, Pictures],
        options: dict[str, Any],
        device: torch.device,
        statistics: int,
        identify: Callable[[], Base],
    ) -> None:
        self.inner_model = inner_model
        self.sampling = inner_model.model_sampling
        self.taps = taps
        self._identify = cache(identify)
        self.where: Where = taps.where
        self.conds = conds
        self.latents = latents
        self.conditioned: Callable[[str, Tensor], Any] | None = None  # the conditioning of a label in another size
        self.sizes: dict[tuple[Any, ...], Any] = {}
        self.options = options
        self.device = device
        self.warned = False
        self.dtype: torch.dtype = inner_model.get_dtype_inference()
        self.loss_scale = 2.0**12 if self.dtype == torch.float16 else 1.0
        shapes = shapes_of(inner_model.diffusion_model)
        total = size_of(names, shapes)
        self.taps.store = device if total <= ON_DEVICE_LIMIT else torch.device("cpu")
        fits = self.taps.store.type != "cpu"
        self.new_statistic: NewStatistic = in_memory if fits else statistics_store(statistics * total)
        self.taps.new_statistic = None if self.new_statistic is in_memory else self.new_statistic
        self.weights: Mapping[Key, Tensor] = self._copies(names, shapes)

    def _copies(self, names: Sequence[str], shapes: Mapping[str, Sequence[int]]) -> dict[Key, Tensor]:
        """fp32 copies of the effective weights (patches of other nodes included)."""
        copies: dict[Key, Tensor] = {}
        for name in names:
            copied = self.new_statistic(torch.empty(shapes[name], device=self.taps.store))
            module, rows = layer_of(self.inner_model.diffusion_model, name)
            with torch.no_grad(), weight_in_use(module, self.dtype, self.device) as (weight, _):
                copied.copy_(weight[rows])
            copies |= {(concept, name): copied for concept in range(self.taps.concepts)}
        return copies

    def fingerprint(self) -> str:
        return self._identify().fingerprint

    def sketch(self) -> str:
        return self._identify().sketch

    def sigma_at(self, percent: Tensor) -> Tensor:
        """(B,) percent of sampling, 0 = most noise -> (B,) sigma."""
        sigmas = [float(self.sampling.percent_to_sigma(float(share))) for share in percent]
        return torch.tensor(sigmas, dtype=torch.float32, device=self.device)

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Latents at noise level sigma (B,), by the model's own rule."""
        latents, noise, sigma = (tensor.to(self.device, torch.float32) for tensor in (latents, noise, sigma))
        return self.sampling.noise_scaling(sigma, noise.clone(), latents, False)  # type: ignore[no-any-return]

    def output_scale(self, sigma: Tensor) -> Tensor:
        """(B,) d denoised / d network output."""
        ones = torch.ones(len(sigma), *[1] * next(iter(self.latents.values()))[0].ndim, device=self.device)
        scale: Tensor = self.sampling.calculate_denoised(sigma.to(self.device), ones, torch.zeros_like(ones))
        return scale.reshape(-1)

    def denoise(self, x: Tensor, sigma: Tensor, conditioning: Sequence[Any]) -> Tensor:
        """(B,C,H,W) at sigma (B,), one label per row -> denoised; in one model call where the host can batch them."""
        if len(conditioning) != len(x):
            raise ConesError(f"{len(x)} rows but {len(conditioning)} conditionings; give one label per row")
        x, sigma = x.to(self.device), sigma.to(self.device)
        by_label: dict[str, list[int]] = {}
        for row, label in enumerate(conditioning):
            by_label.setdefault(label, []).append(row)
        if len(by_label) == 1:
            return self._denoise(self._cond_for(conditioning[0], x), x, sigma)
        if joined := joined_rows([self._cond_for(label, x) for label in conditioning]):
            return self._denoise(joined, x, sigma)
        parts = [self._denoise(self._cond_for(label, x), x[rows], sigma[rows]) for label, rows in by_label.items()]
        order = torch.tensor([row for rows in by_label.values() for row in rows], device=self.device)
        return torch.cat(parts)[torch.argsort(order)]

    def _denoise(self, cond: Any, x: Tensor, sigma: Tensor) -> Tensor:
        """One model call. The host's Cancel acts here where no step is under way."""
        if self.taps.anchor is None:
            comfy.model_management.throw_exception_if_processing_interrupted()
        options = dict(self.options)
        transformer_options = dict(options.get("transformer_options", {}))
        transformer_options["sample_sigmas"] = sigma.detach()
        options["transformer_options"] = transformer_options
        with torch.set_grad_enabled(self.taps.anchor is not None and torch.is_grad_enabled()):
            out: list[Tensor] = comfy.samplers.calc_cond_batch(self.inner_model, [cond], x, sigma, options)
        return out[0]

    def _cond_for(self, label: str, x: Tensor) -> Any:
        """The conditioning of a label for pictures of the size of x (B, C, H, W)."""
        if self.conditioned is None or all(isinstance(pictures, Tensor) for pictures in self.latents.values()):
            return self.conds[label]
        key = (label, *x.shape[2:])
        if key not in self.sizes:
            self.sizes[key] = self.conditioned(label, x[:1].detach())
        return self.sizes[key]

    @contextmanager
    def multiplied(self, multiplier: Multiplier | None) -> Iterator[None]:
        """Inside, each named target acts as theta * multiplier."""
        multiplier = multiplier or {}
        if unknown := {name for concept, name in multiplier if (concept, name) not in self.weights}:
            raise ConesError(f"not among the targets of {self.taps.concepts} concepts: {listed(unknown)}")
        before = self.taps.multiplier
        self.taps.multiplier = {key: factor.detach() for key, factor in multiplier.items()}
        try:
            yield
        finally:
            self.taps.multiplier = before

    def gradients(self, loss: Callable[[], Tensor]) -> tuple[Tensor, dict[Key, Tensor]]:
        """(loss, dL/d effective weight per target), fp32; half precision is protected by a static loss scale."""
        while True:
            with self.taps.recording() as anchor:
                value = loss()
                if not value.requires_grad:
                    if self.where == "own tokens":  # no text of this batch has any
                        return value.detach(), {key: self.new_statistic(w).zero_() for key, w in self.weights.items()}
                    raise ConesError("the loss does not depend on any target; no tapped layer was used by this model")
                try:
                    torch.autograd.grad(value * self.loss_scale, [anchor])
                except RuntimeError as error:
                    if self.taps.copies or "inplace operation" not in str(error):
                        raise
                    self.taps.copies = True  # this model writes into what its norms keep: once more, with copies
                    continue
            self.warn_of_unused()
            sink, self.taps.sink = self.taps.sink, {}
            if self.loss_scale <= 1 or all(bool(g.isfinite().all()) for g in sink.values()):
                break
            self.loss_scale /= 2
        gradients = {}
        for key, weight in self.weights.items():
            gradient = sink.pop(key, None)
            if gradient is None:
                gradient = self.new_statistic(weight).zero_()
            gradients[key] = gradient if self.loss_scale == 1 else gradient.div_(self.loss_scale)
        return value.detach(), gradients

    def warn_of_unused(self) -> None:
        """Say once which targets a pass has not used: their scores stay zero."""
        unused = {name for _, name in self.weights} - self.taps.called if self.taps.called else ()
        if unused and not self.warned:
            warn(f"Choose other targets: this model did not call {listed(unused)}, so nothing can be found there")
        self.warned |= bool(unused)


def joined_rows(conds: Sequence[Any]) -> Any | None:
    """One conditioning whose rows are those of `conds`, as the host batches positive and negative prompts.

    None where it cannot be: several entries, an area or mask or the like, or texts that the host would not batch. Its
    uuid is the tuple of the rows' uuids (`rows_in`).
    """
    if any(len(cond) != 1 or APART & set(cond[0]) for cond in conds):
        return None
    rows = [
        {name: part.process_cond(batch_size=1, area=None) for name, part in cond[0]["model_conds"].items()}
        for cond in conds
    ]
    if not all(comfy.samplers.cond_equal_size(rows[0], row) for row in rows[1:]):
        return None
    parts = {name: type(part)(part.concat([row[name] for row in rows[1:]])) for name, part in rows[0].items()}
    return [{"model_conds": parts, "uuid": tuple(cond[0]["uuid"] for cond in conds)}]
