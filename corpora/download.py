"""Public data: a file by its address and checksum, fetched once."""
from __future__ import annotations

import hashlib
import os
from pathlib import Path

import requests
from tqdm import tqdm

from data import DataError


def fetch(url: str, sha256: str | None, path: Path, description: str) -> Path:
    """Downloads a file unless it is there with the right checksum; a broken earlier download is fetched again.

    Written to a `.part` file and renamed when whole, so that `path` is never half a file.  sha256 None: nobody published one,
    and the caller has to check the content.  Raises DataError naming file, address and what to do."""
    if path.is_file() and (sha256 is None or digest(path) == sha256):
        return path
    part = path.with_name(f"{path.name}.{os.getpid()}.part")         # the process id: two runs may start at once
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with requests.get(url, stream=True, timeout=(5, 30)) as answer, part.open("wb") as file:         # s to connect, s between bytes
            answer.raise_for_status()
            with tqdm(total=int(answer.headers.get("Content-Length", 0)) or None, unit="B", unit_scale=True, desc=description) as bar:
                for block in answer.iter_content(1 << 16):
                    bar.update(file.write(block))
        found = digest(part)
        if sha256 is not None and found != sha256:
            raise OSError(f"{part.stat().st_size} bytes came with sha256 {found[:12]}.., expected {sha256[:12]}..")
        os.replace(part, path)
    except OSError as error:                     # requests' own errors are OSErrors too
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: cannot fetch {description} from {url} ({reason}); get it by hand and put it there, "
                        "or set GOPO_DATA or --data_dir to a folder that holds it") from None
    finally:
        part.unlink(missing_ok=True)
    return path


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
