"""The logs that are labelled, and the output, which only grows.

Rows are appended in the order of the input and synced batch by batch.  After Ctrl-C,
`--max_requests` or kill -9 the same command goes on: it cuts a half-written line, passes over what
is there and appends the rest.  Labels that are there are never overwritten.  Logs are read line by
line, because they may be larger than memory."""
from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tqdm import tqdm

from corpora import jsonl
from corpora.json_rows import dump
from data import DataError, Dialogue, Skill
from hosted.labellers import KINDS, Found, Labeller, digest_of, label_turns, labelled, lacking
from infra.files import read_json, write_json
from infra.locks import EXCLUSIVE, locked
from infra.places import place_of

BATCH = 32                                       # dialogues that are labelled between two syncs


# ---------------------------------------------------------------- reading

class Line(NamedTuple):
    """A line of the logs, read as JSON and not checked."""
    at: str                                      # file and line, for messages
    number: int                                  # from 1
    raw: Any


class Row(NamedTuple):
    """A line, checked; its dialogue has slots in the replies."""
    raw: dict[str, Any]
    dialogue: Dialogue

    @property
    def name(self) -> str:
        """File, line and id, for messages."""
        return place_of(self.dialogue)


def read_raw(path: Path) -> Iterator[Line]:
    for number, text in jsonl.read_lines(path):
        at = f"{path}, line {number}"
        yield Line(at, number, jsonl.parse_row(text, at))


def checked(line: Line) -> Row:
    """Takes most of the time of the rule labeller: it puts slots into the replies."""
    return Row(line.raw, jsonl.parse_dialogue(line.raw, line.at))


def read_rows(path: Path) -> Iterator[Row]:
    """All rows, each with an id of its own."""
    ids = jsonl.Ids()
    for line in read_raw(path):
        row = checked(line)
        yield row._replace(dialogue=ids.named(row.dialogue))


class Labelled(NamedTuple):
    """A turn that has labels of its own."""
    rank: str                                    # a hash, by which the sample is chosen
    dialogue: str
    turn: int
    kinds: tuple[str, ...]


@dataclass
class Survey:
    """What a first reading finds, before anything is asked."""
    dialogues: int = 0
    intents: set[str] = field(default_factory=set)
    emotions: set[str] = field(default_factory=set)
    labelled: list[Labelled] = field(default_factory=list)


def survey(path: Path, limit: int | None, pool: Mapping[str, Skill]) -> Survey:
    """Reads everything once; DataError names the first line that could not be trained on."""
    found = Survey()
    for row in islice(read_rows(path), limit):
        found.dialogues += 1
        _survey_dialogue(row.dialogue, pool, found)
    return found


def _survey_dialogue(dialogue: Dialogue, pool: Mapping[str, Skill], found: Survey) -> None:
    for i, turn in enumerate(dialogue.turns):
        for skill in turn.skills or ():
            if skill not in pool:
                raise DataError(
                    f"{dialogue.source}, field turns[{i}].skills: {skill!r} is not in the skill "
                    "pool; add it there, or correct the log")
        found.intents |= {turn.intent} - {None}
        found.emotions |= {turn.emotion} - {None}
        kinds = labelled(turn, KINDS)
        if kinds:
            rank = digest_of([dialogue.id, i])
            found.labelled.append(Labelled(rank, dialogue.id, i, kinds))


# ---------------------------------------------------------------- the output

@dataclass(frozen=True)
class Output:
    """FILE.labelled.jsonl, with its skill pool and a note of what it was made of."""
    path: Path

    @property
    def meta(self) -> Path:
        return self.path.with_name(self.path.name.removesuffix(".jsonl") + ".meta.json")

    @property
    def skills(self) -> Path:
        return jsonl.skills_path(self.path)

    def begin(self, made_of: dict[str, str], pool: Mapping[str, Skill], file: BinaryIO) -> None:
        """The first run notes what the output is made of; later ones refuse anything else.

        file  the output, opened: no other process can be here
        """
        if self.meta.exists():
            self._refuse_others(made_of)
            _cut_half_line(file)
            return
        # the same: a process that was killed before it wrote its note
        records = json.loads(json.dumps([asdict(skill) for skill in pool.values()]))
        foreign = self.skills.exists() and read_json(self.skills) != records
        if foreign or file.tell():
            path = self.skills if foreign else self.path
            raise DataError(
                f"{path} exists and is not of this labelling (no {self.meta.name}); give "
                "another --output")
        write_json(self.skills, records)
        # last: without it nothing was begun
        write_json(self.meta, made_of)

    def _refuse_others(self, made_of: dict[str, str]) -> None:
        before = read_json(self.meta)
        if not isinstance(before, dict):
            before = {}
        differs = [part for part in made_of if before.get(part) != made_of[part]]
        if differs:
            raise DataError(
                f"{self.path} was begun with another {', '.join(differs)}; give another --output, "
                f"or remove it and {self.meta.name} to start again")

    def open(self) -> BinaryIO:
        """Opened to append, for this process alone, at its end; nothing in it is changed."""
        file = open(self.path, "a+b")
        # the lock ends with the process, however it ends
        if not locked(file, EXCLUSIVE):
            file.close()
            raise DataError(
                f"{self.path}: another process is labelling into it, or reads it; wait for it, or "
                "give another --output")
        file.seek(0, os.SEEK_END)
        return file

    @contextmanager
    def begun(self, made_of: dict[str, str], pool: Mapping[str, Skill]) -> Iterator[BinaryIO]:
        """The output, opened and begun; what is refused leaves no empty file behind."""
        new = not self.path.exists()
        with self.open() as file:
            try:
                self.begin(made_of, pool, file)
            except DataError:
                if new:
                    self.path.unlink()
                raise
            yield file


