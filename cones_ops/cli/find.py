"""`cones find`: from a subject's pictures to a concept mask."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from ..masks.concept_mask import Where
from ..masks.whole_files import check_new_file
from ..models.targets import TARGET_CHOICES
from ..search.find import SearchResult
from ..search.resume import resuming
from ..search.settings import MethodName, recommended
from .models import add_model, check_model, defaults_of, load_model, read_pictures
from .options import SIDE, add_choice, add_command, add_sampling, if_exists, save, say, shown_on, with_steps
from .values import real, whole, word


def find(options: argparse.Namespace) -> None:
    """Find a subject's concept neurons from a few pictures of it, and save them as a concept mask.

    Give a handful of pictures that show the subject and little else; each is cropped to a
    centred square. The mask keeps the two words, so a prompt uses the concept as
    "<identifier> <class word>". How many neurons are shut is chosen on noise that the search
    never saw; if no number of them helps, nothing is saved and the report says so.
    The model's files are never changed, and nothing is downloaded. A search that was stopped
    resumes when the same command is called again; its state is beside --out until it is done.
    Several GPUs: `torchrun --nproc-per-node 2 -m cones_ops.cli find ... --device cuda` shares
    each batch and the statistics among processes; such a search does not resume.

    examples:
      cones find toy sks --class-word cat --out sks-cat.safetensors
      cones find sd15 pictures/dog --class-word dog --out sks-dog.safetensors --device cuda
      cones find sd15 pictures/dog --class-word dog --where everywhere --out sks-dog-all.safetensors
    """
    from tqdm import tqdm

    from ..engine.torchrun import joined
    from ..hosts.diffusers import concepts as host
    from ..masks.fingerprint import fingerprint

    check_new_file(options.out, ".safetensors", if_exists(options))
    check_model(options.model)
    pictures = read_pictures(options.model, options.pictures, options.size)
    concept = host.Concept(options.identifier, options.class_word, pictures, defaults_of(options.model).caption)
    settings = with_steps(recommended(options.where, options.method, options.seed), options)
    with joined(options.device) as (ranks, device):
        pipeline = load_model(options.model, device)
        with resuming(options.out.parent, fingerprint(dict(pipeline.unet.named_parameters()))) as resume:
            with tqdm(total=settings.steps, desc=f"find {concept.phrase}", disable=ranks.rank > 0) as bar:
                search = {"targets": options.targets, "density": options.density, "settings": settings, **shown_on(bar)}
                result = host.find(pipeline, concept, options.where, resume=resume, ranks=ranks, **search)
            if ranks.rank == 0:
                _report(result, options)


def _report(result: SearchResult, options: argparse.Namespace) -> None:
    from ..reports.text import summary_text

    say(summary_text(result))
    if result.mask.count:
        save(result.mask, options.out, options)
    else:
        print("saved nothing: there are no neurons to shut")


def describe(commands: Any) -> None:
    """Describe the command to argparse."""
    add = add_command(commands, find).add_argument
    add_model(add)
    add("pictures", type=Path, help="folder with 3 to 6 pictures of the subject (.png, .jpg, .jpeg, .webp, "
        ".bmp); with toy also one of its subjects by its word, such as sks (a cat) or zwx (a robot)")  # fmt: skip
    add("--class-word", type=word, required=True, help="what the subject is, in the model's own words, e.g. dog")
    add("--out", type=Path, required=True, help="the concept mask to write, .safetensors")
    add("--identifier", type=word, default="sks", help="the rare word that will name the subject")
    add_choice(
        add,
        "--where",
        get_args(Where),
        default="own-tokens",
        help="where the mask acts: in the K and V of its own words only, which leaves every other prompt's "
        "picture as it is, or in the weights themselves, for every token, as in the paper",
    )
    add("--method", choices=get_args(MethodName), default="learned", help="the search; see docs/explanation/method.md")
    add_choice(
        add,
        "--targets",
        TARGET_CHOICES,
        default="text-K+V",
        help="the projections searched: K and V, or one of them, of the layers that read the text, or of "
        "self-attention too (everywhere only)",
    )
    add("--density", type=real(0, 1), help="share of neurons to shut, 0 to 1 (default: chosen on held-out noise)")
    narrow, wide = recommended("own tokens"), recommended("everywhere")
    add(
        "--steps",
        type=whole(1, 1_000_000),
        help=f"gradient steps (default: {narrow.steps} at own tokens, {wide.steps} everywhere)",
    )
    add(
        "--batch",
        type=whole(1, 4096),
        help=f"noisy pictures per step (default: {narrow.batch} at own tokens, {wide.batch} everywhere)",
    )
    add("--overwrite", action="store_true", help="replace the file if it exists")
    add_sampling(add, SIDE)
