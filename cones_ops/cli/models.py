"""Models as the commands take them: the word `toy`, or what the diffusers host loads.

`toy` is the small model that ships with the pack. Its pictures are 96 pixels wide, and it knows neither "photo" nor
much guidance, so a command's defaults depend on the model.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from torch import Tensor

from ..errors import ConesError
from ..images.collages import ZOOM
from ..toy_world import world
from .values import real, whole

TOY = "toy"
KINDS = (
    "a Stable Diffusion 1.x, 2.x or XL model: a folder saved by diffusers, or a checkpoint (.safetensors) with its "
    "configuration beside it"
)


@dataclass(frozen=True)
class ModelDefaults:
    """What an option is worth that was not given.

    size: side of pictures in pixels; caption: with {} for the words; zoom: scale of each picture in a collage.
    """

    size: int
    caption: str
    guidance: float
    zoom: float = ZOOM


OF_TOY = ModelDefaults(world.SIDE, "a {}", 3.0, world.ZOOM)
OF_OTHERS = ModelDefaults(512, "a photo of a {}", 7.5)
OF_SDXL = replace(OF_OTHERS, size=1024)


def is_toy(model: Path) -> bool:
    """Whether a command's model is the one that ships; a model's folder of that name in the working folder is not."""
    return model == Path(TOY) and not (model / "model_index.json").exists()


def defaults_of(model: Path) -> ModelDefaults:
    """The defaults that fit a model."""
    from ..hosts.diffusers.loading import pipeline_of

    if is_toy(model):
        return OF_TOY
    return OF_SDXL if pipeline_of(model) == "StableDiffusionXLPipeline" else OF_OTHERS


def check_model(model: Path) -> None:
    """ConesError unless a command's model is of a supported kind; reads no weights."""
    defaults_of(model)


def resolved(model: Path) -> Path:
    """A path that means the same in other working folders."""
    return model if is_toy(model) else model.resolve()


def sources_of(model: Path) -> list[Path]:
    """The folders and files whose contents a search depends on."""
    from ..hosts.diffusers.loading import configuration_of
    from ..toy_world.bundle import SHIPPED

    return [SHIPPED] if is_toy(model) else [*dict.fromkeys([model, configuration_of(model)])]


def load_model(model: Path, device: str) -> Any:
    """A command's model as a diffusers pipeline, in fp32."""
    from ..hosts.diffusers.loading import load
    from ..laboratory.stable_diffusion import toy_pipeline

    return toy_pipeline().to(device) if is_toy(model) else load(model, device)


def read_pictures(model: Path, pictures: Path, size: int | None) -> Tensor:
    """The pictures in a folder, or of the toy world's subject of that word: (n, 3, size, size) in [0, 1]."""
    from ..hosts.diffusers.pictures import read_pictures
    from ..laboratory.stable_diffusion import save_pictures
    from ..toy_world.subjects import IDENTIFIERS

    side = size or defaults_of(model).size
    if is_toy(model) and not pictures.exists():
        if str(pictures) not in IDENTIFIERS:
            subjects = ", ".join(IDENTIFIERS)
            raise ConesError(
                f"{pictures}: no such folder; give a folder of pictures, or one of toy's subjects: {subjects}"
            )
        with TemporaryDirectory() as folder:
            return read_pictures(save_pictures(str(pictures), folder), side)
    return read_pictures(pictures, side)


def save_picture(model: Path, picture: Any, file: Path) -> None:
    """Write a sampled PIL picture; one of toy, 96 pixels wide, four times as large, to be seen on a screen."""
    width, height = picture.size
    larger = picture.resize((4 * width, 4 * height), Image.Resampling.NEAREST) if is_toy(model) else picture
    file.parent.mkdir(parents=True, exist_ok=True)
    larger.save(file)
    print(f"saved {file}")


def add_model(add: Callable[..., Any], name: str = "model", **more: Any) -> None:
    """The argument `model`, or an option that names one."""
    add(name, type=Path, help=f"{KINDS}; or the word toy: the small model that ships with the pack", **more)


def add_sampler(add: Callable[..., Any]) -> None:
    """The options --steps, --guidance and --any-base of commands that sample."""
    default = f"(default: {OF_OTHERS.guidance:g}, for toy {OF_TOY.guidance:g})"
    add("--steps", type=whole(1, 10_000), default=30, help="sampling steps of the model's own scheduler")
    add("--guidance", type=real(0, 1000), help=f"classifier-free guidance scale; 1 = none {default}")
    add("--any-base", action="store_true", help="apply masks found on other weights too, instead of refusing them")


def sampler_of(options: argparse.Namespace) -> dict[str, Any]:
    """The pipeline's own arguments for the options of a command that samples."""
    guidance = defaults_of(options.model).guidance if options.guidance is None else options.guidance
    settings = {"num_inference_steps": options.steps, "guidance_scale": guidance}
    return settings | ({"height": options.size, "width": options.size} if options.size else {})
