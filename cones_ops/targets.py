"""Which weights are searched: the K and V projections of attention layers, by canonical name.

attn2 reads the text (cross-attention), attn1 the picture (self-attention). Text K+V is the default: science of the toy
world and the paper's storage argument agree on it; self-attention has no tokens of its own to act at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, get_args

from .errors import ConesError, listed

TargetChoice = Literal["text K+V", "text V", "text K", "text + self K+V"]
TARGET_CHOICES: tuple[TargetChoice, ...] = get_args(TargetChoice)

_PATTERNS: dict[TargetChoice, str] = {
    "text K+V": r"attn2\.to_[kv]\.weight",
    "text V": r"attn2\.to_v\.weight",
    "text K": r"attn2\.to_k\.weight",
    "text + self K+V": r"attn[12]\.to_[kv]\.weight",
}


def select_targets(names_to_shapes: Mapping[str, tuple[int, ...]], choice: TargetChoice = "text K+V") -> list[str]:
    """The names to search, sorted. ConesError for an unknown choice or a model without such weights."""
    if choice not in _PATTERNS:
        raise ConesError(f"targets {choice!r} are not known; choose one of {', '.join(TARGET_CHOICES)}")
    pattern = re.compile(rf"(?:.*\.)?{_PATTERNS[choice]}")
    found = sorted(name for name in names_to_shapes if pattern.fullmatch(name))
    if not found:
        seen = f"{len(names_to_shapes)} parameters such as {listed(names_to_shapes)}"
        raise ConesError(
            f"the model has no {choice} projections (names ending in attn2.to_k.weight and the like) among its {seen}; "
            "only UNets with separate K and V projections (SD 1.x, SD 2.x, SDXL) are supported"
        )
    if odd := [name for name in found if len(names_to_shapes[name]) != 2]:
        raise ConesError(f"K and V projections must be matrices, these are not: {listed(odd)}")
    return found
