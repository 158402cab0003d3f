"""Lending a model that is loaded in ComfyUI to a search: `borrow` runs `body(host_model)` inside the host's own guider.

So loading, conditioning, prediction type, noise schedule, LoRA and object patches are the host's; attention is forced
to a backend that has a backward. At own tokens, the rows that see a multiplier are those of `concepts` in the batch
under way (token_places.py). The user's model is the same afterwards, whether body returned, raised or was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import comfy.ldm.modules.attention
import comfy.patcher_extension
import comfy.samplers
import torch
from torch import Tensor

from ....cones_ops.errors import ConesError
from ....cones_ops.search.host_model import Where
from ....cones_ops.search.objective import Pictures
from ..apply.token_hooks import has_masks
from ..notices import warn
from ..parameters import base_identity
from ..text.layout import WHOLE_TEXT
from ..text.token_positions import (
    NOISY,
    ConceptWords,
    PromptRows,
    PromptTokens,
    positions_by_prompt,
    rows_in,
    text_and_options,
)
from .checkpointing import when_short
from .host_model import BorrowedModel
from .tapped_layers import OwnRows, Taps
from .taps import tapped

T = TypeVar("T")
SMALL = 10_000_000  # parameters of a model whose layers several threads of a CPU do not compute faster than one
ACTIVATIONS = 3  # what a pass with a backward keeps, in units of what the host reserves for one without


class Lender(comfy.samplers.CFGGuider):  # type: ignore[misc]
    """The host's guider, with a search where it would sample."""

    def __init__(
        self,
        patcher: Any,
        latents: Mapping[str, Pictures],
        names: list[str],
        body: Callable[[Any], Any],
        concepts: Sequence[ConceptWords],
        rows: int,
        checkpoint: bool | None,
        statistics: int,
    ) -> None:
        super().__init__(patcher)
        self.latents, self.names, self.body, self.concepts = latents, names, body, concepts
        self.rows, self.checkpoint, self.statistics = rows, checkpoint, statistics
        self.result: Any = None

    def inner_sample(self, noise: Tensor, latent_image: Tensor, device: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Called by the host with the model loaded; self.conds are still as the user gave them."""
        inner = self.inner_model
        latents, conds = {}, {}
        by_uuid = positions_by_prompt(self.conds, self.concepts) if self.concepts else {}
        if any(prompt.noisy for prompt in by_uuid.values()):
            warn(NOISY)
        for label, raw in self.latents.items():
            latents[label] = internal_latents(inner, raw, device)

        def conditioned(label: str, picture: Tensor) -> Any:
            """The host's conditioning of one label for pictures of the size of (1, C, H, W)."""
            cond = {"positive": self.conds[label]}
            with torch.no_grad():
                done = comfy.samplers.process_conds(inner, picture, cond, device, picture, None, None)
            return normal(done["positive"])

        for label in self.conds:
            conds[label] = conditioned(label, latents.get(label, next(iter(latents.values())))[0][None])
        where: Where = "own tokens" if self.concepts else "everywhere"
        short = when_short(inner, [self.rows, *latent_image.shape[1:]], device)
        save = short if self.checkpoint is None else lambda: bool(self.checkpoint)
        with tapped(inner.diffusion_model, self.names, where, len(self.concepts) or 1, save) as taps:
            tell = partial(tell_own_rows, taps, by_uuid)
            apply_model = comfy.patcher_extension.WrappersMP.APPLY_MODEL
            comfy.patcher_extension.add_wrapper_with_key(apply_model, "cones", tell, self.model_options, True)
            identify = partial(base_identity, self.model_patcher, self.names)
            options = self.model_options
            host = BorrowedModel(inner, taps, self.names, conds, latents, options, device, self.statistics, identify)
            host.conditioned = conditioned
            with threads_for(inner.diffusion_model, device):
                self.result = self.body(host)
        return latent_image


@contextmanager
def threads_for(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """One thread for a small model on the CPU: several wait for one another, above all beside a browser."""
    before = torch.get_num_threads()
    small = device.type == "cpu" and sum(weight.numel() for weight in model.parameters()) < SMALL
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tell_own_rows(taps: Taps, by_uuid: Mapping[Any, PromptTokens], executor: Any, *args: Any, **kwargs: Any) -> Any:
    """The host's APPLY_MODEL: where the concepts' own tokens are in this batch."""
    text, options = text_and_options(args, kwargs)
    rows = list(rows_in(options["uuids"], text, by_uuid))
    own = tuple(own_rows(rows, k, text.device) for k in range(taps.concepts)) if rows else ()
    with taps.at(own, text.shape[:2] if rows else (0, 0)):
        return executor(*args, **kwargs)


def own_rows(rows: Sequence[PromptRows], k: int, device: torch.device) -> OwnRows | None:
    """Rows of the batch and tokens of theirs that are concept k's; None if there are none."""
    pairs = [torch.cartesian_prod(torch.arange(r.start, r.stop), r.positions[k]) for r in rows if len(r.positions[k])]
    return torch.cat(pairs).to(device).unbind(1) if pairs else None  # type: ignore[return-value]


def borrow(
    model_patcher: Any,
    conditionings: Mapping[str, Any],
    latents: Mapping[str, Pictures],
    targets: Sequence[str],
    body: Callable[[BorrowedModel], T],
    rows: int = 16,
    concepts: Sequence[ConceptWords] = (),
    checkpoint: bool | None = None,
    statistics: int = 0,
) -> T:
    """body(host_model), the model loaded and tapped. latents: as VAE Encode gives them; rows: the largest batch.

        def body(host: BorrowedModel) -> Tensor:
            x, sigma = host.latents["cat"], torch.ones(1)
            return host.gradients(lambda: host.denoise(x, sigma, ["a cat"]).mean())

        loss, gradients = borrow(model, {"a cat": conditioning}, {"cat": samples}, names, body)

    concepts: search at their own tokens, which the conditionings tell; none: everywhere.
    checkpoint: whether blocks are run again instead of keeping their activations; None: where memory is short.
    statistics: bytes that body will keep for each target's entry, on disk where memory is short.
    """
    check_input(model_patcher, conditionings, latents)
    with torch.inference_mode(False), torch.no_grad():
        patcher = prepared_clone(model_patcher, rows)
        clean = {label: normal(samples) for label, samples in latents.items()}
        first = largest(clean.values())
        guider = Lender(patcher, clean, list(targets), body, concepts, rows, checkpoint, statistics)
        guider.inner_set_conds({label: normal(cond) for label, cond in conditionings.items()})
        guider.sample(torch.zeros_like(first), first, None, torch.tensor([1.0, 0.0]))
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
    options.update(WHOLE_TEXT)
    wrappers = comfy.patcher_extension.WrappersMP
    patcher.remove_wrappers_with_key(wrappers.APPLY_MODEL, "torch.compile")
    patcher.remove_additional_models("multigpu")  # a search runs on one device
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


def internal_latents(inner_model: Any, pictures: Pictures, device: torch.device) -> Pictures:
    """The pictures in the model's internal space."""
    if isinstance(pictures, Tensor):
        internal: Tensor = inner_model.process_latent_in(pictures.to(device, torch.float32))
        return internal
    return [inner_model.process_latent_in(picture[None].to(device, torch.float32))[0] for picture in pictures]


def largest(latents: Iterable[Pictures]) -> Tensor:
    """The latents (n, C, H, W), or the single picture (1, C, H, W), that need the most memory."""
    batches = [batch for pictures in latents for batch in ([pictures] if isinstance(pictures, Tensor) else pictures)]
    alone = [batch if batch.ndim > 3 else batch[None] for batch in batches]
    return max(alone, key=lambda batch: batch[0].numel())


def check_input(model_patcher: Any, conditionings: Mapping[str, Any], latents: Mapping[str, Pictures]) -> None:
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
    for label, pictures in latents.items():
        batches = [pictures] if isinstance(pictures, Tensor) else [picture[None] for picture in pictures]
        wrong = [s for s in batches if s.is_nested or s.ndim not in (4, 5) or s.shape[1] != channels]
        if wrong:
            raise ConesError(
                f"{label} latents have shape {tuple(wrong[0].shape)} but this model works on "
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
        return {key: normal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(normal(item) for item in value)
    if isinstance(getattr(value, "cond", None), torch.Tensor | list):  # the host's COND objects
        value.cond = normal(value.cond)
    return value
