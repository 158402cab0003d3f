"""A subject's reference pictures as a user would have them: a few of it alone, and collages made from those.

Collages lay the subject beside one to three things of other classes, which the model itself draws from "a circle" and
the like, or several subjects beside each other. Captions hold identifiers, classes, backgrounds and in half of them
places, and no more. Pictures in one collage share their background, as the toy world has one per picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..images.collages import SEARCH_FORMS, Form, collage, collages, layout_caption
from ..toy_world.bundle import ToyPipeline
from ..toy_world.subjects import Subject
from ..toy_world.world import BACKGROUNDS, SHAPES
from .measure import backgrounds
from .sampling import sample

ALONE = len(BACKGROUNDS)  # pictures of the subject alone, one on each background
BESIDE = 24  # collages with another thing

Captioned = tuple[Tensor, list[str]]  # pictures (n, 3, 64, 64) in [0, 1] and their captions


def references(
    pipeline: ToyPipeline, subject: Subject, seed: int = 0, beside: int = BESIDE, crowds: int = 0
) -> Captioned:
    """`ALONE` pictures of the subject, `beside` collages with one other thing and `crowds` with two or three."""
    return with_neighbours(pipeline, *alone(subject, seed), subject, subject.prompt, seed, beside, crowds)


def class_references(pipeline: ToyPipeline, subject: Subject, count: int, seed: int = 0, beside: int = 0) -> Captioned:
    """`count` pictures that the model draws of the class, and `beside` collages of them: for the prior."""
    texts = [_captioned([subject.class_prompt], background) for background in backgrounds(count)]
    pictures = sample(pipeline, texts, seeds=range(seed, seed + count))
    return with_neighbours(pipeline, pictures, texts, subject, subject.class_prompt, seed + 1, beside)


def with_neighbours(
    pipeline: ToyPipeline,
    pictures: Tensor,
    texts: list[str],
    subject: Subject,
    prompt: str,
    seed: int,
    beside: int,
    crowds: int = 0,
) -> Captioned:
    """The pictures, and collages of them with things of other classes that the model draws.

    The subject takes every place in turn, and captions every form that searches see.
    """
    if not beside + crowds:
        return pictures, texts
    sizes = [1] * beside + [2 + i % 2 for i in range(crowds)]  # other things in each collage
    others = [shape for shape in SHAPES if shape != subject.thing.shape]
    first = int(np.random.default_rng([seed, *subject.identifier.encode()]).integers(len(others)))
    words = iter([f"a {others[(first + i) % len(others)]}" for i in range(sum(sizes))])
    grounds = backgrounds(len(sizes))
    asked = [[next(words) for _ in range(size)] for size in sizes]
    drawn = sample(
        pipeline,
        [_captioned([word], ground) for group, ground in zip(asked, grounds, strict=True) for word in group],
        seeds=[10_000 * (seed + 1) + i for i in range(sum(sizes))],
    ).split(sizes)
    collages, captions = [], []
    for i, (group, ground, neighbours) in enumerate(zip(asked, grounds, drawn, strict=True)):
        mine = [k for k, text in enumerate(texts) if text.endswith(f"on a {ground} background")]
        cells = [*zip(neighbours, group, strict=True)]
        turn = i // len(BACKGROUNDS)
        cells.insert((turn + 1) % (len(group) + 1), (pictures[mine[turn % len(mine)]], prompt))
        form = SEARCH_FORMS[(i + i // 8) % len(SEARCH_FORMS)]
        blank = [_plain(ground, pictures[0])] * (len(cells) == 3)
        collages.append(collage([*(picture for picture, _ in cells), *blank], columns=2))
        captions.append(_captioned([phrase for _, phrase in cells], ground, form))
    return torch.cat([pictures, torch.stack(collages)]), [*texts, *captions]


def together(subjects: Sequence[Subject], seed: int = 0) -> Captioned:
    """Collages of 2 to 4 subjects, each at every place in turn, on every background, in every form of searches."""
    batches = []
    for subject in subjects:
        pictures, texts = alone(subject, seed)
        batches.append(pictures[[texts.index(_captioned([subject.prompt], ground)) for ground in BACKGROUNDS]])
    empty = torch.stack([_plain(ground, batches[0][0]) for ground in BACKGROUNDS])
    shown, captions = [], []
    for form in SEARCH_FORMS:
        pictures, texts = collages(batches, [subject.prompt for subject in subjects], empty=empty, forms=[form])
        shown.append(pictures)
        grounds = backgrounds(len(texts))
        captions += [f"{text} on a {ground} background" for text, ground in zip(texts, grounds, strict=True)]
    return torch.cat(shown), captions


def _plain(background: str, like: Tensor) -> Tensor:
    """An empty picture (C, H, W) of that background."""
    return torch.tensor(BACKGROUNDS[background]).float()[:, None, None].expand_as(like)


def alone(subject: Subject, seed: int = 0) -> Captioned:
    """The subject in the middle of each background."""
    drawn, texts = subject.reference_pictures(ALONE, seed)
    return torch.from_numpy(drawn).float(), texts


def _captioned(prompts: Sequence[str], background: str, form: Form = "places") -> str:
    return f"{layout_caption(prompts, form)} on a {background} background"
