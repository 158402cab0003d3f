"""The toy world as a diffusers `StableDiffusionPipeline`: what is written for SD 1.x and 2.x runs on it, line for line.

UNet and text encoder are the shipped ones. Around them: the vocabulary as a transformers tokenizer, the autoencoder as
the VAE, Euler's scheduler. With these `pipeline(prompt)` is, step for step, what `sampling.sample` does.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..hosts.diffusers.pictures import pixels_of
from ..toy_world.bundle import ToyPipeline, load_pipeline
from ..toy_world.decoder import Autoencoder
from ..toy_world.patches import PATCH
from ..toy_world.subjects import subject_named
from ..toy_world.vocabulary import END, SPECIAL_WORDS, SPELLINGS, START, UNKNOWN, WORDS, Vocabulary
from ..toy_world.world import BACKGROUNDS
from .references import alone


class ToyAutoencoder(nn.Module):
    """The autoencoder with as much of an `AutoencoderKL` as the pipeline and this library ask for."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.config = SimpleNamespace(
            scaling_factor=1.0, block_out_channels=[], latent_channels=autoencoder.channels, force_upcast=False
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.autoencoder.transform.encode_weight.dtype

    @property
    def device(self) -> torch.device:
        return self.autoencoder.transform.encode_weight.device

    def encode(self, pixels: Tensor) -> Any:
        """`.latent_dist.mean`: latents (B, C, H/12, W/12) of pictures (B, 3, H, W) in [-1, 1]."""
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=self.autoencoder.encode(pixels)))

    def decode(self, latents: Tensor, return_dict: bool = False, generator: Any = None) -> tuple[Tensor]:
        """(pictures,) of latents."""
        return (self.autoencoder.decode(latents),)


def toy_pipeline(toy: ToyPipeline | None = None) -> Any:
    """The shipped model (or another toy pipeline) as a StableDiffusionPipeline, fp32, on the CPU."""
    toy = toy or load_pipeline()  # ConesError where diffusers is missing
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    known = ("beta_start", "beta_end", "beta_schedule", "prediction_type")
    schedule = {name: toy.schedule[name] for name in known}
    pipeline = StableDiffusionPipeline(
        vae=ToyAutoencoder(toy.autoencoder),
        text_encoder=toy.text_encoder,
        tokenizer=_tokenizer(toy.vocabulary),
        unet=toy.unet,
        scheduler=EulerDiscreteScheduler(
            toy.schedule["timesteps"], timestep_spacing="linspace", steps_offset=1, **schedule
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.vae_scale_factor = PATCH  # no power of two, as what the pipeline works out from the VAE's layers
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_pictures(identifier: str, folder: str | Path) -> Path:
    """Write a toy subject's pictures, one on each background and named after it, as PNG files; returns the folder.

    In the order of their names the pictures of two subjects share their backgrounds, as things in this world do.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures, _ = alone(subject_named(identifier))
    for picture, background in zip(pictures, BACKGROUNDS, strict=True):
        Image.fromarray(pixels_of(picture)).save(folder / f"{identifier}-{background}.png")
    return folder


def _tokenizer(vocabulary: Vocabulary) -> Any:
    """A transformers tokenizer whose ids are those of `Vocabulary.encode`."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    start, end, unknown = (SPECIAL_WORDS[i] for i in (START, END, UNKNOWN))
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary.words)}, unk_token=unknown))
    spelt = [normalizers.Replace(Regex(rf"\b{old}\b"), new) for old, new in SPELLINGS.items()]
    words.normalizer = normalizers.Sequence([normalizers.Lowercase(), *spelt])
    words.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "removed", invert=True)
    words.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, START), (end, END)]
    )
    names = {"bos_token": start, "eos_token": end, "pad_token": end, "unk_token": unknown}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=vocabulary.length, **names)
