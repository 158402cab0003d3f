"""`cones find`, `tune` and `apply`: a Stable Diffusion model in a diffusers folder and the user's own pictures."""

# ruff: noqa: T201 - a command line answers by printing

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from .concept_mask import Where
from .errors import ConesError
from .search import MethodName, Step, recommended
from .targets import TARGET_CHOICES

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def find(options: argparse.Namespace) -> None:
    """Find a subject's concept neurons from a few pictures of it, and save them as a concept mask."""
    from tqdm import tqdm

    from .find import find_concept_neurons
    from .hosts import diffusers_pipeline as host
    from .mask_file import save_mask
    from .report import summary_text

    if options.out.exists() and not options.overwrite:
        raise ConesError(f"{options.out} exists already; choose another name, or allow --overwrite")
    phrase = f"{options.identifier} {options.class_word}"
    pictures = read_pictures(options.pictures, options.size)
    pipeline = host.load(options.model, options.device)
    subject = host.examples(pipeline, pictures, [f"a photo of a {phrase}"], options.identifier, options.class_word)
    prior = None
    if options.where == "everywhere":  # the frozen model's own answer to the class prompt; needs no class pictures
        prior = host.examples(pipeline, pictures, [f"a photo of a {options.class_word}"])
    settings = recommended(options.where, options.method, options.seed)
    settings = replace(settings, steps=options.steps or settings.steps, batch=options.batch or settings.batch)
    with tqdm(total=settings.steps, desc=f"find {phrase}") as bar:

        def on_step(step: Step) -> None:
            bar.set_postfix(loss=f"{step.loss:.4f}", phase=step.phase)
            bar.update(step.phase == "search")

        result = find_concept_neurons(
            host.host_model(pipeline, options.where, options.targets),
            subject,
            prior,
            identifier=options.identifier,
            class_word=options.class_word,
            settings=settings,
            density=options.density,
            distill=prior is not None,
            on_step=on_step,
        )
    print(summary_text(result))
    if result.mask.count:
        print(f"saved {save_mask(result.mask, options.out, options.overwrite)}")


def tune(options: argparse.Namespace) -> None:
    """Tune concept masks together, so that their subjects come out in one picture; one tuned mask per concept."""
    import torch
    from tqdm import tqdm

    from .collage import collages
    from .hosts import diffusers_pipeline as host
    from .mask_file import load_mask, save_mask
    from .report import tuning_text
    from .together import UnionModel, tune_concept_masks, tuning

    given = [(Path(mask), Path(folder)) for mask, folder in options.concept]
    files = [options.out / mask.name for mask, _ in given]
    if len(set(files)) < len(files):
        raise ConesError("two masks have the same file name, and the tuned ones would overwrite each other; rename one")
    if there := [str(file) for file in files if file.exists() and not options.overwrite]:
        raise ConesError(f"{', '.join(there)} exist already; choose another folder, or allow --overwrite")
    masks = [load_mask(mask) for mask, _ in given]
    batches = [read_pictures(folder, options.size) for _, folder in given]
    concepts = [(mask.identifier, mask.class_word) for mask in masks]
    phrases = [f"a {identifier} {class_word}" for identifier, class_word in concepts]
    laid, captions = collages(batches, phrases, options.zoom)
    pipeline = host.load(options.model, options.device)
    everywhere = all(mask.where == "everywhere" for mask in masks)
    model: Any = host.host_model(pipeline, "own tokens", options.targets, len(masks))
    prior = None
    if everywhere:
        model = UnionModel(host.host_model(pipeline, "everywhere", options.targets), len(masks))
        texts = [f"a photo of a {word}" for (_, word), some in zip(concepts, batches, strict=True) for _ in some]
        prior = host.examples(pipeline, torch.cat(batches), texts)

    def examples(pictures: Any, texts: list[str]) -> Any:
        if everywhere:
            return host.examples(pipeline, pictures, texts)
        return host.joint_examples(pipeline, pictures, texts, concepts)

    settings = tuning(options.seed)
    settings = replace(settings, steps=options.steps or settings.steps, batch=options.batch or settings.batch)
    with tqdm(total=settings.steps, desc=f"tune {' and '.join(phrases)}") as bar:

        def on_step(step: Step) -> None:
            bar.set_postfix(loss=f"{step.loss:.4f}")
            bar.update()

        result = tune_concept_masks(
            model,
            masks,
            [examples(some, [f"a photo of {phrase}"]) for some, phrase in zip(batches, phrases, strict=True)],
            examples(laid, captions),
            prior,
            settings=settings,
            on_step=on_step,
        )
    print(tuning_text(result, masks))
    for mask, file in zip(result.masks, files if result.tuned else [], strict=result.tuned):
        print(f"saved {save_mask(mask, file, options.overwrite)}")


