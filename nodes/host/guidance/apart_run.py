"""What a sampling run with Keep Concepts Apart keeps: for each prompt its maps, its regions and the bias they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ....cones_ops.errors import ConesError
from ....cones_ops.guidance.attention_maps import FINEST, AttentionMaps
from ....cones_ops.guidance.regions import PROBE, Bias, at_grid, logit_bias, regions
from ..notices import WarnsOnce
from ..text.token_positions import PromptTokens
from .attention_layout import AttentionLayout, layout_of

NOT_READ = (
    "Remove Keep Concepts Apart: it cannot see where this model's pixels look at the text, so it has no effect. "
    "docs/reference/models.md lists the model families that work"
)
REARRANGED = "Remove Keep Concepts Apart: another node changes the batch while sampling (tiled sampling does that)"


@dataclass
class PromptRun:
    """One prompt of the run."""

    present: Tensor  # boolean (C,): groups with tokens in it
    drawn: Tensor | None  # (1, C, h, w)
    bias: Bias
    maps: AttentionMaps = field(default_factory=AttentionMaps)
    coverage: Tensor | None = None  # (rows, C, h, w), from the end of the probe on
    first_step: int | None = None
    biases: dict[Any, Tensor] = field(default_factory=dict)

    @property
    def competes(self) -> bool:
        """Whether there is anything to keep apart."""
        return self.bias.outside != 0 and int(self.present.sum()) > (1 if self.drawn is None else 0)

    def begin_step(self, step: int, probe: int) -> None:
        """Fix the regions once enough steps have been read."""
        self.maps.end_step()
        self.first_step = step if self.first_step is None else self.first_step
        if self.coverage is not None or not self.competes:
            return
        if self.drawn is not None:
            self.coverage = self.drawn
        elif step >= self.first_step + probe:
            if self.maps.total is None:
                raise ConesError(NOT_READ)
            maps = self.maps.mean()
            self.coverage = regions(maps, self.present[None, :, None].expand(len(maps), -1, -1))


@dataclass(frozen=True)
class GroupedRows:
    """Rows [start, stop) of a batch that hold one prompt, and each group's positions in their text."""

    prompt: PromptRun
    start: int
    stop: int
    positions: tuple[Tensor, ...]

    def groups(self, tokens: int, device: torch.device) -> Tensor:
        """Boolean (rows, C, tokens)."""
        groups = torch.zeros(len(self.positions), tokens, dtype=torch.bool, device=device)
        for group, positions in zip(groups, self.positions, strict=True):
            group[positions.to(device)] = True
        return groups.expand(self.stop - self.start, -1, -1)

    def bias(self, layout: AttentionLayout, tokens: int, queries: int, keys: int, like: Tensor) -> Tensor:
        """What to add to the logits of an attention call: (rows, 1, queries, keys), of the type of `like`."""
        key = (layout, tokens, queries, keys, like.dtype)
        if key not in self.prompt.biases:
            self.prompt.biases[key] = self._bias(layout, tokens, queries, keys, like)
        return self.prompt.biases[key]

    def _bias(self, layout: AttentionLayout, tokens: int, queries: int, keys: int, like: Tensor) -> Tensor:
        coverage = self.prompt.coverage
        assert coverage is not None
        rows = self.stop - self.start
        if len(coverage) not in (1, rows):
            raise ConesError(REARRANGED)
        coverage = at_grid(coverage.to(like.device), layout.grid).expand(rows, -1, -1, -1)
        part = logit_bias(coverage, self.groups(tokens, like.device), self.prompt.bias).to(like)  # (rows, N, L)
        whole = torch.zeros(rows, 1, queries, keys, dtype=like.dtype, device=like.device)
        text = slice(layout.first_token, layout.first_token + tokens)
        whole[:, 0, layout.pixels, text] = part
        if layout.joint:  # in both directions
            whole[:, 0, text, layout.pixels] = part.transpose(1, 2)
        return whole


@dataclass
class ApartRun(WarnsOnce):
    """One sampling run: its groups by name and its prompts by uuid."""

    names: tuple[str, ...]
    by_uuid: dict[Any, PromptTokens]
    prompts: dict[Any, PromptRun]
    projections: Sequence[str]  # K projections after which an attention reads the text
    read: set[str]  # those whose attention is read
    warnings: set[str] = field(default_factory=set)


@dataclass
class ModelPass:
    """One pass of the model: its rows by prompt, the size of what it gets, and what attention comes next."""

    run: ApartRun
    rows: Sequence[GroupedRows]
    diffusion_model: Any
    tokens: int
    latent: tuple[int, ...]
    next_text: str | None = None  # the K projection of the attention that comes next, if it reads the text

    def layout(self, queries: int, keys: int) -> AttentionLayout | None:
        """Of the attention that comes now."""
        name, self.next_text = self.next_text, None
        if name is None:
            return None
        return layout_of(self.diffusion_model, name, queries, keys, self.tokens, self.latent)


def step_of(options: Any) -> tuple[int, int]:
    """(number of the step under way, how many steps are the probe) by a call's transformer_options."""
    levels, sigma = options["sample_sigmas"], options["sigmas"]
    step = int((levels > sigma.max().to(levels) * (1 + 1e-4)).sum())
    return step, max(1, round(PROBE * (len(levels) - 1)))


def new_maps(every_grid: bool) -> AttentionMaps:
    """Maps at the finest grid of at most FINEST pixels (`every_grid`: of any size)."""
    return AttentionMaps(1 << 30 if every_grid else FINEST)
