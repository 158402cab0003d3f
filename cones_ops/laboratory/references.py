"""A subject's reference pictures as a user would have them: a few of it alone, and collages made from those.

Collages lay the subject beside things of other classes, which the model itself draws from "a circle" and the like, or
several subjects beside each other. Captions hold identifiers, classes, places and backgrounds and no more. Pictures in
one collage share their background, as the toy world has one per picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..images.collages import collage, collages, layout_caption
from ..toy_world.bundle import ToyPipeline
from ..toy_world.subjects import Subject
from ..toy_world.world import BACKGROUNDS, SHAPES
from .measure import backgrounds
from .sampling import sample

ALONE = len(BACKGROUNDS)  # pictures of the subject alone, one on each background
BESIDE = 24  # collages with another thing

Captioned = tuple[Tensor, list[str]]  # pictures (n, 3, 64, 64) in [0, 1] and their captions


def references(pipeline: ToyPipeline, subject: Subject, seed: int = 0, beside: int = BESIDE) -> Captioned:
    """`ALONE` pictures of the subject and `beside` collages with one other thing, left and right in turn."""
    return with_neighbours(pipeline, *alone(subject, seed), subject, subject.prompt, seed, beside)


def class_references(pipeline: ToyPipeline, subject: Subject, count: int, seed: int = 0, beside: int = 0) -> Captioned:
    """`count` pictures that the model draws of the class, and `beside` collages of them: for the prior."""
    texts = [_captioned([subject.class_prompt], background) for background in backgrounds(count)]
    pictures = sample(pipeline, texts, seeds=range(seed, seed + count))
    return with_neighbours(pipeline, pictures, texts, subject, subject.class_prompt, seed + 1, beside)


def with_neighbours(
    pipeline: ToyPipeline, pictures: Tensor, texts: list[str], subject: Subject, prompt: str, seed: int, beside: int
) -> Captioned:
    """The pictures, and `beside` collages of them with things of other classes that the model draws."""
    if not beside:
        return pictures, texts
    others = [shape for shape in SHAPES if shape != subject.thing.shape]
    first = int(np.random.default_rng([seed, *subject.identifier.encode()]).integers(len(others)))
    words = [f"a {others[(first + i) % len(others)]}" for i in range(beside)]
    grounds = backgrounds(beside)
    drawn = sample(
        pipeline,
        [_captioned([word], ground) for word, ground in zip(words, grounds, strict=True)],
        seeds=[10_000 * (seed + 1) + i for i in range(beside)],
    )
    collages, captions = [], []
    for i, (word, ground, neighbour) in enumerate(zip(words, grounds, drawn, strict=True)):
        mine = [k for k, text in enumerate(texts) if text.endswith(f"on a {ground} background")]
        pair = [(pictures[mine[i // len(grounds) % len(mine)]], prompt), (neighbour, word)]
        left, right = pair if i // len(BACKGROUNDS) % 2 else pair[::-1]
        collages.append(collage([left[0], right[0]], columns=2))
        captions.append(_captioned([left[1], right[1]], ground))
    return torch.cat([pictures, torch.stack(collages)]), [*texts, *captions]


def together(subjects: Sequence[Subject], seed: int = 0) -> Captioned:
    """Collages of 2 to 4 subjects, each of them at every place in turn, on every background."""
    batches = []
    for subject in subjects:
        pictures, texts = alone(subject, seed)
        batches.append(pictures[[texts.index(_captioned([subject.prompt], ground)) for ground in BACKGROUNDS]])
    empty = torch.tensor(list(BACKGROUNDS.values())).float()[:, :, None, None].expand_as(batches[0])
    pictures, captions = collages(batches, [subject.prompt for subject in subjects], empty=empty)
    grounds = backgrounds(len(captions))
    return pictures, [f"{text} on a {ground} background" for text, ground in zip(captions, grounds, strict=True)]


def alone(subject: Subject, seed: int = 0) -> Captioned:
    """The subject in the middle of each background."""
    drawn, texts = subject.reference_pictures(ALONE, seed)
    return torch.from_numpy(drawn).float(), texts


def _captioned(prompts: Sequence[str], background: str) -> str:
    return f"{layout_caption(prompts)} on a {background} background"
