"""Draw the pack's icon (400x400) and banner (21:9) into docs/: a weight matrix in which concepts' neurons stand out.

    uv run python tools/draw_brand.py

Each square is a weight, its shade how large it is; squares of one colour are the neurons of one concept. Everything is
drawn four times as large and made smaller; the same run always gives the same picture.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

DOCS = Path(__file__).absolute().parent.parent / "docs"
FINER = 4
NIGHT = (17, 22, 33)
FAINT, STRONG = np.array((33, 42, 61)), np.array((74, 94, 133))  # of weights that are nobody's
ORANGE, TEAL, ROSE = (255, 159, 67), (64, 201, 190), (240, 101, 149)
WHITE, SOFT = (244, 246, 250), (166, 178, 202)
Colour = tuple[int, int, int]


def cone(shape: tuple[int, int], tip: tuple[int, int], widths: tuple[int, ...]) -> np.ndarray:
    """Boolean (rows, columns): a cone that stands on its tip (row, column); widths of its rows from the rim down."""
    inside = np.zeros(shape, bool)
    for i, width in enumerate(reversed(widths)):
        inside[tip[0] - i, tip[1] - width // 2 : tip[1] + width // 2 + 1] = True
    return inside


def squares(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], side: float, shades: np.ndarray, owners: np.ndarray
) -> None:
    """A matrix of rounded squares from its upper left corner; owners: 0 = nobody's, k = of concept k."""
    colours: list[Colour] = [ORANGE, TEAL, ROSE]
    gap = 0.17 * side
    for (i, j), shade in np.ndenumerate(shades):
        x, y = corner[0] + j * side, corner[1] + i * side
        box = (x + gap / 2, y + gap / 2, x + side - gap / 2, y + side - gap / 2)
        owner = int(owners[i, j])
        if owner:
            colour = tuple(int(v) for v in np.array(colours[owner - 1]) * (0.82 + 0.18 * shade))
        else:
            colour = tuple(int(v) for v in FAINT + (STRONG - FAINT) * shade**1.6)
        draw.rounded_rectangle(box, radius=0.2 * side, fill=colour)


def icon() -> Image.Image:
    """One cone in a square matrix."""
    side, count = 400 * FINER, 11
    shades = np.random.default_rng(7).random((count, count))
    owners = cone((count, count), (8, 5), (7, 7, 5, 5, 3, 3, 1)).astype(int)
    picture = Image.new("RGB", (side, side), NIGHT)
    margin = 0.05 * side
    squares(ImageDraw.Draw(picture), (margin, margin), (side - 2 * margin) / count, shades, owners)
    return picture.resize((400, 400), Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    """Three concepts' cones in a matrix that fades out, the name beside them."""
    width, height, rows, columns = 1680 * FINER, 720 * FINER, 15, 35
    generator = np.random.default_rng(11)
    shades = generator.random((rows, columns))
    owners = np.zeros((rows, columns), int)
    for k, column in enumerate((3, 9, 15), start=1):
        owners[cone((rows, columns), (9, column), (5, 5, 3, 3, 1))] = k
    picture = Image.new("RGB", (width, height), NIGHT)
    squares(ImageDraw.Draw(picture), (0, 0), width / columns, shades, owners)
    opaque = 255 * (0.06 + 0.94 * np.clip((0.63 - np.linspace(0, 1, width)) / 0.11, 0, 1))  # (W,) fades to the right
    mask = Image.fromarray(np.broadcast_to(opaque.astype(np.uint8), (height, width)).copy())
    picture = Image.composite(picture, Image.new("RGB", picture.size, NIGHT), mask)
    draw, left = ImageDraw.Draw(picture), 0.6 * width
    draw.text((left, 0.31 * height), "Cones", WHITE, font(130 * FINER, bold=True))
    draw.text((left, 0.53 * height), "concept neurons for ComfyUI", SOFT, font(39 * FINER, bold=False))
    return picture.resize((1680, 720), Image.Resampling.LANCZOS)


def font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib ships."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


if __name__ == "__main__":
    icon().save(DOCS / "icon.png", optimize=True)
    banner().save(DOCS / "banner.png", optimize=True)
