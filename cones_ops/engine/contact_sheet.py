"""Contact sheets of a folder of masks: a row for each concept, with its first picture and samples before and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .concept_search import SHEET, SIDE

ROWS = 50  # of a sheet
LABEL = 24  # pixels above a row


def draw_sheets(out: Path, names: Sequence[str]) -> Iterator[Path]:
    """Write `contact-sheet-001.png`, ... from the rows that the searches left; yields each file."""
    rows = [(name, file) for name in names if (file := out / SHEET / f"{name}.png").is_file()]
    for first in range(0, len(rows), ROWS):
        part = rows[first : first + ROWS]
        sheet = Image.new("RGB", (3 * SIDE, len(part) * (SIDE + LABEL)), "white")
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
        for i, (name, file) in enumerate(part):
            top = i * (SIDE + LABEL)
            pen.text((4, top + 4), f"{name}: picture, before, after", "black", font)
            with Image.open(file) as row:
                sheet.paste(row, (0, top + LABEL))
        path = out / f"contact-sheet-{first // ROWS + 1:03}.png"
        sheet.save(path)
        yield path
