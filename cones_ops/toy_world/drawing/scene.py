"""Scenes as pictures: a background, and each character at its place. Drawn four times as large, then averaged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..world import LAYOUTS, RADIUS, SIDE, Scene
from .characters import draw_character
from .pen import Colour

FINE = 4  # drawn pixels per pixel


@cache
def background(name: str) -> Image.Image:
    """A background at FINE times the size; do not draw on it."""
    side = SIDE * FINE
    picture = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(picture)

    def box(x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        draw.rectangle((x0 * side, y0 * side, x1 * side, y1 * side), fill=fill)

    def oval(x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        draw.ellipse(((x - rx) * side, (y - ry) * side, (x + rx) * side, (y + ry) * side), fill=fill)

    def triangle(x: float, y: float, half: float, height: float, fill: Colour) -> None:
        corners = [(x - half, y), (x, y - height), (x + half, y)]
        draw.polygon([(a * side, b * side) for a, b in corners], fill=fill)

    if name == "meadow":
        box(0, 0, 1, 1, (156, 212, 242))
        oval(0.86, 0.12, 0.09, 0.09, (255, 232, 120))
        oval(0.2, 1.16, 0.74, 0.6, (140, 200, 104))
        oval(0.85, 1.2, 0.7, 0.58, (116, 182, 88))
    elif name == "beach":
        box(0, 0, 1, 1, (180, 228, 246))
        box(0, 0.4, 1, 1, (74, 164, 214))
        oval(0.5, 1.16, 0.9, 0.54, (244, 222, 170))
        triangle(0.62, 0.4, 0.06, 0.16, (255, 255, 255))
    elif name == "night":
        box(0, 0, 1, 1, (46, 52, 108))
        for x, y in ((0.08, 0.1), (0.3, 0.05), (0.5, 0.14), (0.62, 0.5), (0.46, 0.42), (0.05, 0.5), (0.94, 0.46)):
            oval(x, y, 0.016, 0.016, (255, 244, 190))
        oval(0.86, 0.13, 0.1, 0.1, (255, 244, 200))
        oval(0.5, 1.3, 0.95, 0.5, (38, 72, 84))
    elif name == "room":
        box(0, 0, 1, 1, (246, 226, 200))
        box(0, 0.66, 1, 1, (184, 134, 94))
        box(0.36, 0.05, 0.64, 0.36, (255, 255, 255))
        box(0.385, 0.075, 0.49, 0.335, (170, 216, 238))
        box(0.51, 0.075, 0.615, 0.335, (170, 216, 238))
    elif name == "snow":
        box(0, 0, 1, 1, (196, 216, 236))
        for x in (0.08, 0.5, 0.93):
            triangle(x, 0.6, 0.11, 0.4, (92, 138, 126))
        oval(0.3, 1.1, 0.8, 0.52, (236, 244, 252))
        oval(0.9, 1.16, 0.6, 0.54, (224, 236, 248))
    elif name == "paper":
        box(0, 0, 1, 1, (214, 206, 190))
    else:
        raise KeyError(name)
    return picture


def paint(scene: Scene) -> Image.Image:
    """The picture of a scene, SIDE x SIDE."""
    picture = background(scene.background).copy()
    for place, character in zip(LAYOUTS[scene.layout].values(), scene.characters, strict=True):
        draw_character(picture, character, place.x * FINE, place.y * FINE, RADIUS * FINE)
    return picture.reduce(FINE)


def pixels(picture: Image.Image) -> Tensor:
    """A picture as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).movedim(-1, 0).float() / 255


def draw_all(scenes: Sequence[Scene]) -> Tensor:
    """Pictures (n, 3, SIDE, SIDE) of scenes, in [0, 1]."""
    return torch.stack([pixels(paint(scene)) for scene in scenes])


def empty(name: str) -> Tensor:
    """The picture (3, SIDE, SIDE) of a background on which nobody stands, in [0, 1]."""
    return pixels(background(name).reduce(FINE))
