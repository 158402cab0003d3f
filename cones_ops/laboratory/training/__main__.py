"""Make the toy world from nothing: `python -m cones_ops.laboratory.training [text | unet | judge | all]`.

text: patch transform and text encoder, minutes. unet: the denoiser, resumable, `--minutes` of wall clock in all.
judge: the classifier. Checkpoints go to `--out`, the shipped files are replaced at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ...toy_world import bundle
from ...toy_world.latents import fit_patch_transform
from .. import judge
from ..scenes import draw_all, random_scene, training_set
from .judge import train_judge
from .text_encoder import train_text_encoder
from .unet import train_unet

log = partial(print, flush=True)


def prepared(out: Path, text_steps: int) -> bundle.ToyPipeline:
    """A pipeline with random UNet, fitted patch transform and trained text encoder; made once, kept in `out`."""
    pipeline = bundle.random_pipeline(0)
    latents_file, text_file = out / "latents.pt", out / "text_encoder.pt"
    if latents_file.is_file():
        pipeline.latents.load_state_dict(torch.load(latents_file, weights_only=True))
    else:
        generator = np.random.default_rng(12345)
        pictures = draw_all([random_scene(generator) for _ in range(2000)], generator)
        pipeline = dataclasses.replace(pipeline, latents=fit_patch_transform(pictures, bundle.CHANNELS))
        torch.save(pipeline.latents.state_dict(), latents_file)
    if text_file.is_file():
        pipeline.text_encoder.load_state_dict(torch.load(text_file, weights_only=True))
    else:
        train_text_encoder(pipeline, text_steps, log=log)
        torch.save(pipeline.text_encoder.state_dict(), text_file)
    return pipeline


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", default="all", choices=("text", "unet", "judge", "all"))
    parser.add_argument("--out", type=Path, default=Path("checkpoints"), help="folder of the resumable checkpoints")
    parser.add_argument(
        "--minutes", type=float, default=90, help="wall clock for the UNet in all, earlier runs counted in"
    )
    parser.add_argument("--text-steps", type=int, default=1000)
    parser.add_argument("--judge-steps", type=int, default=4000)
    parser.add_argument("--scenes", type=int, default=60000, help="drawn scenes to train the UNet on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--model-file", type=Path, default=bundle.SHIPPED)
    parser.add_argument("--judge-file", type=Path, default=judge.SHIPPED)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    pipeline = prepared(arguments.out, arguments.text_steps)
    if arguments.part in ("judge", "all"):
        train_judge(pipeline.latents, arguments.judge_steps, arguments.judge_file, log=log)
    if arguments.part in ("unet", "all"):
        scenes, latents = training_set(pipeline.latents, arguments.scenes, 0, arguments.out / "scenes.pt")
        train_unet(pipeline, scenes, latents, arguments.minutes, arguments.out / "unet.pt", log=log)
        bundle.save_pipeline(pipeline, arguments.model_file)


if __name__ == "__main__":
    main()
