"""Canonical names and noise levels of the diffusers host against the host's own tables."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.model_sampling
import comfy.utils
import pytest
import torch

from cones_ops.hosts.diffusers.host_model import DiffusersModel, alphas_cumprod
from cones_ops.hosts.diffusers.names import canonical_names

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
UP_CROSS, UP_PLAIN = "CrossAttnUpBlock2D", "UpBlock2D"
FAMILIES = {
    "toy": (
        {"layers_per_block": 1, "down_block_types": (CROSS,) * 2, "up_block_types": (UP_CROSS,) * 2},
        {
            "num_res_blocks": [1, 1],
            "channel_mult": [1, 2],
            "transformer_depth": [1, 1],
            "transformer_depth_output": [1, 1, 1, 1],
            "transformer_depth_middle": 1,
        },
    ),
    "SD 1.5": (
        {
            "layers_per_block": 2,
            "down_block_types": (CROSS,) * 3 + (PLAIN,),
            "up_block_types": (UP_PLAIN,) + (UP_CROSS,) * 3,
        },
        {
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 2, 4, 4],
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "transformer_depth_middle": 1,
        },
    ),
    "SDXL": (
        {
            "layers_per_block": 2,
            "down_block_types": (PLAIN, CROSS, CROSS),
            "up_block_types": (UP_CROSS, UP_CROSS, UP_PLAIN),
        },
        {
            "num_res_blocks": [2, 2, 2],
            "channel_mult": [1, 2, 4],
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "transformer_depth_middle": 10,
        },
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_names_equal_the_hosts_own_mapping(family: str) -> None:
    ours, theirs = FAMILIES[family]
    mapping = comfy.utils.unet_to_diffusers(theirs)  # diffusers name -> host name
    expected = {host: name for name, host in mapping.items() if ".transformer_blocks." in name}
    assert len(expected) > 30
    assert canonical_names(ours, mapping) == expected


def test_noise_levels_equal_the_hosts() -> None:
    settings = {"beta_schedule": "linear", "linear_start": 0.00085, "linear_end": 0.02, "timesteps": 1000}
    theirs = comfy.model_sampling.ModelSamplingDiscrete(SimpleNamespace(sampling_settings=settings))
    ours = object.__new__(DiffusersModel)
    alphas = alphas_cumprod(
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.02, "timesteps": 1000}
    )
    ours._log_sigmas = (((1 - alphas) / alphas) ** 0.5).log().float()
    percent = torch.linspace(0.001, 0.999, 301)
    sigma = ours.sigma_at(percent)
    expected = torch.tensor([theirs.percent_to_sigma(float(p)) for p in percent])
    assert torch.allclose(sigma, expected, rtol=1e-5)
    assert (ours.timestep(sigma) - theirs.timestep(sigma)).abs().max() == 0
