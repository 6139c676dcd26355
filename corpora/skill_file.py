"""`<name>.skills.json`: the skill pool next to the logs, and rules that could never hold.

A list of Skill records, or {id: record}.  What is wrong is refused with file, record and field,
before anything is trained.  A rule cannot hold if matching cannot see it (half a slot, nothing
visible), if the skill forbids what it demands, or if it names a slot that no turn of the logs has:
it would be dropped from every reply in silence."""
from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields as dataclass_fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from corpora.json_rows import Number, kind, parse_row, read_lines, string, strings
from data import DataError, Skill, Turn, base, sayable, slots
from text import WORD, clean, forbidding, has_stray_brace, is_matchable, nfc, normalise

FIELDS = [field.name for field in dataclass_fields(Skill)]
LISTS = ("examples", "must_say", "must_not_say", "needs", "otherwise")
DEMANDS = ("must_say", "otherwise")              # what a reply has to carry


def skills_path(path: Path) -> Path:
    """Where the skill pool of a file of logs stands: logs.jsonl -> logs.skills.json."""
    return path.with_name(path.name.removesuffix(".jsonl") + ".skills.json")


def read_skills(path: Path) -> dict[str, Skill]:
    """The pool from `<name>.skills.json`: a list of Skill records, or {id: record}."""
    text = "\n".join(line for _, line in read_lines(path))
    pool: dict[str, Skill] = {}
    for number, record in enumerate(_records(parse_row(text, str(path)), path), 1):
        at = f"{path}, record {number}"
        skill = skill_of(record, at)
        if skill.id in pool:
            raise DataError(
                f"{at}, field id: {skill.id!r} stands there already; give each skill its own id")
        _check_rules(skill, at)
        pool[skill.id] = skill
    return pool


def _records(value: Any, path: Path) -> list[Any]:
    records = value
    if isinstance(value, dict):
        records = []
        for number, (id, record) in enumerate(value.items(), 1):
            records.append(_named(id, record, f"{path}, record {number}"))
    if not isinstance(records, list) or not records:
        raise DataError(
            f"{path}: {kind(value)} without a record; "
            'write [{"id": "apologise", "description": ".."}, ..]')
    return records


def _named(id: str, record: Any, at: str) -> Any:
    """A record of {id: record} as one of a list; what is no object is refused later."""
    if not isinstance(record, dict):
        return record
    if record.get("id", id) != id:
        raise DataError(f"{at}, field id: {record['id']!r} under the name {id!r}; keep one of them")
    return {"id": id} | record


# ---------------------------------------------------------------- a record

def skill_of(record: Any, at: str) -> Skill:
    """A record as a Skill, its fields checked one by one."""
    if not isinstance(record, dict):
        raise DataError(f"{at}: {kind(record)} where an object is needed")
    _check_fields(record, at)
    lists = {}
    for name in LISTS:
        if record.get(name) is not None:
            found = strings(record[name], f"{at}, field {name}")
            lists[name] = tuple(nfc(text) for text in found)
    if "needs" in lists:
        lists["needs"] = tuple(clean(slot) for slot in lists["needs"])
    id = clean(string(record["id"], f"{at}, field id"))
    if not id:
        raise DataError(f"{at}, field id: blank; give the skill a name")
    description = record.get("description")
    if description is None:
        description = ""
    description = nfc(string(description, f"{at}, field description"))
    return Skill(id, description, task=_task(record.get("task"), at), **lists)


def _check_fields(record: Mapping[str, Any], at: str) -> None:
    unknown = set(record) - set(FIELDS)
    wrong = None
    if unknown:
        wrong = f"unknown field {min(unknown)!r}"
    elif not record.get("id"):
        wrong = "field id is missing"
    if wrong:
        raise DataError(f"{at}: {wrong}; fields are {', '.join(FIELDS)}")


def _task(value: Any, at: str) -> int | None:
    if value is None:
        return None
    # as it is spelled: 1.0 is no number of a task
    if isinstance(value, Number) and value in ("1", "2", "3"):
        return int(value)
    said = str(value) if isinstance(value, Number) else repr(value)
    raise DataError(f"{at}, field task: {said}; write 1, 2, 3 or null")


# ---------------------------------------------------------------- rules that cannot hold

def _check_rules(skill: Skill, at: str) -> None:
    """What can be seen of a skill alone."""
    for phrase in skill.must_not_say:
        if not is_matchable(phrase):
            raise DataError(
                f"{at}, field must_not_say: {phrase!r} cannot be matched; write something "
                "visible, and braces only as one whole slot like '{price_1}'")
    for name in DEMANDS:
        for phrase in getattr(skill, name):
            wrong = _wrong_with(phrase, skill)
            if wrong:
                raise DataError(f"{at}, field {name}: {phrase!r} {wrong}")
    for slot in skill.needs:
        if not WORD.fullmatch(slot) or base(slot) != slot or not sayable(slot):
            raise DataError(
                f"{at}, field needs: {slot!r} is no slot without its number; write \"price\" for "
                "{price_1} and {price_2}")
    if skill.otherwise and not skill.needs:
        raise DataError(
            f"{at}, field otherwise: takes the place of must_say where the facts have none of "
            "`needs`, which is empty; name the slots there, or write the sentence into must_say")


def _wrong_with(phrase: str, skill: Skill) -> str | None:
    """Why no reply with this skill could ever carry a phrase."""
    if not normalise(phrase):
        return "holds nothing visible; write the sentence, or remove it"
    if has_stray_brace(phrase):
        return "holds a brace that is no slot; write a whole slot like '{price_1}'"
    for slot in slots(phrase):
        if not sayable(slot):
            return f"names {{{slot}}}, which no reply may say; remove it"
    other = forbidding(phrase, skill.must_not_say)
    if other is not None:
        return f"is forbidden by must_not_say {other!r} of the same skill; change one of them"
    return None


def check_slots(pool: Mapping[str, Skill], turns: Sequence[Turn], path: Path) -> list[str]:
    """Refuses a must_say or otherwise with a slot that no turn has; returns what else to say.

    A pool may hold more than the logs use: where no turn is labelled with the skill, it is said.
    """
    everywhere: set[str] = set()
    # skill -> the slots of its turns
    beside: dict[str, set[str]] = {}
    for turn in turns:
        everywhere.update(turn.context)
        for skill in turn.skills or ():
            beside.setdefault(skill, set()).update(turn.context)
    notes = {}
    for number, skill in enumerate(pool.values(), 1):
        at = f"{path}, record {number}"
        known = beside.get(skill.id, everywhere)
        for field, slot in _named_slots(skill):
            if slot not in everywhere and skill.id in beside:
                raise DataError(
                    f"{at}, field {field}: {{{slot}}} stands in no context of the logs, so no "
                    f"reply could ever say it; {_advice(slot, everywhere)}")
            if slot not in known:
                notes[f"{at}, field {field}: {{{slot}}} stands in no context of its turns"] = None
        kinds = {base(name) for name in everywhere}
        for slot in skill.needs:
            if slot not in kinds:
                notes[f"{at}, field needs: {slot!r} stands in no context"] = None
    return list(notes)


def _named_slots(skill: Skill) -> Iterator[tuple[str, str]]:
    """(field, slot) of what a reply with this skill has to carry."""
    for field in DEMANDS:
        for phrase in getattr(skill, field):
            for slot in slots(phrase):
                yield field, slot


def _advice(slot: str, known: Collection[str]) -> str:
    near = get_close_matches(slot, sorted(known), n=1)
    if near:
        return f"write {{{near[0]}}}?"
    return "correct the name, or write the value into the contexts"
