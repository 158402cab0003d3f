"""Stable Diffusion models from local files as diffusers pipelines in fp32: folders saved by diffusers, checkpoints.

A checkpoint (.safetensors) holds weights alone. Its configuration (model_index.json, tokenizer and so on; no weights)
comes from a folder of the same name beside it, or from the local cache of the hub. Nothing is downloaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import ConesError
from .weight_files import stored_names

INSTALL = "pip install cones-concept-neurons[diffusers]"
INDEX = "model_index.json"
CONFIGURATION = ("*.json", "*.txt", "*/*.json", "*/*.txt")  # files of a repository; those of its folders too


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint: how names of its text encoder begin, and a repository on the hub with a configuration."""

    name: str
    text_encoder: str
    repository: str


KINDS = (
    Kind("SDXL", "conditioner.embedders.1.", "stabilityai/stable-diffusion-xl-base-1.0"),
    Kind("SD 2.x", "cond_stage_model.model.", "stabilityai/stable-diffusion-2-1"),
    Kind("SD 1.x", "cond_stage_model.transformer.", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
)
PIPELINES: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {"safety_checker": None, "requires_safety_checker": False},
    "StableDiffusionXLPipeline": {"add_watermarker": False},
}


def load(model: str | Path, device: str = "cpu") -> Any:
    """The pipeline of a diffusers folder (it holds model_index.json) or of a checkpoint (.safetensors), in fp32."""
    model = Path(model)
    folder = configuration_of(model)
    kind = _pipeline_in(folder)
    try:
        import diffusers
    except ImportError as error:
        raise ConesError(f"{error}; models on disk need diffusers and transformers: {INSTALL}") from error
    options = {**PIPELINES[kind], "local_files_only": True}
    try:
        if model == folder:
            pipeline = getattr(diffusers, kind).from_pretrained(model, **options)
        else:
            pipeline = getattr(diffusers, kind).from_single_file(str(model), config=str(folder), **options)
        return pipeline.to(device, torch.float32)
    except Exception as error:  # a damaged model brings out any kind
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConesError(f"{model}: the model cannot be loaded ({lines[0][:200]}); is it whole?") from error


def pipeline_of(model: Path) -> str:
    """The diffusers class of a folder or a checkpoint; ConesError unless it is supported. Reads no weights."""
    return _pipeline_in(configuration_of(model))


def _pipeline_in(folder: Path) -> str:
    index = folder / INDEX
    try:
        kind = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except OSError:
        raise ConesError(
            f"{folder}: no {INDEX}; give the folder of a model saved by diffusers, or a checkpoint (.safetensors)"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConesError(f"{index}: not the index of a model; is the folder whole?") from None
    if kind not in PIPELINES:
        raise ConesError(f"{folder}: a {kind}; SD 1.x, SD 2.x and SDXL pipelines are supported")
    return str(kind)


def configuration_of(model: Path) -> Path:
    """The folder with the model's configuration: the model itself, or what belongs to a checkpoint."""
    if model.suffix != ".safetensors" or model.is_dir():
        return model
    names = stored_names(model)
    kind = next((kind for kind in KINDS if any(name.startswith(kind.text_encoder) for name in names)), None)
    if kind is None:
        raise ConesError(
            f"{model}: no text encoder of {', '.join(kind.name for kind in KINDS)} in this file; give a checkpoint "
            "with UNet, text encoder and VAE"
        )
    beside = model.with_suffix("")
    return beside if (beside / INDEX).is_file() else _cached(model, kind)


def _cached(model: Path, kind: Kind) -> Path:
    """The configuration in the local cache of the hub."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        return Path(snapshot_download(kind.repository, local_files_only=True, allow_patterns=[*CONFIGURATION]))
    except (ImportError, LocalEntryNotFoundError):
        patterns = " ".join(f'"{pattern}"' for pattern in CONFIGURATION)
        raise ConesError(
            f"{model}: an {kind.name} checkpoint, which holds no configuration. Put a {kind.name} model's folder "
            f"without its weights beside it, as {model.with_suffix('')}, or get one (3 MB) once with: "
            f"hf download {kind.repository} --include {patterns}"
        ) from None
