"""People's own logs: one dialogue a line, checked field by field.

A line is a JSON object in UTF-8, in any language.  Only `turns` and `user` are required:

    id       a string or a whole number, a different one in each line; default: made from the words
    turns    a list of at least one turn
    goal     an object: what the customer wanted; accepted and not used
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
named by file, line and field.  Text is brought to NFC, numbers keep their spelling (json_rows.py),
and names lose blanks at their ends.  Copies of a dialogue stay in one split.
`<name>.skills.json` next to the logs may hold the skill pool (skill_file.py).
More about both files: docs/logs.md.
Try it:  python train.py --dataset logs.jsonl"""
from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

from corpora.dialogues import examples, horizon, split, turns_of, used_skills
from corpora.json_rows import Number, kind, parse_row, read_lines, string, strings
from corpora.skill_file import check_slots, read_skills, skills_path
from data import MAX_SKILLS, DataError, Dataset, Dialogue, Skill, Turn, delexicalise, sayable, slots
from text import WORD, candidate, clean, flat, has_stray_brace, nfc

DIALOGUE_FIELDS = {"id", "turns", "goal", "source"}
TURN_FIELDS = {"user", "intent", "emotion", "context", "skills", "reply"}
SHOWN = 3                                        # of many things of one kind, in a note


# ---------------------------------------------------------------- the dataset

def load_logs(path: str) -> Dataset:
    return load_jsonl(Path(path))


def load_jsonl(path: Path) -> Dataset:
    """A file of logs as a Dataset whose dialogues are replayed.

    The skills are those of `<name>.skills.json`, or else those that the logs use.  `split`
    says which dialogues train, tune and test.
    raises  DataError with the file, the line and the field of the first thing that is wrong
    """
    pool_path = skills_path(path)
    pool = read_skills(pool_path) if pool_path.exists() else None
    found = _read(path, pool)
    dialogues = found.dialogues
    if len(dialogues) < 3:
        raise DataError(
            f"{path}: {len(dialogues)} dialogue(s); at least 3 are needed, one each to train, to "
            "tune and to test; add lines")
    turns = turns_of(dialogues)
    used = used_skills(turns)
    dropped = []
    if pool is None:
        pool = {skill: Skill(skill) for skill in used}
    else:
        dropped = check_slots(pool, turns, pool_path)
    train, dev, test, copies = _without_leaks(dialogues)
    intents = _labels(turn.intent for turn in turns)
    emotions = _labels(turn.emotion for turn in turns)
    notes = _cannot_teach(path, turns, used) + copies + found.notes()
    for kind_of, names in (("skills", pool), ("intents", intents), ("emotions", emotions)):
        notes += _look_alike(kind_of, names)
    if dropped:
        notes.append(f"rules that are dropped: {_first(dropped)}")
    return Dataset(
        path.name.removesuffix(".jsonl"),
        _with_examples(pool, train),
        intents=intents,
        emotions=emotions,
        train=train,
        dev=dev,
        test=test,
        horizon=horizon(dialogues),
        note="; ".join(notes),
    )


@dataclass
class Found:
    """What a reading of the logs collects."""
    dialogues: list[Dialogue] = field(default_factory=list)
    ignored: set[str] = field(default_factory=set)
    # names as they are written, with blanks at an end
    blanks: set[str] = field(default_factory=set)
    # where a reply holds braces that no reply may say
    braces: list[str] = field(default_factory=list)

    def add(self, row: dict[str, Any], dialogue: Dialogue) -> None:
        self.dialogues.append(dialogue)
        self.ignored.update(row.keys() - DIALOGUE_FIELDS)
        for i, (raw, turn) in enumerate(zip(row["turns"], dialogue.turns)):
            self.ignored.update(raw.keys() - TURN_FIELDS)
            for name in (raw.get("intent"), raw.get("emotion"), *(raw.get("skills") or ())):
                if name and name != name.strip() and clean(name):
                    self.blanks.add(name)
            if turn.reply and ("{" in turn.reply or "}" in turn.reply):
                self._look_at_braces(turn, f"{dialogue.source}, field turns[{i}].reply")

    def _look_at_braces(self, turn: Turn, at: str) -> None:
        named = slots(turn.reply)
        is_known = turn.context.keys() >= set(named) and all(map(sayable, named))
        if not is_known or has_stray_brace(turn.reply):
            self.braces.append(f"{at}, {turn.reply!r:.60}")

    def notes(self) -> list[str]:
        notes = []
        if self.braces:
            notes.append(
                f"{len(self.braces)} replies hold braces that no reply may say, the first in "
                f"{self.braces[0]}: write the values into the context, or take the braces out")
        if self.blanks:
            shown = [repr(name) for name in sorted(self.blanks)]
            notes.append(f"names read without the blanks around them: {_first(shown)}")
        if self.ignored:
            notes.append(f"fields that are not used: {', '.join(sorted(self.ignored))}")
        return notes


