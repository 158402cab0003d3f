"""What every character wears and how it looks at you: eyes, mouth, hat, bow.

All of it is big and in strong contrast, so that it can still be told apart on a character of 18 pixels' radius.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..world import COLOURS, Character
from .pen import Colour, Pen, shade

INK: Colour = (44, 38, 52)
WHITE: Colour = (255, 255, 255)


@dataclass(frozen=True)
class Look:
    """A character's colours: main, second, and the outlines of both."""

    main: Colour
    second: Colour
    edge: Colour
    second_edge: Colour

    @classmethod
    def of(cls, character: Character) -> Look:
        """Outlines are darker shades."""
        main, second = COLOURS[character.colour], COLOURS[character.second]
        return cls(main, second, shade(main, 0.58), shade(second, 0.58))


def face(pen: Pen, character: Character, x: float, y: float, r: float = 0.2, apart: float = 0.33) -> None:
    """Eyes and mouth; the eyes of radius r stand `apart` to both sides of (x, y)."""
    _eyes(pen, character.eyes, x, y, r, apart)
    top = y + r * (1.75 if character.eyes == "one" else 1.35)
    pen.arc(x, top, r * 1.0, r * 0.8, 15, 165, INK, 0.085)


def _eyes(pen: Pen, eyes: str, x: float, y: float, r: float, apart: float) -> None:
    if eyes == "one":
        pen.dot(x, y, r * 1.7, WHITE, INK)
        pen.dot(x, y, r * 0.85, INK)
        pen.dot(x + r * 0.3, y - r * 0.35, r * 0.3, WHITE)
        return
    if eyes == "shades":
        pen.box(x - apart - r * 1.25, y - r * 0.85, x + apart + r * 1.25, y - r * 0.2, INK, r=0.05)
        for side in (-1, 1):
            pen.box(x + side * apart - r * 1.2, y - r * 0.8, x + side * apart + r * 1.2, y + r * 1.0, INK, r=0.14)
            pen.line([(x + side * apart - r * 0.6, y + r * 0.35), (x + side * apart, y - r * 0.4)], WHITE, 0.07)
        return
    for side in (-1, 1):
        if eyes == "wide":
            pen.dot(x + side * apart, y, r * 1.3, WHITE, INK)
            pen.dot(x + side * (apart - r * 0.25), y + r * 0.1, r * 0.7, INK)
        else:
            pen.dot(x + side * apart, y, r * 0.72, INK, tall=1.4)
            pen.dot(x + side * apart + r * 0.2, y - r * 0.4, r * 0.26, WHITE)


def hat(pen: Pen, look: Look, x: float, y: float, size: float = 1.0) -> None:
    """A top hat with its brim at (x, y), with a band in the second colour."""
    rim = (108, 98, 122)
    pen.box(x - 0.34 * size, y - 0.52 * size, x + 0.34 * size, y + 0.02, INK, rim, r=0.05)
    pen.box(x - 0.29 * size, y - 0.2 * size, x + 0.29 * size, y - 0.04 * size, look.second)
    pen.box(x - 0.58 * size, y - 0.06 * size, x + 0.58 * size, y + 0.1 * size, INK, rim, r=0.07)


def bow(pen: Pen, look: Look, x: float, y: float, size: float = 1.0) -> None:
    """A bow around (x, y)."""
    for side in (-1, 1):
        tip = x + side * 0.46 * size
        pen.polygon([(x, y), (tip, y - 0.32 * size), (tip, y + 0.32 * size)], look.second, look.second_edge)
    pen.dot(x, y, 0.15 * size, shade(look.second, 0.8), look.second_edge)


def dress(pen: Pen, character: Character, look: Look, top: tuple[float, float], ear: tuple[float, float]) -> None:
    """Put on the accessory: a hat on `top`, a bow at `ear`."""
    if character.accessory == "hat":
        hat(pen, look, *top)
    elif character.accessory == "bow":
        bow(pen, look, *ear)
