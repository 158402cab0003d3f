"""Keep concepts to their own regions while a diffusers UNet samples, and record where groups of tokens look.

`recorded` reads the cross-attention in passing; `kept_apart` does so for the first passes and then adds a bias to the
logits. Both lend the UNet's cross-attention other processors and give the UNet back as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...errors import ConesError
from ...guidance.attention_maps import AttentionMaps, attention_to, grid_of
from ...guidance.regions import Bias, at_grid, competing, logit_bias, regions

Processor = Callable[..., Tensor]


@dataclass
class KeptApart:
    """How groups are kept apart in a run. probe: passes that are read first; none of them with `drawn` regions."""

    groups: Tensor  # boolean (B, C, L)
    bias: Bias
    probe: int
    coverage: Tensor | None = None  # (B, C, h, w)
    biases: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # by grid

    def at(self, grid: tuple[int, int], like: Tensor) -> Tensor | None:
        """The bias (B, N, L) of a layer; None while regions are not known."""
        if self.coverage is None:
            return None
        if grid not in self.biases:
            coverage = at_grid(self.coverage, grid)
            self.biases[grid] = logit_bias(coverage, self.groups.to(coverage.device), self.bias).to(like)
        return self.biases[grid]


@contextmanager
def kept_apart(
    unet: Any,
    groups: Tensor,
    *,
    strength: float = 1.0,
    probe: int = 2,
    drawn: Tensor | None = None,
) -> Iterator[KeptApart]:
    """Inside, each group of tokens stays in its region from pass `probe` on.

        with applied(unet, masks, positions), kept_apart(unet, groups):
            ...  # one denoising loop: its passes are counted

    groups: boolean (B, C, L), B and L being those of every pass inside: own tokens of each concept, then tokens of
    other things and of the background, which compete for pixels alike. Rows in which fewer than two groups have tokens
    (negative prompts) are left alone.
    drawn: regions (C, h, w) or (B, C, h, w) in [0, 1] in place of those that are read.
    """
    groups = groups & competing(groups)[:, None, None]
    apart = KeptApart(groups, Bias.of(strength), probe)
    if strength == 0 or not bool(groups.any()):
        yield apart
        return
    if drawn is not None:
        drawn = drawn if drawn.ndim == 4 else drawn[None].expand(len(groups), -1, -1, -1)
        if drawn.shape[:2] != groups.shape[:2]:
            raise ConesError(f"{tuple(drawn.shape[:2])} (rows, regions) for {tuple(groups.shape[:2])} groups of tokens")
        apart.coverage, apart.probe = drawn, 0
    with recorded(unet, groups, passes=apart.probe, apart=apart):
        yield apart


@contextmanager
def recorded(
    unet: Any, groups: Tensor, *, passes: int | None = None, apart: KeptApart | None = None
) -> Iterator[AttentionMaps]:
    """Inside, the first `passes` of the UNet (all) add to the maps of `groups`, boolean (B, C, L).

    apart: gets its regions from the maps when they are complete, and its biases are added from then on.
    """
    maps = AttentionMaps()
    state = _Pass(groups, maps, apart, passes)
    layers = [module for name, module in unet.named_modules() if name.endswith("attn2")]
    processors = [layer.processor for layer in layers]
    hook = unet.register_forward_pre_hook(state.begin, with_kwargs=True)
    try:
        for layer, processor in zip(layers, processors, strict=True):
            layer.set_processor(_Reading(state, processor))
        yield maps
    finally:
        hook.remove()
        for layer, processor in zip(layers, processors, strict=True):
            layer.set_processor(processor)


@dataclass
class _Pass:
    """The pass under way: its number and the size of its latents."""

    groups: Tensor
    maps: AttentionMaps
    apart: KeptApart | None
    passes: int | None
    number: int = -1
    size: tuple[int, int] = (0, 0)

    def begin(self, unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        self.number, self.size = self.number + 1, tuple(sample.shape[-2:])
        self.maps.end_step()
        if self.apart is not None and self.apart.coverage is None and self.number >= self.apart.probe:
            self.apart.coverage = regions(self.maps.mean(), self.apart.groups.to(sample.device))

    @property
    def reads(self) -> bool:
        return self.passes is None or self.number < self.passes

    def grid(self, pixels: int) -> tuple[int, int]:
        grid = grid_of(pixels, *self.size)
        if grid is None:
            raise ConesError(f"a layer of this UNet has {pixels} pixels for latents of {self.size}: no grid is known")
        return grid


@dataclass
class _Reading:
    """A processor of cross-attention that reads, or adds the bias, and lets the layer's own do the rest."""

    state: _Pass
    processor: Processor

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        text = encoder_hidden_states
        if isinstance(text, Tensor) and hidden_states.ndim == 3:
            state, pixels = self.state, hidden_states.shape[1]
            check_rows(state.groups, text)
            if state.reads and state.maps.wants(pixels):
                state.maps.add(_shares(attn, hidden_states, text, state.groups), state.grid(pixels))
            bias = state.apart.at(state.grid(pixels), hidden_states) if state.apart is not None else None
            if bias is not None:
                attention_mask = bias if attention_mask is None else attention_mask + bias
        return self.processor(attn, hidden_states, text, attention_mask, *args, **kwargs)


def check_rows(groups: Tensor, text: Tensor) -> None:
    """ConesError unless groups (B, C, L) are of the text (B, L, D)."""
    if (groups.shape[0], groups.shape[2]) != tuple(text.shape[:2]):
        raise ConesError(
            f"groups of tokens are for {(groups.shape[0], groups.shape[2])} (rows, tokens) but the text is "
            f"{tuple(text.shape[:2])}; give them for every row of the batch"
        )


def _shares(attn: Any, pixels: Tensor, text: Tensor, groups: Tensor) -> Tensor:
    """The attention of a layer's pixels (B, N, in) to each group of the text (B, L, D): (B, C, N)."""
    if attn.norm_cross:
        text = attn.norm_encoder_hidden_states(text)
    query = attn.to_q(pixels).unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B, H, N, D)
    key = attn.to_k(text).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    query = query if attn.norm_q is None else attn.norm_q(query)
    key = key if attn.norm_k is None else attn.norm_k(key)
    return attention_to(query, key, groups.to(query.device))
