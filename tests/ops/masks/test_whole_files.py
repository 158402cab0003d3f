"""Files appear whole, under names that two writers never both get."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from cones_ops import ConesError
from cones_ops.masks.whole_files import IfExists, check_name, check_new_file, write_whole

WRITERS = 8


def race(folder: Path, if_exists: IfExists) -> list[Path | None]:
    """What each of eight writers of one new name gets; None: refused."""
    together = Barrier(WRITERS)

    def write(writer: int) -> Path | None:
        together.wait()
        try:
            return write_whole(folder / "new.bin", bytes([writer]) * 1000, if_exists)
        except ConesError:
            return None

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(write, range(WRITERS)))


@pytest.mark.parametrize("links", [True, False])
def test_one_of_several_writers_gets_a_new_name(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links on this file system")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        outcomes = race(folder, "error")
        winners = [writer for writer, path in enumerate(outcomes) if path]
        assert len(winners) == 1 and [file.name for file in folder.iterdir()] == ["new.bin"]
        assert (folder / "new.bin").read_bytes() == bytes(winners) * 1000


def test_with_numbers_every_writer_keeps_its_file(tmp_path: Path) -> None:
    outcomes = race(tmp_path, "number")
    assert sorted(path.name for path in outcomes if path) == [
        "new-2.bin",
        *(f"new-{n}.bin" for n in range(3, 9)),
        "new.bin",
    ]
    assert all(path and path.read_bytes() == bytes([writer]) * 1000 for writer, path in enumerate(outcomes))


def test_a_name_of_255_bytes_can_be_written_and_a_longer_one_is_refused(tmp_path: Path) -> None:
    name = "猫" * 83 + ".bin12"  # 3 bytes each
    assert len(name.encode()) == 255 and write_whole(tmp_path / name, b"x").read_bytes() == b"x"
    with pytest.raises(ConesError, match="a name of 258 bytes; at most 255 fit"):
        check_new_file(tmp_path / ("猫" * 84 + ".bin12"))


@pytest.mark.parametrize("name", ["con", "AUX.safetensors", "lpt1", "a:b", "what?", "new\nline", "bell\a"])
def test_names_that_some_system_cannot_write_are_refused(name: str) -> None:
    with pytest.raises(ConesError, match="cannot be a file name on every system"):
        check_name(name)


@pytest.mark.parametrize("name", ["sks", "console.safetensors", ".hidden", "sks star (2)", "猫"])
def test_other_names_are_taken(name: str) -> None:
    check_name(name)


def test_a_destination_is_checked_and_nothing_is_left_there(tmp_path: Path) -> None:
    check_new_file(tmp_path / "a" / "b" / "c.bin", ".bin")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file.bin").write_bytes(b"x")
    (tmp_path / "folder.bin").mkdir()
    refusals = {
        "c.pt": r"must end in \.bin",
        "file.bin": "exists already",
        "folder.bin": "is a folder",
        "file.bin/c.bin": "is not a folder",
    }
    for name, refusal in refusals.items():
        with pytest.raises(ConesError, match=refusal):
            check_new_file(tmp_path / name, ".bin")
    check_new_file(tmp_path / "file.bin", ".bin", "overwrite")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConesError, match=r"cannot be written to \(Permission denied\)"):
        check_new_file(tmp_path / "sub" / "c.bin")


def test_temporary_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    stale, fresh, other = (tmp_path / name for name in (f".{'a' * 32}.cones-tmp", f".{'b' * 32}.cones-tmp", "mine.tmp"))
    for file in (stale, fresh, other):
        file.write_bytes(b"")
    an_hour_ago = time.time() - 3700
    os.utime(stale, (an_hour_ago, an_hour_ago))
    os.utime(other, (an_hour_ago, an_hour_ago))
    write_whole(tmp_path / "new.bin", b"x")
    assert sorted(file.name for file in tmp_path.iterdir()) == [fresh.name, "mine.tmp", "new.bin"]
