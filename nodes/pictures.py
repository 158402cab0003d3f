"""Pictures: side by side for a search, labelled in a grid, and as the cover of a mask's file."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..cones_ops.errors import ConesError
from ..cones_ops.images.collages import ZOOM, collages
from ..cones_ops.reports.figures import labelled_grid
from .host.inputs import ALIASES, CATEGORY, LOOK, as_image, as_pixels

THINGS = 4  # that one collage can hold
BESIDE, INSIDE = 512, 192  # longest sides of covers in pixels
SMALLEST = 256  # smaller covers are enlarged pixel by pixel


class ConesLayPictures(io.ComfyNode):  # type: ignore[misc]
    """Pictures of single things -> pictures of them together, with captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        slots: list[io.Input] = []
        for k in range(1, THINGS + 1):
            slots += [
                io.Image.Input(
                    f"images_{k}",
                    optional=k > 2,
                    tooltip="Pictures of one thing, alone in the middle, all of one size. Shorter batches repeat.",
                ),
                io.String.Input(
                    f"phrase_{k}",
                    default="a sks cat" if k == 1 else "a mug" if k == 2 else "",
                    optional=k > 2,
                    tooltip='What these pictures show, as written in a prompt: "a sks cat", "a dog".',
                ),
            ]
        return io.Schema(
            node_id="ConesLayPictures",
            display_name="Lay Pictures Side by Side",
            category=CATEGORY,
            description=(
                "Makes pictures that show 2 to 4 things together from pictures of each, with every thing at every "
                "place in turn, and writes their captions. Use it for Tune Concept Masks Together, and to show Find "
                "Concept Neurons a subject beside other things."
            ),
            search_aliases=[*ALIASES, "collage", "cut mix", "stitch", "grid", "augment"],
            inputs=[
                *slots,
                io.Float.Input(
                    "zoom",
                    default=ZOOM,
                    min=0.1,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip=(
                        "Scale of each picture, 0.1 to 1. 0.5 shows whole pictures, two in a row. Higher values cut "
                        "off the sides; lower values extend the edges."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The pictures, in the size of the first batch."),
                io.String.Output(
                    display_name="captions",
                    tooltip="One line per picture, for Encode Prompt with Concepts with prompt_per_line.",
                ),
            ],
        )

    @classmethod
    def execute(cls, zoom: float, **slots: Any) -> io.NodeOutput:
        batches, phrases = [], []
        for k in range(1, THINGS + 1):
            images, words = slots.get(f"images_{k}"), (slots.get(f"phrase_{k}") or "").strip()
            if images is None:
                continue
            if not words:
                raise ConesError(f'images_{k} has no phrase; write what the pictures show, such as "a dog"')
            batches.append(images[..., :3].permute(0, 3, 1, 2))  # (n, 3, H, W)
            phrases.append(words)
        pictures, captions = collages(batches, phrases, zoom)
        return io.NodeOutput(pictures.permute(0, 2, 3, 1).contiguous(), "\n".join(captions))


class ConesLabelPictures(io.ComfyNode):  # type: ignore[misc]
    """A list of pictures and a list of labels -> one picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesLabelPictures",
            display_name="Label Pictures in a Grid",
            category=LOOK,
            description=(
                "Puts a list of pictures into one picture, each below its label: for example what a sampler drew for "
                "each group of Split Concept Mask. The pictures of one batch share a label."
            ),
            search_aliases=[*ALIASES, "image grid", "contact sheet", "xy plot", "annotate"],
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images", tooltip="A list of pictures, such as the output of VAE Decode after Split Concept Mask."
                ),
                io.String.Input(
                    "labels", force_input=True, tooltip="A list of labels, one per entry of images, in the same order."
                ),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Pictures per row, 1 to 64. 0: as many as make the grid nearly square.",
                ),
                io.Int.Input(
                    "side",
                    default=224,
                    min=64,
                    max=1024,
                    step=8,
                    tooltip="Width of each picture (or batch) in pixels, 64 to 1024.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="All pictures with their labels, as one picture.")],
        )

    @classmethod
    def execute(cls, images: list[Tensor], labels: list[str], columns: list[int], side: list[int]) -> io.NodeOutput:
        return io.NodeOutput(
            as_image(labelled_grid([in_a_row(batch) for batch in images], labels, columns[0], side[0]))
        )


def in_a_row(images: Tensor) -> np.ndarray:
    """An IMAGE (n, H, W, 3) as one uint8 picture, its n pictures side by side."""
    pictures = as_pixels(images)
    gap = np.full((pictures.shape[1], max(1, pictures.shape[2] // 32), 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (gap, picture)][1:], axis=1)


def covers(images: Tensor) -> tuple[bytes, bytes]:
    """(PNG to lie beside a mask's file, small JPEG to go into it) of the first picture of an IMAGE of any shape."""
    while images.ndim > 3 and len(images):
        images = images[0]
    if images.numel() == 0 or images.ndim < 2:
        raise ConesError(f"a cover of shape {list(images.shape)} holds no picture; connect an IMAGE")
    beside = Image.fromarray(as_pixels(images if images.ndim == 3 else images[..., None]))
    times = -(-SMALLEST // max(beside.size))
    if times > 1:
        beside = beside.resize((beside.width * times, beside.height * times), Image.Resampling.NEAREST)
    beside.thumbnail((BESIDE, BESIDE), Image.Resampling.LANCZOS)
    inside = beside.copy()
    inside.thumbnail((INSIDE, INSIDE), Image.Resampling.LANCZOS)
    return encoded(beside, "PNG"), encoded(inside, "JPEG", quality=85)


def safe_covers(images: Tensor) -> tuple[tuple[bytes, bytes] | None, str]:
    """(`covers`, ""), or (None, why not): a mask is never lost with its cover."""
    try:
        return covers(images), ""
    except Exception as error:  # whatever the picture library raises
        return None, f"saved without a cover: {error}"


def encoded(picture: Image.Image, file_format: str, **options: int) -> bytes:
    stream = BytesIO()
    picture.save(stream, file_format, **options)
    return stream.getvalue()
