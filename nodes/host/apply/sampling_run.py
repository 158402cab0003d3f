"""What a sampling run with masks at own tokens keeps: its masks, where their tokens are, and what was computed.

The host may run one model on several devices at once, each in a thread of its own, and hands all of them the same
`SamplingRun`; what is computed is therefore kept per device and thread.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ....cones_ops.errors import ConesError
from ....cones_ops.masks.concept_mask import ConceptMask
from ..notices import WarnsOnce
from ..text.token_positions import PromptTokens
from .token_groups import OwnTokens

Strengths = tuple[tuple[ConceptMask, float], ...]

OTHER_TEXT = (
    "Use ComfyUI's own regions for concepts in regions: another node gives attention layers other text than the "
    "prompt's (attention couple does that), and concept masks have no effect in it. ComfyUI's own are Conditioning "
    "(Set Area) or (Set Mask) of each prompt, and Conditioning (Combine)"
)


@dataclass
class Computed:
    """What one thread has computed on one device."""

    texts: dict[Any, Tensor] = field(default_factory=dict)  # own tokens' text, by rows
    products: dict[Any, Tensor] = field(default_factory=dict)  # S x (n, out) in fp32, by rows and layer
    acted: bool = False  # whether masked layers have been called


@dataclass
class SamplingRun(WarnsOnce):
    """One sampling run: its masks, its conditionings, and what has been computed for them so far."""

    masks: Strengths
    by_uuid: Mapping[Any, PromptTokens]
    computed: dict[tuple[torch.device, int], Computed] = field(default_factory=dict)
    warnings: set[str] = field(default_factory=set)

    def computed_on(self, device: torch.device) -> Computed:
        """What this thread has computed on a device."""
        return self.computed.setdefault((device, threading.get_ident()), Computed())


@dataclass(frozen=True)
class ModelCall:
    """One call of the host's apply_model: where own tokens are, and whether what is computed now holds for later."""

    run: SamplingRun
    computed: Computed
    text: Tensor  # (B, L, D)
    own: tuple[OwnTokens, ...]
    patched: bool  # another node changes what single layers read
    lasting: bool  # weights are the same in every step
    called: set[str] = field(default_factory=set)  # targets whose layers were called
    first: dict[str, list[Tensor]] = field(default_factory=dict)  # what they were given first in this model call

    def names(self) -> list[str]:
        """The targets of the masks that have tokens here."""
        acting = {k for own in self.own for _, masks in own.owners for k in masks}
        return sorted(set(chain.from_iterable(self.run.masks[k][0].index for k in acting)))


def forget_what_changed(call: ModelCall) -> None:
    """Check that all rows of a conditioning have one text; if it is another text now, drop what was computed for it."""
    computed = call.computed
    for own in call.own:
        texts, before = own.of(call.text), computed.texts.get(own.uuid)
        text = texts[0]
        if not torch.equal(texts, text.expand_as(texts)):
            raise ConesError(
                "another node rearranges the batch (tiled sampling does that), so the rows of each prompt are not "
                "known; remove that node, or choose where = everywhere in Apply Concept Masks"
            )
        if before is not None and before.shape == text.shape and torch.equal(before, text):
            continue
        computed.texts[own.uuid] = text
        computed.products = {key: product for key, product in computed.products.items() if key[0] != own.uuid}
