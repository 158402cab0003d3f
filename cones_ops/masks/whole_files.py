"""Files that appear whole or not at all, under names that two writers never both get.

A file is written under a temporary name in its own folder and then linked or renamed to its name, which is one step for
the file system. Temporary files that a killed program left behind are removed when the next file is written there.
Every error of the file system becomes a ConesError that names the file.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from ..errors import ConesError

IfExists = Literal["error", "overwrite", "number"]
IF_EXISTS: tuple[IfExists, ...] = get_args(IfExists)
LONGEST_NAME = 255  # bytes; what common file systems hold
STALE = 3600.0  # seconds after which a temporary file belongs to no writer any more
MOST_NUMBERS = 10_000
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.cones-tmp")
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # Windows opens a device for these
_UNFIT = re.compile(r'[<>:"|?*\x00-\x1f\x7f]')


def write_whole(
    path: Path, content: bytes | Callable[[BinaryIO], None], if_exists: IfExists = "overwrite", beside: str = ""
) -> Path:
    """Write a file, whole or not at all; returns its path, which differs from `path` under "number" only.

    content: the bytes, or a function that writes them. if_exists: "error" refuses a name that is taken, "overwrite"
    replaces the file, "number" takes the next free of `name-2`, `name-3`, ...; `beside`: an ending, such as ".png",
    under which the name must be free too. Of several writers of one new name exactly one gets it.
    """
    if "\0" in str(path):
        raise ConesError(f"{str(path)!r} cannot be a file name; choose another")
    temporary = path.with_name(f".{uuid.uuid4().hex}.cones-tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        with temporary.open("xb") as file:
            content(file) if callable(content) else file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if if_exists == "overwrite":
            os.replace(temporary, path)
            return path
        for candidate in [path] if if_exists == "error" else numbered(path):
            free = not (beside and candidate.with_suffix(beside).exists())
            if free and _claimed(temporary, candidate):
                return candidate
    except OSError as error:
        raise ConesError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    raise ConesError(f"{path} exists already; choose another name, or allow overwriting")


def numbered(path: Path) -> Iterable[Path]:
    """`path`, then the same name with -2, -3, ... before its ending."""
    yield path
    for number in range(2, MOST_NUMBERS):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def check_new_file(path: Path, suffix: str = "", if_exists: IfExists = "error") -> None:
    """ConesError unless a file can be written to `path`: ending, name, folder, permission. Nothing is left behind."""
    if suffix and path.suffix != suffix:
        raise ConesError(f"{path}: the name of this file must end in {suffix}")
    for part in path.parts[1:] if path.is_absolute() else path.parts:
        check_name(part)
    if path.is_dir():
        raise ConesError(f"{path} is a folder; give the name of a file in it")
    if if_exists == "error" and os.path.lexists(path):
        raise ConesError(f"{path} exists already; choose another name, or allow overwriting")
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """ConesError unless files can be written to `folder`, or it can be made. Nothing is left behind."""
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise ConesError(f"{there} is not a folder, so nothing can be written to {folder}; choose another place")
    probe = there / f".{uuid.uuid4().hex}.cones-tmp"
    try:
        probe.open("xb").close()
        probe.unlink()
    except OSError as error:
        raise ConesError(f"{there}: cannot be written to ({error.strerror or error}); choose another place") from None


def check_name(name: str) -> None:
    """ConesError unless `name` can be a file's or a folder's on every system."""
    size = len(os.fsencode(name))
    if size > LONGEST_NAME:
        raise ConesError(f"{name[:40]}...: a name of {size} bytes; at most {LONGEST_NAME} fit, so use a shorter one")
    if _UNFIT.search(name) or _DEVICES.fullmatch(name):
        raise ConesError(f"{name!r} cannot be a file name on every system; use letters, digits, spaces, - and _")


def remove_stale(folder: Path) -> None:
    """Remove the temporary files that killed programs left in `folder` more than an hour ago."""
    for file in folder.glob(".*.cones-tmp"):
        with suppress(OSError):  # another writer's, who has just finished
            if _TEMPORARY.fullmatch(file.name) and time.time() - file.stat().st_mtime > STALE:
                file.unlink()


def _claimed(temporary: Path, path: Path) -> bool:
    """Give the finished file its name, unless the name is taken; whether it got it."""
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        pass
    try:
        path.open("xb").close()
    except FileExistsError:
        return False
    os.replace(temporary, path)
    return True