def _read(path: Path, pool: Mapping[str, Skill] | None) -> Found:
    found = Found()
    ids = Ids()
    for number, line in read_lines(path):
        at = f"{path}, line {number}"
        row = parse_row(line, at)
        dialogue = ids.named(parse_dialogue(row, at))
        if pool is not None:
            _check_skills(dialogue, pool, skills_path(path))
        found.add(row, dialogue)
    return found


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


# ---------------------------------------------------------------- copies, and ids from the words

def content(dialogue: Dialogue) -> str:
    """What tells dialogues apart, whatever their ids: the words of both, as a hash.

    Case and spaces play no part, nor do labels.  Replies count with their slots, so two that differ
    in a value of B_t alone are copies: a language model learns the same from both.
    """
    words = []
    for turn in dialogue.turns:
        words += [flat(turn.user), flat(turn.reply or "")]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


class Ids:
    """Gives each dialogue an id of its own, and refuses one that was given twice.

    A dialogue without an id is named by its words, so that a line put on top moves no other.
    """

    def __init__(self):
        self.line_of: dict[str, str] = {}
        self.copies: Counter[str] = Counter()

    def named(self, dialogue: Dialogue) -> Dialogue:
        if not dialogue.id:
            dialogue = replace(dialogue, id=self._free(f"dialogue-{content(dialogue)[:12]}"))
        elif dialogue.id in self.line_of:
            raise DataError(
                f"{dialogue.source}, field id: {dialogue.id!r} stands in "
                f"{self.line_of[dialogue.id]} already; give each dialogue its own id")
        self.line_of[dialogue.id] = dialogue.source.rpartition(", ")[2]
        return dialogue

    def _free(self, id: str) -> str:
        """The id, or for copies id-2, id-3, ..."""
        self.copies[id] += 1
        number = self.copies[id]
        return id if number == 1 else f"{id}-{number}"


def _without_leaks(
    dialogues: Sequence[Dialogue],
) -> tuple[list[Dialogue], list[Dialogue], list[Dialogue], list[str]]:
    """(train, dev, test, notes): copies stand in one split, or a test would be known by heart."""
    key_of = {dialogue.id: content(dialogue) for dialogue in dialogues}
    different = len(set(key_of.values()))
    copies = len(dialogues) - different
    if different < 3:
        note = (
            f"only {different} of {len(dialogues)} dialogues are different, so copies of training "
            "dialogues are tested, and scores say nothing of new customers; add others")
        return *split(dialogues), [note]
    notes = []
    if copies:
        notes.append(
            f"{copies} of {len(dialogues)} dialogues are copies of others, word for word; copies "
            "stand in one split")
    return *split(dialogues, lambda dialogue: key_of[dialogue.id]), notes


# ---------------------------------------------------------------- what is said at the start

def _cannot_teach(path: Path, turns: Sequence[Turn], used: Sequence[str]) -> list[str]:
    """What these logs cannot teach."""
    notes = []
    if not used:
        notes.append(
            f"{path} labels no turn with skills, so the Expert cannot train: write "
            f'"skills": ["..."], at most {MAX_SKILLS} ids in the order the reply uses them, into '
            "each turn")
    if not any(turn.reply for turn in turns):
        notes.append(f"{path} holds no reply, so only the Expert trains")
    return notes


def _look_alike(kind_of: str, names: Iterable[str]) -> list[str]:
    """Names that differ in upper and lower case or inner blanks alone."""
    same: dict[str, list[str]] = {}
    for name in names:
        same.setdefault(flat(name), []).append(repr(name))
    pairs = [" and ".join(group) for group in same.values() if len(group) > 1]
    return [f"{kind_of} that look alike and are different ones: {_first(pairs)}"] if pairs else []


def _first(things: Sequence[str]) -> str:
    """The first few of many, and how many more there are."""
    more = len(things) - SHOWN
    return ", ".join(things[:SHOWN]) + (f", and {more} more" if more > 0 else "")


