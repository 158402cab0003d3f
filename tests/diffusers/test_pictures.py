"""Pictures as a user's folder has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cones_ops import ConesError
from cones_ops.hosts.diffusers.pictures import read_picture, read_pictures


def saved(image: Image.Image, file: Path, **more) -> Path:
    image.save(file, **more)
    return file


def test_16_bit_grey_keeps_its_greys(tmp_path: Path) -> None:
    grey = Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16))
    pixels = np.asarray(read_picture(saved(grey, tmp_path / "a.png")))
    assert pixels.tolist() == [[[0] * 3, [100] * 3, [255] * 3]]


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_transparency_shows_white(tmp_path: Path, name: str) -> None:
    """Hidden green, half red over white, opaque blue."""
    image = Image.fromarray(np.array([[[0, 255, 0, 0], [255, 0, 0, 128], [0, 0, 255, 255]]], np.uint8))
    more = {"lossless": True} if name == "a.webp" else {}
    pixels = np.asarray(read_picture(saved(image, tmp_path / name, **more)))
    assert pixels.tolist() == [[[255, 255, 255], [255, 127, 127], [0, 0, 255]]]


def test_a_transparent_colour_of_a_palette_shows_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 255, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    pixels = np.asarray(read_picture(saved(image, tmp_path / "a.png", transparency=0)))
    assert pixels.tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_exif_rotation_is_done(tmp_path: Path) -> None:
    image = Image.new("RGB", (3, 1), (255, 0, 0))
    exif = image.getexif()
    exif[274] = 6  # turn by 90 degrees
    assert read_picture(saved(image, tmp_path / "a.png", exif=exif)).size == (1, 3)


def test_a_folder_of_many_kinds(tmp_path: Path) -> None:
    saved(Image.new("RGB", (9, 5), (255, 0, 0)), tmp_path / "a.JPG", format="JPEG")
    saved(Image.new("L", (8, 8), 0), tmp_path / "b.bmp")
    (tmp_path / "._a.png").write_bytes(b"\x00\x05\x16\x07 of macOS")
    (tmp_path / "notes.txt").write_text("no picture")
    assert read_pictures(tmp_path, 8).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("damage", ["truncated", "corrupt", "empty", "eps", "folder", "huge"])
def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    file = saved(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), tmp_path / "a.png")
    content = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage == "huge":
        saved(Image.new("1", (20_000, 6_000)), file)
    else:
        bad = {"truncated": content[:3000], "corrupt": content[:99] + b"x" * 999 + content[1098:], "empty": b""}
        file.write_bytes(bad.get(damage, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"))
    with pytest.raises(ConesError, match=r"a\.png: "):
        read_pictures(tmp_path)
