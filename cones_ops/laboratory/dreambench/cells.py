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

from tqdm import tqdm

from ...hosts.diffusers.concepts import read_pictures
from ...masks.concept_mask import ConceptMask
from ...search.settings import SearchSettings, Step, recommended
from . import DreamBenchSubject, scores

CellSubjects = tuple[DreamBenchSubject, ...]  # one subject, or two to a picture


@dataclass(frozen=True)
class Bench:
    """The loaded model and judges, what was asked for, and the masks found so far."""

    pipeline: Any
    judges: Any
    options: argparse.Namespace
    masks: dict[Path, ConceptMask] = field(default_factory=dict)


def load(options: argparse.Namespace) -> Bench:
    """Model and judges, all three before the first search."""
    from ...hosts.diffusers import pipeline as diffusers_pipeline
    from . import judges as diffusers_dreambench

    judges = diffusers_dreambench.load_judges(options.dino, options.clip, options.device)
    pipeline = diffusers_pipeline.load(options.model, options.device)
    pipeline.set_progress_bar_config(disable=True)
    return Bench(pipeline, judges, options)


def run_cell(bench: Bench, group: CellSubjects, texts: Sequence[tuple[str, str]], folder: Path) -> dict[str, Any]:
    """Masks, pictures (written to `folder`) and scores of one cell."""
    options = bench.options
    real = [read_pictures(options.data / subject.name, options.size) for subject in group]
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
    found = score(bench, drawn, [_images(some) for some in real], [text for _, text in texts])
    for entry, own in zip(about, found.pop("each"), strict=True):
        entry |= own
    rows = {name: [round(float(one), 6) for one in found[name]] for name in scores.SCORES}
    lines = [{"prompt": prompt, **{name: rows[name][i] for name in rows}} for i, (prompt, _) in enumerate(texts)]
    means = {name: round(float(found[name].mean()), 6) for name in scores.SCORES}
    return {"name": folder.name, **means, "subjects": about, "prompts": lines, "sampling_seconds": seconds}


def mask_of(bench: Bench, subject: DreamBenchSubject, identifier: str, pictures: Any) -> ConceptMask:
    """The subject's mask under an identifier: of this run, of an earlier one by the same search, or a new one."""
    from ...hosts.diffusers import pipeline as host
    from ...masks.mask_file import load_mask, save_mask

    options = bench.options
    file = options.out / "masks" / f"{subject.name}-{identifier}.safetensors"
    if file in bench.masks:
        return bench.masks[file]
    settings = recommended("own tokens", seed=options.seed)
    settings = replace(settings, steps=options.find_steps or settings.steps, batch=options.batch or settings.batch)
    model = host.host_model(bench.pipeline, "own tokens")
    searched = {name: str(value) for name, value in asdict(settings).items()}
    searched["picture_digest"] = hashlib.sha256(pictures.numpy().tobytes()).hexdigest()
    mask = load_mask(file) if file.is_file() and not options.again else None
    same = mask is not None and mask.class_word == subject.class_word and mask.fingerprint == model.fingerprint()
    if mask is None or not same or not searched.items() <= mask.provenance.items():
        found = search(bench, model, subject, identifier, pictures, settings)
        mask = replace(found, provenance={**found.provenance, **searched})
        save_mask(mask, file, "overwrite")
    bench.masks[file] = mask
    return mask


def search(
    bench: Bench, model: Any, subject: DreamBenchSubject, identifier: str, pictures: Any, settings: SearchSettings
) -> ConceptMask:
    """One search at own tokens, from pictures (n, 3, H, W) in [0, 1]."""
    from ...hosts.diffusers import pipeline as host
    from ...search.find import find_concept_neurons

    word = subject.class_word
    examples = host.examples(bench.pipeline, pictures, [f"a photo of a {identifier} {word}"], [(identifier, word)])
    with tqdm(total=settings.steps, desc=f"find {subject.name} as {identifier}") as bar:

        def on_step(step: Step) -> None:
            bar.update(step.phase == "search")

        result = find_concept_neurons(
            model, examples, identifier=identifier, class_word=word, settings=settings, on_step=on_step
        )
    return result.mask


def sample(bench: Bench, prompts: Sequence[str], masks: Any, folder: Path) -> list[Any]:
    """`samples` pictures of each prompt in turn, also written to `folder` as <prompt>-<sample>.png."""
    from ...hosts.diffusers import pipeline as host

    options = bench.options
    folder.mkdir(parents=True, exist_ok=True)
    how = {"num_inference_steps": options.steps, "guidance_scale": options.guidance}
    how |= {"height": options.size, "width": options.size}
    drawn = []
    for i, prompt in enumerate(tqdm(prompts, desc=f"sample {folder.name}")):
        first = options.seed + i * options.samples  # every picture of a cell starts from noise of its own
        some = host.sample(bench.pipeline, [prompt] * options.samples, masks, seed=first, **how)
        for k, picture in enumerate(some):
            picture.save(folder / f"{i:02}-{k}.png")
        drawn += some
    return drawn


def score(bench: Bench, drawn: Sequence[Any], real: Sequence[Sequence[Any]], texts: Sequence[str]) -> dict[str, Any]:
    """Scores per prompt (P,) averaged over the subjects, and `each` subject's own means with those of its pictures."""
    from . import judges as judging

    found: dict[str, Any] = {"each": [{"real": {}} for _ in real]}
    for name, embed in (("dino", judging.dino_embeddings), ("clip_i", judging.clip_embeddings)):
        pictures = embed(bench.judges, drawn)
        pictures = pictures.reshape(len(texts), -1, pictures.shape[-1])  # (P, S, D)
        rows = []
        for own, some in zip(found["each"], real, strict=True):
            theirs = embed(bench.judges, some)
            rows.append(scores.image_scores(pictures, theirs))
            own[name] = round(float(rows[-1].mean()), 6)
            own["real"][name] = scores.among_themselves(theirs)
        found[name] = sum(rows) / len(rows)
        if name == "clip_i":
            found["clip_t"] = scores.text_scores(pictures, judging.text_embeddings(bench.judges, texts))
    return found


def _images(pictures: Any) -> list[Any]:
    """Pictures (n, 3, H, W) in [0, 1] as the PIL pictures they were read from."""
    from PIL import Image

    return [Image.fromarray((one * 255).round().byte().permute(1, 2, 0).numpy()) for one in pictures]
