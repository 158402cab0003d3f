"""`cones find`, `tune` and `apply`: a Stable Diffusion model in a diffusers folder and the user's own pictures."""

# ruff: noqa: T201 - a command line answers by printing

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from ..errors import ConesError
from ..masks.concept_mask import Where
from ..models.targets import TARGET_CHOICES
from ..search.joint import tuning
from ..search.settings import MethodName, OnStep, SearchSettings, Step, recommended
from .help import add_command

MODEL = "folder of a Stable Diffusion 1.x or 2.x model saved by diffusers (it holds model_index.json)"


def find(options: argparse.Namespace) -> None:
    """Find a subject's concept neurons from a few pictures of it, and save them as a concept mask."""
    from tqdm import tqdm

    from ..hosts.diffusers import concepts as host
    from ..masks.mask_file import save_mask
    from ..reports.text import summary_text

    if options.out.exists() and not options.overwrite:
        raise ConesError(f"{options.out} exists already; choose another name, or allow --overwrite")
    pictures = host.read_pictures(options.pictures, options.size)
    concept = host.Concept(options.identifier, options.class_word, pictures)
    pipeline = host.load(options.model, options.device)
    settings = _asked(recommended(options.where, options.method, options.seed), options)
    with tqdm(total=settings.steps, desc=f"find {concept.phrase}") as bar:
        result = host.find(
            pipeline,
            concept,
            options.where,
            targets=options.targets,
            settings=settings,
            density=options.density,
            on_step=_shown_on(bar),
            on_estimate=lambda expected: bar.write(str(expected)),
        )
    print(summary_text(result))
    if result.mask.count:
        print(f"saved {save_mask(result.mask, options.out, options.overwrite)}")
    else:
        print("saved nothing: there are no neurons to shut")


def tune(options: argparse.Namespace) -> None:
    """Tune concept masks together, so that their subjects come out in one picture; one tuned mask per concept."""
    from tqdm import tqdm

    from ..hosts.diffusers import concepts as host
    from ..masks.mask_file import load_mask, save_mask
    from ..reports.text import tuning_text

    given = [(Path(mask), Path(folder)) for mask, folder in options.concept]
    files = [options.out / mask.name for mask, _ in given]
    if len(set(files)) < len(files):
        raise ConesError("two masks have the same file name, and the tuned ones would overwrite each other; rename one")
    if there := [str(file) for file in files if file.exists() and not options.overwrite]:
        raise ConesError(f"{', '.join(there)} exist already; choose another folder, or allow --overwrite")
    masks = [load_mask(mask) for mask, _ in given]
    concepts = [
        host.Concept(mask.identifier, mask.class_word, host.read_pictures(folder, options.size))
        for mask, (_, folder) in zip(masks, given, strict=True)
    ]
    pipeline = host.load(options.model, options.device)
    settings = _asked(tuning(options.seed), options)
    with tqdm(total=settings.steps, desc=f"tune {' and '.join(one.phrase for one in concepts)}") as bar:
        result = host.tune(
            pipeline,
            masks,
            concepts,
            targets=options.targets,
            zoom=options.zoom,
            settings=settings,
            on_step=_shown_on(bar),
            on_estimate=lambda expected: bar.write(str(expected)),
        )
    print(tuning_text(result, masks))
    for mask, file in zip(result.masks, files if result.tuned else [], strict=result.tuned):
        print(f"saved {save_mask(mask, file, options.overwrite)}")


def apply(options: argparse.Namespace) -> None:
    """Sample prompts with concept masks shut, beside the untouched model's picture from the same noise."""
    from ..hosts.diffusers import concepts as host
    from ..masks.mask_file import load_mask

    masks = [(load_mask(file), options.strength) for file in options.masks]
    pipeline = host.load(options.model, options.device)
    settings = {"num_inference_steps": options.steps, "guidance_scale": options.guidance}
    if options.size:
        settings |= {"height": options.size, "width": options.size}
    options.out.mkdir(parents=True, exist_ok=True)
    for name, shut in (("vanilla", []), ("masked", masks)):
        pictures = host.sample(pipeline, options.prompt, shut, seed=options.seed, any_base=options.any_base, **settings)
        for i, picture in enumerate(pictures):
            picture.save(options.out / f"{i:02}-{name}.png")
            print(f"saved {options.out / f'{i:02}-{name}.png'}")


def _asked(settings: SearchSettings, options: argparse.Namespace) -> SearchSettings:
    """The recommended settings, with the steps and the batch that were asked for."""
    return replace(settings, steps=options.steps or settings.steps, batch=options.batch or settings.batch)


def _shown_on(bar: Any) -> OnStep:
    def on_step(step: Step) -> None:
        bar.set_postfix(loss=f"{step.loss:.4f}", phase=step.phase)
        bar.update(step.phase == "search")

    return on_step


def add_commands(commands: Any) -> None:
    """Describe the commands to argparse."""
    _add_find(commands)
    _add_tune(commands)
    _add_apply(commands)


