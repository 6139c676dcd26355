"""People's own logs: one dialogue a line, checked field by field.

A line is a JSON object in UTF-8, in any language.  Only `turns` and `user` are required:

    id       a string or a whole number, a different one in each line; default "line-<number>"
    turns    a list of at least one turn
    goal     an object: what the customer wanted
    source   where the dialogue comes from; accepted and not used

A turn is what the customer wrote and what the agent replied:

    user     U_t, what the customer wrote
    intent   u_t, a label of that message; null or "": nobody labelled it
    emotion  e_t, in the same way
    context  B_t, the facts that the agent had, {name: string or number}; null: not known
    skills   T, what the reply does: at most five different ids, in the order of the reply;
             null: nobody labelled the turn, []: labelled, and no skill was used
    reply    what the agent wrote; values of B_t in it become slots

Other fields are ignored, and the dataset's note names them.  The first thing that is wrong is
named by file, line and field.  `<name>.skills.json` next to the logs may hold the skill pool.
More about both files: docs/logs.md.
Try it:  python train.py --dataset logs.jsonl"""
from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from corpora.dialogues import examples, horizon, split, turns_of, used_skills
from data import MAX_SKILLS, DataError, Dataset, Dialogue, Skill, Turn, delexicalise

DIALOGUE_FIELDS = {"id", "turns", "goal", "source"}
TURN_FIELDS = {"user", "intent", "emotion", "context", "skills", "reply"}
SKILL_FIELDS = [field.name for field in dataclass_fields(Skill)]


# ---------------------------------------------------------------- the dataset

def load_jsonl(path: Path) -> Dataset:
    """A file of logs as a Dataset whose dialogues are replayed.

    The skills are those of `<name>.skills.json`, or else those that the logs use.  `split`
    says which dialogues train, tune and test.
    raises  DataError with the file, the line and the field of the first thing that is wrong
    """
    pool_path = skills_path(path)
    pool = read_skills(pool_path) if pool_path.exists() else None
    dialogues, names = _read(path, pool)
    if len(dialogues) < 3:
        raise DataError(
            f"{path}: {len(dialogues)} dialogue(s); at least 3 are needed, one each to train, to "
            "tune and to test; add lines")
    train, dev, test = split(dialogues)
    turns = turns_of(dialogues)
    used = used_skills(turns)
    if pool is None:
        pool = {skill: Skill(skill) for skill in used}
    intents = _labels(turn.intent for turn in turns)
    emotions = _labels(turn.emotion for turn in turns)
    return Dataset(
        path.name.removesuffix(".jsonl"),
        _with_examples(pool, train),
        intents=intents,
        emotions=emotions,
        train=train,
        dev=dev,
        test=test,
        horizon=horizon(dialogues),
        note=_note(path, turns, used, names - DIALOGUE_FIELDS - TURN_FIELDS),
    )


def skills_path(path: Path) -> Path:
    """Where the skill pool of a file of logs stands: logs.jsonl -> logs.skills.json."""
    return path.with_name(path.name.removesuffix(".jsonl") + ".skills.json")


def _read(path: Path, pool: Mapping[str, Skill] | None) -> tuple[list[Dialogue], set[str]]:
    """(dialogues, names of all fields that occur)."""
    dialogues: list[Dialogue] = []
    line_of: dict[str, int] = {}
    names: set[str] = set()
    for number, line in read_lines(path):
        at = f"{path}, line {number}"
        row = parse_row(line, at)
        dialogue = parse_dialogue(row, at, number)
        if dialogue.id in line_of:
            raise DataError(
                f"{at}, field id: {dialogue.id!r} stands in line {line_of[dialogue.id]} already; "
                "give each dialogue its own id")
        if pool is not None:
            _check_skills(dialogue, pool, skills_path(path))
        line_of[dialogue.id] = number
        names.update(row, *row["turns"])
        dialogues.append(dialogue)
    return dialogues, names


def _check_skills(dialogue: Dialogue, pool: Mapping[str, Skill], pool_path: Path) -> None:
    for i, turn in enumerate(dialogue.turns):
        for skill in turn.skills or ():
            if skill not in pool:
                raise DataError(
                    f"{dialogue.source}, field turns[{i}].skills: {skill!r} is not in "
                    f"{pool_path}; add it there, or correct the log")


def _with_examples(pool: Mapping[str, Skill], train: Sequence[Dialogue]) -> dict[str, Skill]:
    """The pool; a skill without examples takes its own from the training replies."""
    skills = {}
    for skill in pool.values():
        if not skill.examples:
            skill = replace(skill, examples=examples(skill.id, train))
        skills[skill.id] = skill
    return skills


