"""`manifest.jsonl`: what became of each concept, a line for each end of a search; the last line of a name counts.

Several processes append at once, on any machine that shares the folder, under one claim. A line that a killed process
left unfinished is skipped, and the next one begins on a line of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import ConesError
from .claims import claimed

FILE, CLAIMS = "manifest.jsonl", ".claims"
State = Literal["saved", "no gain", "failed"]


@dataclass(frozen=True)
class Record:
    """What became of a concept. "no gain": the search ended, and no number of neurons lowers the held-out loss.

    key: of everything the mask depends on, "" where it is unknown. held_out_gain and its standard_error: of the loss.
    seconds: of the last attempt.
    """

    name: str
    state: State
    key: str = ""
    mask: str = ""
    seed: int | None = None
    neurons: int | None = None
    density: float | None = None
    held_out_gain: float | None = None
    standard_error: float | None = None
    seconds: float | None = None
    worker: str = ""
    error: str = ""


def append(folder: Path, record: Record) -> None:
    """Add a line to the folder's manifest."""
    with claimed(folder / CLAIMS / FILE, wait=True), (folder / FILE).open("ab+") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - 1))
        unfinished = end > 0 and file.read(1) != b"\n"
        file.write(b"\n" * unfinished + json.dumps(asdict(record)).encode() + b"\n")


def read(folder: Path) -> dict[str, Record]:
    """The last record of each name; none where there is no manifest."""
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise ConesError(f"{file}: cannot be read ({error.strerror or error})") from None
    records = [record for line in lines if (record := _record(line))]
    return {record.name: record for record in records}


def _record(line: str) -> Record | None:
    """A line's record; fields that another version added are left out."""
    try:
        entry: Mapping[str, Any] = json.loads(line)
        known = {field.name: entry[field.name] for field in fields(Record) if field.name in entry}
        record = Record(**known)
        return record if record.state in get_args(State) and isinstance(record.name, str) else None
    except (ValueError, TypeError, RecursionError):
        return None
