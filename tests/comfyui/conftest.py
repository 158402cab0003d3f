"""Models made at test time with random weights, in process and as files for the real server; little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

SD15_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "context_dim": 768,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "adm_in_channels": None,
    "num_heads": 8,
    "num_head_channels": -1,
    "legacy": False,
    "dtype": torch.float16,
}
SD_VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def randomised(module: torch.nn.Module, prefix: str, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """fp16 weights of a module's shapes: normal with 1/sqrt(fan in), norms at one."""
    weights = {}
    for name, value in module.state_dict().items():
        if value.ndim == 1:
            weight = torch.full(value.shape, float(name.endswith("weight")))
        else:
            weight = torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5
        weights[prefix + name] = weight.half()
    return weights


def small_sd15(path: Path) -> None:
    """A checkpoint that the host takes for Stable Diffusion 1.5: its widths and key names, only two levels deep."""
    import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
    from comfy.ldm.modules.diffusionmodules.model import Decoder, Encoder
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    generator = torch.Generator().manual_seed(15)
    text = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    first_stage = torch.nn.ModuleDict(
        {
            "encoder": Encoder(**SD_VAE),
            "decoder": Decoder(**SD_VAE),
            "quant_conv": torch.nn.Conv2d(8, 8, 1),
            "post_quant_conv": torch.nn.Conv2d(4, 4, 1),
        }
    )
    with torch.device("meta"):
        unet = openaimodel.UNetModel(**SD15_UNET)
        clip = CLIPTextModel(text)
    weights = randomised(unet, "model.diffusion_model.", generator)
    weights |= randomised(clip, "cond_stage_model.transformer.", generator)
    weights |= randomised(first_stage, "first_stage_model.", generator)
    save_file(weights, path)


@pytest.fixture(scope="session")
def sd15_checkpoint(server: Any) -> str:
    """The name of a small SD1.5 checkpoint in the server's models folder."""
    name = "small-sd15.safetensors"
    small_sd15(server.base / "models" / "checkpoints" / name)
    return name


@pytest.fixture
def low_vram(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """`low_vram()`: from then on the host loads as few weights as it can. Before and after, nothing is loaded."""
    from comfy.model_management import unload_all_models
    from comfy.model_patcher import ModelPatcher

    load = ModelPatcher.partially_load

    def load_little(self: Any, device_to: Any, extra_memory: int = 0, **kwargs: Any) -> Any:
        return load(self, device_to, extra_memory=1, **kwargs)

    unload_all_models()
    yield lambda: monkeypatch.setattr(ModelPatcher, "partially_load", load_little)
    unload_all_models()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small toy world with random weights."""
    from cones_concept_neurons.cones_ops.toy_world.bundle import random_pipeline, save_pipeline

    path = tmp_path_factory.mktemp("toy") / "random.safetensors"
    save_pipeline(random_pipeline(4, widths=(32, 64)), path)
    return path


@pytest.fixture(scope="module")
def checkpoint(path: Path) -> tuple[Any, Any, Any]:
    """(MODEL, CLIP, VAE) of that file."""
    from cones_concept_neurons.nodes.host.toy_checkpoint import load_toy_checkpoint

    with torch.inference_mode():  # as the host loads models: every parameter is an inference tensor
        return load_toy_checkpoint(path)


@pytest.fixture(scope="module")
def model() -> Any:
    """A small UNet of the SD 1.5 kind as a MODEL; files that need another one have their own."""
    from support.small_models import small_unet

    with torch.inference_mode():
        return small_unet()
