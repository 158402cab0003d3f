"""The boundary `HostModel` for a model loaded in ComfyUI: latents + conditioning + sigma -> denoised, and gradients.

`borrow` runs `body(host_model)` inside the host's own guider, so loading, conditioning, prediction type, noise
schedule, LoRA and object patches are the host's; attention is forced to a backend that has a backward. Conditionings
and latents are looked up by the caller's labels; `host_model.latents[label]` are the model's internal latents. At own
tokens, the rows that see a multiplier are those of `concepts` in the batch under way (token_places.py). The user's
model is the same afterwards, whether body returned, raised or was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import comfy.ldm.modules.attention
import comfy.patcher_extension
import comfy.samplers
import torch
from torch import Tensor

from ...cones_ops.errors import ConesError, listed
from ...cones_ops.hostmodel import Where
from ...cones_ops.targets import size_of
from .checkpointing import when_short
from .gradients import tapped
from .own_tokens import has_masks
from .parameters import layer_of, shapes_of, weight_in_use
from .tapped_layers import OwnRows, Taps
from .token_places import Concept, Placed, Rows, placed, rows_in, text_and_options

T = TypeVar("T")
ACTIVATIONS = 3  # what a pass with a backward keeps, in units of what the host reserves for one without
ON_DEVICE_LIMIT = 2**27  # beyond this many, searched weights, their gradients and statistics are on the CPU


class BorrowedModel:
    """HostModel of a model that the host has just loaded; made by `borrow`, dead after it."""

    def __init__(
        self,
        inner_model: Any,
        taps: Taps,
        names: Sequence[str],
        conds: Mapping[str, Any],
        latents: Mapping[str, Tensor],
        options: dict[str, Any],
        device: torch.device,
    ) -> None:
        self.inner_model = inner_model
        self.sampling = inner_model.model_sampling
        self.taps = taps
        self.where: Where = taps.where
        self.conds = conds
        self.latents = latents
        self.options = options
        self.device = device
        self.dtype: torch.dtype = inner_model.get_dtype_inference()
        self.loss_scale = 2.0**12 if self.dtype == torch.float16 else 1.0
        self.weights: Mapping[str, Tensor] = self._copies(names)

    def _copies(self, names: Sequence[str]) -> dict[str, Tensor]:
        """fp32 copies of the effective weights (patches of other nodes included)."""
        total = size_of(names, shapes_of(self.inner_model.diffusion_model))
        store = self.taps.store = self.device if total <= ON_DEVICE_LIMIT else torch.device("cpu")
        copies = {}
        for name in names:
            module, rows = layer_of(self.inner_model.diffusion_model, name)
            with torch.no_grad(), weight_in_use(module, self.dtype, self.device) as (weight, _):
                copied = weight[rows].to(store, torch.float32, copy=True)
            copies |= dict.fromkeys(self.taps.names(name), copied)
        return copies

    def sigma_at(self, percent: Tensor) -> Tensor:
        """(B,) percent of sampling, 0 = most noise -> (B,) sigma."""
        sigmas = [float(self.sampling.percent_to_sigma(float(one))) for one in percent]
        return torch.tensor(sigmas, dtype=torch.float32, device=self.device)

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Latents at noise level sigma (B,), by the model's own rule."""
        latents, noise, sigma = (one.to(self.device, torch.float32) for one in (latents, noise, sigma))
        return self.sampling.noise_scaling(sigma, noise.clone(), latents, False)  # type: ignore[no-any-return]

    def output_scale(self, sigma: Tensor) -> Tensor:
        """(B,) d denoised / d network output."""
        ones = torch.ones(len(sigma), *[1] * (next(iter(self.latents.values())).ndim - 1), device=self.device)
        scale: Tensor = self.sampling.calculate_denoised(sigma.to(self.device), ones, torch.zeros_like(ones))
        return scale.reshape(-1)

    def denoise(self, x: Tensor, sigma: Tensor, conditioning: Sequence[Any]) -> Tensor:
        """(B,C,H,W) at sigma (B,), one label per row -> denoised; rows that share a label go through together."""
        if len(conditioning) != len(x):
            raise ConesError(f"{len(x)} rows but {len(conditioning)} conditionings; give one label per row")
        x, sigma = x.to(self.device), sigma.to(self.device)
        rows: dict[str, list[int]] = {}
        for row, label in enumerate(conditioning):
            rows.setdefault(label, []).append(row)
        if len(rows) == 1:
            return self._denoise_one(conditioning[0], x, sigma)
        parts = [self._denoise_one(label, x[some], sigma[some]) for label, some in rows.items()]
        order = torch.tensor([row for some in rows.values() for row in some], device=self.device)
        return torch.cat(parts)[torch.argsort(order)]

    def _denoise_one(self, label: str, x: Tensor, sigma: Tensor) -> Tensor:
        """Rows that share one conditioning."""
        options = dict(self.options)
        transformer_options = dict(options.get("transformer_options", {}))
        transformer_options["sample_sigmas"] = sigma.detach()
        options["transformer_options"] = transformer_options
        with torch.set_grad_enabled(self.taps.anchor is not None and torch.is_grad_enabled()):
            out: list[Tensor] = comfy.samplers.calc_cond_batch(self.inner_model, [self.conds[label]], x, sigma, options)
        return out[0]

    @contextmanager
    def multiplied(self, multiplier: Mapping[str, Tensor] | None) -> Iterator[None]:
        """Inside, each named target acts as theta * multiplier."""
        unknown = sorted(set(multiplier or {}) - set(self.weights))
        if unknown:
            raise ConesError(f"not among the targets: {listed(unknown)}")
        before = self.taps.multiplier
        self.taps.multiplier = {} if multiplier is None else {name: m.detach() for name, m in multiplier.items()}
        try:
            yield
        finally:
            self.taps.multiplier = before

    def gradients(self, loss: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, dL/d effective weight per target), fp32; half precision is protected by a static loss scale."""
        while True:
            with self.taps.recording() as anchor:
                value = loss()
                if not value.requires_grad:
                    if self.where == "own tokens":  # no text of this batch has any
                        return value.detach(), {name: torch.zeros_like(w) for name, w in self.weights.items()}
                    raise ConesError("the loss does not depend on any target; no tapped layer was used by this model")
                try:
                    torch.autograd.grad(value * self.loss_scale, [anchor])
                except RuntimeError as error:
                    if self.taps.copies or "inplace operation" not in str(error):
                        raise
                    self.taps.copies = True  # this model writes into what its norms keep: once more, with copies
                    continue
            sink, self.taps.sink = self.taps.sink, {}
            if self.loss_scale <= 1 or all(bool(g.isfinite().all()) for g in sink.values()):
                break
            self.loss_scale /= 2
        gradients = {}
        for name, weight in self.weights.items():
            found = sink.pop(name, None)
            if found is None:
                found = torch.zeros_like(weight)
            gradients[name] = found if self.loss_scale == 1 else found.div_(self.loss_scale)
        return value.detach(), gradients


class Lender(comfy.samplers.CFGGuider):  # type: ignore[misc]
    """The host's guider, with a search where it would sample."""

    def __init__(
        self,
        patcher: Any,
        latents: Mapping[str, Tensor],
        names: list[str],
        body: Callable[[Any], Any],
        concepts: Sequence[Concept],
        rows: int,
        checkpoint: bool | None,
    ) -> None:
        super().__init__(patcher)
        self.latents, self.names, self.body, self.concepts = latents, names, body, concepts
        self.rows, self.checkpoint = rows, checkpoint
        self.result: Any = None

    def inner_sample(self, noise: Tensor, latent_image: Tensor, device: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Called by the host with the model loaded; self.conds are still as the user gave them."""
        inner = self.inner_model
        latents, conds = {}, {}
        by_uuid = placed(self.conds, self.concepts) if self.concepts else {}
        for label, raw in self.latents.items():
            latents[label] = inner.process_latent_in(raw.to(device, torch.float32))
        for label, cond in self.conds.items():
            like = latents.get(label, next(iter(latents.values())))
            done = comfy.samplers.process_conds(inner, like[:1], {"positive": cond}, device, like[:1], None, None)
            conds[label] = normal(done["positive"])
        where: Where = "own tokens" if self.concepts else "everywhere"
        short = when_short(inner, [self.rows, *latent_image.shape[1:]], device)
        save = short if self.checkpoint is None else lambda: bool(self.checkpoint)
        with tapped(inner.diffusion_model, self.names, where, max(1, len(self.concepts)), save) as taps:
            tell = partial(tell_own_rows, taps, by_uuid)
            apply_model = comfy.patcher_extension.WrappersMP.APPLY_MODEL
            comfy.patcher_extension.add_wrapper_with_key(apply_model, "cones", tell, self.model_options, True)
            host = BorrowedModel(inner, taps, self.names, conds, latents, self.model_options, device)
            self.result = self.body(host)
        return latent_image


def tell_own_rows(taps: Taps, by_uuid: Mapping[Any, Placed], executor: Any, *args: Any, **kwargs: Any) -> Any:
    """The host's APPLY_MODEL: where the concepts' own tokens are in this batch."""
    text, options = text_and_options(args, kwargs)
    rows = list(rows_in(options["uuids"], text, by_uuid))
    own = tuple(own_rows(rows, k, text.device) for k in range(taps.concepts)) if rows else ()
    with taps.at(own, text.shape[:2] if rows else (0, 0)):
        return executor(*args, **kwargs)


def own_rows(rows: Sequence[Rows], k: int, device: torch.device) -> OwnRows | None:
    """Rows of the batch and tokens of theirs that are concept k's; None if there are none."""
    pairs = [torch.cartesian_prod(torch.arange(r.start, r.stop), r.positions[k]) for r in rows if len(r.positions[k])]
    return torch.cat(pairs).to(device).unbind(1) if pairs else None  # type: ignore[return-value]


def borrow(
    model_patcher: Any,
    conditionings: Mapping[str, Any],
    latents: Mapping[str, Tensor],
    targets: Sequence[str],
    body: Callable[[BorrowedModel], T],
    rows: int = 16,
    concepts: Sequence[Concept] = (),
    checkpoint: bool | None = None,
) -> T:
    """body(host_model), the model loaded and tapped. latents: as VAE Encode gives them; rows: the largest batch.

    concepts: search at their own tokens, which the conditionings tell; none: everywhere.
    checkpoint: whether blocks are run again instead of keeping their activations; None: where memory is short.
    """
    check_input(model_patcher, conditionings, latents)
    with torch.inference_mode(False), torch.no_grad():
        patcher = prepared_clone(model_patcher, rows)
        some = normal(next(iter(latents.values())))
        clean = {label: normal(one) for label, one in latents.items()}
        guider = Lender(patcher, clean, list(targets), body, concepts, rows, checkpoint)
        guider.inner_set_conds({label: normal(cond) for label, cond in conditionings.items()})
        guider.sample(torch.zeros_like(some), some, None, torch.tensor([1.0, 0.0]))
        result: T = guider.result
        return result


def prepared_clone(model_patcher: Any, rows: int) -> Any:
    """A clone with differentiable attention, no torch.compile, and memory reserved for a backward pass."""
    patcher = model_patcher.clone()
    options = patcher.model_options.setdefault("transformer_options", {})
    attention = comfy.ldm.modules.attention.attention_pytorch

    def override(_: Any, *args: Any, **kwargs: Any) -> Tensor:
        return attention(*args, **kwargs)  # type: ignore[no-any-return]

    def reserve(executor: Any, model: Any, noise_shape: Sequence[int], *args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode():  # as the host loads models when it runs a prompt
            loaded = executor(model, [rows * ACTIVATIONS, *list(noise_shape)[1:]], *args, **kwargs)
            mend(model)
            return loaded

    options["optimized_attention_override"] = override
    wrappers = comfy.patcher_extension.WrappersMP
    patcher.remove_wrappers_with_key(wrappers.APPLY_MODEL, "torch.compile")
    patcher.add_wrapper_with_key(wrappers.PREPARE_SAMPLING, "cones", reserve)
    return patcher


def mend(patcher: Any) -> None:
    """Make weights usable that another node has moved to a device outside inference mode (nodes that train do)."""
    for key, value in patcher.model.named_parameters():
        if moved_outside(value):
            if not patcher.is_dynamic():
                patcher.unpin_weight(key)  # before its memory is free
            value.data = value.data.clone()


def moved_outside(weight: Tensor) -> bool:
    """Whether a weight was made in inference mode and given other memory outside it: it allows no views then."""
    if weight.is_inference():
        return False
    try:
        weight._version  # noqa: B018 - only whether it has one
    except RuntimeError:
        return True
    return False


def check_input(model_patcher: Any, conditionings: Mapping[str, Any], latents: Mapping[str, Tensor]) -> None:
    """ConesError for what cannot be searched with."""
    kind = getattr(getattr(model_patcher.model, "model_type", None), "name", "")
    if kind.startswith("IMG_TO_IMG"):
        raise ConesError(f"this model edits images ({kind}) and never sees noised latents; use a text-to-image model")
    if has_masks(model_patcher):
        raise ConesError(
            "this model has concept masks at own tokens, which a search cannot look through; connect the model from "
            "before Apply Concept Masks"
        )
    channels = model_patcher.get_model_object("latent_format").latent_channels
    for label, one in latents.items():
        if one.is_nested or one.ndim not in (4, 5) or one.shape[1] != channels:
            raise ConesError(
                f"{label} latents have shape {tuple(one.shape)} but this model works on "
                f"(n, {channels}, height, width), some on (n, {channels}, frames, height, width); encode the pictures "
                "with the VAE that belongs to the model"
            )
    for label, conditioning in conditionings.items():
        if not conditioning:
            raise ConesError(f"the {label} conditioning is empty; connect an encoded prompt")
        if any(entry[1].get("hooks") is not None for entry in conditioning):
            raise ConesError(f"the {label} conditioning carries hooks, which a search cannot follow; remove them")


def normal(value: Any) -> Any:
    """value with every inference-mode tensor in it cloned, so that autograd may save it."""
    if isinstance(value, torch.Tensor):
        return value.clone() if value.is_inference() else value
    if isinstance(value, dict):
        return {key: normal(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(normal(one) for one in value)
    if isinstance(getattr(value, "cond", None), torch.Tensor | list):  # the host's COND objects
        value.cond = normal(value.cond)
    return value
