"""The data every other file speaks: skills, turns, dialogues, datasets, and the environment a dialogue is played in.

Symbols of the paper (Sec. 3.2) and the field that carries each: U_t `user`, u_t `intent`, e_t `emotion`, B_t `context`,
T (the teacher's sequence) `skills`, the human reply `reply`.  Nothing here learns, and nothing here knows a dataset by its
content: `load("mgshop")` imports mgshop.py by name, `load("logs.jsonl")` reads your own logs.

A slot is a name in braces, `{price_1}`.  Replies are written with slots and filled from B_t when shown to a customer.
Several candidates may stand in B_t (`product_1`, `product_2`, ...); `fit_2 = "no"` says that candidate 2 contradicts what
the customer has said so far.  Everything that chooses or judges a candidate goes by that one convention.  `fit_i`, and names that
begin with an underscore, are for the agents to read and never for a reply to say (`sayable`)."""
from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, Protocol

import requests
from tqdm import tqdm

MAX_SKILLS = 5                                   # Sec. 3.3: predicted and teacher sequences are capped at 5
DATASETS = {"mgshop": "mgshop:load", "tmallbrand-a": "tmallbrand:load_a", "tmallbrand-b": "tmallbrand:load_b",
            "multiwoz": "multiwoz:load", "star": "star:load"}    # name -> module:function, (data_dir) -> Dataset
SLOT = re.compile(r"\{(\w+)\}")
SPACED = re.compile(r"[^\W\u3040-\u9fff]")      # a letter of a script that puts spaces between words
CJK = re.compile(r"[\u3040-\u9fff]")
FIELDS = {"id", "turns", "goal", "source", "user", "intent", "emotion", "context", "skills", "reply"}        # what load_jsonl reads


def opt(default: Any, help: str) -> Any:
    """A field of a config dataclass: one field = one flag = one help line."""
    return field(default=default, metadata={"help": help})


class DataError(ValueError):
    """Bad input of a user: the message names the file, the line and the field, and says what to do."""


@dataclass(frozen=True)
class Skill:
    """One entry of the skill pool P_skill (GAP-9: the paper does not publish its own)."""
    id: str
    description: str = ""
    examples: tuple[str, ...] = ()               # how a good reply words it, with slots
    must_say: tuple[str, ...] = ()               # disclaimers that the reply has to carry
    must_not_say: tuple[str, ...] = ()           # promises that the reply may not make
    needs: tuple[str, ...] = ()                  # slots of B_t it states, without the candidate's number: "price"
    task: int | None = None                      # which task of Eq. 11 it serves: 1 matching, 2 information, 3 guidance


@dataclass(frozen=True)
class Turn:
    """One exchange.  Any field but `user` may be None or empty in real logs."""
    user: str
    intent: str | None = None
    emotion: str | None = None
    context: dict[str, str] = field(default_factory=dict)
    skills: tuple[str, ...] | None = None        # None: nobody labelled this turn; (): labelled, and no skill was used
    reply: str | None = None


@dataclass(frozen=True)
class Dialogue:
    id: str
    turns: tuple[Turn, ...]
    goal: dict[str, Any] | None = None
    source: str = ""


@dataclass
class Observation:
    """What an environment shows before turn t.  Agents see `user` and `context`; `info` is for training labels and scores."""
    user: str
    context: dict[str, str]
    terminated: bool = False                     # the dialogue ended by itself: everything done, or the customer left
    truncated: bool = False                      # the horizon cut it: the value of the last state still counts
    history: tuple[tuple[str, str], ...] | None = None       # logs dictate what was said before; None = what was really said
    info: dict[str, Any] = field(default_factory=dict)


@dataclass
class Request:
    """s^A_t = (U_t, a^E_t, B_t).  An agent without an Expert (an ablation) is told H_t, u_t and e_t instead of skills."""
    user: str
    skills: tuple[str, ...] = ()
    context: dict[str, str] = field(default_factory=dict)
    history: tuple[tuple[str, str], ...] = ()
    intent: str | None = None
    emotion: str | None = None