def apply(options: argparse.Namespace) -> None:
    """Sample prompts with concept masks shut, beside the untouched model's picture from the same noise."""
    from .hosts import diffusers_pipeline as host
    from .mask_file import load_mask

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


def read_pictures(folder: Path, size: int | None) -> Any:
    """The pictures in a folder, cropped to a centred square: (n, 3, size, size) in [0, 1]."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in PICTURES)
    if not files:
        raise ConesError(
            f"{folder}: no pictures there ({', '.join(sorted(PICTURES))}); give a folder with 3 to 6 of them"
        )
    side = size or 512
    fitted = [ImageOps.fit(ImageOps.exif_transpose(Image.open(file)).convert("RGB"), (side, side)) for file in files]
    return torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1).float() / 255 for one in fitted])


def add_commands(commands: Any) -> None:
    """Describe both commands to argparse."""
    command = commands.add_parser("find", help=find.__doc__, description=find.__doc__)
    command.add_argument("model", type=Path, help="folder of a Stable Diffusion 1.x or 2.x model saved by diffusers")
    command.add_argument("pictures", type=Path, help="folder with 3 to 6 pictures of the subject")
    command.add_argument("--identifier", default="sks", help="the rare word that is to name the subject")
    command.add_argument("--class-word", required=True, help="what the subject is, e.g. dog")
    command.add_argument("--out", type=Path, required=True, help="the concept mask to write, .safetensors")
    command.add_argument("--where", choices=get_args(Where), default="own tokens", help="where the mask is to act")
    command.add_argument("--method", choices=get_args(MethodName), default="learned")
    command.add_argument("--targets", choices=TARGET_CHOICES, default="text K+V")
    command.add_argument("--density", type=float, help="share of neurons to shut (default: chosen on held-out noise)")
    command.add_argument("--steps", type=int)
    command.add_argument("--batch", type=int)
    command.add_argument("--overwrite", action="store_true")
    _common(command)
    command.set_defaults(run=find)
    command = commands.add_parser("tune", help=tune.__doc__, description=tune.__doc__)
    command.add_argument("model", type=Path, help="folder of the model the masks were found on")
    command.add_argument(
        "--concept",
        action="append",
        nargs=2,
        required=True,
        metavar=("MASK", "PICTURES"),
        help="a concept mask and the folder of its subject's pictures; give it two to four times",
    )
    command.add_argument("--out", type=Path, required=True, help="folder for the tuned masks, under their own names")
    command.add_argument("--zoom", type=float, default=0.6, help="scale of each picture where several share one")
    command.add_argument("--targets", choices=TARGET_CHOICES, default="text K+V", help="as the masks were found")
    command.add_argument("--steps", type=int)
    command.add_argument("--batch", type=int)
    command.add_argument("--overwrite", action="store_true")
    _common(command)
    command.set_defaults(run=tune)
    command = commands.add_parser("apply", help=apply.__doc__, description=apply.__doc__)
    command.add_argument("model", type=Path, help="folder of the model the masks were found on")
    command.add_argument("masks", type=Path, nargs="+", help="concept masks, .safetensors")
    command.add_argument("--prompt", action="append", required=True, help="may be given several times")
    command.add_argument("--strength", type=float, default=1.0, help="0 = untouched, 1 = shut")
    command.add_argument("--steps", type=int, default=30)
    command.add_argument("--guidance", type=float, default=7.5)
    command.add_argument("--any-base", action="store_true", help="apply masks found on other weights too")
    command.add_argument("--out", type=Path, default=Path("samples"), help="folder for the pictures")
    _common(command)
    command.set_defaults(run=apply)


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--size", type=int, help="side of the pictures in pixels (find: 512 unless told)")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--device", default="cpu", help="cpu, cuda, mps")