def _labels(values: Iterable[str | None]) -> tuple[str, ...]:
    known = {value for value in values if value is not None}
    return tuple(sorted(known))


def _note(path: Path, turns: Sequence[Turn], used: Sequence[str], ignored: set[str]) -> str:
    """What these logs cannot teach, printed at the start of a run."""
    notes = []
    if not used:
        notes.append(
            f"{path} labels no turn with skills, so the Expert cannot train: write "
            f'"skills": ["..."], at most {MAX_SKILLS} ids in the order the reply uses them, into '
            "each turn")
    if not any(turn.reply for turn in turns):
        notes.append(f"{path} holds no reply, so only the Expert trains")
    if ignored:
        notes.append(f"fields that are not used: {', '.join(sorted(ignored))}")
    return "; ".join(notes)


# ---------------------------------------------------------------- lines and rows

def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of the lines that are not blank."""
    if not path.is_file():
        raise DataError(f"--dataset {path}: no such file; give the path of your logs")
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = _decoded(raw, number, f"{path}, line {number}")
            if line.strip():
                yield number, line


def _decoded(raw: bytes, number: int, at: str) -> str:
    # -sig: Windows editors put a mark in front of the first line
    encoding = "utf-8-sig" if number == 1 else "utf-8"
    try:
        line = raw.decode(encoding)
    except UnicodeDecodeError as error:
        wrong = f"byte {error.start + 1} is not UTF-8"
        raise DataError(f"{at}: {wrong}; save the file as UTF-8") from None
    if "\0" in line:
        raise DataError(
            f"{at}: NUL byte; the file is damaged or not UTF-8: save it as UTF-8 again")
    return line


def parse_row(text: str, at: str) -> Any:
    """The JSON value of a line; `at` names the line in the error message."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        advice = 'write one object a line and quote with "'
        raise DataError(f"{at}: not valid JSON ({error}); {advice}") from None


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def parse_dialogue(row: Any, at: str, number: int) -> Dialogue:
    """A line's value as a Dialogue; `number` of the line makes an id where there is none."""
    if not isinstance(row, dict):
        raise DataError(
            f"{at}: {_kind(row)} where an object is needed; "
            'write {"id": "..", "turns": [..]}')
    rows = _turn_rows(row.get("turns"), f"{at}, field turns")
    goal = _goal(row.get("goal"), f"{at}, field goal")
    id = _id(row.get("id", f"line-{number}"), f"{at}, field id")
    turns = []
    for i, turn in enumerate(rows):
        turns.append(_turn(turn, f"{at}, field turns[{i}]"))
    return Dialogue(id, tuple(turns), goal, at)


# ---------------------------------------------------------------- fields of a dialogue

def _turn_rows(value: Any, at: str) -> list[Any]:
    if isinstance(value, list) and value:
        return value
    if value is None:
        wrong = "missing"
    elif value == []:
        wrong = "empty"
    else:
        wrong = f"{_kind(value)}, not a list"
    raise DataError(f'{at}: {wrong}; write a list of at least one {{"user": "..", "reply": ".."}}')


def _goal(value: Any, at: str) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise DataError(f"{at}: {_kind(value)}; write an object or null")
    return value


def _id(value: Any, at: str) -> str:
    # type(), because True is an int as well
    if type(value) is int:
        return str(value)
    return _string(value, at)


# ---------------------------------------------------------------- fields of a turn

def _turn(turn: Any, at: str) -> Turn:
    if not isinstance(turn, dict):
        raise DataError(f'{at}: {_kind(turn)}; write {{"user": "..", "reply": ".."}}')
    user = _string(turn.get("user"), f"{at}.user")
    intent = _text_or_none(turn.get("intent"), f"{at}.intent")
    emotion = _text_or_none(turn.get("emotion"), f"{at}.emotion")
    reply = _text_or_none(turn.get("reply"), f"{at}.reply")
    context = _context(turn.get("context"), f"{at}.context")
    skills = _skills(turn.get("skills"), f"{at}.skills")
    if reply is not None:
        reply = delexicalise(reply, context)
    return Turn(user, intent, emotion, context, skills, reply)


def _text_or_none(value: Any, at: str) -> str | None:
    """A string; None for null and for the empty string."""
    if value is None:
        return None
    return _string(value, at) or None


