"""Files and folders that appear whole or not at all, also after `kill -9`, and JSON in them.

A file is written under another name beside its place (`<name>.<process id>.part`) and renamed when
it is complete: a rename within one folder is atomic.  Nothing here knows what is written.
Exercise: write a file without `whole`, kill the process half-way, and look at what is left."""
from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data import DataError

# A full disk, a quota, `ulimit -f`.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields the path to write to; when the block ends, what stands there becomes `path`.

    If the block fails, `path` stays as it was and the part is removed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with whole(Path(folder) / "a.txt") as part:
    ...         _ = part.write_text("all of it")
    ...     print(*(p.name for p in Path(folder).iterdir()))
    a.txt
    """
    # The process id: two processes may write the same file at once.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        _to_disk(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Waits until the disk holds the bytes; else a power cut may keep the rename and lose them."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder to fill; after the block it has the name `folder`.

    A folder cannot replace a full one in one step, so that after a crash `folder` is the old one,
    the new one or missing, but never half of either.  No two processes may write one folder at
    once: the part always has the same name, and what a killed process left of it is removed.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def refuse_unwritable(flag: str, path: Path, file: bool = False) -> None:
    """DataError that names the flag, unless a folder can be made at `path`, or a file put there.

    file  True: a file in a folder that exists
    """
    if file and path.is_dir():
        raise DataError(f"{flag} {path}: is a folder; name a file in it")
    if file and not path.parent.is_dir():
        raise DataError(f"{flag} {path}: no such folder {path.parent}; make it first")
    there = path.parent if file else path
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise DataError(f"{flag} {path}: {there} is a file, no folder; give another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise DataError(f"{flag} {path}: {there} cannot be written to; give another one")


def write_atomic(path: Path, text: str) -> None:
    """The file is the old one or the new one, never half of either."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Indented by one space; what JSON does not know is written as its str()."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """The value in a file of a run directory; a DataError says what to do if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        reason = f"not found; is {path.parent} a run directory of train.py?"
        raise DataError(f"{path}: {reason}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        reason = f"not valid JSON ({error}); restore it or train again with --overwrite"
        raise DataError(f"{path}: {reason}") from None
