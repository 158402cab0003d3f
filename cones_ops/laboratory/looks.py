"""Where a subject's words look in the toy world, against where the subject is: the place is known there.

A picture's true place of a subject are the pixels, in the window of the place where the judge reads it, that differ
from the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..guidance.attention_maps import masks_of
from ..hosts.diffusers.apply_masks import Strengths
from ..hosts.diffusers.regions import recorded
from ..toy_world.bundle import ToyPipeline
from ..toy_world.drawing.scene import empty
from ..toy_world.world import LAYOUTS, SIDE, Character
from .judge import REACH, Reading
from .sampling import competing_groups, sample

DIFFERENT = 0.2  # of full brightness, in any colour


def sample_with_maps(
    pipeline: ToyPipeline, prompts: Sequence[str], masks: Strengths, things: Sequence[str] = (), **options: Any
) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, 96, 96), and where each mask's concept and each of `things` looked: (B, C, h, w).

    options go to `sample`. Maps are means over all steps.
    """
    groups = competing_groups(pipeline, [(mask.identifier, mask.class_word) for mask, _ in masks], prompts, things)
    with recorded(pipeline.unet, groups) as maps:
        pictures = sample(pipeline, prompts, masks, batch=len(prompts), **options)
    return pictures, maps.mean()[: len(prompts)]


def true_place(picture: Tensor, reading: Reading, character: Character) -> Tensor | None:
    """The pixels (96, 96) of a character in a picture (3, 96, 96); None where the judge does not see it."""
    name = next((place for place, seen in reading.places.items() if seen == character), None)
    if name is None:
        return None
    place = LAYOUTS[reading.layout][name]
    centres = torch.arange(SIDE) + 0.5
    window = ((centres - place.y).abs() < REACH)[:, None] & ((centres - place.x).abs() < REACH)
    return ((picture - empty(reading.background)).abs().amax(dim=0) > DIFFERENT) & window


def attention_iou(maps: Tensor, pictures: Tensor, readings: Sequence[Reading], character: Character) -> list[float]:
    """Intersection over union of a character's mask, from its map (B, h, w), with its true place, where it is seen."""
    masks = masks_of(maps[:, None], (SIDE, SIDE))[:, 0]
    overlaps = []
    for mask, picture, reading in zip(masks, pictures, readings, strict=True):
        place = true_place(picture, reading, character)
        if place is not None:
            overlaps.append(float((mask & place).sum() / (mask | place).sum()))
    return overlaps
