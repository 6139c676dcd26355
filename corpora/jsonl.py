"""People's own logs: one dialogue a line, checked field by field; what is wrong is named by file, line and field.

Try it:  python train.py --dataset logs.jsonl        (docs/logs.md says what a line holds)"""
from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from pathlib import Path
from typing import Any

from data import MAX_SKILLS, DataError, Dataset, Dialogue, Skill, Turn, delexicalise

FIELDS = {"id", "turns", "goal", "source", "user", "intent", "emotion", "context", "skills", "reply"}        # what load_jsonl reads


def load_jsonl(path: Path) -> Dataset:
    """People's own logs, one Dialogue a line, any language (README).  Skills: `<name>.skills.json` beside it, or those used.

    Returns a replay Dataset split about 80/10/10 by a hash of the id: but in tiny files, a dialogue keeps its split when the file grows.
    Raises DataError with the file, the line and the field of the first thing that is wrong."""
    beside = path.with_name(path.name.removesuffix(".jsonl") + ".skills.json")
    pool = read_skills(beside) if beside.exists() else None
    dialogues, ids, fields = [], {}, set()
    for number, line in read_lines(path):
        at = f"{path}, line {number}"
        row = parse_row(line, at)
        dialogue = parse_dialogue(row, at, number)
        if dialogue.id in ids:
            raise DataError(f"{at}, field id: {dialogue.id!r} stands in line {ids[dialogue.id]} already; give each dialogue its own id")
        for i, skill in [(i, s) for i, t in enumerate(dialogue.turns) for s in t.skills or ()]:
            if pool is not None and skill not in pool:
                raise DataError(f"{at}, field turns[{i}].skills: {skill!r} is not in {beside}; add it there, or correct the log")
        ids[dialogue.id] = number
        fields.update(row, *row["turns"])
        dialogues.append(dialogue)
    if len(dialogues) < 3:
        raise DataError(f"{path}: {len(dialogues)} dialogue(s); at least 3 are needed, one each to train, to tune and to test; add lines")
    train, dev, test = split(dialogues)
    turns = [t for d in dialogues for t in d.turns]
    used = dict.fromkeys(s for t in turns for s in t.skills or ())   # dict: a set in order of first appearance
    skills = pool if pool is not None else {s: Skill(s) for s in used}
    skills = {s.id: s if s.examples else replace(s, examples=examples(s.id, train)) for s in skills.values()}
    return Dataset(path.name.removesuffix(".jsonl"), skills, _labels(t.intent for t in turns), _labels(t.emotion for t in turns),
                   train, dev, test, horizon=horizon(dialogues), note=_note(path, turns, used, fields - FIELDS))


def split(dialogues: list[Dialogue]) -> tuple[list[Dialogue], list[Dialogue], list[Dialogue]]:
    """(train, dev, test), about 80/10/10 by sha256 of the id, each at least one; needs three dialogues."""
    share = {d.id: int(hashlib.sha256(d.id.encode()).hexdigest()[:8], 16) / 2**32 for d in dialogues}    # in [0, 1)
    rank = {d: i for i, d in enumerate(sorted(share, key=lambda d: (share[d], d)))}
    n_test = min(max(1, sum(x < .1 for x in share.values())), len(dialogues) - 2)
    n_held = min(max(n_test + 1, sum(x < .2 for x in share.values())), len(dialogues) - 1)
    return ([d for d in dialogues if rank[d.id] >= n_held], [d for d in dialogues if n_test <= rank[d.id] < n_held],
            [d for d in dialogues if rank[d.id] < n_test])


def horizon(dialogues: Sequence[Dialogue]) -> int:
    """T of Eq. 1 for logs: the 90th percentile of the dialogues' lengths in turns, at least 2."""
    lengths = sorted(len(d.turns) for d in dialogues)
    return max(2, lengths[math.ceil(.9 * len(lengths)) - 1])


def examples(skill: str, train: Sequence[Dialogue], limit: int = 8) -> tuple[str, ...]:
    """Replies of the training split that used a skill: those that used it alone first, then the most frequent, in file order."""
    used = Counter((len(t.skills) > 1, t.reply) for d in train for t in d.turns if t.reply and skill in (t.skills or ()))
    ranked = sorted(used, key=lambda key: (key[0], -used[key]))      # stable
    return tuple(dict.fromkeys(reply for _, reply in ranked))[:limit]


def _labels(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({v for v in values if v is not None}))


