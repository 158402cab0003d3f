"""The judges of DreamBench: a DINO ViT and a CLIP model from local folders, pictures and texts -> embeddings.

Both look through the image processor saved beside them. Embeddings are fp32 on the CPU and not normalised. Nothing is
downloaded; a folder with another kind of model is refused, because its scores could not be compared with any table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ConesError
from ...hosts.diffusers.loading import INSTALL

BATCH = 32


@dataclass(frozen=True)
class Judges:
    """Models and what prepares their input; see `load_judges`."""

    dino: Any
    dino_pictures: Any
    clip: Any
    clip_pictures: Any
    tokenizer: Any


def check_judge(folder: Path, kind: str, known_as: str) -> None:
    """ConesError unless `folder` holds a transformers model of this kind ("vit", "clip")."""
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConesError(
            f"{folder}: no readable config.json that names its model_type ({type(error).__name__}); "
            f"give the folder of {known_as} as saved by transformers"
        ) from error
    if model_type != kind:
        raise ConesError(f"{folder}: a model of type {model_type!r}, expected {kind!r}; give the folder of {known_as}")


def load_judges(dino: Path, clip: Path, device: str = "cpu") -> Judges:
    """The ViT in `dino` and the CLIP model in `clip` (see `check_judge`), in fp32 on `device`."""
    try:
        import transformers
    except ImportError as error:
        raise ConesError(f"{error}; the judges need transformers: {INSTALL}") from error
    local: dict[str, Any] = {"local_files_only": True}
    try:
        return Judges(
            transformers.ViTModel.from_pretrained(dino, add_pooling_layer=False, **local).to(device).float().eval(),
            transformers.AutoImageProcessor.from_pretrained(dino, **local),
            transformers.CLIPModel.from_pretrained(clip, **local).to(device).float().eval(),
            transformers.AutoImageProcessor.from_pretrained(clip, **local),
            transformers.CLIPTokenizer.from_pretrained(clip, **local),
        )
    except (OSError, ValueError, TypeError) as error:
        raise ConesError(
            f"{dino} or {clip}: {error}; each needs its weights and preprocessor_config.json, CLIP its tokenizer too"
        ) from error


@torch.no_grad()
def dino_embeddings(judges: Judges, pictures: Sequence[Any]) -> Tensor:
    """PIL pictures -> the last layer's CLS token (n, D)."""
    batches = _prepared(judges.dino_pictures, pictures, judges.dino)
    return torch.cat([judges.dino(pixel_values=pixels).last_hidden_state[:, 0] for pixels in batches]).float().cpu()


@torch.no_grad()
def clip_embeddings(judges: Judges, pictures: Sequence[Any]) -> Tensor:
    """PIL pictures -> projected image embeddings (n, D)."""
    clip, batches = judges.clip, _prepared(judges.clip_pictures, pictures, judges.clip)
    pooled = torch.cat([clip.vision_model(pixel_values=pixels).pooler_output for pixels in batches])
    return clip.visual_projection(pooled).float().cpu()


@torch.no_grad()
def text_embeddings(judges: Judges, texts: Sequence[str]) -> Tensor:
    """Texts -> projected text embeddings (n, D); what is longer than the model can read is cut."""
    clip = judges.clip
    length = clip.config.text_config.max_position_embeddings
    inputs = judges.tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
    inputs = inputs.to(clip.device)
    outputs = clip.text_model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask)
    return clip.text_projection(outputs.pooler_output).float().cpu()


def _prepared(processor: Any, pictures: Sequence[Any], model: Any) -> list[Tensor]:
    """Batches of pixels (b, 3, H, W) on the model's device."""
    batches = [list(pictures[i : i + BATCH]) for i in range(0, len(pictures), BATCH)]
    return [processor(images=batch, return_tensors="pt").pixel_values.to(model.device) for batch in batches]