def _add_find(commands: Any) -> None:
    command = add_command(
        commands,
        "find",
        find,
        """
        cones find sd15 pictures/dog --class-word dog --out sks-dog.safetensors --device cuda
        cones find sd15 pictures/dog --class-word dog --where everywhere --out sks-dog-all.safetensors
        """,
        """
        Give a handful of pictures that show the subject and little else; each is cropped to a
        centred square. The mask keeps the two words, so a prompt uses the concept as
        "<identifier> <class word>". How many neurons are shut is chosen on noise the search
        never saw; if no number of them helps, nothing is saved and the report says so.
        The model's files are never changed, and nothing is downloaded.
        """,
    )
    add = command.add_argument
    add("model", type=Path, help=MODEL)
    add("pictures", type=Path, help="folder with 3 to 6 pictures of the subject (.png, .jpg, .jpeg, .webp, .bmp)")
    add("--class-word", required=True, help="what the subject is, in the model's own words, e.g. dog")
    add("--out", type=Path, required=True, help="the concept mask to write, .safetensors")
    add("--identifier", default="sks", help="the rare word that is to name the subject")
    add(
        "--where",
        choices=get_args(Where),
        default="own tokens",
        help="where the mask is to act: in the K and V of its own words only, which leaves every other prompt's "
        "picture as it is, or in the weights themselves, for every token, as in the paper",
    )
    add("--method", choices=get_args(MethodName), default="learned", help="the search; see docs/explanation/method.md")
    add(
        "--targets",
        choices=TARGET_CHOICES,
        default="text K+V",
        help="the projections searched: K and V, or one of them, of the layers that read the text, or of "
        "self-attention too (everywhere only)",
    )
    add("--density", type=float, help="share of neurons to shut, 0 to 1 (default: chosen on held-out noise)")
    own, all_over = recommended("own tokens"), recommended("everywhere")
    add("--steps", type=int, help=f"gradient steps (default: {own.steps} at own tokens, {all_over.steps} everywhere)")
    add(
        "--batch",
        type=int,
        help="noisy pictures per step; fewer need less memory "
        f"(default: {own.batch} at own tokens, {all_over.batch} everywhere)",
    )
    add("--overwrite", action="store_true", help="replace the file if it exists")
    _common(command, "side to which the pictures are scaled, in pixels; a multiple of 8 (default: 512)")


def _add_tune(commands: Any) -> None:
    command = add_command(
        commands,
        "tune",
        tune,
        """
        cones tune sd15 --concept sks-dog.safetensors pictures/dog \\
            --concept ktn-cat.safetensors pictures/cat --out tuned --device cuda
        """,
        """
        Masks found apart seldom bring two subjects into one picture. This takes some joint steps
        from where their searches ended, on the pictures of each subject and on collages of all of
        them. The given files stay as they are; if the joint held-out loss does not fall, nothing
        is saved and the report says so.
        """,
    )
    add = command.add_argument
    add("model", type=Path, help="folder of the model the masks were found on, saved by diffusers")
    add(
        "--concept",
        action="append",
        nargs=2,
        required=True,
        metavar=("MASK", "PICTURES"),
        help="a concept mask and the folder of its subject's pictures; give it two to four times",
    )
    add("--out", type=Path, required=True, help="folder for the tuned masks, under their own names")
    add("--zoom", type=float, default=0.6, help="scale of each picture where several share one, above 0 to 1")
    add("--targets", choices=TARGET_CHOICES, default="text K+V", help="the projections the masks were searched in")
    add("--steps", type=int, help=f"joint gradient steps (default: {tuning().steps})")
    add("--batch", type=int, help=f"noisy pictures per step and term of the loss (default: {tuning().batch})")
    add("--overwrite", action="store_true", help="replace files in the folder that exist")
    _common(command, "side to which the pictures are scaled, in pixels; a multiple of 8 (default: 512)")


def _add_apply(commands: Any) -> None:
    command = add_command(
        commands,
        "apply",
        apply,
        """
        cones apply sd15 sks-dog.safetensors --prompt "a sks dog on a beach" --device cuda
        cones apply sd15 tuned/sks-dog.safetensors tuned/ktn-cat.safetensors \\
            --prompt "a sks dog on the left and a ktn cat on the right" --out together
        """,
        """
        Writes two pictures per prompt, NN-vanilla.png and NN-masked.png, NN counting the prompts
        from 00. Each mask acts where it was found to act. The order of the masks does not matter.
        """,
    )
    add = command.add_argument
    add("model", type=Path, help="folder of the model the masks were found on, saved by diffusers")
    add("masks", type=Path, nargs="+", help="concept masks, .safetensors")
    add("--prompt", action="append", required=True, help="what to draw, may be given several times")
    add("--strength", type=float, default=1.0, help="of all masks: 0 = untouched, bit for bit, 1 = shut")
    add("--steps", type=int, default=30, help="sampling steps of the model's own scheduler")
    add("--guidance", type=float, default=7.5, help="classifier-free guidance scale; 1 = none")
    add("--any-base", action="store_true", help="apply masks found on other weights too, instead of refusing them")
    add("--out", type=Path, default=Path("samples"), help="folder for the pictures; those of an earlier run go")
    _common(command, "side of the pictures in pixels, a multiple of 8 (default: the model's own)")


def _common(command: argparse.ArgumentParser, size: str) -> None:
    command.add_argument("--size", type=int, help=size)
    command.add_argument("--seed", type=int, default=0, help="of all noise, and picture i samples from seed + i")
    command.add_argument("--device", default="cpu", help="where the model runs, a torch device: cpu, cuda, cuda:1, mps")
