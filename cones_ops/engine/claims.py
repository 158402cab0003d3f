"""Claims: of all processes that want one piece of work, on any machine that shares the folder, one has it.

A claim is a lock of the operating system on a small file. It ends with the process that holds it, however that ends,
so no claim is ever stale. The file says what its holder is doing, for whoever shows progress.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    BYTE = 2**30  # far behind the text, which others may read

    def _lock(file: int, wait: bool) -> None:
        os.lseek(file, BYTE, os.SEEK_SET)
        while True:
            try:
                return msvcrt.locking(file, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except OSError:  # LK_LOCK gives up after ten seconds
                if not wait:
                    raise

else:
    import fcntl

    def _lock(file: int, wait: bool) -> None:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


class Claim:
    """A claim that this process holds."""

    def __init__(self, file: int) -> None:
        self._file = file

    def say(self, text: str) -> None:
        """Tell others what is being done."""
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, text.encode()[:200].ljust(200) + b"\n")


@contextmanager
def claimed(path: Path, wait: bool = False) -> Iterator[Claim | None]:
    """Inside, the claim on `path`, a file of its own; None where another process holds it, unless we `wait`."""
    file = _open_and_lock(path, wait)
    if file is None:
        yield None
        return
    try:
        yield Claim(file)
    finally:
        with suppress(OSError):  # Windows removes no open file
            path.unlink(missing_ok=True)
        os.close(file)


def said(path: Path) -> str:
    """What the holder of a claim is doing; "" where nobody holds it."""
    try:
        return path.read_bytes()[:200].decode(errors="replace").strip()
    except OSError:
        return ""


def _open_and_lock(path: Path, wait: bool) -> int | None:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(file, wait)
            if os.path.samestat(os.fstat(file), path.stat()):  # not the file that the last holder has just removed
                return file
        except FileNotFoundError:
            pass
        except OSError:
            os.close(file)
            if wait:  # a file system without locks, say
                raise
            return None
        os.close(file)
