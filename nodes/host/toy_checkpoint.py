"""The toy world's model as a stock MODEL, CLIP and VAE, so that every stock node works on them.

UNet and text encoder are the host's own classes, filled from the diffusers and transformers names in the bundle
through the host's key mapping; the text encoder's vocabulary is padded with zero rows to the host's fixed 49,408. The
VAE is the host's class around the bundle's own autoencoder. All run in fp32. ConesError when a weight has no place, or
a place no weight.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.utils
import torch
from torch import Tensor

from ...cones_ops.errors import ConesError, listed
from ...cones_ops.toy_world.bundle import Bundle, read_bundle
from ...cones_ops.toy_world.vocabulary import Vocabulary
from ...cones_ops.toy_world.world import ZOOM

GUIDANCE = 3.0  # the cfg that its pictures are judged with
HOST_VOCABULARY = 49408  # rows of the token embedding in the host's CLIP, whatever the configuration says


class ToyConfig(comfy.supported_models.SD15):  # type: ignore[misc]
    """The model configuration of a small SD-style UNet with v-prediction."""

    unet_extra_config: ClassVar[dict[str, Any]] = {}
    memory_usage_factor = 0.1

    def model_type(self, state_dict: Any, prefix: str = "") -> Any:
        return comfy.model_base.ModelType.V_PREDICTION

    def inpaint_model(self) -> bool:
        return False  # more than 4 channels, but no inpainting


def load_toy_checkpoint(path: Path | None = None) -> tuple[Any, Any, Any]:
    """(MODEL, CLIP, VAE) of the shipped toy world, or of another file of its format."""
    bundle = read_bundle(path)
    model = toy_model(bundle)
    model.cached_patcher_init = (reload_toy_model, (path,))  # Train LoRA and hooks let the host load a model once more
    return model, toy_clip(bundle), toy_vae(bundle)


def reload_toy_model(path: Path | None = None, disable_dynamic: bool = False) -> Any:
    """The same MODEL once more, with weights of its own; it is never a dynamic one."""
    return toy_model(read_bundle(path))


def host_unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """UNet2DConditionModel arguments -> the host's UNetModel arguments."""
    widths = config["block_out_channels"]
    if any(width % widths[0] for width in widths):
        raise ConesError(
            f"UNet widths {widths} are not multiples of the first, as the host needs; load another toy world file"
        )
    layers = config["layers_per_block"]
    depths = [int(kind.startswith("CrossAttn")) for kind in config["down_block_types"]]
    return {
        "image_size": 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "num_res_blocks": [layers] * len(widths),
        "channel_mult": [width // widths[0] for width in widths],
        "num_heads": config["attention_head_dim"],  # diffusers' name for the number of heads
        "num_head_channels": -1,
        "transformer_depth": [depth for depth in depths for _ in range(layers)],
        "transformer_depth_output": [depth for depth in depths for _ in range(layers + 1)],
        "transformer_depth_middle": 1,
        "context_dim": config["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "use_temporal_attention": False,
        "adm_in_channels": None,
        "legacy": False,
    }


def toy_model(bundle: Bundle) -> Any:
    """The UNet as a ModelPatcher."""
    schedule = bundle.schedule
    if schedule["prediction_type"] != "v_prediction" or schedule["beta_schedule"] != "scaled_linear":
        raise ConesError(
            f"the toy world's schedule is {schedule}, but this pack knows only scaled_linear with "
            "v_prediction; update the pack"
        )
    config = ToyConfig(host_unet_config(bundle.unet_config))
    config.latent_format = latent_format(bundle)
    config.sampling_settings = {
        "beta_schedule": "linear",  # the host's word for scaled_linear
        "linear_start": schedule["beta_start"],
        "linear_end": schedule["beta_end"],
        "timesteps": schedule["timesteps"],
    }
    side = bundle.unet_config["sample_size"] * config.latent_format.spacial_downscale_ratio
    config.usual_settings = (side, GUIDANCE, ZOOM)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device=torch.device("cpu"))
    fill(model.diffusion_model, unet_tensors(bundle, config.unet_config))
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def unet_tensors(bundle: Bundle, host_config: dict[str, Any]) -> dict[str, Tensor]:
    """The UNet's weights under the host's names."""
    names = comfy.utils.unet_to_diffusers(host_config)
    tensors = bundle.part("unet")
    if unknown := set(tensors) - set(names):
        raise ConesError(
            f"the host's UNet has no {listed(unknown)}; the toy world's file is for another UNet: load the shipped one"
        )
    return {names[key]: value for key, value in tensors.items()}


def fill(module: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors; ConesError unless they are exactly module's."""
    try:
        module.load_state_dict({key: value.float() for key, value in tensors.items()})
    except RuntimeError as error:
        raise ConesError(
            f"the toy world's file does not fit its configuration; load the shipped one: {error}"
        ) from error


def latent_format(bundle: Bundle) -> Any:
    """Channels, pixels per latent, and the mean colour of a patch for previews."""
    weight, bias = bundle.autoencoder().linear_decoding
    latents = comfy.latent_formats.LatentFormat()
    latents.latent_channels = len(weight)
    latents.spacial_downscale_ratio = weight.shape[-1]  # Empty Latent Image fits itself to it
    latents.latent_rgb_factors = weight.mean((2, 3)).tolist()  # (C, 3)
    latents.latent_rgb_factors_bias = bias.tolist()
    return latents


class ToyTokenizer:
    """Our vocabulary with the few methods the host's SDTokenizer calls."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.start, self.end = vocabulary.encode("")[:2]

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [self.start, *self.vocabulary.word_ids(text), self.end]}

    def get_vocab(self) -> dict[str, int]:
        return {word: position for position, word in enumerate(self.vocabulary.words)}

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        first = 3 if skip_special_tokens else 0
        return " ".join(self.vocabulary.words[token] for token in token_ids if token >= first)


class ClipParts:
    """What comfy.sd.CLIP expects as its target."""

    def __init__(self, bundle: Bundle) -> None:
        self.params: dict[str, Any] = {}
        words, config = bundle.vocabulary, dict(bundle.text_config)
        tokenizer = ToyTokenizer(words)
        self.clip: Callable[..., Any] = partial(
            comfy.sd1_clip.SD1ClipModel,
            clip_model=partial(
                comfy.sd1_clip.SDClipModel,
                textmodel_json_config=config,
                max_length=words.length,
                special_tokens={"start": tokenizer.start, "end": tokenizer.end, "pad": tokenizer.end},
                return_projected_pooled=False,
            ),
        )
        factory = type("ToyTokenizerFactory", (), {"from_pretrained": staticmethod(lambda *_, **__: tokenizer)})
        self.tokenizer: Callable[..., Any] = partial(
            comfy.sd1_clip.SD1Tokenizer,
            tokenizer=partial(
                comfy.sd1_clip.SDTokenizer,
                max_length=words.length,
                embedding_size=config["hidden_size"],
                tokenizer_class=factory,
            ),
        )


def toy_clip(bundle: Bundle) -> Any:
    """The text encoder and the word vocabulary as a CLIP."""
    tensors = clip_tensors(bundle)
    clip = comfy.sd.CLIP(
        ClipParts(bundle),
        model_options={"dtype": torch.float32, "initial_device": torch.device("cpu")},
        disable_dynamic=True,
    )
    fill(clip.cond_stage_model.clip_l.transformer, tensors)
    return clip


def clip_tensors(bundle: Bundle) -> dict[str, Tensor]:
    """The text encoder's weights under the host's names, the vocabulary padded to the host's size."""
    tensors = {}
    for key, value in bundle.part("text_encoder").items():
        tensors[key if key.startswith("text_model.") else f"text_model.{key}"] = value
    tokens = tensors["text_model.embeddings.token_embedding.weight"]
    padding = tokens.new_zeros(HOST_VOCABULARY - len(tokens), tokens.shape[1])
    tensors["text_model.embeddings.token_embedding.weight"] = torch.cat([tokens, padding])
    tensors["text_projection.weight"] = torch.eye(tokens.shape[1])  # pooled output only, which this model does not use
    return tensors


@contextmanager
def warnings_off() -> Iterator[None]:
    """Silence the host's warning about a VAE without known weights."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def toy_vae(bundle: Bundle) -> Any:
    """The autoencoder inside a stock VAE."""
    with warnings_off():
        vae = comfy.sd.VAE(sd={})
    autoencoder = bundle.autoencoder().eval()
    vae.first_stage_model = autoencoder
    vae.latent_channels = autoencoder.channels
    vae.downscale_ratio = vae.upscale_ratio = autoencoder.linear_decoding[0].shape[-1]
    vae.memory_used_encode = vae.memory_used_decode = lambda shape, dtype: 4096 * shape[2] * shape[3]
    vae.device = comfy.model_management.vae_device()
    vae.vae_dtype = torch.float32
    vae.output_device = comfy.model_management.intermediate_device()
    vae.patcher = comfy.model_patcher.ModelPatcher(
        autoencoder, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )
    return vae
