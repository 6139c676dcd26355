"""One process writes into a run directory, or several read from it; never both.

The lock is the system's, on the file `lock` in the folder: it ends with the process, however that
ends.  The file itself means nothing and is never removed: a process that waits for a file which
another has removed would hold the lock of nothing.
Exercise: hold `alone_in` in one terminal, and try both blocks in a second one."""
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from data import DataError

try:
    import fcntl
    EXCLUSIVE, SHARED = fcntl.LOCK_EX, fcntl.LOCK_SH
except ImportError:
    # Windows has no such locks: nobody is kept out there, so do not start two commands on one run
    fcntl = None
    EXCLUSIVE = SHARED = 0

LOCK = "lock"


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within the block no other process may train into this folder or measure what it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a", encoding="utf-8") as file:
        if not locked(file, EXCLUSIVE):
            raise DataError(
                f"{folder}: another process is training there, or measures it; nothing was "
                "changed: wait for it, or stop it and give this command again")
        yield


@contextlib.contextmanager
def reading_from(folder: Path) -> Iterator[None]:
    """Within the block nobody may train into this folder; others may read as well."""
    with contextlib.ExitStack() as stack:
        file = _opened(folder / LOCK)
        if file:
            stack.enter_context(file)
            if not locked(file, SHARED):
                raise DataError(
                    f"{folder}: another process is training there; wait until it has ended, or "
                    "stop it")
        yield


def _opened(path: Path) -> IO[str] | None:
    """The lock's file; None where there is none and none can be made: nobody can train there."""
    mode = "a+" if os.access(path.parent, os.W_OK) else "r"
    try:
        return open(path, mode, encoding="utf-8")
    except OSError:
        return None


def locked(file: IO, how: int) -> bool:
    """Whether this process has the lock now; it never waits.

    how  EXCLUSIVE or SHARED
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def refuse_growing(path: Path) -> None:
    """DataError while another process labels into this file: what is read would be a part of it."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError), open(path, "rb") as file:
        if not locked(file, SHARED):
            raise DataError(
                f"{path}: another process is labelling into it; wait until it has ended")
