"""The demo's picture: one labelled row of samples per condition; a framed sample shows what was asked, by the judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..hosts.diffusers.pictures import pixels_of

CELL, GAP, LABEL, TITLE = 96, 6, 330, 34  # pixels
INK, PAPER, FRAME, FAINT = (30, 30, 30), (255, 255, 255), (0, 114, 178), (110, 110, 110)


@dataclass(frozen=True)
class GridRow:
    """A title line or a row of pictures (n, 3, 96, 96) in [0, 1]; `hits` frames some of them."""

    title: str
    detail: str = ""
    pictures: Tensor | None = None
    hits: Sequence[bool] = ()


def save_grid(rows: Sequence[GridRow], path: Path, columns: int = 8) -> None:
    """Draw the rows as one picture, PNG or (for .webp, as in docs) WebP; of each row the first `columns` pictures."""
    heights = [TITLE if row.pictures is None else CELL + GAP for row in rows]
    sheet = Image.new("RGB", (LABEL + columns * (CELL + GAP) + GAP, sum(heights) + GAP), PAPER)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        _draw(sheet, row, top, columns)
        top += height
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=85, method=6)  # of WebP; PNG knows neither


def _draw(sheet: Image.Image, row: GridRow, top: int, columns: int) -> None:
    pen = ImageDraw.Draw(sheet)
    if row.pictures is None:
        pen.text((GAP, top + 8), row.title, INK, ImageFont.load_default(16))
        return
    pen.text((GAP + 8, top + 18), row.title, INK, ImageFont.load_default(13))
    small = ImageFont.load_default(12)
    pen.text((GAP + 8, top + 38), _wrapped(row.detail, small), FAINT, small)
    for column, picture in enumerate(row.pictures[:columns]):
        left = LABEL + column * (CELL + GAP)
        if column < len(row.hits) and row.hits[column]:
            pen.rectangle((left - 3, top - 3, left + CELL + 2, top + CELL + 2), outline=FRAME, width=3)
        sheet.paste(Image.fromarray(pixels_of(picture)).resize((CELL, CELL), Image.Resampling.LANCZOS), (left, top))


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text on as many lines as it needs beside the pictures."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= LABEL - GAP - 16:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)
