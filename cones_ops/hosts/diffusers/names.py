"""Parameter names of a diffusers UNet <-> canonical names (ComfyUI's state dict without `diffusion_model.`).

Only the modules that hold transformer blocks are renamed: `down_blocks.x.attentions.i` is `input_blocks.n.1`, the
middle is `middle_block.1`, `up_blocks.x.attentions.i` is `output_blocks.n.1`; what follows is spelled alike in both.
The numbers come from the UNet's configuration (SD 1.x, SD 2.x, SDXL and everything built from the same blocks).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ...errors import ConesError

_OWNER = re.compile(r"^((?:(?:down|up)_blocks\.\d+|mid_block)\.attentions\.\d+)\.(transformer_blocks\..+)$")


def layers_per_block(config: Mapping[str, Any]) -> list[int]:
    """ResNet layers of each down block; the configuration may hold one number for all of them."""
    layers, blocks = config["layers_per_block"], len(config["down_block_types"])
    counts = [int(layers)] * blocks if isinstance(layers, int) else [int(count) for count in layers]
    if len(counts) != blocks:
        raise ConesError(f"layers_per_block has {len(counts)} entries for {blocks} down blocks; not a UNet's config?")
    return counts


def owners(config: Mapping[str, Any]) -> dict[str, str]:
    """Diffusers name -> canonical name of every module that holds transformer blocks."""
    layers = layers_per_block(config)
    table: dict[str, str] = {}
    position = 1  # input_blocks.0 is conv_in
    for block, (kind, count) in enumerate(zip(config["down_block_types"], layers, strict=True)):
        if "CrossAttn" in kind:
            table |= {f"down_blocks.{block}.attentions.{i}": f"input_blocks.{position + i}.1" for i in range(count)}
        position += count + 1  # the block's downsampler
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn":
        table["mid_block.attentions.0"] = "middle_block.1"
    position = 0
    for block, (kind, count) in enumerate(zip(config["up_block_types"], reversed(layers), strict=True)):
        if "CrossAttn" in kind:
            table |= {f"up_blocks.{block}.attentions.{i}": f"output_blocks.{position + i}.1" for i in range(count + 1)}
        position += count + 1
    return table


def canonical_names(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> diffusers name for the `names` in transformer blocks; others are left out."""
    table = owners(config)
    canonical: dict[str, str] = {}
    for name in names:
        match = _OWNER.match(name)
        if match is None:
            continue
        if match[1] not in table:
            raise ConesError(f"{name}: by its configuration {match[1]} has no transformer blocks; wrong config?")
        canonical[f"{table[match[1]]}.{match[2]}"] = name
    return canonical
