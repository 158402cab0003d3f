"""`cones tune`: joint steps on several concept masks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import ConesError
from ..images.collages import ZOOM
from ..masks.fingerprint import fingerprint
from ..masks.mask_file import load_mask
from ..masks.whole_files import check_new_file
from ..models.targets import TARGET_CHOICES
from ..search.joint import tuning
from ..search.resume import resuming
from .models import add_model, check_model, defaults_of, load_model, read_pictures
from .options import SIDE, add_choice, add_command, add_sampling, if_exists, save, say, shown_on, with_steps
from .values import real, whole


def tune(options: argparse.Namespace) -> None:
    """Tune concept masks together, so that their subjects come out in one picture; one tuned mask per concept.

    Masks found apart seldom bring two subjects into one picture. This takes some joint steps
    from where their searches ended, on the pictures of each subject and on collages of all of
    them. The mask files you name stay as they are; if the joint held-out loss does not fall, nothing
    is saved and the report says so.

    examples:
      cones tune toy --concept sks-cat.safetensors sks --concept zwx-robot.safetensors zwx --out tuned
      cones tune sd15 --concept sks-dog.safetensors pictures/dog \\
          --concept ktn-cat.safetensors pictures/cat --out tuned --device cuda
    """
    from tqdm import tqdm

    from ..hosts.diffusers import concepts as host
    from ..reports.text import tuning_text

    sources = [(Path(mask), Path(folder)) for mask, folder in options.concept]
    files = [options.out / mask.name for mask, _ in sources]
    if len(set(files)) < len(files):
        raise ConesError("two masks have the same file name, and the tuned ones would overwrite each other; rename one")
    for file in files:
        check_new_file(file, ".safetensors", if_exists(options))
    check_model(options.model)
    masks = [load_mask(mask) for mask, _ in sources]
    defaults = defaults_of(options.model)
    pictures = [read_pictures(options.model, folder, options.size) for _, folder in sources]
    concepts = [
        host.Concept(mask.identifier, mask.class_word, shown, defaults.caption)
        for mask, shown in zip(masks, pictures, strict=True)
    ]
    pipeline = load_model(options.model, options.device)
    settings = with_steps(tuning(options.seed), options)
    with resuming(options.out, fingerprint(dict(pipeline.unet.named_parameters()))) as resume:
        with tqdm(total=settings.steps, desc=f"tune {' and '.join(concept.phrase for concept in concepts)}") as bar:
            zoom = options.zoom or defaults.zoom
            search = {"targets": options.targets, "zoom": zoom, "settings": settings, **shown_on(bar)}
            result = host.tune(pipeline, masks, concepts, resume=resume, **search)
        say(tuning_text(result, masks))
        for mask, file in zip(result.masks, files if result.tuned else [], strict=result.tuned):
            save(mask, file, options)


def describe(commands: Any) -> None:
    """Describe the command to argparse."""
    add = add_command(commands, tune).add_argument
    add_model(add)
    add(
        "--concept",
        action="append",
        nargs=2,
        required=True,
        metavar=("MASK", "PICTURES"),
        help="a concept mask and the folder of its subject's pictures; give it two to four times",
    )
    add("--out", type=Path, required=True, help="folder for the tuned masks, under their own names")
    add(
        "--zoom",
        type=real(0, 1, above=True),
        help=f"scale of each picture where several share one, above 0 to 1 (default: {ZOOM}, for toy 1)",
    )
    add_choice(add, "--targets", TARGET_CHOICES, default="text-K+V", help="the projections the masks were searched in")
    add("--steps", type=whole(1, 1_000_000), help=f"joint gradient steps (default: {tuning().steps})")
    add(
        "--batch", type=whole(1, 4096), help=f"noisy pictures per step and term of the loss (default: {tuning().batch})"
    )
    add("--overwrite", action="store_true", help="replace files in the folder that exist")
    add_sampling(add, SIDE)
