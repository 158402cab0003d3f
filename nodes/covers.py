"""A picture for a concept mask's file: a PNG to lie beside it, and a small JPEG to go into it."""

from __future__ import annotations

from io import BytesIO

from PIL import Image
from torch import Tensor

BESIDE, INSIDE = 512, 192  # longest sides in pixels
SMALLEST = 256  # what is smaller is enlarged pixel by pixel


def covers(images: Tensor) -> tuple[bytes, bytes]:
    """(PNG, JPEG) of the first picture of an IMAGE batch (n, H, W, 3)."""
    pixels = images[0, ..., :3].detach().cpu().float().clamp(0, 1).mul(255).round().byte().numpy()
    picture = Image.fromarray(pixels)
    beside = picture
    if max(picture.size) < SMALLEST:
        times = -(-SMALLEST // max(picture.size))
        beside = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    beside.thumbnail((BESIDE, BESIDE), Image.Resampling.LANCZOS)
    inside = beside.copy()
    inside.thumbnail((INSIDE, INSIDE), Image.Resampling.LANCZOS)
    return encoded(beside, "PNG"), encoded(inside, "JPEG", quality=85)


def encoded(picture: Image.Image, kind: str, **options: int) -> bytes:
    stream = BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()
