"""Where in a model a searched weight lies, read from its canonical name alone: block, layer, K or V, text or picture.

Layers are ordered by depth: input, middle, output blocks (a UNet), else the order of names with their numbers counted.
A target that shares its weight with others carries its rows, as in `layers.0.attention.qkv.weight[64:96]`; K's rows
come before V's there.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

Projection = Literal["K", "V"]

_ROWS = re.compile(r"(.+)\[([0-9]{1,9}):([0-9]{1,9})\]")
_NUMBER = re.compile(r"[0-9]{1,9}")
_ROLE = re.compile(r"(?:.*[_\d]|w)?([kv])(?:_proj|_t)?")
_PICTURE = re.compile(r"(?:^|\.)(?:attn1\.(?!to_[kv]_t)|self_attn\.|img_attn\.|attn\.img_attn_qkv|x_block\.)")
_PICTURE_BESIDE_TEXT = re.compile(r"((?:.*\.)?attn\.)to_([kv])")  # where the text has layers of its own
_STAGES = ("input_blocks", "middle_block", "output_blocks")
_SHORT = {"input_blocks": "in", "middle_block": "mid", "output_blocks": "out"}
_PLAIN = ("blocks", "layers", "transformer_blocks", "joint_blocks")  # the number says it all


@dataclass(frozen=True)
class SearchedWeight:
    """One searched weight. `block` is a block of the model, `layer` an attention layer in it, both as in names."""

    name: str
    block: str
    layer: str
    projection: Projection
    reads_text: bool

    @property
    def row(self) -> str:
        """Which row of a figure it belongs to: K, V, picture K or picture V."""
        return self.projection if self.reads_text else f"picture {self.projection}"


def searched_weights(names: Iterable[str]) -> list[SearchedWeight]:
    """Where every named weight lies, by depth; K before V."""
    names = list(names)
    first_rows: dict[str, set[int]] = {}
    for path, rows in map(layer_and_rows, names):
        first_rows.setdefault(path, set()).add(rows.start or 0)
    weights = [
        SearchedWeight(name, _block(name), _layer(name), _projection(name, first_rows), _reads_text(name, first_rows))
        for name in names
    ]
    return sorted(weights, key=lambda weight: (_depth(weight.layer), not weight.reads_text, weight.projection))


def weight_and_rows(name: str) -> tuple[str, slice]:
    """The weight that holds a target and the target's rows in it: all of them, or those at the end of its name."""
    fused = _ROWS.fullmatch(name)
    return (fused[1], slice(int(fused[2]), int(fused[3]))) if fused else (name, slice(None))


def layer_and_rows(name: str) -> tuple[str, slice]:
    """The same with the layer's path instead of its weight's name."""
    weight, rows = weight_and_rows(name)
    return weight.removesuffix(".weight"), rows


def layers(weights: Iterable[SearchedWeight]) -> list[str]:
    """The layers of searched weights in their order, each once."""
    return [layer for layer, _ in groupby(weight.layer for weight in weights)]


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
    first = next((k for k, part in enumerate(parts) if _NUMBER.fullmatch(part)), None)
    return parts[0] if first is None else ".".join(parts[max(0, first - 1) : first + 1])


def _layer(name: str) -> str:
    """The layer's path without what differs between its attention modules and projections."""
    parts = layer_and_rows(name)[0].split(".")
    last_number = max((k for k, part in enumerate(parts) if _NUMBER.fullmatch(part)), default=0)
    return ".".join(parts[: last_number + 1])


def _projection(name: str, first_rows: Mapping[str, set[int]]) -> Projection:
    """K or V; first_rows: of each layer, where its targets begin."""
    layer, rows = layer_and_rows(name)
    if rows == slice(None):
        role = _ROLE.fullmatch(layer.rpartition(".")[2])
        return "K" if role and role[1] == "k" else "V"
    if len(first_rows[layer]) > 1:
        return "K" if rows.start == min(first_rows[layer]) else "V"
    return "K" if rows.start in (0, rows.stop - rows.start) else "V"


def _reads_text(name: str, paths: Container[str]) -> bool:
    """Whether a target reads the text; paths: of all the layers named beside it."""
    path, _ = layer_and_rows(name)
    if beside := _PICTURE_BESIDE_TEXT.fullmatch(path):
        return f"{beside[1]}add_{beside[2]}_proj" not in paths
    return _PICTURE.search(path) is None


def _depth(layer: str) -> tuple[int, list[tuple[int, int, str]]]:
    stage = layer.partition(".")[0]
    parts = [(0, int(part), "") if _NUMBER.fullmatch(part) else (1, 0, part) for part in layer.split(".")]
    return (_STAGES.index(stage) if stage in _STAGES else len(_STAGES), parts)