# ---------------------------------------------------------------- fields of a dialogue

def parse_dialogue(row: Any, at: str) -> Dialogue:
    """A line's value as a Dialogue; its id is "" if it has none (`Ids`)."""
    if not isinstance(row, dict):
        raise DataError(
            f"{at}: {kind(row)} where an object is needed; "
            'write {"id": "..", "turns": [..]}')
    _refuse_misspelt(row, DIALOGUE_FIELDS, at)
    rows = _turn_rows(row.get("turns"), f"{at}, field turns")
    goal = _goal(row.get("goal"), f"{at}, field goal")
    id = _id(row.get("id"), f"{at}, field id")
    turns = []
    for i, turn in enumerate(rows):
        turns.append(_turn(turn, f"{at}, field turns[{i}]"))
    return Dialogue(id, tuple(turns), goal, at)


def _refuse_misspelt(row: Mapping[str, Any], known: set[str], at: str) -> None:
    """A field with a blank at its end would be ignored, and nobody would see why."""
    for name in row.keys() - known:
        if clean(name) in known:
            raise DataError(f"{at}: field {name!r} has blanks around it; write {clean(name)!r}")


def _turn_rows(value: Any, at: str) -> list[Any]:
    if isinstance(value, list) and value:
        return value
    if value is None:
        wrong = "missing"
    elif value == []:
        wrong = "empty"
    else:
        wrong = f"{kind(value)}, not a list"
    raise DataError(f'{at}: {wrong}; write a list of at least one {{"user": "..", "reply": ".."}}')


def _goal(value: Any, at: str) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise DataError(f"{at}: {kind(value)}; write an object or null")
    return value


def _id(value: Any, at: str) -> str:
    """The id as it is spelled; "" if there is none."""
    if value is None:
        return ""
    if isinstance(value, Number) and value.lstrip("-").isdigit():
        return str(value)
    return clean(string(value, at))


# ---------------------------------------------------------------- fields of a turn

def _turn(turn: Any, at: str) -> Turn:
    if not isinstance(turn, dict):
        raise DataError(f'{at}: {kind(turn)}; write {{"user": "..", "reply": ".."}}')
    _refuse_misspelt(turn, TURN_FIELDS, at)
    user = nfc(string(turn.get("user"), f"{at}.user"))
    intent = _name_or_none(turn.get("intent"), f"{at}.intent")
    emotion = _name_or_none(turn.get("emotion"), f"{at}.emotion")
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
    return nfc(string(value, at)) or None


def _name_or_none(value: Any, at: str) -> str | None:
    """A label without blanks at its ends; None for null and for what is blank."""
    return clean(_text_or_none(value, at) or "") or None


def _context(value: Any, at: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(
            f'{at}: {kind(value)}; write an object of strings, {{"price": "30 euros"}}')
    context: dict[str, str] = {}
    for written, fact in value.items():
        name = nfc(written)
        if not WORD.fullmatch(name):
            raise DataError(
                f"{at}: {written!r} cannot be a slot; name it with letters, digits and _ alone")
        if name in context:
            raise DataError(f"{at}.{name}: stands there twice, in two spellings; keep one")
        # null: not known, as if it were not there
        if fact is not None:
            context[name] = _fact(fact, f"{at}.{name}")
    _check_fits(context, at)
    return context


def _check_fits(context: Mapping[str, str], at: str) -> None:
    """Refuses two words on one candidate, `fit_1` and `fit_01`."""
    names: dict[int | None, str] = {}
    for name in context:
        if name.startswith("fit_") and not sayable(name):
            other = names.setdefault(candidate(name), name)
            if other != name:
                raise DataError(f"{at}.{name}: {other} is of the same candidate; keep one")


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
    """A value of B_t as text: a number as it is spelled."""
    if isinstance(value, Number):
        return str(value)
    return nfc(string(value, at))


def _skills(value: Any, at: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    skills = tuple(clean(name) for name in strings(value, at))
    if len(skills) > MAX_SKILLS:
        wrong = f"{len(skills)} skills"
    elif len(set(skills)) < len(skills) or "" in skills:
        wrong = "an empty or repeated skill"
    else:
        return skills
    raise DataError(
        f"{at}: {wrong}; write at most {MAX_SKILLS} different skill ids, in the order the reply "
        "uses them")
