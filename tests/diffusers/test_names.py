"""Canonical names and own token positions."""

from __future__ import annotations

import pytest

from cones_ops.errors import ConesError
from cones_ops.hosts.diffusers.names import canonical_names, owners

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
UP_CROSS, UP_PLAIN = "CrossAttnUpBlock2D", "UpBlock2D"
SD15 = {
    "layers_per_block": 2,
    "down_block_types": (CROSS, CROSS, CROSS, PLAIN),
    "up_block_types": (UP_PLAIN, UP_CROSS, UP_CROSS, UP_CROSS),
}
SDXL = {
    "layers_per_block": 2,
    "down_block_types": (PLAIN, CROSS, CROSS),
    "up_block_types": (UP_CROSS, UP_CROSS, UP_PLAIN),
}


@pytest.mark.parametrize(
    ("config", "theirs", "ours"),
    [
        (SD15, "down_blocks.0.attentions.0", "input_blocks.1.1"),
        (SD15, "down_blocks.2.attentions.1", "input_blocks.8.1"),
        (SD15, "mid_block.attentions.0", "middle_block.1"),
        (SD15, "up_blocks.1.attentions.0", "output_blocks.3.1"),
        (SD15, "up_blocks.3.attentions.2", "output_blocks.11.1"),
        (SDXL, "down_blocks.1.attentions.0", "input_blocks.4.1"),
        (SDXL, "down_blocks.2.attentions.1", "input_blocks.8.1"),
        (SDXL, "up_blocks.0.attentions.0", "output_blocks.0.1"),
        (SDXL, "up_blocks.1.attentions.2", "output_blocks.5.1"),
        ({**SD15, "layers_per_block": [1, 2, 3, 1]}, "down_blocks.2.attentions.2", "input_blocks.8.1"),
        ({**SD15, "layers_per_block": [1, 2, 3, 1]}, "up_blocks.1.attentions.3", "output_blocks.5.1"),
    ],
)
def test_known_places(config: dict, theirs: str, ours: str) -> None:
    assert owners(config)[theirs] == ours
    name = f"{theirs}.transformer_blocks.0.attn2.to_k.weight"
    assert canonical_names(config, [name, "conv_in.weight"]) == {f"{ours}.transformer_blocks.0.attn2.to_k.weight": name}


def test_the_translation_is_one_to_one() -> None:
    for config, blocks in ((SD15, 16), (SDXL, 11)):
        table = owners(config)
        assert len(table) == blocks == len(set(table.values()))


def test_a_config_of_another_unet_is_refused() -> None:
    with pytest.raises(ConesError, match="wrong config"):
        canonical_names(SDXL, ["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"])
    with pytest.raises(ConesError, match="layers_per_block"):
        owners({**SDXL, "layers_per_block": [1, 2]})
