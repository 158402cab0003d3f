"""A small diffusers UNet with random weights."""

from __future__ import annotations

import pytest
import torch


def small_unet(seed: int = 0) -> torch.nn.Module:
    """Two levels with attention to text of width 16; skips where diffusers is missing."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(seed)
    unet: torch.nn.Module = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    return unet
