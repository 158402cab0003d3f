"""The one file that is the toy world's model: read it as tensors, load it as diffusers modules, save it.

`read_bundle` needs safetensors only (ComfyUI builds its own classes from the tensors); `load_pipeline` needs
diffusers and transformers. Weights are stored as fp16 and loaded as fp32.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import ConesError
from .captions import vocabulary
from .decoder import Autoencoder, Decoder, random_autoencoder
from .patches import CHANNELS, PatchTransform
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

FORMAT = "cones-toy-world-2"
SHIPPED = Path(__file__).with_name("toy_world.safetensors")
TEXT_WIDTH = 128
WIDTHS = (64, 128)
LATENT_SIDE = 8
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.02,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timesteps": 1000,
}


@dataclass(frozen=True)
class Bundle:
    """The file's contents: tensors by full key (`unet.…`, `text_encoder.…`, `autoencoder.…`) and configurations."""

    tensors: dict[str, Tensor]
    unet_config: dict[str, Any]
    text_config: dict[str, Any]
    vocabulary: Vocabulary
    schedule: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors of one part with its prefix removed, fp32."""
        tensors = {key: value for key, value in self.tensors.items() if key.startswith(f"{prefix}.")}
        return {key[len(prefix) + 1 :]: value.float() for key, value in tensors.items()}

    def autoencoder(self) -> Autoencoder:
        """Pictures <-> latents, fp32, eval mode."""
        tensors = self.part("autoencoder")
        channels = tensors["transform.encode_bias"].numel()
        autoencoder = Autoencoder(PatchTransform(channels), Decoder(channels))
        autoencoder.load_state_dict(tensors)
        return autoencoder.eval().requires_grad_(False)


@dataclass(frozen=True)
class ToyPipeline:
    """The model as diffusers and transformers modules, fp32, in eval mode."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    autoencoder: Autoencoder
    vocabulary: Vocabulary
    schedule: dict[str, Any]

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Texts -> (B, tokens, D), the text encoder's last hidden state."""
        ids = torch.tensor(self.vocabulary.encode_all(texts), device=self.text_encoder.device)
        hidden: Tensor = self.text_encoder(input_ids=ids).last_hidden_state
        return hidden


def read_bundle(path: Path | None = None) -> Bundle:
    """Read the shipped file, or another of its format; ConesError when it is not one."""
    path = path or SHIPPED
    if not path.is_file():
        raise ConesError(f"{path}: no such file; the toy world's model belongs there, install the pack again")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ConesError(
                f"{path}: format {metadata.get('format')!r}, expected {FORMAT!r}; this is no toy world model"
            )
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is not iterable
    text = json.loads(metadata["text_config"])
    words = Vocabulary(tuple(json.loads(metadata["vocabulary"])), text["max_position_embeddings"])
    return Bundle(tensors, json.loads(metadata["unet_config"]), text, words, json.loads(metadata["schedule"]))


def load_pipeline(path: Path | None = None) -> ToyPipeline:
    """The shipped model (or another file) as modules, fp32, eval mode, no gradients."""
    file = read_bundle(path)
    pipeline = _assemble(file.unet_config, file.text_config, file.autoencoder(), file.vocabulary, file.schedule)
    pipeline.unet.load_state_dict(file.part("unet"))
    pipeline.text_encoder.load_state_dict(file.part("text_encoder"))
    return pipeline


def random_pipeline(seed: int = 0, widths: tuple[int, int] = WIDTHS) -> ToyPipeline:
    """A pipeline of the shipped architecture with random weights: the start of training, and a stand-in for tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder = random_autoencoder(CHANNELS, seed).eval().requires_grad_(False)
        return _assemble(unet_config(widths), text_config(), autoencoder, vocabulary(), SCHEDULE)


def save_pipeline(pipeline: ToyPipeline, path: Path) -> None:
    """Write a pipeline as one fp16 file of this format."""
    parts = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder, "autoencoder": pipeline.autoencoder}
    tensors = {
        f"{prefix}.{key}": value.detach().half().contiguous()
        for prefix, module in parts.items()
        for key, value in module.state_dict().items()
        if "position_ids" not in key
    }
    metadata = {
        "format": FORMAT,
        "unet_config": json.dumps({key: pipeline.unet.config[key] for key in unet_config()}),
        "text_config": json.dumps({key: getattr(pipeline.text_encoder.config, key) for key in text_config()}),
        "vocabulary": json.dumps(pipeline.vocabulary.words),
        "schedule": json.dumps(pipeline.schedule),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata)


def unet_config(widths: tuple[int, int] = WIDTHS) -> dict[str, Any]:
    """Keyword arguments of UNet2DConditionModel: two levels (8x8, 4x4), attention at both, 4 heads."""
    return {
        "sample_size": LATENT_SIDE,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "block_out_channels": list(widths),
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 4,  # diffusers' word for the number of heads here
    }


def text_config() -> dict[str, Any]:
    """Keyword arguments of CLIPTextConfig."""
    words = vocabulary()
    return {
        "vocab_size": len(words.words),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": words.length,
        "hidden_act": "quick_gelu",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }


def _assemble(
    unet: dict[str, Any], text: dict[str, Any], autoencoder: Autoencoder, words: Vocabulary, schedule: dict[str, Any]
) -> ToyPipeline:
    try:
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel
    except ImportError as error:
        raise ConesError(
            f"{error}; this pipeline needs diffusers and transformers: pip install cones-concept-neurons[diffusers]"
        ) from error
    modules = UNet2DConditionModel(**unet), CLIPTextModel(CLIPTextConfig(**text))
    for module in modules:
        module.eval().requires_grad_(False)
    return ToyPipeline(modules[0], modules[1], autoencoder, words, schedule)