def _cut_half_line(file: BinaryIO) -> None:
    """Cuts a last line that kill -9 left half."""
    file.seek(0)
    whole = 0
    for line in file:
        if line.endswith(b"\n"):
            whole += len(line)
    file.truncate(whole)


def append(file: BinaryIO, rows: Iterable[dict[str, Any]]) -> None:
    """The rows are on the disk when it returns."""
    lines = [dump(row).encode() + b"\n" for row in rows]
    file.write(b"".join(lines))
    file.flush()
    os.fsync(file.fileno())


def labelled_row(row: Row, kinds: Sequence[str], labels: dict[int, Found]) -> dict[str, Any]:
    """The row as it came, its gaps filled; what nobody could label is null."""
    turns = []
    for i, (raw, turn) in enumerate(zip(row.raw["turns"], row.dialogue.turns)):
        found = labels.get(i, {})
        turns.append(raw | {k: found.get(k) for k in kinds if getattr(turn, k) is None})
    return row.raw | {"turns": turns}


def label_file(
    path: Path, out: Output, labeller: Labeller, total: int, file: BinaryIO
) -> None:
    """Appends what is missing; everything but the last batch survives any end of the process."""
    lines = islice(read_raw(path), total)
    with tqdm(total=total, desc=labeller.name, unit="dialogue") as bar:
        # The output comes first, so that zip takes no line from the logs after its end.
        for written, line in zip(read_raw(out.path), lines):
            if not _is_of(written, line):
                raise DataError(
                    f"{written.at}: not the dialogue of {line.at}; remove {out.path} and "
                    f"{out.meta.name} to start again")
            bar.update()
        for batch in _batches(lines):
            append(file, _label_batch(batch, labeller))
            bar.update(len(batch))


def _batches(lines: Iterator[Line]) -> Iterator[list[Row]]:
    while True:
        batch = [checked(line) for line in islice(lines, BATCH)]
        if not batch:
            return
        yield batch


def _label_batch(batch: Sequence[Row], labeller: Labeller) -> list[dict[str, Any]]:
    asked = []
    for row in batch:
        turns = row.dialogue.turns
        gaps = [i for i, turn in enumerate(turns) if lacking(turn, labeller.kinds)]
        asked.append((turns, gaps))
    labels = label_turns(labeller, asked, [row.name for row in batch])
    return [labelled_row(row, labeller.kinds, found) for row, found in zip(batch, labels)]


def _is_of(written: Line, line: Line) -> bool:
    """Whether a row of the output is that of a line: by the customer's words and, if any, the id.

    Older outputs give an id to a line that has none.
    """
    if _said(written) is None or _said(written) != _said(line):
        return False
    id = line.raw.get("id")
    return id is None or str(id) == str(written.raw.get("id"))


def _said(line: Line) -> list[Any] | None:
    """The customer's words; None: the line is no dialogue."""
    raw = line.raw
    if not isinstance(raw, dict) or not isinstance(raw.get("turns"), list):
        return None
    words = []
    for turn in raw["turns"]:
        said = turn.get("user") if isinstance(turn, dict) else None
        words.append(said)
    return words


# ---------------------------------------------------------------- what came of it

def coverage(path: Path, out: Output) -> dict[str, Counter]:
    """Per kind, how many turns had the label, got it, or still lack it."""
    counts = {kind: Counter() for kind in KINDS}
    for before, after in zip(read_raw(path), read_raw(out.path)):
        for old, new in zip(before.raw["turns"], after.raw["turns"]):
            for kind in KINDS:
                counts[kind][_state(old, new, kind)] += 1
    return counts


def _state(old: dict[str, Any], new: dict[str, Any], kind: str) -> str:
    """had, labelled, unlabelled, or no reply: there is nothing to read skills from."""
    if _holds(old, kind):
        return "had"
    if _holds(new, kind):
        return "labelled"
    if kind == "skills" and not _holds(old, "reply"):
        return "no reply"
    return "unlabelled"


def _holds(turn: dict[str, Any], kind: str) -> bool:
    return turn.get(kind) not in (None, "")
