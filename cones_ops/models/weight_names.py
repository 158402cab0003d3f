"""Where in a model a searched weight lies, read from its canonical name alone: block, layer, K or V, text or picture.

Layers are ordered by depth: input, middle, output blocks (a UNet), else the order of names with their numbers counted.
A target that shares its weight with others carries its rows, as in `layers.0.attention.qkv.weight[64:96]`; K's rows
come before V's there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

Part = Literal["K", "V"]

_ROWS = re.compile(r"(.+)\[(\d+):(\d+)\]")
_ROLE = re.compile(r"(?:.*[_\d])?([kv])(?:_proj|_t)?")
_PICTURE = re.compile(r"(?:^|\.)(?:attn1\.(?!to_[kv]_t)|self_attn\.|img_attn\.|x_block\.|attn\.to_[kv])")
_STAGES = ("input_blocks", "middle_block", "output_blocks")
_SHORT = {"input_blocks": "in", "middle_block": "mid", "output_blocks": "out"}
_PLAIN = ("blocks", "layers", "transformer_blocks", "joint_blocks")  # the number says it all


@dataclass(frozen=True)
class Place:
    """One searched weight. `block` is a block of the model, `layer` an attention layer in it, both as in names."""

    name: str
    block: str
    layer: str
    part: Part
    reads_text: bool

    @property
    def row(self) -> str:
        """Which row of a figure it belongs to: K, V, picture K or picture V."""
        return self.part if self.reads_text else f"picture {self.part}"


def places(names: Iterable[str]) -> list[Place]:
    """The place of every name, by depth; K before V."""
    every = list(names)
    found = [Place(name, _block(name), _layer(name), _part(name, every), _reads_text(name)) for name in every]
    return sorted(found, key=lambda place: (_depth(place.layer), not place.reads_text, place.part))


def whole_weight(name: str) -> tuple[str, int]:
    """The weight that a target lies in, and its first row there."""
    rows = _ROWS.fullmatch(name)
    return (rows[1], int(rows[2])) if rows else (name, 0)


def layers(found: Iterable[Place]) -> list[str]:
    """The layers of places in their order, each once."""
    return [layer for layer, _ in groupby(place.layer for place in found)]


def block_of(layer: str) -> str:
    """The block a layer lies in."""
    return _block(layer)


def words_for(block: str) -> str:
    """A block in words: "output block 3", "middle block", "double block 17"."""
    stage, _, number = block.partition(".")
    stage = stage.replace("_", " ")
    return f"{stage.removesuffix('s')} {number}" if number else stage


def short_for(block: str) -> str:
    """A block in a few letters for an axis: "out 3", "mid", "double 17", "17"."""
    stage, _, number = block.partition(".")
    if stage in _PLAIN and number:
        return number
    return f"{_SHORT.get(stage, stage.partition('_')[0])} {number}".strip()


def _block(name: str) -> str:
    """Up to the first number that counts blocks; a UNet's middle block has parts, but is one."""
    parts = name.split(".")
    if parts[0] == "middle_block":
        return parts[0]
    at = next((k for k, part in enumerate(parts) if part.isdigit()), None)
    return parts[0] if at is None else ".".join(parts[max(0, at - 1) : at + 1])


def _layer(name: str) -> str:
    """The layer's path without what differs between its attention modules and projections."""
    whole = _ROWS.fullmatch(name)
    parts = (whole[1] if whole else name).removesuffix(".weight").split(".")
    last_number = max((k for k, part in enumerate(parts) if part.isdigit()), default=0)
    return ".".join(parts[: last_number + 1])


def _part(name: str, every: list[str]) -> Part:
    if rows := _ROWS.fullmatch(name):
        first, stop = int(rows[2]), int(rows[3])
        others = [int(one[2]) for other in every if (one := _ROWS.fullmatch(other)) and one[1] == rows[1]]
        if len(set(others)) > 1:
            return "K" if first == min(others) else "V"
        return "K" if first in (0, stop - first) else "V"
    role = _ROLE.fullmatch(name.removesuffix(".weight").rpartition(".")[2])
    return "K" if role and role[1] == "k" else "V"


def _reads_text(name: str) -> bool:
    return _PICTURE.search(name) is None


def _depth(layer: str) -> tuple[int, list[tuple[int, int, str]]]:
    stage = layer.partition(".")[0]
    parts = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in layer.split(".")]
    return (_STAGES.index(stage) if stage in _STAGES else len(_STAGES), parts)
