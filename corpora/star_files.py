"""STAR's files: the archives and their checks, the tasks' charts and wordings, and the cache.

`corpus(folder)` returns the dialogues and the tasks.  Parsing takes ten seconds, so they are kept
in a cache next to the archives, or in GOPO_CACHE (~/.cache/gopo) where that folder cannot be
written.  star_turns.py says how a dialogue is read, and sop.py what the charts mean."""
from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import data
from corpora.download import digest, fetch
from corpora.sop import BRANCHES, RENAMED
from corpora.star_turns import dialogue
from data import DataError, Dialogue, Turn
from infra.files import whole

COMMIT = "3058975092cdd09798e4a3a9e4ae135755824545"
URL = f"https://github.com/RasaHQ/STAR/archive/{COMMIT}.zip"
ZIP = f"STAR-{COMMIT}.zip"
DOWNLOAD = "python -m corpora.star --download"
# archive -> sha256
ARCHIVES = {
    "star_dialogues.tar.xz":
        "47c6467636c07e87be4327e743845caeaa62f2acd08ff8ff9e928e07e59eeb5d",
    "star_tasks_apis.tar.xz":
        "6a07622732e43390e6d636778fcd139c9f0a33327597f04600fb9d33ead31c8e",
}
# folder -> `checksum` of its .json files at COMMIT.  In a clone of COMMIT these numbers are what
# `find dialogues -name '*.json' | LC_ALL=C sort | xargs sha256sum | sha256sum` prints, and the
# same with `tasks`.
CONTENT = {
    "dialogues": "336701b8c1f275ac0843af797c102a3de0f5172b67b812de2c2f35fabdfe6289",
    "tasks": "62e4539d6b9e3617313dfd7b28ac0622eed5ef99dad84d93ddeda2c15748d366",
}
# what is read from the archives
WANTED = re.compile(r"dialogues/\d+\.json|tasks/\w+/\w+\.json")
CACHE = "star-cache.json.gz"
# The code that decides what is in the cache.  It is the whole folder and not a list of files,
# because somebody would forget to make a list longer.
CODE = [Path(data.__file__), *sorted(Path(__file__).parent.glob("*.py"))]
# a template's slot that has another name here
TEMPLATE_SLOT = {"clazz": "class"}
# task -> {"graph": its chart, "replies": action -> wording}
Tasks = dict[str, dict[str, dict[str, str]]]


def corpus(folder: Path) -> tuple[list[Dialogue], Tasks]:
    """(complete dialogues that hold any talk, tasks), from the cache if it is up to date."""
    archives = sources(folder)
    key = cache_key(archives, CODE)
    user_cache = os.environ.get("GOPO_CACHE") or Path.home() / ".cache" / "gopo"
    places = (folder / CACHE, Path(user_cache) / CACHE)
    for place in places:
        kept = read_cache(place, key)
        if kept is not None:
            return kept
    files = dict(contents(archives))
    if archives[0].name == ZIP:
        verify(files, archives[0])
    tasks = read_tasks(files)
    dialogues = read_dialogues(files, tasks)
    for place in places:
        if write_cache(place, key, dialogues, tasks):
            break
    return dialogues, tasks


# ---------------------------------------------------------------- the archives

def sources(folder: Path) -> list[Path]:
    """The two archives; without them GitHub's zip, which is downloaded if it is not there."""
    archives = [folder / name for name in ARCHIVES]
    if not all(path.exists() for path in archives):
        if (folder / ZIP).exists():
            return [folder / ZIP]
        return download(folder)
    for path in archives:
        sha256 = ARCHIVES[path.name]
        if digest(path) != sha256:
            raise DataError(
                f"{path}: damaged, its sha256 is not {sha256[:12]}..; remove it and run "
                f"{DOWNLOAD}")
    return archives


def download(folder: Path) -> list[Path]:
    """GitHub's zip of the pinned commit.

    GitHub promises no checksum of a zip, so its content is what counts: `verify`.
    """
    path = folder / ZIP
    there = path.exists()
    fetch(URL, None, path, "STAR")
    try:
        verify(dict(contents([path])), path)
    except DataError:
        # what somebody put there by hand is not ours to remove
        if not there:
            path.unlink()
        raise
    return [path]


