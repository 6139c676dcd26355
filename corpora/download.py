"""Public data: a file by its address and its checksum, fetched once.

It knows no corpus; each corpus names its own addresses and checksums.
Try it:  python -m corpora.multiwoz --download"""
from __future__ import annotations

import hashlib
from pathlib import Path

import requests
from tqdm import tqdm

from data import DataError
from infra.files import whole

CONNECT_TIMEOUT = 5                              # s
READ_TIMEOUT = 30                                # s between two pieces of the file
BLOCK = 1 << 16                                  # bytes that are read at once


def fetch(url: str, sha256: str | None, path: Path, description: str) -> Path:
    """Downloads a file, unless it is there with the right checksum.

    `path` is never half a file: it appears, or is replaced, when the download is complete.
    sha256       None: nobody published a checksum, and the caller has to check the content
    description  the file's name in messages and on the progress bar
    returns      `path`
    raises       DataError with the file, the address and what to do
    """
    if path.is_file() and (sha256 is None or digest(path) == sha256):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            _download(url, part, description)
            _check(part, sha256)
    # the errors of requests are OSErrors as well
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}: cannot fetch {description} from {url} ({reason}); get it by hand and put it "
            "there, or set GOPO_DATA or --data_dir to a folder that holds it") from None
    return path


def _download(url: str, path: Path, description: str) -> None:
    timeouts = (CONNECT_TIMEOUT, READ_TIMEOUT)
    with requests.get(url, stream=True, timeout=timeouts) as answer, path.open("wb") as file:
        answer.raise_for_status()
        # tqdm shows no end where the server does not say how long the file is
        size = int(answer.headers.get("Content-Length", 0)) or None
        with tqdm(total=size, unit="B", unit_scale=True, desc=description) as bar:
            for block in answer.iter_content(BLOCK):
                bar.update(file.write(block))


def _check(path: Path, sha256: str | None) -> None:
    found = digest(path)
    if sha256 is not None and found != sha256:
        size = path.stat().st_size
        came = f"{size} bytes came with sha256 {found[:12]}.."
        raise OSError(f"{came}, expected {sha256[:12]}..")


def digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
