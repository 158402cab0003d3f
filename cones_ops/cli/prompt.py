"""`cones prompt`: one picture of a prompt that names concepts by tags."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..masks.whole_files import check_new_file
from .models import add_model, add_sampler, check_model, load_model, sampler_of, save_picture
from .options import add_command, add_sampling, if_exists, say


def prompt(options: argparse.Namespace) -> None:
    """Draw a picture of a prompt that names saved concepts by tags, such as <concept:rex> or <concept:rex:0.8>.

    A tag names a concept mask in the folder --masks or below, and its strength, from 0 to 1, after
    a second colon. Upper and lower case are the same, and the folder may be left out. The words of
    the concept are written in the tag's place. Where the prompt names two concepts or more, each
    stays in a region of its own. An unknown name is refused before the model is loaded.

    examples:
      cones prompt toy "a <concept:toy-sks-cat> in the snow" --out cat.png
      cones prompt sd15 "a <concept:rex> next to a <concept:tom:0.8> on a beach" --masks masks \\
          --out both.png --device cuda
    """
    from ..hosts.diffusers.apply_masks import check_masks
    from ..hosts.diffusers.prompts import read_prompt, sample_tagged

    check_new_file(options.out, ".png", if_exists(options))
    check_model(options.model)
    prompts = read_prompt(options.text, options.negative, options.masks)
    say(prompts.texts[0])
    for file, _, strength in prompts.masks:
        say(f"{file}: strength {strength:g}")
    pipeline = load_model(options.model, options.device)
    check_masks(pipeline.unet, [mask for _, mask, _ in prompts.masks], options.any_base)
    choices = {"keep_apart": options.keep_apart, "seed": options.seed, "any_base": options.any_base}
    picture = sample_tagged(pipeline, prompts, **choices, **sampler_of(options))
    save_picture(options.model, picture, options.out)


def describe(commands: Any) -> None:
    """Describe the command to argparse."""
    add = add_command(commands, prompt).add_argument
    add_model(add)
    add("text", help="what to draw, with tags such as <concept:rex>; in quotes, because of the shell")
    add("--masks", type=Path, default=Path("concept_masks"), help="folder with the concept masks, or folders of them")
    add("--negative", default="", help="what not to draw; tags work here too")
    add(
        "--keep-apart",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether each of two concepts or more stays in a region of its own",
    )
    add("--out", type=Path, required=True, help="the picture to write, .png")
    add("--overwrite", action="store_true", help="replace the file if it exists")
    add_sampler(add)
    add_sampling(add, "side of the picture in pixels, a multiple of 8, for toy of 24 (default: the model's own)")
