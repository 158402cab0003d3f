"""A shelf: what the headers of all concept masks below a folder say, from thousands of files in a moment.

Headers are read once and kept in a SQLite file in the folder, by path, time of last change and size; only changed files
are read again. Masks themselves are never decoded. A file that is no mask has an error instead of words.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..errors import ConesError
from ..hosts.diffusers.weight_files import weight_reader
from ..masks.fingerprint import Base, base_of, stored_otherwise
from ..masks.mask_file import read_mask_metadata
from ..masks.mask_header import shapes_of
from ..models.weight_names import weight_and_rows

FILE = ".cones-shelf-1.sqlite"  # the number is of the table's form


class ShelfEntry(NamedTuple):
    """A file: its path below the folder, nanoseconds of its last change, bytes, and what its header says.

    date: of the mask, or of the file, YYYY-MM-DD. weights: a digest of the names and shapes of the searched weights.
    """

    path: str
    changed: int
    bytes: int
    identifier: str = ""
    class_word: str = ""
    where: str = ""
    neurons: int = 0
    density: float = 0.0
    date: str = ""
    fingerprint: str = ""
    weights: str = ""
    checksum: str = ""
    error: str = ""


COLUMNS = ", ".join(f'"{name}"' for name in ShelfEntry._fields)


def read_shelf(folder: Path) -> list[ShelfEntry]:
    """An entry for each .safetensors file below the folder, by path; ConesError where there is no folder."""
    if not folder.is_dir():
        raise ConesError(f"{folder}: no such folder; give one with concept masks in it, or in folders below")
    files = dict(sorted(_files(folder)))
    with closing(_database(folder)) as database:
        kept = {row[0]: ShelfEntry(*row) for row in database.execute(f"select {COLUMNS} from entries")}
        outdated = [path for path, entry in kept.items() if files.get(path) != (entry.changed, entry.bytes)]
        entries = {path: entry for path, entry in kept.items() if files.get(path) == (entry.changed, entry.bytes)}
        fresh = [_entry(folder, path, *state) for path, state in files.items() if path not in entries]
        if outdated or fresh:
            with database:
                database.executemany("delete from entries where path = ?", [(path,) for path in outdated])
                marks = ", ".join("?" * len(ShelfEntry._fields))
                database.executemany(f"insert or replace into entries values ({marks})", fresh)
    entries |= {entry.path: entry for entry in fresh}
    return [entries[path] for path in files]


def duplicates(folder: Path, entries: Iterable[ShelfEntry]) -> list[list[ShelfEntry]]:
    """Groups of files with the same bytes; only files of the same size and checksum are read."""
    alike: dict[tuple[int, str], list[ShelfEntry]] = {}
    for entry in entries:
        alike.setdefault((entry.bytes, entry.checksum), []).append(entry)
    same: dict[str, list[ShelfEntry]] = {}
    for group in alike.values():
        for entry in group if len(group) > 1 else ():
            same.setdefault(hashlib.sha256((folder / entry.path).read_bytes()).hexdigest(), []).append(entry)
    return [group for group in same.values() if len(group) > 1]


def fits(folder: Path, entries: Iterable[ShelfEntry], model: Path) -> Mapping[str, bool]:
    """By path, whether a mask was found on the weights of a model (a checkpoint, or a folder saved by diffusers)."""
    read, bases = weight_reader(model), dict[str, Base]()
    fitting = {}
    for entry in entries:
        if entry.error or not entry.fingerprint:
            fitting[entry.path] = not entry.error
            continue
        if entry.weights not in bases:
            bases[entry.weights] = _base(read_mask_metadata(folder / entry.path)["cones.shapes"], read)
        base = bases[entry.weights]
        fitting[entry.path] = entry.fingerprint == base.fingerprint or stored_otherwise(
            read_mask_metadata(folder / entry.path).get("cones.sketch", ""), base.sketch
        )
    return fitting


def _base(shapes: str, read: Callable[[str], Tensor]) -> Base:
    """Fingerprint and sketch of a model's weights of these names; empty where it lacks one."""
    weights = {}
    for name in shapes_of(shapes):
        weight, rows = weight_and_rows(name)
        try:
            weights[name] = read(weight)[rows]
        except ConesError:
            return Base("another model", "")
    return base_of(weights)


def _files(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """(path below the folder, (nanoseconds of its last change, bytes)) of each mask file, links followed."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "."]
        below = os.path.relpath(parent, folder)
        for name in names:
            if name.endswith(".safetensors") and name[0] != ".":
                with suppress(OSError):  # a link that leads nowhere
                    state = os.stat(os.path.join(parent, name))
                    path = name if below == os.curdir else os.path.join(below, name)
                    yield path, (state.st_mtime_ns, state.st_size)


def _entry(folder: Path, path: str, changed: int, size: int) -> ShelfEntry:
    try:
        meta = read_mask_metadata(folder / path)
        neurons, entries = int(meta["cones.count"]), int(meta["cones.size"])
    except (ConesError, ValueError) as error:
        return ShelfEntry(path, changed, size, error=str(error))
    return ShelfEntry(
        path,
        changed,
        size,
        meta["cones.identifier"],
        meta["cones.class_word"],
        meta["cones.where"],
        neurons,
        neurons / max(1, entries),
        meta.get("modelspec.date", datetime.fromtimestamp(changed / 1e9).isoformat())[:10],
        meta["cones.fingerprint"],
        hashlib.sha256(meta["cones.shapes"].encode()).hexdigest()[:16],
        meta.get("cones.crc32", ""),
    )


def _database(folder: Path) -> sqlite3.Connection:
    """The folder's database; one in memory where the folder's cannot be read or written."""
    for place in (folder / FILE, ":memory:"):
        try:
            database = sqlite3.connect(place, timeout=60)
            database.execute(f"create table if not exists entries ({COLUMNS}, primary key (path))")
            database.execute("pragma user_version = 1")
            return database
        except sqlite3.Error:
            continue
    raise ConesError("SQLite does not work in this Python")
