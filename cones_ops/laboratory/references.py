"""A subject's reference pictures as a user would have them: a few of it alone, and collages made from those.

Collages lay the subject beside one to three things of other kinds, which the model itself draws from "a mug" and the
like, or several subjects beside each other. Captions hold identifiers, kinds, backgrounds and in some forms places, and
no more. Pictures in one collage share their background.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from ..images.collages import collage
from ..toy_world.bundle import ToyPipeline
from ..toy_world.caption_forms import SEARCH_FORMS
from ..toy_world.captions import Said, compose
from ..toy_world.drawing.scene import draw_all, empty
from ..toy_world.subjects import Subject
from ..toy_world.world import BACKGROUNDS, KINDS, ZOOM, Scene
from .sampling import sample

ALONE = len(BACKGROUNDS)  # pictures of the subject alone, one on each background
BESIDE = 24  # collages with another thing
LAYOUTS = ("one", "two", "no bottom right", "four")  # of a collage of 1 to 4 things, in reading order

Captioned = tuple[Tensor, list[str]]  # pictures (n, 3, 96, 96) in [0, 1] and their captions


def references(
    pipeline: ToyPipeline, subject: Subject, seed: int = 0, beside: int = BESIDE, crowds: int = 0
) -> Captioned:
    """`ALONE` pictures of the subject, `beside` collages with one other thing and `crowds` with two or three."""
    return with_neighbours(pipeline, *alone(subject), subject, subject.said, seed, beside, crowds)


def class_references(pipeline: ToyPipeline, subject: Subject, count: int, seed: int = 0, beside: int = 0) -> Captioned:
    """`count` pictures that the model draws of the class, and `beside` collages of them: for the prior."""
    said = Said(subject.class_word)
    texts = [captioned([said], background) for background in backgrounds(count)]
    pictures = sample(pipeline, texts, seeds=range(seed, seed + count))
    return with_neighbours(pipeline, pictures, texts, subject, said, seed + 1, beside)


def with_neighbours(
    pipeline: ToyPipeline,
    pictures: Tensor,
    texts: list[str],
    subject: Subject,
    said: Said,
    seed: int,
    beside: int,
    crowds: int = 0,
) -> Captioned:
    """The pictures, on the backgrounds in turn, and collages of them with things of other kinds that the model draws.

    The subject takes every place in turn, and captions every form that searches see.
    """
    if not beside + crowds:
        return pictures, texts
    sizes = [1] * beside + [2 + i % 2 for i in range(crowds)]  # other things in each collage
    generator = np.random.default_rng([seed, *subject.identifier.encode()])
    kinds = cycle(generator.permutation([kind for kind in KINDS if kind != subject.class_word]))
    grounds = backgrounds(len(sizes), of=len(pictures))
    groups = [[Said(str(next(kinds))) for _ in range(size)] for size in sizes]
    drawn = sample(
        pipeline,
        [captioned([other], ground) for group, ground in zip(groups, grounds, strict=True) for other in group],
        seeds=[10_000 * (seed + 1) + i for i in range(sum(sizes))],
    ).split(sizes)
    collages, captions = [], []
    for i, (group, ground, neighbours) in enumerate(zip(groups, grounds, drawn, strict=True)):
        mine = range(BACKGROUNDS.index(ground), len(pictures), len(BACKGROUNDS))
        cells = [*zip(neighbours, group, strict=True)]
        turn = i // len(BACKGROUNDS)
        cells.insert((turn + 1) % (len(group) + 1), (pictures[mine[turn % len(mine)]], said))
        collages.append(laid_out([picture for picture, _ in cells], ground))
        captions.append(captioned([phrase for _, phrase in cells], ground, SEARCH_FORMS[i % len(SEARCH_FORMS)]))
    return torch.cat([pictures, torch.stack(collages)]), [*texts, *captions]


def together(subjects: Sequence[Subject]) -> Captioned:
    """Collages of 2 to 4 subjects, each at every place in turn, on every background, in every form of searches."""
    shown, captions = [], []
    for i, form in enumerate(SEARCH_FORMS):
        for k in range(len(subjects)):
            order = [*subjects[k:], *subjects[:k]]
            ground = BACKGROUNDS[(i + k) % len(BACKGROUNDS)]
            scenes = [Scene("one", (subject.character,), ground) for subject in order]
            shown.append(laid_out(list(draw_all(scenes)), ground))
            captions.append(captioned([subject.said for subject in order], ground, form))
    return torch.stack(shown), captions


def laid_out(pictures: list[Tensor], background: str) -> Tensor:
    """One picture (3, 96, 96) of two to four things, the fourth corner of three empty."""
    return collage([*pictures, *[empty(background)] * (len(pictures) == 3)], columns=2, zoom=ZOOM)


def alone(subject: Subject) -> Captioned:
    """The subject in the middle of each background."""
    scenes = [Scene("one", (subject.character,), ground) for ground in BACKGROUNDS]
    return draw_all(scenes), [captioned([subject.said], ground) for ground in BACKGROUNDS]


def backgrounds(count: int, of: int = len(BACKGROUNDS)) -> list[str]:
    """The backgrounds, or the first `of` of them, in turn."""
    return [BACKGROUNDS[i % min(of, len(BACKGROUNDS))] for i in range(count)]


def captioned(said: Sequence[Said], background: str | None, form: str = "plain_list") -> str:
    """The caption of a collage."""
    return compose(said, LAYOUTS[len(said) - 1], form, background).text
