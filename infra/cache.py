"""An sqlite3 file that keeps every answer of a server, so that no request is paid for twice.

Several processes may write to one file at once, and each may be killed at any moment: an answer
that was put is never lost.  The cache knows neither HTTP nor prompts: a request is a text, and its
answer is any JSON object."""
from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data import DataError

APPLICATION_ID = 0x474F504F  # "GOPO" in ASCII: marks a file as ours
WRITE_TIMEOUT = 60  # s that a write waits for other processes' writes
TABLE = ("CREATE TABLE IF NOT EXISTS answers "
         "(key TEXT PRIMARY KEY, request TEXT NOT NULL, answer TEXT NOT NULL) WITHOUT ROWID")


def canonical(value: Any) -> str:
    """One spelling for equal JSON; in ASCII, so that any text can be hashed, sent and stored.

    >>> canonical({"b": 1, "a": "é"}) == canonical({"a": "é", "b": 1})
    True
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


class Cache:
    """Maps a request to its answer.  The key in the file is the sha256 of the request."""

    def __init__(self, path: Path):
        """Opens or makes the file; DataError if it is damaged or was made by another program."""
        self.path = path
        self._lock = threading.Lock()
        with self._named_errors():
            self._db = sqlite3.connect(path, timeout=WRITE_TIMEOUT, isolation_level=None,
                                       check_same_thread=False)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def _open(self) -> None:
        # the lock comes first: two processes may make the file at once
        self._db.execute("BEGIN IMMEDIATE")
        found = self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        mark, = self._db.execute("PRAGMA application_id").fetchone()
        if (mark, found) not in ((0, []), (APPLICATION_ID, [("answers",)])):
            raise DataError(f"--api_cache {self.path}: not a cache of this program; "
                            "name another file, or delete it if nobody needs it")
        self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._db.execute(TABLE)
        self._db.execute("COMMIT")
        # a write-ahead log: readers do not wait for writers, and the file is whole after kill -9
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")

    def get(self, request: str) -> dict[str, Any] | None:
        """The answer that was put for this request; None if there is none."""
        with self._named_errors(), self._lock:
            query = "SELECT answer FROM answers WHERE key = ?"
            row = self._db.execute(query, (_sha256(request),)).fetchone()
            return None if row is None else json.loads(row[0])

    def put(self, request: str, answer: dict[str, Any], over: bool = False) -> None:
        """Keeps the answer; if another process was faster, its answer stays.

        over  replace what stands there: nobody could use it
        """
        what = "REPLACE" if over else "IGNORE"
        with self._named_errors(), self._lock:
            row = (_sha256(request), request, json.dumps(answer))
            self._db.execute(f"INSERT OR {what} INTO answers VALUES (?, ?, ?)", row)

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """What sqlite3 complains about, as a DataError that names the file."""
        try:
            yield
        except sqlite3.OperationalError as error:
            # no folder, no space, no permission, or a -wal whose file was deleted
            log = f"{self.path.name}-wal and -shm"
            raise DataError(f"--api_cache {self.path}: cannot be used ({error}); name another "
                            f"file, or delete {log} if they were left behind") from None
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise DataError(f"--api_cache {self.path}: damaged, or not this program's ({error}); "
                            "delete it to ask anew, or name another file") from None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