@dataclass
class Reply:
    """a^A_t.  `text` has slots; the other fields are a language model's and empty for a phrase book.

    `ids` stand in the order they came about: drawn tokens, the end token last, then what the guard inserted (mask False), so the
    end token keeps the log-probability it was drawn with; `text` reads as it should, insertions before the end."""
    text: str
    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)          # of the drawn tokens, under masking and temperature
    bans: list[Any] = field(default_factory=list)            # per drawn token, what could not be drawn beyond the state's static bans
    dropped: tuple[str, ...] = ()                            # must_say that clashed


class Environment(Protocol):
    """One dialogue.  `info` may hold: intent, emotion, teacher (skill ids), reference (text), success, completed (N_1..N_3), mood."""
    def reset(self) -> Observation: ...
    def step(self, reply: str) -> Observation: ...


@dataclass
class Dataset:
    name: str
    skills: dict[str, Skill]                     # P_skill in a fixed order
    intents: tuple[str, ...]
    emotions: tuple[str, ...]
    train: list[Dialogue]
    dev: list[Dialogue]
    test: list[Dialogue]
    environment: Callable[..., Environment] | None = None    # (split, customer, seed) -> a simulated dialogue; None = replay the logs
    cross_check: Callable[..., Environment] | None = None    # the same customers with a second, separately written ear
    context: Callable[[list[str]], dict[str, str]] | None = None      # B_t from what a customer has said, for a live talk
    horizon: int = 12                            # T of Eq. 1 and Eq. 10: a constant of the dataset
    must_not_say: tuple[str, ...] = ()           # the shop's global SOP: never said, whatever the skills
    template: Callable[..., str] | None = None   # (skills, context, rng) -> reply by phrase book, if the dataset has one
    note: str = ""                               # said at start-up: what this data is and is not

    def play(self, split: str, number: int, seed: int = 0) -> Environment:
        """Dialogue `number` of a split: a simulated customer, or a logged dialogue replayed."""
        if self.environment is not None:
            return self.environment(split, number, seed)
        dialogues = getattr(self, split)
        return Replay(dialogues[number % len(dialogues)])


class Replay:
    """A logged dialogue as an environment: the next customer turn is the logged one, whatever was replied (GAP-4)."""

    def __init__(self, dialogue: Dialogue):
        self.dialogue, self.turn = dialogue, 0

    def reset(self) -> Observation:
        self.turn = 0
        return self._observe()

    def step(self, reply: str) -> Observation:
        self.turn += 1
        return self._observe()

    def _observe(self) -> Observation:
        if self.turn >= len(self.dialogue.turns):
            return Observation("", {}, terminated=True, info={"success": False, "completed": (None, None, None)})
        turn = self.dialogue.turns[self.turn]
        logged = tuple((t.user, t.reply or "") for t in self.dialogue.turns[:self.turn])
        return Observation(turn.user, turn.context, history=logged, info={
            "intent": turn.intent, "emotion": turn.emotion, "reference": turn.reply,
            "teacher": None if turn.skills is None else list(turn.skills)})


def fill(reply: str, context: dict[str, str]) -> str:
    """Puts the values of B_t into a reply's slots; a slot that B_t lacks stays as it is (the validator counts it).

    >>> fill("It costs {price_1}.", {"price_1": "30 euros"})
    'It costs 30 euros.'
    """
    return SLOT.sub(lambda m: context.get(m.group(1), m.group(0)), reply)


def slots(text: str) -> list[str]:
    """Names of the slots in a text, in order, repeats kept."""
    return SLOT.findall(text)


def sayable(slot: str) -> bool:
    """Whether a reply may carry this slot: `fit_i` and names that begin with an underscore are for reading only."""
    return not slot.startswith(("fit_", "_"))


def base(slot: str) -> str:
    """`price_2` -> `price`: a slot without the number of its candidate."""
    return re.sub(r"_\d+$", "", slot)


