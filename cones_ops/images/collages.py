"""Collages: pictures of single things side by side, as examples of a concept beside something else.

From them a search learns what does not belong to the subject, and joint steps learn how several subjects share a
picture (after Cut-Mix-Unmix of SVDiff, Han et al. 2023). Only pixels are moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConesError

ZOOM = 0.6
Form = Literal["places", "and", "sides"]
FORMS: tuple[Form, ...] = get_args(Form)
HELD_OUT_FORMS: tuple[Form, ...] = ("sides",)  # for judging only: no search and no joint step sees them
SEARCH_FORMS: tuple[Form, ...] = tuple(form for form in FORMS if form not in HELD_OUT_FORMS)
_CORNERS = ("top left", "top right", "bottom left", "bottom right")


def layout_caption(phrases: Sequence[str], form: Form = "places") -> str:
    """Noun phrases of 1 to 4 things as a caption, in reading order, in which `collages` lays them out.

    places: "a cat on the left and a dog on the right"; and: "a cat and a dog"; sides: "a cat left and a dog right".
    Of three and four things, which stand in corners: "top left a cat , ..."; "a cat , ..."; "a cat top left , ...".
    """
    if not 1 <= len(phrases) <= 4:
        raise ConesError(f"{len(phrases)} things in one picture; give 1 to 4 phrases")
    if len(phrases) == 1:
        return phrases[0]
    places = ("left", "right") if len(phrases) == 2 else _CORNERS
    between = " and " if len(phrases) == 2 else " , "
    words = {
        "places": "{phrase} on the {place}" if len(phrases) == 2 else "{place} {phrase}",
        "and": "{phrase}",
        "sides": "{phrase} {place}",
    }[form]
    return between.join(
        words.format(phrase=phrase, place=place) for place, phrase in zip(places, phrases, strict=False)
    )


def collages(
    batches: Sequence[Tensor],
    phrases: Sequence[str],
    zoom: float = ZOOM,
    empty: Tensor | None = None,
    forms: Sequence[Form] = SEARCH_FORMS,
) -> tuple[Tensor, list[str]]:
    """Pictures of 2 to 4 things together: each thing at every place in turn, as often as the largest batch is long.

    batches: one per thing, (n, C, H, W), shorter ones are repeated; phrases: what each shows, such as "a sks cat".
    empty: (n, C, H, W) for the fourth corner of three things, default the first thing's first pixel. forms: of the
    captions, in turn.
    -> pictures (N, C, H, W) and N captions.
    """
    count = len(batches)
    if not 2 <= count <= 4 or count != len(phrases) or any(b.ndim != 4 or not len(b) for b in batches):
        sizes = ", ".join(str(tuple(batch.shape)) for batch in batches)
        raise ConesError(f"{len(phrases)} phrases for batches {sizes}; give 2 to 4 batches (n, C, H, W), a phrase each")
    pictures, captions = [], []
    for shift in range(count):
        order = [(k + shift) % count for k in range(count)]
        for i in range(max(map(len, batches))):
            cells = [batches[k][i % len(batches[k])] for k in order]
            if count == 3:
                corner = empty if empty is not None else batches[0][:, :, :1, :1].expand_as(batches[0])
                cells.append(corner[i % len(corner)])
            pictures.append(collage(cells, 2, zoom))
            captions.append(layout_caption([phrases[k] for k in order], forms[(i + shift) % len(forms)]))
    return torch.stack(pictures), captions


def collage(pictures: Sequence[Tensor], columns: int, zoom: float = ZOOM) -> Tensor:
    """Pictures (C, H, W) of one size, row by row in `columns` -> one picture (C, H, W) of the same size.

    zoom: each picture's scale. What a cell cannot hold is cut off around the middle; what is missing is filled with
    the picture's edge. 1 / columns shows whole pictures. ConesError unless the pictures fill whole rows.
    """
    rows = len(pictures) // max(columns, 1)
    if columns < 1 or rows * columns != len(pictures) or not rows:
        raise ConesError(
            f"{len(pictures)} pictures in {columns} columns do not fill rows; give a multiple of {columns}"
        )
    sizes = sorted({tuple(picture.shape) for picture in pictures})
    if len(sizes) > 1 or not 0 < zoom <= 1:
        raise ConesError(
            f"a collage of sizes {sizes} at zoom {zoom}; use pictures of one size and a zoom above 0 and up to 1"
        )
    height, width = pictures[0].shape[1:]
    cells = [_cell(picture, height // rows, width // columns, zoom) for picture in pictures]
    strips = [torch.cat(cells[i : i + columns], dim=2) for i in range(0, len(cells), columns)]
    whole = torch.cat(strips, dim=1)
    missing = (0, width - whole.shape[2], 0, height - whole.shape[1])  # of sides that do not divide
    return F.pad(whole[None], missing, mode="replicate")[0] if any(missing) else whole


def _cell(picture: Tensor, height: int, width: int, zoom: float) -> Tensor:
    """(C, H, W) scaled by `zoom`, then cropped or filled around the middle to (C, height, width)."""
    size = [max(1, round(side * zoom)) for side in picture.shape[1:]]
    small = F.interpolate(picture[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
    for dim, side in ((1, height), (2, width)):
        spare = small.shape[dim] - side
        index = torch.arange(side) + spare // 2  # negative or beyond the end: the edge again
        small = small.index_select(dim, index.clamp(0, small.shape[dim] - 1).to(small.device))
    return small
