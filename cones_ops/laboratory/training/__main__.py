"""Make the toy world's model from nothing: `python -m cones_ops.laboratory.training`.

text: patch transform and text encoder, minutes. draw: pictures for the UNet, in chunks. judge, decoder, unet:
minutes of processor time; decoder and unet resume and take their minutes in all. file: nothing but the file.
Checkpoints go to `--out`; `--model-file` is written whenever decoder or UNet end.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

from ...toy_world import bundle
from ...toy_world.decoder import Autoencoder
from ..judge import SHIPPED as JUDGE
from .decoder import train_decoder
from .judge import train_judge
from .latents import fitted_patch_transform
from .scenes import TrainingScenes, draw_chunks
from .text_encoder import train_text_encoder
from .unet import load_average, train_unet

PARTS = ("text", "draw", "judge", "decoder", "unet", "file", "all")


def log(line: str) -> None:
    """One line to the terminal, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def prepared(out: Path, text_steps: int) -> bundle.ToyPipeline:
    """A pipeline with random UNet, fitted patch transform and trained text encoder; made once, kept in `out`."""
    pipeline = bundle.random_pipeline(0)
    latents_file, text_file = out / "latents.pt", out / "text_encoder.pt"
    if latents_file.is_file():
        pipeline.autoencoder.transform.load_state_dict(torch.load(latents_file, weights_only=True))
    else:
        transform = fitted_patch_transform()
        torch.save(transform.state_dict(), latents_file)
        pipeline = dataclasses.replace(pipeline, autoencoder=Autoencoder(transform, pipeline.autoencoder.decoder))
    if text_file.is_file():
        pipeline.text_encoder.load_state_dict(torch.load(text_file, weights_only=True))
    else:
        train_text_encoder(pipeline, text_steps, log=log)
        torch.save(pipeline.text_encoder.state_dict(), text_file)
    return pipeline


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", default="all", choices=PARTS)
    parser.add_argument("--out", type=Path, default=Path("checkpoints"), help="folder of the resumable checkpoints")
    parser.add_argument("--minutes", type=float, default=360, help="processor time, earlier runs counted in")
    parser.add_argument("--text-steps", type=int, default=800)
    parser.add_argument("--chunks", type=int, default=16, help="thousands of drawn scenes to train the UNet on, by 4")
    parser.add_argument("--judge-minutes", type=float, default=25, help="processor time")
    parser.add_argument("--decoder-minutes", type=float, default=40, help="processor time, earlier runs counted in")
    parser.add_argument("--judge-file", type=Path, default=JUDGE)
    parser.add_argument("--start-from", type=Path, help="a model file to train on, where there are no checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="for the UNet")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model-file", type=Path, help="default: the model file in the folder of checkpoints")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    out, part = arguments.out, arguments.part
    if arguments.start_from:
        unpack(arguments.start_from, out)
    pipeline = prepared(out, arguments.text_steps)
    if part in ("draw", "all"):
        draw_chunks(pipeline.autoencoder.transform, out, arguments.chunks, log=log)
    if part in ("judge", "all"):
        train_judge(pipeline.autoencoder, arguments.judge_minutes, arguments.judge_file, log=log)
    if part in ("decoder", "all"):
        train_decoder(pipeline.autoencoder, arguments.decoder_minutes, out / "decoder.pt", log=log)
    if part in ("unet", "all"):
        finished(pipeline, out)
        scenes = TrainingScenes(out)
        scenes.take_new(4)  # the training takes the others by and by
        pipeline.unet.to(arguments.device)
        pipeline.text_encoder.to(arguments.device)
        train_unet(pipeline, scenes, arguments.minutes, out / "unet.pt", log=log)
    if part in ("decoder", "unet", "file", "all"):
        finished(pipeline, out)
        bundle.save_pipeline(pipeline, arguments.model_file or out / bundle.SHIPPED.name)


def unpack(file: Path, out: Path) -> None:
    """Write a model file's parts as checkpoints, without overwriting any; optimizers start anew."""
    pipeline = bundle.load_pipeline(file)
    parts = {
        "latents.pt": pipeline.autoencoder.transform.state_dict(),
        "text_encoder.pt": pipeline.text_encoder.state_dict(),
        "decoder.pt": {"decoder": pipeline.autoencoder.decoder.state_dict()},
        "unet.pt": {"average": list(pipeline.unet.parameters())},
    }
    for name, state in parts.items():
        if not (out / name).is_file():
            torch.save(state, out / name)


def finished(pipeline: bundle.ToyPipeline, out: Path) -> None:
    """Put the newest averaged UNet and the newest decoder of the checkpoints into the pipeline."""
    if (out / "decoder.pt").is_file():
        pipeline.autoencoder.decoder.load_state_dict(torch.load(out / "decoder.pt", weights_only=True)["decoder"])
    if (out / "unet.pt").is_file():
        load_average(pipeline.unet, torch.load(out / "unet.pt", weights_only=True, map_location="cpu")["average"])


if __name__ == "__main__":
    main()
