"""Which kind of model a MODEL is, in the words of programs that list model files; part of a mask's provenance."""

from __future__ import annotations

from typing import Any

from ....cones_ops.images.collages import ZOOM

# the host's configuration -> (ModelSpec architecture, base model version as training scripts write it)
KNOWN = {
    "ToyConfig": ("cones-toy-world", "cones_toy_world"),
    "SD15": ("stable-diffusion-v1", "sd_v1"),
    "SD20": ("stable-diffusion-v2-512", "sd_v2"),
    "SDXL": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    "SD3": ("stable-diffusion-v3-medium", "sd3"),
    "Flux": ("flux-1-dev", "flux1"),
    "QwenImage": ("qwen-image", "qwen_image"),
}


# the host's configuration -> pixels of a side, and guidance (cfg) it usually draws with
USUAL = {"SD15": (512, 7.0), "SD20": (512, 7.0), "SDXL": (1024, 6.0), "SD3": (1024, 4.5), "Flux": (1024, 1.0)}
OTHERS = (1024, 4.0)


def usual_settings(model: Any) -> tuple[int, float, float]:
    """Pixels of a picture's side and cfg with which this kind of model usually draws, and the zoom of its collages."""
    config = getattr(model.model, "model_config", None)
    own = getattr(config, "__dict__", {})  # the host's configurations answer None for whatever they do not have
    settings: tuple[int, float, float] = own.get("usual_settings", (*USUAL.get(type(config).__name__, OTHERS), ZOOM))
    return settings


def base_facts(model: Any, latents: Any) -> dict[str, str]:
    """architecture, base_model_version, and the resolution of the pictures searched with, as far as they are known."""
    config = getattr(model.model, "model_config", None)
    name = type(config).__name__
    architecture, version = KNOWN.get(name, (name.lower(), name.lower()))
    facts = {"architecture": architecture, "base_model_version": version}
    latent_format = getattr(model.model, "latent_format", None)
    ratio = getattr(latent_format, "spacial_downscale_ratio", None)
    if ratio:
        sizes = dict.fromkeys(tuple(int(side * ratio) for side in s.shape[-2:]) for s in latents["samples"])
        facts["resolution"] = ", ".join(f"{width}x{height}" for height, width in list(sizes)[:5])
    return facts