def contents(archives: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of dialogues/*.json and tasks/*/*.json in the archives."""
    broken = (
        OSError, EOFError, tarfile.TarError, lzma.LZMAError, zipfile.BadZipFile, zlib.error)
    for archive in archives:
        unpack = _unpack_zip if archive.suffix == ".zip" else _unpack_tar
        try:
            for name, content in unpack(archive):
                if WANTED.fullmatch(name):
                    yield name, content
        except broken as error:
            reason = f"cannot be read ({error}); remove it and run {DOWNLOAD}"
            raise DataError(f"{archive}: {reason}") from None


def _unpack_zip(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            # without the folder STAR-<commit>
            yield name.partition("/")[2], archive.read(name)


def _unpack_tar(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile():
                yield member.name, archive.extractfile(member).read()


def verify(files: Mapping[str, bytes], path: Path) -> None:
    """Refuses any content but that of COMMIT, whatever archive it came in."""
    for folder, wanted in CONTENT.items():
        found = checksum(files, folder)
        if found != wanted:
            raise DataError(
                f"{path}: its {folder}/ is not that of commit {COMMIT[:12]} (checksum "
                f"{found[:12]}.., expected {wanted[:12]}..); remove it and run {DOWNLOAD}")


def checksum(files: Mapping[str, bytes], folder: str) -> str:
    """sha256 of a folder's listing by sha256sum: a line "<sha256>  <name>" for each file."""
    listing = hashlib.sha256()
    for name in sorted(files):
        if name.startswith(folder + "/"):
            line = f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n"
            listing.update(line.encode())
    return listing.hexdigest()


# ---------------------------------------------------------------- dialogues and tasks

def read_dialogues(files: Mapping[str, bytes], tasks: Tasks) -> list[Dialogue]:
    """The complete dialogues that hold any talk, in the order of their numbers."""
    needed = {}
    for task in tasks.values():
        for label in task["replies"]:
            needed[label] = needs(templates(label, tasks))
    raws = [_json(files[path], path) for path in files if path.startswith("dialogues/")]
    raws.sort(key=lambda raw: raw["DialogueID"])
    dialogues = []
    for raw in raws:
        if raw["CompletionLevel"] != "Complete":
            continue
        talk = dialogue(raw, needed)
        if talk.turns:
            dialogues.append(talk)
    return dialogues


def read_tasks(files: Mapping[str, bytes]) -> Tasks:
    """task -> {graph, replies}.

    The wordings are what the wizards' tool said (responses.json), and those of labels that only
    the drawing names.
    """
    tasks = {}
    for path in sorted(files):
        if not path.endswith("/responses.json"):
            continue
        task = path.split("/")[1]
        drawing = _json(files[f"tasks/{task}/{task}.json"], path)
        replies = {}
        for label, text in drawing["replies"].items():
            if label not in BRANCHES and not label.startswith("query"):
                replies[label] = text
        replies |= _json(files[path], path)
        graph = {_renamed(node): _renamed(after) for node, after in drawing["graph"].items()}
        wordings = {_renamed(label): text for label, text in replies.items()}
        tasks[task] = {"graph": graph, "replies": wordings}
    return tasks


def _renamed(label: str) -> str:
    return RENAMED.get(label, label)


def templates(label: str, tasks: Tasks) -> tuple[str, ...]:
    """The wordings of a label, task by task, with slots as here: `{balance:d}` is `{balance}`."""
    texts: dict[str, None] = {}
    for task in tasks.values():
        if label in task["replies"]:
            text = " ".join(task["replies"][label].split())
            texts[re.sub(r"\{(\w+):\w\}", _template_slot, text)] = None
    return tuple(texts)


def _template_slot(match: re.Match) -> str:
    return "{" + TEMPLATE_SLOT.get(match[1], match[1]) + "}"


def needs(texts: Sequence[str]) -> tuple[str, ...]:
    """The slots that wordings state, each once."""
    found: dict[str, None] = {}
    for text in texts:
        found |= dict.fromkeys(data.slots(text))
    return tuple(found)


def _json(content: bytes, path: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        advice = f"remove the archive and run {DOWNLOAD}"
        raise DataError(f"{path}: not valid JSON ({error}); {advice}") from None


# ---------------------------------------------------------------- the cache

def cache_key(archives: Sequence[Path], code: Sequence[Path]) -> str:
    """Another key for other archives, and for any change of the code that reads them."""
    key = hashlib.sha256()
    for path in [*archives, *code]:
        key.update(bytes.fromhex(digest(path)))
    return key.hexdigest()


def read_cache(path: Path, key: str) -> tuple[list[Dialogue], Tasks] | None:
    """None if there is no cache, or it is damaged, or it has another key."""
    try:
        kept = json.loads(gzip.decompress(path.read_bytes()))
        if kept["key"] != key:
            return None
        dialogues = []
        for id, rows, goal in kept["dialogues"]:
            turns = tuple(_turn(*row) for row in rows)
            dialogues.append(Dialogue(id, turns, goal, "star"))
        return dialogues, kept["tasks"]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError):
        return None


def _turn(
    user: str,
    intent: str | None,
    context: dict[str, str],
    skills: list[str] | None,
    reply: str,
) -> Turn:
    """A turn from the cache; JSON has no tuples."""
    labels = None if skills is None else tuple(skills)
    return Turn(user, intent, None, context, labels, reply)


def write_cache(path: Path, key: str, dialogues: Sequence[Dialogue], tasks: Tasks) -> bool:
    """Writes it whole or not at all; False where the folder cannot be written."""
    rows = []
    for talk in dialogues:
        turns = [(t.user, t.intent, t.context, t.skills, t.reply) for t in talk.turns]
        rows.append((talk.id, turns, talk.goal))
    text = json.dumps({"key": key, "dialogues": rows, "tasks": tasks})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # marked read-only: root could write there, and should not
        if not path.parent.stat().st_mode & 0o222:
            return False
        with whole(path) as part:
            part.write_bytes(gzip.compress(text.encode(), 3))
    except OSError:
        return False
    return True
