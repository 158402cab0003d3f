"""What a model with Keep Concepts Apart leaves behind of its latest run: where each word looked, and the regions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

KEY = "cones_keep_apart"


@dataclass(frozen=True)
class RecordedPrompt:
    """One prompt of a run: maps of its groups (B, C, h, w) fp32, the mean over all steps; the regions, if any acted."""

    present: Tensor  # boolean (C,): which groups have tokens in it
    maps: Tensor
    regions: Tensor | None


@dataclass
class Recording:
    """The latest run, on the CPU; shared by the node's model and all its clones. names: of the groups (C,)."""

    names: tuple[str, ...] = ()
    prompts: list[RecordedPrompt] = field(default_factory=list)

    def __deepcopy__(self, memo: Any) -> Recording:
        return self


@dataclass(frozen=True, eq=False)
class Settings:
    """What Keep Concepts Apart was asked for. words: of other things; drawn: a region for each of them (C, H, W)."""

    strength: float
    words: tuple[str, ...]
    drawn: Tensor | None
    recording: Recording


def settings_of(model: Any) -> Settings | None:
    """The settings of a model with Keep Concepts Apart."""
    settings: Settings | None = model.model_options.get("transformer_options", {}).get(KEY)
    return settings


def mean_over_prompts(prompts: list[RecordedPrompt]) -> tuple[Tensor, Tensor | None]:
    """Maps and regions (B, C, h, w): of each group, the mean over the prompts in which it has tokens."""
    same = [prompt for prompt in prompts if prompt.maps.shape == prompts[0].maps.shape]
    weights = torch.stack([prompt.present.float() for prompt in same])  # (prompts, C)
    weights = (weights / weights.sum(dim=0).clamp(min=1))[:, None, :, None, None]
    maps = (torch.stack([prompt.maps for prompt in same]) * weights).sum(dim=0)
    if any(prompt.regions is None or prompt.regions.shape != maps.shape for prompt in same):
        return maps, None
    regions = [prompt.regions for prompt in same if prompt.regions is not None]
    return maps, (torch.stack(regions) * weights).sum(dim=0)
