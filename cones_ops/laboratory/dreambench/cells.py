"""One cell of `cones bench dreambench`: masks found (or read again), every prompt sampled, the pictures scored.

Masks go to `<out>/masks/<subject>-<identifier>.safetensors`, pictures to the cell's folder as <prompt>-<sample>.png.
A mask is read again only if the same search on the same weights made it.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ...engine.claims import claimed
from ...hosts.diffusers import concepts, pipeline
from ...hosts.diffusers.pictures import pixels_of
from ...masks.concept_mask import ConceptMask
from ...masks.mask_file import load_mask, save_mask
from ...search.settings import recommended
from ..progress import steps_on
from . import judges, scores
from .protocol import DreamBenchSubject

CellSubjects = tuple[DreamBenchSubject, ...]  # one subject, or two to a picture


@dataclass(frozen=True)
class Bench:
    """The loaded model and judges, what was asked for, and the masks found so far."""

    pipeline: Any
    judges: judges.Judges
    options: argparse.Namespace
    masks: dict[Path, ConceptMask] = field(default_factory=dict)


def load(options: argparse.Namespace) -> Bench:
    """Model and judges, all three before the first search."""
    both = judges.load_judges(options.dino, options.clip, options.device)
    model = concepts.load(options.model, options.device)
    model.set_progress_bar_config(disable=True)
    return Bench(model, both, options)


def run_cell(bench: Bench, group: CellSubjects, texts: Sequence[tuple[str, str]], folder: Path) -> dict[str, Any]:
    """Masks, pictures (written to `folder`) and scores of one cell."""
    options = bench.options
    real = [concepts.read_pictures(options.data / subject.name, options.size) for subject in group]
    about, masks = [], []
    for subject, identifier, pictures in zip(group, options.identifiers, real, strict=False):
        entry = {"subject": subject.name, "class": subject.class_word, "live": subject.live, "pictures": len(pictures)}
        if not options.untouched:
            mask = mask_of(bench, subject, identifier, pictures)
            masks.append((mask, 1.0))
            entry |= {"identifier": identifier, "neurons": mask.count, "density": mask.density}
            entry |= {"found": mask.provenance.get("found", "")}
        about.append(entry)
    started = time.monotonic()
    drawn = sample(bench, [prompt for prompt, _ in texts], masks, folder)
    seconds = round(time.monotonic() - started, 1)
    by_prompt, by_subject = score(bench, drawn, [_images(pictures) for pictures in real], [text for _, text in texts])
    rows = {name: [round(float(value), 6) for value in values] for name, values in by_prompt.items()}
    return {
        "name": folder.name,
        **{name: round(float(values.mean()), 6) for name, values in by_prompt.items()},
        "subjects": [entry | figures for entry, figures in zip(about, by_subject, strict=True)],
        "prompts": [{"prompt": p, **{name: rows[name][i] for name in rows}} for i, (p, _) in enumerate(texts)],
        "sampling_seconds": seconds,
    }


def mask_of(bench: Bench, subject: DreamBenchSubject, identifier: str, pictures: Tensor) -> ConceptMask:
    """The subject's mask under an identifier: of this run, of an earlier one by the same search, or a new one."""
    options = bench.options
    file = options.out / "masks" / f"{subject.name}-{identifier}.safetensors"
    with claimed(options.out / ".claims" / file.name, wait=True):  # by one process at a time; the next one reads it
        if file not in bench.masks:
            bench.masks[file] = _mask_of(bench, subject, identifier, pictures, file)
    return bench.masks[file]


def _mask_of(bench: Bench, subject: DreamBenchSubject, identifier: str, pictures: Tensor, file: Path) -> ConceptMask:
    options = bench.options
    settings = recommended("own tokens", seed=options.seed)
    settings = replace(settings, steps=options.find_steps or settings.steps, batch=options.batch or settings.batch)
    searched = {name: str(value) for name, value in asdict(settings).items()}
    searched["picture_digest"] = hashlib.sha256(pictures.numpy().tobytes()).hexdigest()
    mask = load_mask(file) if file.is_file() and not options.again else None
    if (
        mask is None
        or mask.class_word != subject.class_word
        or not searched.items() <= mask.provenance.items()
        or mask.fingerprint != pipeline.host_model(bench.pipeline).fingerprint()
    ):
        concept = concepts.Concept(identifier, subject.class_word, pictures)
        with tqdm(total=settings.steps, desc=f"find {subject.name} as {identifier}") as bar:
            mask = concepts.find(bench.pipeline, concept, settings=settings, on_step=steps_on(bar)).mask
        mask = replace(mask, provenance={**mask.provenance, **searched})
        save_mask(mask, file, "overwrite")
    return mask


def sample(bench: Bench, prompts: Sequence[str], masks: Any, folder: Path) -> list[Image.Image]:
    """`samples` pictures of each prompt in turn, also written to `folder` as <prompt>-<sample>.png."""
    options = bench.options
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"num_inference_steps": options.steps, "guidance_scale": options.guidance}
    settings |= {"height": options.size, "width": options.size}
    drawn = []
    for i, prompt in enumerate(tqdm(prompts, desc=f"sample {folder.name}")):
        first = options.seed + i * options.samples  # every picture of a cell starts from noise of its own
        pictures = pipeline.sample(bench.pipeline, [prompt] * options.samples, masks, seed=first, **settings)
        for k, picture in enumerate(pictures):
            picture.save(folder / f"{i:02}-{k}.png")
        drawn += pictures
    return drawn


def score(
    bench: Bench, drawn: Sequence[Image.Image], real: Sequence[Sequence[Image.Image]], texts: Sequence[str]
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Scores per prompt (P,) averaged over the subjects, and each subject's own means with those of its pictures."""
    by_prompt: dict[str, Tensor] = {}
    by_subject: list[dict[str, Any]] = [{"real": {}} for _ in real]
    for name, embed in (("dino", judges.dino_embeddings), ("clip_i", judges.clip_embeddings)):
        pictures = embed(bench.judges, drawn)
        pictures = pictures.reshape(len(texts), -1, pictures.shape[-1])  # (P, S, D)
        rows = []
        for figures, references in zip(by_subject, real, strict=True):
            embeddings = embed(bench.judges, references)
            rows.append(scores.image_scores(pictures, embeddings))
            figures[name] = round(float(rows[-1].mean()), 6)
            figures["real"][name] = scores.among_themselves(embeddings)
        by_prompt[name] = torch.stack(rows).mean(0)
    by_prompt["clip_t"] = scores.text_scores(pictures, judges.text_embeddings(bench.judges, texts))
    return by_prompt, by_subject


def _images(pictures: Tensor) -> list[Image.Image]:
    """Pictures (n, 3, H, W) in [0, 1] as the PIL pictures they were read from."""
    return [Image.fromarray(pixels_of(picture)) for picture in pictures]
