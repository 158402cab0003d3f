"""Small Stable Diffusion pipelines as single-file checkpoints: diffusers' names -> those of the original files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cones_ops.hosts.diffusers.loading import load
from cones_ops.hosts.diffusers.names import owners

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.resnets.1": "middle_block.2",
}
VAE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
    "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    "mid_block.attentions.0.to_": "mid.attn_1.",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "down_blocks.": "down.",
    "resnets": "block",
}
OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
}


@pytest.fixture(scope="module", params=["SD 1.x", "SD 2.x", "SDXL"])
def folder_and_file(
    request: pytest.FixtureRequest, model: Path, xl_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A folder with a tiny model, and the same model as a checkpoint with its configuration beside it."""
    folder = xl_model if request.param == "SDXL" else model
    file = tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors"
    save_configuration(folder, file.with_suffix(""))
    return folder, save_checkpoint(load(folder), request.param, file)


def save_checkpoint(pipeline: Any, kind: str, file: Path) -> Path:
    """The weights of a pipeline as a checkpoint of a kind: "SD 1.x", "SD 2.x" or "SDXL"."""
    weights = {f"model.diffusion_model.{name}": weight for name, weight in unet_weights(pipeline.unet)}
    weights |= {f"first_stage_model.{name}": weight for name, weight in vae_weights(pipeline.vae)}
    text = clean(pipeline.text_encoder.state_dict())
    if kind == "SD 1.x":
        weights |= {f"cond_stage_model.transformer.text_model.{name}": weight for name, weight in text.items()}
    elif kind == "SD 2.x":
        weights |= {f"cond_stage_model.model.{name}": weight for name, weight in open_clip(text)}
    else:
        second = clean(pipeline.text_encoder_2.state_dict())
        weights |= {f"conditioner.embedders.0.transformer.text_model.{name}": w for name, w in text.items()}
        weights |= {f"conditioner.embedders.1.model.{name}": weight for name, weight in open_clip(second)}
    save_file({name: weight.contiguous() for name, weight in weights.items()}, file)
    return file


def save_configuration(model: Path, folder: Path) -> Path:
    """A folder saved by diffusers without its weights."""
    return shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))


def clean(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix that some text encoders have."""
    return {name.removeprefix("text_model."): weight for name, weight in weights.items()}


def renamed(name: str, table: Mapping[str, str]) -> str:
    for new, old in table.items():
        name = name.replace(new, old)
    return name


def unet_weights(unet: Any) -> Iterator[tuple[str, Tensor]]:
    attentions, layers = owners(unet.config), unet.config.layers_per_block
    for name, weight in unet.state_dict().items():
        if match := re.match(r"((?:down|up|mid)_blocks?(?:\.\d+)?\.attentions\.\d+)(.*)", name):
            yield attentions[match[1]] + match[2], weight
        elif match := re.match(r"down_blocks\.(\d+)\.(resnets|downsamplers)\.(\d+)\.(.*)", name):
            place = 1 + int(match[1]) * (layers + 1) + (int(match[3]) if match[2] == "resnets" else layers)
            yield f"input_blocks.{place}.0.{renamed(match[4], RESNET | {'conv.': 'op.'})}", weight
        elif match := re.match(r"up_blocks\.(\d+)\.resnets\.(\d+)\.(.*)", name):
            place = int(match[1]) * (layers + 1) + int(match[2])
            yield f"output_blocks.{place}.0.{renamed(match[3], RESNET)}", weight
        elif match := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.(.*)", name):
            place = int(match[1]) * (layers + 1) + layers
            part = 2 if f"up_blocks.{match[1]}.attentions.{layers}" in attentions else 1
            yield f"output_blocks.{place}.{part}.{match[2]}", weight
        else:
            yield renamed(name, UNET | RESNET if "resnets" in name else UNET), weight


def vae_weights(vae: Any) -> Iterator[tuple[str, Tensor]]:
    last = len(vae.config.up_block_types) - 1
    for name, weight in vae.state_dict().items():
        up = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{last - int(match[1])}", name)
        convolved = re.search(r"attentions\.0\.to_.*weight", name)
        yield renamed(up, VAE), weight[:, :, None, None] if convolved else weight


def open_clip(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, weight in weights.items():
        if match := re.match(r"(.*self_attn)\.q_proj\.(weight|bias)", name):
            parts = [weights[f"{match[1]}.{part}_proj.{match[2]}"] for part in "qkv"]
            yield f"{renamed(match[1], OPEN_CLIP)}.in_proj_{match[2]}", torch.cat(parts)
        elif name == "text_projection.weight":
            yield "text_projection", weight.T
        elif not re.search(r"[kv]_proj", name):
            yield renamed(name, OPEN_CLIP), weight
