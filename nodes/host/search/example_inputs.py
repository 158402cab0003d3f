"""LATENTs and CONDITIONINGs of a search as the host passes them, one or a list of each, joined and checked.

Pictures of one size become one batch, others stay apart: `Pictures`, as in cones_ops/search/objective.py. A noise_mask
becomes the weights of the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ....cones_ops.errors import ConesError
from ....cones_ops.search.objective import Pictures


def joined_latents(latents: Sequence[Mapping[str, Any]] | None) -> dict[str, Any] | None:
    """A list of LATENTs as one: its samples are a batch, or a list of (C, H, W) where sizes differ."""
    if not latents or latents == [None]:
        return None
    if len(latents) == 1:
        return dict(latents[0])
    samples = [entry["samples"] for entry in latents]
    if broken := [part for part in samples if part.is_nested or part.ndim < 3]:
        raise ConesError(f"latents of shape {list(broken[0].shape)} in a list; connect VAE Encode of pictures")
    joined: dict[str, Any] = {"samples": batch_or_list(samples)}
    if any("noise_mask" in entry for entry in latents):
        masks = [entry.get("noise_mask") for entry in latents]
        joined["noise_mask"] = [mask for part, m in zip(samples, masks, strict=True) for mask in masks_of(m, len(part))]
    return joined


def batch_or_list(parts: Sequence[Tensor]) -> Pictures:
    """Batches (n, C, H, W) as one batch, or as a list of (C, H, W) where sizes differ."""
    if len({tuple(part.shape[1:]) for part in parts}) == 1:
        return torch.cat(list(parts))
    return [picture for part in parts for picture in part]


def masks_of(noise_mask: Tensor | None, count: int) -> list[Tensor | None]:
    """`count` masks (H, W) from a noise_mask (n, 1, H, W) or (n, H, W), which repeats."""
    if noise_mask is None:
        return [None] * count
    masks = noise_mask.reshape(-1, *noise_mask.shape[-2:])
    return [masks[k % len(masks)] for k in range(count)]


def loss_weights(latents: Mapping[str, Any]) -> Pictures | None:
    """How much each position of the pictures counts: their noise_mask in the latents' size; None without one."""
    samples, noise_mask = latents["samples"], latents.get("noise_mask")
    if noise_mask is None:
        return None
    masks = masks_of(noise_mask, len(samples)) if isinstance(noise_mask, Tensor) else noise_mask
    weights = [weights_of(mask, picture) for mask, picture in zip(masks, samples, strict=True)]
    if empty := [str(k + 1) for k, weight in enumerate(weights) if not weight.any()]:
        raise ConesError(
            f"the noise_mask of picture {', '.join(empty[:5])} is 0 everywhere, so nothing of it counts; mark the "
            "subject with 1, or remove Set Latent Noise Mask"
        )
    return batch_or_list([weight[None] for weight in weights])


def weights_of(mask: Tensor | None, picture: Tensor) -> Tensor:
    """(1, H, W) or (1, 1, H, W) in the size of a picture (C, H, W) or (C, frames, H, W)."""
    size = picture.shape[-2:]
    if mask is None:
        return torch.ones(1, *[1] * (picture.ndim - 3), *size)
    resized = torch.nn.functional.interpolate(mask.float().cpu()[None, None], size=tuple(size), mode="area")
    return resized.clamp(0, 1).reshape(1, *[1] * (picture.ndim - 3), *size)


def joined_prompts(prompts: Sequence[Any] | None) -> Any:
    """A list of CONDITIONINGs as one, in the same order."""
    if not prompts or prompts == [None]:
        return None
    return [entry for conditioning in prompts for entry in conditioning]


def only(**lists: Sequence[Any]) -> dict[str, Any]:
    """The one value of each input that a node takes one of; ConesError for a list of several."""
    if several := [f"{name} ({len(values)})" for name, values in lists.items() if len(values) != 1]:
        raise ConesError(
            f"{', '.join(several)}: this node takes one value of these, not a list; only pictures and prompts may be "
            "lists"
        )
    return {name: values[0] for name, values in lists.items()}


def checked_latents(connected: Mapping[str, Mapping[str, Any]]) -> dict[str, Pictures]:
    """Latents by label; ConesError where nothing is in them, or numbers that are none."""
    latents: dict[str, Pictures] = {label: latent["samples"] for label, latent in connected.items()}
    for label, samples in latents.items():
        if isinstance(samples, Tensor) and (samples.is_nested or samples.ndim < 3):
            continue  # refused by the host's shapes later, with the model's own
        if not any(bool(picture.any()) for picture in samples):
            raise ConesError(f"the {label} latents are all zero; connect VAE Encode of the pictures")
        if wrong := [str(k + 1) for k, picture in enumerate(samples) if not bool(picture.isfinite().all())]:
            raise ConesError(
                f"picture {', '.join(wrong[:5])} of the {label} latents has values that are not finite (NaN); encode "
                "it again, with the VAE in fp32 or bf16, or leave it out"
            )
    return latents
