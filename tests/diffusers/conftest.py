"""A tiny Stable Diffusion pipeline with random weights, saved by diffusers, and pictures to search with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

LETTERS = list("abcdefghijklmnopqrstuvwxyz")
MERGES = ("s k", "sk s</w>", "s t", "a r</w>", "st ar</w>")


def tiny_tokenizer(folder: Path) -> object:
    import transformers

    merged = ["sk", "sks</w>", "st", "ar</w>", "star</w>", "<|startoftext|>", "<|endoftext|>"]
    words = [*LETTERS, *(letter + "</w>" for letter in LETTERS), *merged]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n")
    return transformers.CLIPTokenizer.from_pretrained(str(folder), model_max_length=24)


def tiny_unet(**changes: Any) -> Any:
    import diffusers

    settings = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
    }
    return diffusers.UNet2DConditionModel(**settings | changes)


def tiny_vae() -> Any:
    import diffusers

    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 32),
        latent_channels=4,
    )


def tiny_text_config(width: int = 16, **changes: Any) -> Any:
    import transformers

    return transformers.CLIPTextConfig(
        vocab_size=59,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=57,
        eos_token_id=58,
        pad_token_id=58,
        **changes,
    )


def tiny_scheduler() -> Any:
    import diffusers

    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    return diffusers.DDIMScheduler(**schedule, steps_offset=1, clip_sample=False)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Stable Diffusion model of random weights that knows the words "sks" and "star"."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    unet, vae = tiny_unet(), tiny_vae()
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=transformers.CLIPTextModel(tiny_text_config()),
        tokenizer=tiny_tokenizer(folder / "tokenizer"),
        unet=unet,
        scheduler=tiny_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "tiny")
    return folder / "tiny"


@pytest.fixture(scope="session")
def xl_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for SDXL: text encoders 16 and 24 wide, whose pooled text and picture sizes reach the UNet too."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=transformers.CLIPTextModel(tiny_text_config()),
        text_encoder_2=transformers.CLIPTextModelWithProjection(tiny_text_config(24, projection_dim=24)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=tiny_unet(cross_attention_dim=40, projection_class_embeddings_input_dim=24 + 6 * 8, **added),
        scheduler=tiny_scheduler(),
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder / "tiny")
    return folder / "tiny"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three pictures of noise."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder
