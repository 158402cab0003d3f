"""Shut concept masks in a diffusers UNet while sampling; `applied` gives the UNet back bit by bit.

A mask without own positions acts everywhere: its neurons are shut in the weight itself. A mask with own positions
(B, L) acts in the K and V of those text tokens only; where masks share a token their shut neurons are united.
Masks are shut in an order that depends on their strengths alone, so the order they are given in never matters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ConesError, listed
from ...masks.base import check_base
from ...masks.concept_mask import ConceptMask, check_strength
from ...masks.fingerprint import base_of
from ...masks.shut import shut_
from .layers import check_plain, forwards, linear
from .names import canonical_names

log = logging.getLogger("cones")

Strengths = Sequence[tuple[ConceptMask, float]]


@contextmanager
def applied(
    unet: Any, masks: Strengths, own: Sequence[Tensor | None] | None = None, *, any_base: bool = False
) -> Iterator[None]:
    """Inside, `unet` acts with the masks shut at their strengths.

        with applied(pipeline.unet, [(load_mask("sks-dog.safetensors"), 1.0)]):
            picture = pipeline("a photo of a sks dog").images[0]

    Strengths are from 0 (nothing changes) to 1 (shut); ConesError for others.
    own: for each mask None (everywhere) or boolean (B, L), B and L being those of every forward pass inside.
    A mask found on other weights (its fingerprint differs) is refused unless `any_base`.
    """
    own = list(own) if own is not None else [None] * len(masks)
    if len(own) != len(masks):
        raise ConesError(f"{len(masks)} masks but {len(own)} own positions; give one per mask (None = everywhere)")
    for _, strength in masks:
        check_strength(strength)
    modules = check_masks(unet, [mask for mask, _ in masks], any_base)
    pairs = sorted(zip(masks, own, strict=True), key=lambda pair: pair[0][1])
    active = [(mask, strength, positions) for (mask, strength), positions in pairs if strength and mask.count]
    with ExitStack() as stack:
        stack.enter_context(_shut_everywhere(modules, [(m, s) for m, s, positions in active if positions is None]))
        at_tokens = [(m, s, positions) for m, s, positions in active if positions is not None]
        if at_tokens:
            stack.enter_context(_shut_at_own_tokens(modules, at_tokens))
        yield


def check_masks(unet: Any, masks: Sequence[ConceptMask], any_base: bool = False) -> dict[str, nn.Linear]:
    """The layers of the masks by canonical name; ConesError, or a log line, where one does not belong to the UNet."""
    modules = _modules(unet, masks)
    for mask in masks:
        _check_mask(mask, modules, any_base)
    return modules


def _modules(unet: Any, masks: Sequence[ConceptMask]) -> dict[str, nn.Linear]:
    """Canonical name -> layer for every name the masks speak of."""
    check_plain(unet)
    names = canonical_names(unet.config, (name for name, _ in unet.named_parameters()))
    wanted = sorted({name for mask in masks for name in mask.shapes})
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ConesError(
            f"masked weights that this UNet lacks: {listed(missing)}; was the mask made for another model?"
        )
    return {name: linear(unet, names[name]) for name in wanted}


def _check_mask(mask: ConceptMask, modules: Mapping[str, nn.Linear], any_base: bool) -> None:
    for name, shape in mask.shapes.items():
        size = tuple(modules[name].weight.shape)
        if size != tuple(shape):
            raise ConesError(f"{name}: the mask is for {tuple(shape)} but the weight is {size}; another model?")
    base = base_of({name: modules[name].weight for name in mask.shapes})
    if note := check_base(mask, base, any_base, "load the model it was found on, or pass any_base=True"):
        log.warning("%s", note)


@contextmanager
def _shut_everywhere(modules: Mapping[str, nn.Linear], masks: Strengths) -> Iterator[None]:
    """Shut neurons in the weights themselves; the exact bits of every touched weight are put back."""
    names = sorted({name for mask, _ in masks for name in mask.index})
    before = {name: modules[name].weight.detach().clone() for name in names}
    try:
        with torch.no_grad():
            for mask, strength in masks:
                for name, index in mask.index.items():
                    shut_(modules[name].weight, index.to(modules[name].weight.device), strength)
        yield
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                modules[name].weight.copy_(weight)


@contextmanager
def _shut_at_own_tokens(
    modules: Mapping[str, nn.Linear], masks: Sequence[tuple[ConceptMask, float, Tensor]]
) -> Iterator[None]:
    """Give own tokens the K and V of shut copies of the weights; all other rows stay as they are."""
    for mask, _, own in masks:
        if own.dtype != torch.bool or own.ndim != 2 or own.shape != masks[0][2].shape:
            raise ConesError(f"{mask.identifier!r}: own positions must be boolean (B, L), alike for all masks")
    code = sum(own.long() << bit for bit, (_, _, own) in enumerate(masks))  # (B, L): which masks own a token
    assert isinstance(code, Tensor)
    groups = {c: code == c for c in set(code.flatten().tolist()) if c}
    replacements: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
    for name, module in modules.items():
        shut = []
        for bits, positions in groups.items():
            weight = module.weight.detach().clone()
            chosen = [(mask, strength) for bit, (mask, strength, _) in enumerate(masks) if bits >> bit & 1]
            for mask, strength in chosen:
                if name in mask.index:
                    shut_(weight, mask.index[name].to(weight.device), strength)
            if any(name in mask.index for mask, _ in chosen):
                shut.append((positions.to(weight.device), weight))
        if shut:
            replacements[module] = _own_token_forward(name, module, shut)
    with forwards(replacements):
        yield


def _own_token_forward(
    name: str, module: nn.Linear, shut: Sequence[tuple[Tensor, Tensor]]
) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:  # x (B, L, D)
        y = F.linear(x, module.weight, module.bias)
        for positions, weight in shut:
            if x.shape[:2] != positions.shape:
                raise ConesError(
                    f"{name}: own positions are for {tuple(positions.shape)} (rows, tokens) but the text is "
                    f"{tuple(x.shape[:2])}; give positions for every row of the batch"
                )
            y[positions] = F.linear(x[positions], weight, module.bias)
        return y

    return forward
