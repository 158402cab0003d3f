"""How each kind of character is drawn: silhouette, second-coloured parts, variant, face, accessory."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from ..world import Character
from .faces import INK, Look, dress, face
from .pen import Pen, shade

BEAK = (246, 166, 52)
WIDE, TALL = (1.1, 0.86), (0.84, 1.06)  # width and height by radius


def draw_character(picture: Image.Image, character: Character, x: float, y: float, radius: float) -> None:
    """Draw a character over a picture, in place; centre and radius in the picture's pixels."""
    width, height = WIDE if character.kind in ("cat", "fish", "robot", "mug", "mushroom") else TALL
    pen = Pen(picture, x, y, radius * width, radius * height)
    _DRAW[character.kind](pen, character, Look.of(character), character.variant == "first")


def _cat(pen: Pen, character: Character, look: Look, first: bool) -> None:
    for side in (-1, 1):
        if first:
            pen.polygon([(side * 0.84, 0.0), (side * 0.76, -0.98), (side * 0.1, -0.5)], look.main, look.edge)
            pen.polygon([(side * 0.68, -0.3), (side * 0.66, -0.76), (side * 0.34, -0.5)], look.second)
        else:
            pen.dot(side * 0.62, -0.56, 0.36, look.main, look.edge)
            pen.dot(side * 0.62, -0.56, 0.2, look.second)
    pen.oval(0, 0.12, 0.9, 0.78, look.main, look.edge)
    pen.oval(0, 0.46, 0.46, 0.34, look.second, look.second_edge)
    for side in (-1, 1):
        pen.line([(side * 0.5, 0.44), (side * 1.04, 0.34)], INK, 0.05)
        pen.line([(side * 0.5, 0.54), (side * 1.02, 0.62)], INK, 0.05)
    face(pen, character, 0, -0.1, 0.2, 0.38)
    pen.polygon([(-0.13, 0.25), (0.13, 0.25), (0, 0.38)], INK)
    dress(pen, character, look, (0, -0.6), (0.56, -0.62))


def _owl(pen: Pen, character: Character, look: Look, first: bool) -> None:
    for side in (-1, 1):
        pen.box(side * 0.3 - 0.14, 0.82, side * 0.3 + 0.14, 1.02, BEAK, shade(BEAK, 0.6), r=0.06)
        if first:
            pen.polygon([(side * 0.74, -0.3), (side * 0.7, -1.02), (side * 0.1, -0.62)], look.main, look.edge)
    pen.oval(0, 0.06, 0.8, 0.88, look.main, look.edge)
    for side in (-1, 1):
        pen.oval(side * 0.76, 0.28, 0.24, 0.52, look.second, look.second_edge)
        pen.dot(side * 0.32, -0.24, 0.4, (255, 246, 224), look.edge)
    if not first:
        pen.polygon([(-0.2, -0.74), (0, -1.08), (0.2, -0.74)], look.second, look.second_edge)
    face(pen, character, 0, -0.24, 0.2, 0.32)
    pen.polygon([(-0.15, -0.06), (0.15, -0.06), (0, 0.24)], BEAK, shade(BEAK, 0.6))
    dress(pen, character, look, (0, -0.68), (0.46, -0.76))


def _fish(pen: Pen, character: Character, look: Look, first: bool) -> None:
    if first:
        pen.polygon([(0.4, 0.06), (1.04, -0.56), (0.86, 0.06), (1.04, 0.68)], look.second, look.second_edge)
    else:
        pen.oval(0.8, 0.06, 0.27, 0.5, look.second, look.second_edge)
    pen.polygon([(-0.3, -0.42), (0.02, -0.92), (0.36, -0.4)], look.second, look.second_edge)
    pen.polygon([(-0.2, 0.5), (0.14, 0.96), (0.3, 0.46)], look.second, look.second_edge)
    pen.oval(-0.18, 0.06, 0.8, 0.64, look.main, look.edge)
    face(pen, character, -0.36, -0.06, 0.19, 0.29)
    dress(pen, character, look, (-0.24, -0.5), (0.12, -0.56))


def _ghost(pen: Pen, character: Character, look: Look, first: bool) -> None:
    corners: list[tuple[float, float]] = [(-0.76, -0.1), (-0.7, -0.5), (-0.44, -0.82), (0, -0.96)]
    corners += [(0.44, -0.82), (0.7, -0.5), (0.76, -0.1)]
    if first:  # a jagged hem
        corners += [(0.8, 0.96), (0.4, 0.62), (0, 0.96), (-0.4, 0.62), (-0.8, 0.96)]
    else:  # a tail that swings to the right
        corners += [(0.66, 0.34), (0.74, 0.66), (1.0, 0.88), (0.4, 0.98), (-0.2, 0.86), (-0.66, 0.4)]
    for side in (-1, 1):
        pen.oval(side * 0.82, 0.16, 0.24, 0.18, look.second, look.second_edge)
    pen.polygon(corners, look.main, look.edge)
    pen.oval(0, 0.18, 0.26, 0.2, look.second, look.second_edge)
    face(pen, character, 0, -0.32, 0.21, 0.34)
    dress(pen, character, look, (0, -0.84), (0.46, -0.8))


