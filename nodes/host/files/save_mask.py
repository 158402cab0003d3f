"""Save a search's result: the mask is never lost, whatever is wrong with its name, its folder or its cover."""

from __future__ import annotations

import re
from pathlib import Path

import folder_paths

from ....cones_ops.errors import ConesError
from ....cones_ops.masks.concept_mask import ConceptMask
from ....cones_ops.masks.mask_file import save_mask_anyhow
from .folders import SUFFIX, name_of, wanted_path


def keep_mask(
    mask: ConceptMask, name: str, overwrite: bool, covers: tuple[bytes, bytes] | None = None
) -> tuple[str, str]:
    """(name under which the mask is listed, or its path elsewhere; what went wrong, "" if nothing).

    covers: a PNG to lie beside the file and a JPEG to go into it. ConesError if nothing can be written anywhere.
    """
    try:
        path, trouble = wanted_path(name), ""
    except ConesError as error:
        path, trouble = other_path(mask), f"{error}. "
    if_exists = "overwrite" if overwrite and not trouble else "number"
    saved, more = save_mask_anyhow(mask, path, if_exists, *(covers or (None, None)))
    listed_name = name_of(saved)
    if trouble and not more:
        more = f"The mask is kept as {listed_name}"
    return listed_name, trouble + more


def other_path(mask: ConceptMask) -> Path:
    """A file named after the concept, in the folder of masks or, where that cannot be written, in the output folder."""
    words = re.sub(r"[^\w-]+", "-", f"{mask.identifier}-{mask.class_word}")[:40].strip("-") or "concept"
    try:
        return wanted_path(words)
    except ConesError:
        return Path(folder_paths.get_output_directory()) / f"{words}{SUFFIX}"
