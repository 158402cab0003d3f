"""`cones apply`: sample with concept masks and without, from the same noise."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .models import add_model, add_sampler, check_model, load_model, sampler_of, save_picture
from .options import add_command, add_sampling
from .values import printable, real


def apply(options: argparse.Namespace) -> None:
    """Sample prompts with concept masks shut, beside the untouched model's picture from the same noise.

    Writes two pictures per prompt, NN-vanilla.png and NN-masked.png, NN counting the prompts
    from 00. Each mask acts where it was found to act. The order of the masks does not matter.

    examples:
      cones apply toy sks-cat.safetensors --prompt "a sks cat in the snow"
      cones apply sd15 sks-dog.safetensors --prompt "a sks dog on a beach" --device cuda
      cones apply sd15 tuned/sks-dog.safetensors tuned/ktn-cat.safetensors \\
          --prompt "a sks dog on the left and a ktn cat on the right" --out together
    """
    from ..hosts.diffusers import concepts as host
    from ..hosts.diffusers.apply_masks import check_masks
    from ..masks.mask_file import load_mask
    from ..masks.whole_files import check_folder
    from ..models.phrases import own_spans

    check_folder(options.out)
    check_model(options.model)
    masks = [(load_mask(file), options.strength) for file in options.masks]
    for prompt in options.prompt:
        for mask, _ in masks:
            if mask.where == "own tokens" and not own_spans(prompt, mask.identifier, mask.class_word):
                print(printable(f"note: {prompt!r} does not name {mask.identifier!r}, whose mask does nothing there"))
    pipeline = load_model(options.model, options.device)
    check_masks(pipeline.unet, [mask for mask, _ in masks], options.any_base)
    settings = sampler_of(options)
    for name, shut in (("vanilla", []), ("masked", masks)):
        pictures = host.sample(pipeline, options.prompt, shut, seed=options.seed, any_base=options.any_base, **settings)
        for i, picture in enumerate(pictures):
            save_picture(options.model, picture, options.out / f"{i:02}-{name}.png")


def describe(commands: Any) -> None:
    """Describe the command to argparse."""
    add = add_command(commands, apply).add_argument
    add_model(add)
    add("masks", type=Path, nargs="+", help="concept masks, .safetensors")
    add("--prompt", action="append", required=True, help="what to draw, may be given several times")
    add("--strength", type=real(0, 1), default=1.0, help="of all masks, 0 to 1: 0 = untouched, bit for bit, 1 = shut")
    add_sampler(add)
    add("--out", type=Path, default=Path("samples"), help="folder for the pictures; existing ones are overwritten")
    add_sampling(add, "side of the pictures in pixels, a multiple of 8, for toy of 24 (default: the model's own)")
