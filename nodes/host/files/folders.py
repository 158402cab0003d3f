"""The model folder `concept_masks`: from names in a list to paths, and safe paths to save to.

The user's own folders from extra_model_paths.yaml are kept; `models/concept_masks` is the first to be searched, and the
one to save to; the examples that ship with the pack come last. Only .safetensors files are listed. A name may have
subfolders ("people/sks") but never leaves the folder.
"""

from __future__ import annotations

import re
from pathlib import Path

import folder_paths

from ....cones_ops.errors import ConesError, listed

FOLDER = "concept_masks"
SUFFIX = ".safetensors"
SHIPPED = Path(__file__).absolute().parents[3] / FOLDER  # examples


def register() -> None:
    """Make the host know the folder; safe to call any number of times."""
    default = str(Path(folder_paths.models_dir) / FOLDER)
    paths, _ = folder_paths.folder_names_and_paths.get(FOLDER, ([], set()))
    if default not in paths:
        paths = [default, *paths]
        Path(default).mkdir(parents=True, exist_ok=True)
    if SHIPPED.is_dir() and str(SHIPPED) not in paths:
        paths = [*paths, str(SHIPPED)]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, {SUFFIX})


def mask_names() -> list[str]:
    """The files one can load, subfolders included, as the host lists them."""
    register()
    return list(folder_paths.get_filename_list(FOLDER))


def path_of(name: str) -> Path:
    """The file of a listed name; ConesError when there is none."""
    register()
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None or not name.endswith(SUFFIX):
        known = listed(mask_names()) or "none"
        raise ConesError(
            f'no concept mask "{name}" in {", ".join(folder_paths.get_folder_paths(FOLDER))}; the files are: {known}. '
            "Save a mask with Save Concept Mask, then press R to refresh the list"
        )
    return Path(path)


def wanted_path(name: str, kind: str = FOLDER) -> Path:
    """The file that a name asks for, in the first folder of a kind; ConesError if it cannot be one or leads out."""
    register()
    root = Path(folder_paths.get_folder_paths(kind)[0]).resolve()
    parts = [part for part in name.strip().replace("\\", "/").removesuffix(SUFFIX).split("/") if part]
    bad = [part for part in parts if part.strip(". ") != part.rstrip() or re.search(r'[<>:"|?*\x00-\x1f]', part)]
    if not parts or bad or name.strip().startswith(("/", "\\")):
        raise ConesError(
            f'"{name}" cannot be a file name below {root}; use letters, digits, spaces, - and _, '
            "with / for subfolders, such as people/sks"
        )
    path = root.joinpath(*parts[:-1], parts[-1] + SUFFIX)
    if root not in path.resolve().parents:
        raise ConesError(f'"{name}" leads out of {root}; choose a name inside this folder')
    return path


def save_path(name: str, overwrite: bool, kind: str = FOLDER) -> Path:
    """Where to save under a name: that file, or the next free `name-2` unless overwrite. The folder is made."""
    wanted = path = wanted_path(name, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 2
    while path.exists() and not overwrite:
        path = wanted.with_name(f"{wanted.name.removesuffix(SUFFIX)}-{number}{SUFFIX}")
        number += 1
    return path


def name_of(path: Path, kind: str = FOLDER) -> str:
    """The name under which Load Concept Mask (or another loader, by kind) lists a saved file."""
    root = Path(folder_paths.get_folder_paths(kind)[0]).resolve()
    return str(path.relative_to(root))