def _context(value: Any, at: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(
            f'{at}: {_kind(value)}; write an object of strings, {{"price": "30 euros"}}')
    context = {}
    for name, fact in value.items():
        if not re.fullmatch(r"\w+", name):
            raise DataError(
                f"{at}: {name!r} cannot be a slot; name it with letters, digits and _ alone")
        # null: not known, as if it were not there
        if fact is not None:
            context[name] = _fact(fact, f"{at}.{name}")
    return context


def facts_of(value: Any, at: str) -> dict[str, str]:
    """B_t given in code, by the rules of logs; `at` names it in messages."""
    if not isinstance(value, Mapping):
        return _context(value, at)
    facts = {}
    for name, fact in value.items():
        if not isinstance(name, str):
            raise DataError(f"{at}: {name!r} cannot be a slot; name it with a string")
        if isinstance(fact, float) and not isfinite(fact):
            raise DataError(f"{at}.{name}: {fact} is no number that a reply could say")
        # type(), because True is an int as well
        facts[name] = str(fact) if type(fact) in (int, float) else fact
    return _context(facts, at)


def _fact(value: Any, at: str) -> str:
    # type(), because True is an int as well
    if type(value) in (int, float):
        return str(value)
    return _string(value, at)


def _skills(value: Any, at: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    skills = _strings(value, at)
    if len(skills) > MAX_SKILLS:
        wrong = f"{len(skills)} skills"
    elif len(set(skills)) < len(skills) or "" in skills:
        wrong = "an empty or repeated skill"
    else:
        return skills
    raise DataError(
        f"{at}: {wrong}; write at most {MAX_SKILLS} different skill ids, in the order the reply "
        "uses them")


# ---------------------------------------------------------------- values

def _string(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{at}: {_kind(value)} where a string is needed; write it in quotes")
    # a surrogate is half of a character
    if re.search("[\0\ud800-\udfff]", value):
        raise DataError(f"{at}: holds a NUL or half of a character; remove it")
    return value


def _strings(value: Any, at: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise DataError(
            f'{at}: {_kind(value)} where a list of strings is needed; write ["..", ".."]')
    return tuple(_string(item, at) for item in value)


def _kind(value: Any) -> str:
    """What a JSON value is, in words.

    >>> _kind({}), _kind(None), _kind(.5)
    ('an object', 'missing or null', 'a number')
    """
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "true or false",
        type(None): "missing or null",
    }
    return names.get(type(value), "a number")


# ---------------------------------------------------------------- the skill pool

def read_skills(path: Path) -> dict[str, Skill]:
    """The pool from `<name>.skills.json`: a list of Skill records, or {id: record}."""
    text = "\n".join(line for _, line in read_lines(path))
    records = _records(parse_row(text, str(path)), path)
    pool: dict[str, Skill] = {}
    for number, record in enumerate(records, 1):
        at = f"{path}, record {number}"
        skill = _skill(record, at)
        if skill.id in pool:
            raise DataError(
                f"{at}, field id: {skill.id!r} stands there already; give each skill its own id")
        pool[skill.id] = skill
    return pool


def _records(value: Any, path: Path) -> list[Any]:
    records = value
    if isinstance(value, dict):
        records = [_named(id, record) for id, record in value.items()]
    if not isinstance(records, list) or not records:
        raise DataError(
            f"{path}: {_kind(value)} without a record; "
            'write [{"id": "apologise", "description": ".."}, ..]')
    return records


def _named(id: str, record: Any) -> Any:
    """A record of {id: record} as one of a list; what is no object is refused later."""
    if not isinstance(record, dict):
        return record
    return {"id": id} | record


def _skill(record: Any, at: str) -> Skill:
    if not isinstance(record, dict):
        raise DataError(f"{at}: {_kind(record)} where an object is needed")
    _check_fields(record, at)
    lists = {}
    for name in ("examples", "must_say", "must_not_say", "needs", "otherwise"):
        if record.get(name) is not None:
            lists[name] = _strings(record[name], f"{at}, field {name}")
    id = _string(record["id"], f"{at}, field id")
    description = _string(record.get("description") or "", f"{at}, field description")
    return Skill(id, description, task=record.get("task"), **lists)


def _check_fields(record: Mapping[str, Any], at: str) -> None:
    unknown = set(record) - set(SKILL_FIELDS)
    wrong = None
    if unknown:
        wrong = f"unknown field {min(unknown)!r}"
    elif not record.get("id"):
        wrong = "field id is missing"
    if wrong:
        raise DataError(f"{at}: {wrong}; fields are {', '.join(SKILL_FIELDS)}")
    task = record.get("task")
    # True == 1 and 1.0 == 1, but neither is a number of a task
    if task not in (None, 1, 2, 3) or type(task) in (bool, float):
        raise DataError(f"{at}, field task: {task!r}; write 1, 2, 3 or null")