def _robot(pen: Pen, character: Character, look: Look, first: bool) -> None:
    for side in (0,) if first else (-1, 1):
        pen.line([(side * 0.2, -0.5), (side * 0.52, -0.92)], INK, 0.1)
        pen.dot(side * 0.52, -0.9, 0.16, look.second, look.second_edge)
    for side in (-1, 1):
        pen.box(side * 0.72, 0.44, side * 1.0, 0.82, look.main, look.edge, r=0.1)
        pen.box(side * 0.14, 0.84, side * 0.44, 1.04, INK, r=0.04)
    pen.box(-0.58, 0.3, 0.58, 0.92, look.second, look.second_edge, r=0.1)
    pen.box(-0.84, -0.66, 0.84, 0.42, look.main, look.edge, r=0.2)
    for x in (-0.24, 0.0, 0.24):
        pen.dot(x, 0.68, 0.085, INK)
    face(pen, character, 0, -0.24, 0.21, 0.36)
    dress(pen, character, look, (0, -0.62), (0.56, -0.64))


def _rocket(pen: Pen, character: Character, look: Look, first: bool) -> None:
    pen.polygon([(-0.3, 0.66), (-0.2, 1.06), (0, 0.88), (0.2, 1.06), (0.3, 0.66)], BEAK, shade(BEAK, 0.7))
    for side in (-1, 1):
        if first:
            pen.polygon([(side * 0.4, 0.2), (side * 0.98, 0.92), (side * 0.36, 0.74)], look.second, look.second_edge)
        else:
            pen.oval(side * 0.68, 0.48, 0.24, 0.38, look.second, look.second_edge)
    left = [(-0.42, 0.78), (-0.58, 0.3), (-0.6, -0.2), (-0.42, -0.62)]
    pen.polygon([*left, (0, -1.04), *[(-x, y) for x, y in reversed(left)]], look.main, look.edge)
    pen.polygon([(-0.4, -0.64), (0, -1.06), (0.4, -0.64)], look.second, look.second_edge)
    face(pen, character, 0, -0.16, 0.19, 0.27)
    dress(pen, character, look, (0, -0.78), (0.34, -0.66))


def _mug(pen: Pen, character: Character, look: Look, first: bool) -> None:
    side = 1 if first else -1
    pen.oval(side * 0.66, 0.1, 0.4, 0.42, look.second, look.second_edge)
    pen.oval(side * 0.66, 0.1, 0.17, 0.19, look.second_edge)
    pen.box(-0.72, -0.6, 0.72, 0.9, look.main, look.edge, r=0.2)
    pen.oval(0, -0.58, 0.72, 0.2, look.second, look.second_edge)
    pen.oval(0, -0.57, 0.54, 0.1, (96, 58, 40))
    for x in (-0.24, 0.2):
        pen.line([(x, -0.72), (x + 0.08, -0.84), (x - 0.04, -0.94), (x + 0.04, -1.06)], (226, 226, 232), 0.07)
    face(pen, character, 0, 0.06, 0.2, 0.33)
    dress(pen, character, look, (0, -0.56), (0.5, -0.52))


def _house(pen: Pen, character: Character, look: Look, first: bool) -> None:
    pen.box(0.36, -0.94, 0.62, -0.4, (150, 96, 76), (96, 60, 48))
    pen.box(-0.76, -0.24, 0.76, 0.96, look.main, look.edge, r=0.05)
    if first:
        roof = [(-0.98, -0.16), (0, -1.02), (0.98, -0.16)]
    else:
        roof = [(-0.98, -0.16), (-0.58, -0.78), (0.58, -0.78), (0.98, -0.16)]
    pen.polygon(roof, look.second, look.second_edge)
    pen.box(-0.2, 0.54, 0.2, 0.95, (122, 78, 54), INK, r=0.08)
    face(pen, character, 0, 0.12, 0.19, 0.38)
    dress(pen, character, look, (0, -0.72), (0.4, -0.5))


def _mushroom(pen: Pen, character: Character, look: Look, first: bool) -> None:
    pen.box(-0.46, -0.2, 0.46, 0.98, (252, 240, 218), (160, 138, 112), r=0.26)
    pen.oval(0, 0.92, 0.56, 0.14, look.second, look.second_edge)
    if first:
        pen.dome(0, 0.06, 0.98, 0.98, look.main, look.edge)
    else:
        cap = [(-0.96, 0.04), (-0.5, -0.42), (0, -1.04), (0.5, -0.42), (0.96, 0.04)]
        pen.polygon(cap, look.main, look.edge)
    pen.oval(0, 0.05, 0.96, 0.15, look.second, look.second_edge)
    face(pen, character, 0, 0.38, 0.165, 0.24)
    dress(pen, character, look, (0, -0.78), (0.5, -0.58))


def _cactus(pen: Pen, character: Character, look: Look, first: bool) -> None:
    for side in (-1, 1) if first else (1,):
        pen.box(side * 0.3, 0.06, side * 0.94, 0.34, look.main, look.edge, r=0.13)
        pen.box(side * 0.68, -0.42, side * 0.94, 0.32, look.main, look.edge, r=0.12)
    if not first:
        pen.dot(-0.5, -0.56, 0.24, look.second, look.second_edge)
    pen.box(-0.52, -0.96, 0.52, 0.7, look.main, look.edge, r=0.44)
    pen.polygon([(-0.62, 0.52), (0.62, 0.52), (0.46, 1.0), (-0.46, 1.0)], look.second, look.second_edge)
    face(pen, character, 0, -0.36, 0.185, 0.26)
    dress(pen, character, look, (0, -0.88), (0.32, -0.86))


_DRAW: dict[str, Callable[[Pen, Character, Look, bool], None]] = {
    "cat": _cat,
    "owl": _owl,
    "fish": _fish,
    "ghost": _ghost,
    "robot": _robot,
    "rocket": _rocket,
    "mug": _mug,
    "house": _house,
    "mushroom": _mushroom,
    "cactus": _cactus,
}
