"""Pictures from files, as a user's folder has them: turned, transparent, 16-bit, of any size, some of them broken.

Every picture becomes RGB as a viewer shows it: EXIF rotation done, transparency over white, 16 bits scaled to 8. Only
the formats below are tried, so that no file starts another program; what cannot be read is a ConesError that names it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ...errors import ConesError

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MOST_PIXELS = 100_000_000
BACKGROUND = (255, 255, 255)


def read_pictures(folder: str | Path, size: int | None = None) -> Tensor:
    """The pictures in a folder, cropped to a centred square of `size` pixels (512): (n, 3, size, size) in [0, 1].

    Hidden files are left out, also the `._` companions of macOS.
    """
    folder, side = Path(folder), size or 512
    if not folder.is_dir():
        raise ConesError(f"{folder}: no such folder; give a folder with 3 to 6 pictures")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES and file.name[0] != ".")
    if not files:
        raise ConesError(
            f"{folder}: no pictures there ({', '.join(sorted(PICTURES))}); give a folder with 3 to 6 of them"
        )
    fitted = [ImageOps.fit(read_picture(file), (side, side)) for file in files]
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in fitted])


def read_picture(file: Path) -> Image.Image:
    """One picture in RGB."""
    try:
        with Image.open(file, formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise ConesError(
                    f"{file}: {opened.width} x {opened.height} pixels, more than {MOST_PIXELS:,}; scale it down"
                )
            return _rgb(ImageOps.exif_transpose(opened))
    except ConesError:
        raise
    except Exception as error:  # damaged files bring out any kind
        raise ConesError(f"{file}: not a readable picture ({error}); replace it or take it out") from None


def _rgb(image: Image.Image) -> Image.Image:
    """Over white where it is transparent; of 16-bit grey the upper byte's worth."""
    if image.mode.startswith("I"):  # 16 bits, which Image.convert would cut off at 255
        grey = np.asarray(image).astype(np.int64)
        image = Image.fromarray((grey.clip(0, 65535) / 257).round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image)
    return image.convert("RGB")


def pixels_of(picture: Tensor | np.ndarray) -> np.ndarray:
    """A picture (3, H, W), clamped to [0, 1] -> (H, W, 3) uint8, as files and figures take it."""
    pixels: np.ndarray = torch.as_tensor(picture).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    return pixels