def best_candidate(context: dict[str, str]) -> str:
    """Number of the first candidate that contradicts nothing said so far; "1" if B_t marks none.

    >>> best_candidate({"fit_1": "no", "fit_2": "yes"})
    '2'
    """
    fits = sorted(k for k, v in context.items() if v == "yes" and k.startswith("fit_"))
    return fits[0][4:] if fits else "1"


def load(name: str, data_dir: str | Path = "data", conduct: bool = False, split: str | None = None) -> Dataset:
    """A dataset by name (`mgshop`, `tmallbrand-a`, `tmallbrand-b`, `multiwoz`, `star`) or by path (`logs.jsonl`).

    conduct  multiwoz: with EmoWOZ's labels (non-commercial)
    split    star: "dialogue" or "task", the latter with tasks in test that training never saw
    """
    if conduct and name != "multiwoz":
        raise DataError(f"--conduct adds EmoWOZ's labels to multiwoz; {name} has none")
    if split and name != "star":
        raise DataError(f"--split chooses how star is split; {name} has one split")
    if name in DATASETS:
        module, function = DATASETS[name].split(":")
        make = getattr(importlib.import_module(module), function)
        return make(Path(data_dir), **({"conduct": True} if conduct else {}), **({"split": split} if split else {}))
    if name.endswith(".jsonl"):
        return load_jsonl(Path(name))
    raise DataError(f"--dataset {name}: unknown; use one of {', '.join(DATASETS)}, or the path of your own logs ending in .jsonl")


def load_used(config: dict[str, Any], data_dir: str | Path | None = None) -> Dataset:
    """The dataset that a run was made with: `config` is "run" of its config.json."""
    return load(config["dataset"], data_dir or config["data_dir"], config.get("conduct", False), config.get("split"))


# ---------------------------------------------------------------- your own logs

def delexicalise(reply: str, context: dict[str, str], ignore_case: bool = False) -> str:
    """The inverse of `fill`: values of B_t that stand in a reply as whole words become slots, the longest first.

    Values shorter than 3 characters stay (a "2" is too often something else), and so does what stands in a slot already.
    Chinese and Japanese have no spaces, so there a value counts wherever it stands.

    >>> delexicalise("The red mug costs 12.50, shipping 2.", {"price_1": "12.50", "product_1": "red mug", "shipping_1": "2"})
    'The {product_1} costs {price_1}, shipping 2.'
    """
    flat = str.lower if ignore_case else str
    best = "_" + best_candidate(context)         # two candidates with one price: the slot of the one that fits
    pairs = [(v, k) for k, v in context.items() if len(v) >= 3 and flat(v) in flat(reply) and sayable(k)]
    pairs.sort(key=lambda p: (-len(p[0]), not p[1].endswith(best)))
    if not pairs:
        return reply
    slot_of = {flat(v): k for v, k in reversed(pairs)}               # reversed: the first of two equal values wins
    unspaced = CJK.search(reply) is not None                         # looked for first: such a pattern takes long to compile
    pattern = r"\{\w+\}|" + "|".join(_whole(v, unspaced) for v, _ in pairs)      # a slot matches first and is put back as it was
    return re.sub(pattern, lambda m: "{" + slot_of[flat(m[0])] + "}" if flat(m[0]) in slot_of else m[0], reply,
                  flags=re.IGNORECASE if ignore_case else 0)


def _whole(value: str, unspaced: bool) -> str:
    """Pattern of a value that is not part of a longer word; kana and Chinese characters bound no word."""
    before, after = (r"(?:(?<!\w)|(?<=(?-i:[\u3040-\u9fff])))", r"(?:(?!\w)|(?=(?-i:[\u3040-\u9fff])))") if unspaced else (r"(?<!\w)", r"(?!\w)")
    return (before if SPACED.match(value[0]) else "") + re.escape(value) + (after if SPACED.match(value[-1]) else "")


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


# ---------------------------------------------------------------- public data

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


if __name__ == "__main__":
    if sys.argv[1:2] == ["label"]:
        sys.exit(importlib.import_module("label").main(sys.argv[2:]))
    print("python data.py label FILE ...    labels logs that lack skills, intents or emotions (python data.py label --help)")