def _note(path: Path, turns: list[Turn], used: Iterable[str], ignored: set[str]) -> str:
    notes = []
    if not used:
        notes.append(f'{path} labels no turn with skills, so the Expert cannot train: write "skills": ["..."], at most {MAX_SKILLS} ids in the '
                     "order the reply uses them, into each turn")
    if not any(t.reply for t in turns):
        notes.append(f"{path} holds no reply, so only the Expert trains")
    if ignored:
        notes.append(f"fields that are not used: {', '.join(sorted(ignored))}")
    return "; ".join(notes)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of the lines that are not blank."""
    if not path.is_file():
        raise DataError(f"--dataset {path}: no such file; give the path of your logs")
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            at = f"{path}, line {number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")       # -sig: Windows editors put a mark in front
            except UnicodeDecodeError as error:
                raise DataError(f"{at}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
            if "\0" in line:
                raise DataError(f"{at}: NUL byte; the file is damaged or not UTF-8: save it as UTF-8 again")
            if line.strip():
                yield number, line


def parse_row(text: str, at: str) -> Any:
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")
    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{at}: not valid JSON ({error}); write one object a line and quote with \"") from None


def parse_dialogue(row: Any, at: str, number: int) -> Dialogue:
    if not isinstance(row, dict):
        raise DataError(f'{at}: {_kind(row)} where an object is needed; write {{"id": "..", "turns": [..]}}')
    turns = row.get("turns")
    if not isinstance(turns, list) or not turns:
        wrong = "missing" if turns is None else "empty" if turns == [] else f"{_kind(turns)}, not a list"
        raise DataError(f'{at}, field turns: {wrong}; write a list of at least one {{"user": "..", "reply": ".."}}')
    id = row.get("id", f"line-{number}")
    if not isinstance(row.get("goal"), (dict, type(None))):
        raise DataError(f"{at}, field goal: {_kind(row['goal'])}; write an object or null")
    id = str(id) if type(id) is int else _string(id, f"{at}, field id")
    return Dialogue(id, tuple(_turn(t, f"{at}, field turns[{i}]") for i, t in enumerate(turns)), row.get("goal"), at)


def _turn(turn: Any, at: str) -> Turn:
    if not isinstance(turn, dict):
        raise DataError(f'{at}: {_kind(turn)}; write {{"user": "..", "reply": ".."}}')
    user = _string(turn.get("user"), f"{at}.user")
    intent, emotion, reply = (None if turn.get(k) is None else _string(turn[k], f"{at}.{k}") for k in ("intent", "emotion", "reply"))
    context = _context(turn.get("context"), f"{at}.context")
    skills = None if turn.get("skills") is None else _strings(turn["skills"], f"{at}.skills")
    if skills and (len(skills) > MAX_SKILLS or len(set(skills)) < len(skills) or "" in skills):
        wrong = f"{len(skills)} skills" if len(skills) > MAX_SKILLS else "an empty or repeated skill"
        raise DataError(f"{at}.skills: {wrong}; write at most {MAX_SKILLS} different skill ids, in the order the reply uses them")
    return Turn(user, intent or None, emotion or None, context, skills, delexicalise(reply, context) if reply else None)


def _context(value: Any, at: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f'{at}: {_kind(value)}; write an object of strings, {{"price": "30 euros"}}')
    context = {}
    for key, v in value.items():
        if not re.fullmatch(r"\w+", key):
            raise DataError(f"{at}: {key!r} cannot be a slot; name it with letters, digits and _ alone")
        if v is not None:                        # null: not known, as if it were not there
            context[key] = str(v) if type(v) in (int, float) else _string(v, f"{at}.{key}")
    return context


def _string(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{at}: {_kind(value)} where a string is needed; write it in quotes")
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise DataError(f"{at}: holds a NUL or half of a character; remove it")
    return value


def _strings(value: Any, at: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise DataError(f'{at}: {_kind(value)} where a list of strings is needed; write ["..", ".."]')
    return tuple(_string(v, at) for v in value)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "missing or null"}
    return names.get(type(value), "a number")


def read_skills(path: Path) -> dict[str, Skill]:
    """The pool from `<name>.skills.json`: a list of Skill records, or {id: record}."""
    value = parse_row("\n".join(line for _, line in read_lines(path)), str(path))
    records = [{"id": k} | v if isinstance(v, dict) else v for k, v in value.items()] if isinstance(value, dict) else value
    if not isinstance(records, list) or not records:
        raise DataError(f'{path}: {_kind(value)} without a record; write [{{"id": "apologise", "description": ".."}}, ..]')
    pool = {}
    for i, record in enumerate(records):
        at = f"{path}, record {i + 1}"
        if not isinstance(record, dict):
            raise DataError(f"{at}: {_kind(record)} where an object is needed")
        unknown = set(record) - {f.name for f in dataclass_fields(Skill)}
        if unknown or not record.get("id"):
            wrong = f"unknown field {min(unknown)!r}" if unknown else "field id is missing"
            raise DataError(f"{at}: {wrong}; fields are {', '.join(f.name for f in dataclass_fields(Skill))}")
        if record.get("task") not in (None, 1, 2, 3) or type(record.get("task")) in (bool, float):
            raise DataError(f"{at}, field task: {record['task']!r}; write 1, 2, 3 or null")
        lists = {k: _strings(record[k], f"{at}, field {k}") for k in ("examples", "must_say", "must_not_say", "needs") if record.get(k) is not None}
        skill = Skill(_string(record["id"], f"{at}, field id"), _string(record.get("description") or "", f"{at}, field description"),
                      task=record.get("task"), **lists)
        if skill.id in pool:
            raise DataError(f"{at}, field id: {skill.id!r} stands there already; give each skill its own id")
        pool[skill.id] = skill
    return pool
