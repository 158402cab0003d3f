"""Which weights are searched: the K and V projections of attention layers, by canonical name.

attn2 reads the text (cross-attention), attn1 the picture (self-attention); in joint attention add_k_proj and add_v_proj
are the text's half. Text K+V is the default: science of the toy world and the paper's storage argument agree on it;
self-attention has no tokens of its own to act at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, get_args

from .errors import ConesError, listed

TargetChoice = Literal["text K+V", "text V", "text K", "text + self K+V"]
TARGET_CHOICES: tuple[TargetChoice, ...] = get_args(TargetChoice)

_TEXT = r"attn2\.to_{}\.weight|attn\.add_{}_proj\.weight"  # cross-attention; the text's half of joint attention
_PATTERNS: dict[TargetChoice, str] = {
    "text K+V": _TEXT.format("[kv]", "[kv]"),
    "text V": _TEXT.format("v", "v"),
    "text K": _TEXT.format("k", "k"),
    "text + self K+V": _TEXT.format("[kv]", "[kv]") + r"|attn1\.to_[kv]\.weight|attn\.to_[kv]\.weight",
}


def _pattern(choice: TargetChoice) -> re.Pattern[str]:
    return re.compile(rf"(?:.*\.)?(?:{_PATTERNS[choice]})")


def reads_text(name: str) -> bool:
    """Whether a K or V projection, by its name, is one that reads the text's tokens."""
    return _pattern("text K+V").fullmatch(name) is not None


def select_targets(names_to_shapes: Mapping[str, tuple[int, ...]], choice: TargetChoice = "text K+V") -> list[str]:
    """The names to search, sorted. ConesError for an unknown choice or a model without such weights."""
    if choice not in _PATTERNS:
        raise ConesError(f"targets {choice!r} are not known; choose one of {', '.join(TARGET_CHOICES)}")
    pattern = _pattern(choice)
    found = sorted(name for name in names_to_shapes if pattern.fullmatch(name))
    if not found:
        seen = f"{len(names_to_shapes)} parameters such as {listed(names_to_shapes)}"
        raise ConesError(
            f"the model has no {choice} projections (names ending in attn2.to_k.weight and the like) among its {seen}; "
            "only models with separate K and V projections (SD 1.x, SD 2.x, SDXL, Qwen-Image) are supported"
        )
    if odd := [name for name in found if len(names_to_shapes[name]) != 2]:
        raise ConesError(f"K and V projections must be matrices, these are not: {listed(odd)}")
    return found
