"""The model folder `concept_masks`: from names in a list to paths, and safe paths to save to.

The user's own folders from extra_model_paths.yaml are kept; `models/concept_masks` is the first to be searched, and the
one to save to, unless that file makes another one the default; the examples that ship with the pack come last. Only
.safetensors files are listed. A name may have subfolders ("people/sks"), links among them, but never leads upwards.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import folder_paths

from ....cones_ops.errors import ConesError, listed
from ....cones_ops.masks.whole_files import check_folder, check_name
from .extra_paths import default_folder

FOLDER = "concept_masks"
SUFFIX = ".safetensors"
NUMBER = "-9999"  # the longest that a taken name gets
SHIPPED = Path(__file__).absolute().parents[3] / FOLDER  # examples


def register() -> None:
    """Make the host know the folder; safe to call any number of times. Nothing is written before a mask is saved."""
    default = str(Path(folder_paths.models_dir) / FOLDER)
    paths, _ = folder_paths.folder_names_and_paths.get(FOLDER, ([], set()))
    chosen = default_folder(FOLDER)
    if default not in paths:
        paths = [default, *paths]
    if chosen in paths:
        paths = [chosen, *(path for path in paths if path != chosen)]
    if SHIPPED.is_dir() and str(SHIPPED) not in paths:
        paths = [*paths, str(SHIPPED)]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, {SUFFIX})


def mask_names() -> list[str]:
    """The files one can load, subfolders included, as the host lists them; none from folders that cannot be read."""
    register()
    with suppress(OSError):
        return list(folder_paths.get_filename_list(FOLDER))
    return []


def folder_times() -> dict[str, float]:
    """When a file was last added to, or replaced in, each folder of masks: seconds, by folder."""
    register()
    times: dict[str, float] = {}
    for folder in folder_paths.get_folder_paths(FOLDER):
        times |= folder_paths.recursive_search(folder)[1]
    return times


def path_of(name: str) -> Path:
    """The file of a listed name; ConesError when there is none."""
    register()
    path = folder_paths.get_full_path(FOLDER, name) or folder_paths.get_full_path(FOLDER, name.replace("\\", "/"))
    if path is None or not name.lower().endswith(SUFFIX):
        known = listed(mask_names()) or "none"
        raise ConesError(
            f'no concept mask "{name}" in {", ".join(folder_paths.get_folder_paths(FOLDER))}; the files are: {known}. '
            "Save a mask with Save Concept Mask, then press R to refresh the list"
        )
    return Path(path)


def wanted_path(name: str, kind: str = FOLDER) -> Path:
    """The file that a name asks for, in the first folder of a kind; ConesError if it cannot be one, leads
    out, or nothing can be written there."""
    register()
    root = Path(folder_paths.get_folder_paths(kind)[0]).resolve()
    plain = re.sub(re.escape(SUFFIX) + "$", "", name.strip(), flags=re.IGNORECASE)
    parts = [part for part in plain.replace("\\", "/").split("/") if part]
    bad = [part for part in parts if part.strip(". ") != part.rstrip() or re.search(r'[<>:"|?*\x00-\x1f]', part)]
    if not parts or bad or name.strip().startswith(("/", "\\")):
        raise ConesError(
            f'"{name}" cannot be a file name below {root}; use letters, digits, spaces, - and _, '
            "with / for subfolders, such as people/sks"
        )
    for part in [*parts, f"{parts[-1]}{NUMBER}{SUFFIX}"]:
        check_name(part)
    path = root.joinpath(*parts[:-1], parts[-1] + SUFFIX)
    if path.is_dir():
        raise ConesError(f"{path} is a folder; choose another name")
    check_folder(path.parent)
    return path


def name_of(path: Path, kind: str = FOLDER) -> str:
    """The name under which Load Concept Mask (or another loader, by kind) lists a file; its path if it is elsewhere."""
    root = Path(folder_paths.get_folder_paths(kind)[0]).resolve()
    return str(path.relative_to(root) if root in path.parents else path)
