"""Labels for logs that lack them: skill sequences, intents, emotions (the paper's offline teacher, Sec. 3.3).

    python data.py label logs.jsonl --skills mgshop --api_base http://localhost:8000/v1 --model Qwen/Qwen3-8B
    python data.py label logs.jsonl --skills pool.skills.json          without a server: the rule labeller

A hosted model reads a few turns a request and answers with one JSON object; each label is checked on its own, so a bad one leaves that
turn null, not the dialogue lost.  Without a server a *rule labeller* (must_say phrases and word overlap with the pool's examples; no LLM) fills
in skills alone.  Labels that are there are never overwritten; a sample of them is asked for all the same, to report agreement.
Rows are appended in input order and synced batch by batch: after Ctrl-C, `--max_requests` or kill -9 the same command goes on.
What is labelled is data, quoted as for the judge (judge.py).
Exercise: label data.load("mgshop").test with `--model rules`, its skills removed, and train on the result: what does the Expert lose?"""
from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tqdm import tqdm

import data
from corpora import jsonl
from data import MAX_SKILLS, DataError, Dialogue, Skill, Turn, fill, opt
from hosted.agents import skill_sequence
from hosted.judge import DATA_RULE, quoted
from infra.answers import Answer, parse_json
from infra.client import ApiConfig, BudgetSpent, Client
from infra.files import read_json, write_json
from judge import RuleJudge
from rewards import esndcg
from tse import skill_f1

KINDS = ("skills", "intent", "emotion")
EMOTIONS = ("neutral", "happy", "angry", "anxious", "disappointed")           # asked for if nobody names a set [ours: the paper names none, GAP-9]
WINDOW, BEFORE, LENGTH, BATCH = 8, 4, 2000, 32   # turns a request labels, turns shown before them, characters of a text, dialogues per sync
MAX_TOKENS = 128 + 96 * WINDOW
Labels = dict[str, Any]                          # kind -> value, only those that are known


@dataclass(frozen=True)
class LabelConfig:
    """What is labelled, with what."""
    model: str = opt("rules", "the model's name at --api_base; rules: the rule labeller, skills only, no server")
    skills: str | None = opt(None, "skill pool: a .skills.json, or a dataset (mgshop, multiwoz, ..) whose intents and emotions are used too; "
                                   "default FILE's own .skills.json")
    intents: str | None = opt(None, "intents to choose from, a,b,c; default the dataset's of --skills, or those seen in FILE; with none, intents are not "
                                    "asked for")
    emotions: str | None = opt(None, f"emotions to choose from, a,b,c; default the dataset's, or those seen in FILE, or {','.join(EMOTIONS)}")
    output: str | None = opt(None, "where to write, ending in .jsonl; default FILE with .labelled.jsonl for .jsonl")
    check: int = opt(100, "turns that had labels, asked for as well to report agreement; 0 = none")
    limit: int | None = opt(None, "only the first N dialogues; a later, larger N goes on")
    data_dir: str = opt(os.environ.get("GOPO_DATA", "data"), "where corpora are stored; default data, or the environment's GOPO_DATA")

    def __post_init__(self):
        if self.check < 0 or (self.limit is not None and self.limit < 1):
            raise ValueError(f"--check must be >= 0 and --limit >= 1, got {self.check}, {self.limit}")


@dataclass(frozen=True)
class Choices:
    """What a labeller may choose from."""
    pool: Mapping[str, Skill]
    intents: tuple[str, ...] = ()
    emotions: tuple[str, ...] = ()


class Window(NamedTuple):
    """Some turns of a dialogue, and which of them (from 0) are to be labelled."""
    turns: tuple[Turn, ...]
    first: int
    wanted: tuple[int, ...]


# --- labellers --------------------------------------------------------------------------------------------------------------------

class RuleLabeller:
    """Skills by must_say phrases and examples; a reply that shows none stays unlabelled, for rules cannot tell silence from ignorance."""
    name, kinds = "rule labeller (must_say and examples; not an LLM)", ("skills",)

    def __init__(self, choices: Choices):
        pool = choices.pool
        said = Counter(_flat(p) for s in pool.values() for p in s.must_say)
        self.phrases = {_flat(p): s.id for s in pool.values() for p in s.must_say if said[_flat(p)] == 1}        # one that two skills share marks neither
        self.rules, self.signature = RuleJudge(dict(pool)), ""
        if not self.phrases and not any(s.examples for s in pool.values()):
            raise DataError("--model rules: no skill of the pool has examples or must_say, so rules have nothing to go by; add them, or give --api_base "
                            "and --model")

    def label(self, windows: Sequence[Window]) -> list[dict[int, Labels]]:
        return [{i: {"skills": found} for i in w.wanted if (found := self.sequence(w.turns[i].reply or ""))} for w in windows]

    def sequence(self, reply: str) -> tuple[str, ...]:
        """The skills of a reply (with slots) in the order of the text, each once, at most five."""
        text = " ".join(reply.split())
        marks = [(text.lower().find(phrase), skill) for phrase, skill in self.phrases.items() if phrase in text.lower()]
        marks += [(m.start(), act) for m in re.finditer(r"[^.!?]+[.!?]*", text) for act in self.rules.acts(m[0])]
        return tuple(dict.fromkeys(skill for _, skill in sorted((m for m in marks if m[1]), key=lambda m: m[0])))[:MAX_SKILLS]


def _flat(text: str) -> str:
    return " ".join(text.lower().split())


class HostedLabeller:
    """All labels by a hosted model.  An answer that no label can be taken from is asked for again by the client, then given up."""

    def __init__(self, client: Client, choices: Choices):
        self.client, self.choices, self.name = client, choices, f"LLM {client.model}"
        self.kinds = tuple(k for k, known in zip(KINDS, (choices.pool, choices.intents, choices.emotions)) if known)
        self.system = self._instructions()
        self.signature = _digest(self.system)

    def _instructions(self) -> str:
        shown = lambda s: f"- {s.id}: {s.description}" + "".join(f"  e.g. {json.dumps(e, ensure_ascii=False)}" for e in s.examples[:2])
        sets = {"intent": self.choices.intents, "emotion": self.choices.emotions}
        row = json.dumps({"turn": 1, "skills": ["<id>", "..."]} | {k: f"<{k}>" for k in self.kinds[1:]})
        return "\n".join([
            "You label customer service logs.", DATA_RULE.format(task="label"),
            f"skills: what the agent's reply does, as ids of the pool, in the order of the text, each once, at most {MAX_SKILLS}; [] if it does none of "
            "them, or if the turn has no agent. A name in braces stands for a fact.", "Pool:", *map(shown, self.choices.pool.values()),
            *(f"{k}: of the customer's message of that turn, exactly one of: {', '.join(sets[k])}" for k in self.kinds[1:]),
            f"Answer with one JSON object and nothing else, a row for each turn you are asked for:\n{{\"turns\": [{row}, ...]}}"])

    def label(self, windows: Sequence[Window]) -> list[dict[int, Labels]]:
        answers = self.client.ask([self.prompt(w) for w in windows], self.read, max_tokens=MAX_TOKENS, temperature=0.0)
        return [{} if a is None else {i: _possible(a.get(i + 1, {}), w.turns[i]) for i in w.wanted} for w, a in zip(windows, answers)]

    def prompt(self, w: Window) -> list[dict[str, str]]:
        before = [_shown(t) for t in w.turns[max(0, w.first - BEFORE):w.first]]
        turns = [{"turn": i + 1} | _shown(t) for i, t in enumerate(w.turns[w.first:w.first + WINDOW], w.first)]
        asked = f"The data ends here. Label turn {', '.join(str(i + 1) for i in w.wanted)}: the JSON object alone."
        return [{"role": "system", "content": self.system}, {"role": "user", "content": f"{quoted({'before': before, 'turns': turns})}\n{asked}"}]

    def read(self, answer: Answer) -> dict[int, Labels]:
        """Turn number (from 1) -> its valid labels; a turn that stands there twice has none.  ValueError if no label is valid."""
        rows = parse_json(answer.text, {"turns": _rows_of_answer})["turns"]
        times = Counter(r["turn"] for r in rows)
        labels = {r["turn"]: self._valid(r) for r in rows if times[r["turn"]] == 1}
        if not any(labels.values()):
            raise ValueError("no turn has a valid label")
        return labels

    def _valid(self, row: dict[str, Any]) -> Labels:
        """The labels of a row that can be believed; a row with other fields than asked for has none."""
        labels: Labels = {}
        if set(row) != {"turn", *self.kinds}:
            return labels
        for kind, known in (("intent", self.choices.intents), ("emotion", self.choices.emotions)):
            if kind in self.kinds and isinstance(row[kind], str) and row[kind] in known:
                labels[kind] = row[kind]
        try:
            labels["skills"] = skill_sequence(row["skills"], self.choices.pool)
        except ValueError:
            pass                                                     # this label alone is missing: the turn keeps the others
        return labels


def _rows_of_answer(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(r, dict) and type(r.get("turn")) is int for r in value):
        raise ValueError("turns is no list of objects, each with the number of its turn")
    return value


def _possible(labels: Labels, turn: Turn) -> Labels:
    """Without a reply there is nothing to read skills from."""
    return labels if turn.reply else {k: v for k, v in labels.items() if k != "skills"}


def _shown(turn: Turn) -> dict[str, str]:
    reply = {"agent": fill(turn.reply, turn.context)[:LENGTH]} if turn.reply else {}
    return {"customer": turn.user[:LENGTH]} | reply


def windows(turns: tuple[Turn, ...], wanted: Iterable[int]) -> list[Window]:
    """The requests that label these turns: up to WINDOW neighbours at once.

    >>> [w.wanted for w in windows((Turn("hi"),) * 10, [1, 2, 9])]
    [(1, 2), (9,)]
    """
    wanted = sorted(wanted)
    cut = [(first, tuple(i for i in wanted if first <= i < first + WINDOW)) for first in range(0, len(turns), WINDOW)]
    return [Window(turns, first, some) for first, some in cut if some]


def label_turns(labeller: Any, asked: Sequence[tuple[tuple[Turn, ...], Iterable[int]]]) -> list[dict[int, Labels]]:
    """Labels of some turns of several dialogues, all requests at once."""
    cut = [windows(turns, wanted) for turns, wanted in asked]
    answers = iter(labeller.label([w for ws in cut for w in ws]))
    return [{i: labels for _ in ws for i, labels in next(answers).items()} for ws in cut]


def lacking(turn: Turn, kinds: Sequence[str]) -> tuple[str, ...]:
    """The labels that a turn lacks and a labeller of these kinds could give."""
    return tuple(k for k in kinds if getattr(turn, k) is None and (turn.reply or k != "skills"))


# --- the logs -----------------------------------------------------------------------------------------------------------------------

class Row(NamedTuple):
    raw: dict[str, Any]
    dialogue: Dialogue


def read_raw(path: Path) -> Iterator[tuple[str, int, Any]]:
    """(place, line, value) of one line at a time: logs may be larger than memory."""
    return ((f"{path}, line {number}", number, jsonl.parse_row(line, f"{path}, line {number}")) for number, line in jsonl.read_lines(path))


def read_rows(path: Path) -> Iterator[Row]:
    """The same, checked, and with slots in the replies (which takes most of the time of the rule labeller)."""
    return (Row(raw, jsonl.parse_dialogue(raw, at, number)) for at, number, raw in read_raw(path))


@dataclass
class Survey:
    """What a first reading finds, before anything is asked."""
    dialogues: int = 0
    intents: set[str] = field(default_factory=set)
    emotions: set[str] = field(default_factory=set)
    labelled: list[tuple[str, str, int, tuple[str, ...]]] = field(default_factory=list)       # (rank by hash, dialogue, turn, kinds) of turns with labels


def survey(path: Path, limit: int | None, pool: Mapping[str, Skill]) -> Survey:
    """Reads everything once; DataError names the first line that could not be trained on."""
    found, ids = Survey(), set()
    for _, dialogue in islice(read_rows(path), limit):
        if dialogue.id in ids:
            raise DataError(f"{dialogue.source}, field id: {dialogue.id!r} stands there already; give each dialogue its own id")
        ids.add(dialogue.id)
        for i, turn in enumerate(dialogue.turns):
            if unknown := [s for s in turn.skills or () if s not in pool]:
                raise DataError(f"{dialogue.source}, field turns[{i}].skills: {unknown[0]!r} is not in the skill pool; add it there, or correct the log")
            found.intents |= {turn.intent} - {None}
            found.emotions |= {turn.emotion} - {None}
            if there := tuple(k for k in KINDS if getattr(turn, k) is not None and (turn.reply or k != "skills")):
                found.labelled.append((_digest([dialogue.id, i]), dialogue.id, i, there))
    found.dialogues = len(ids)
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=True, sort_keys=True).encode()).hexdigest()


def read_pool(cfg: LabelConfig, path: Path) -> Choices:
    """The skill pool and, where a dataset brings them, its intents and emotions."""
    beside = path.with_name(path.name.removesuffix(".jsonl") + ".skills.json")
    if cfg.skills is None and not beside.is_file():
        raise DataError(f'{path}: no skill pool to label with; write {beside.name} beside it, [{{"id": "apologise", "description": "say sorry", "examples": '
                        '["I am sorry."], "must_say": []}, ..], or give --skills FILE.skills.json or --skills mgshop')
    if cfg.skills is not None and not cfg.skills.endswith(".json"):
        if cfg.skills not in data.DATASETS:
            raise DataError(f"--skills {cfg.skills}: give a .skills.json, or one of {', '.join(data.DATASETS)}")
        dataset = data.load(cfg.skills, cfg.data_dir)
        return Choices(dataset.skills, dataset.intents, dataset.emotions)
    file = beside if cfg.skills is None else Path(cfg.skills)
    if not file.is_file():
        raise DataError(f"--skills {file}: no such file")
    return Choices(jsonl.read_skills(file))


def choices(cfg: LabelConfig, base: Choices, found: Survey) -> Choices:
    """Label sets: the flag, else the dataset's, else those seen in the file, else (emotions) a standard one."""
    def named(flag: str, value: str | None) -> tuple[str, ...] | None:
        names = None if value is None else tuple(dict.fromkeys(v.strip() for v in value.split(",")))
        if names is not None and not all(names):
            raise DataError(f"{flag} {value!r}: write names with commas between, a,b,c")
        return names
    return Choices(base.pool, named("--intents", cfg.intents) or base.intents or tuple(sorted(found.intents)),
                   named("--emotions", cfg.emotions) or base.emotions or tuple(sorted(found.emotions)) or EMOTIONS)


# --- the output, which only grows ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Output:
    """FILE.labelled.jsonl, its skill pool beside it, and what it was made of."""
    path: Path

    @property
    def meta(self) -> Path:
        return self.path.with_name(self.path.name.removesuffix(".jsonl") + ".meta.json")

    @property
    def skills(self) -> Path:
        return self.path.with_name(self.path.name.removesuffix(".jsonl") + ".skills.json")

    def begin(self, made_of: dict[str, str], pool: Mapping[str, Skill]) -> None:
        """First run: notes what the output is made of.  Later runs: refuses to mix it with something else."""
        if self.meta.exists():
            before = read_json(self.meta)
            if differs := [k for k in made_of if not isinstance(before, dict) or before.get(k) != made_of[k]]:
                raise DataError(f"{self.path} was begun with another {', '.join(differs)}; give another --output, or remove it and {self.meta.name} "
                                "to start again")
            return
        if taken := [p for p in (self.path, self.skills) if p.exists()]:
            raise DataError(f"{taken[0]} exists and is not of this labelling (no {self.meta.name}); give another --output")
        write_json(self.skills, [asdict(s) for s in pool.values()])
        write_json(self.meta, made_of)                               # last: without it nothing was begun

    def open(self) -> BinaryIO:
        """Opened to append, for this process alone; a last line that kill -9 left half written is cut."""
        file = open(self.path, "a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)         # ends with the process, however it ends
        except BlockingIOError:
            file.close()
            raise DataError(f"{self.path}: another process is labelling into it; wait for it, or give another --output") from None
        file.seek(0)
        whole = 0
        for line in file:
            whole += len(line) if line.endswith(b"\n") else 0
        file.truncate(whole)
        return file


def append(file: BinaryIO, rows: Iterable[dict[str, Any]]) -> None:
    """On the disk when it returns."""
    file.write(b"".join(json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in rows))
    file.flush()
    os.fsync(file.fileno())


def labelled_row(row: Row, kinds: Sequence[str], labels: dict[int, Labels]) -> dict[str, Any]:
    """The row as it came, its gaps filled; what nobody could label is null."""
    turns = [raw | {k: labels.get(i, {}).get(k) for k in kinds if getattr(turn, k) is None}
             for i, (raw, turn) in enumerate(zip(row.raw["turns"], row.dialogue.turns))]
    return {"id": row.dialogue.id} | row.raw | {"turns": turns}


def _said(raw: Any, number: int) -> tuple[str, list[Any]] | None:
    """What tells dialogues apart: id and the customer's words; None for a line that is no dialogue."""
    if not isinstance(raw, dict) or not isinstance(raw.get("turns"), list):
        return None
    return str(raw.get("id", f"line-{number}")), [t.get("user") if isinstance(t, dict) else None for t in raw["turns"]]


def label_file(path: Path, out: Output, labeller: Any, total: int) -> None:
    """Appends what is missing.  Everything up to the last batch survives whatever ends the process."""
    with out.open() as file, tqdm(total=total, desc=labeller.name, unit="dialogue") as bar:
        rows = islice(read_raw(path), total)
        for (there, _, written), (here, number, raw) in zip(read_raw(out.path), rows):          # passed over, after a look
            if _said(written, number) != _said(raw, number):
                raise DataError(f"{there}: not the dialogue of {here}; remove {out.path} and {out.meta.name} to start again")
            bar.update()
        while batch := [Row(raw, jsonl.parse_dialogue(raw, at, number)) for at, number, raw in islice(rows, BATCH)]:
            labels = label_turns(labeller, [(r.dialogue.turns, [i for i, t in enumerate(r.dialogue.turns) if lacking(t, labeller.kinds)]) for r in batch])
            append(file, [labelled_row(r, labeller.kinds, found) for r, found in zip(batch, labels)])
            bar.update(len(batch))


# --- what came of it -------------------------------------------------------------------------------------------------------------------

def coverage(path: Path, out: Output) -> dict[str, Counter]:
    """Per kind, turns that had the label, got it, or still lack it (`no reply`: nothing to read skills from)."""
    counts = {k: Counter() for k in KINDS}
    there = lambda turn, kind: turn.get(kind) not in (None, "")
    for (_, _, before), (_, _, after) in zip(read_raw(path), read_raw(out.path)):
        for old, new in zip(before["turns"], after["turns"]):
            for kind in KINDS:
                state = "had" if there(old, kind) else "labelled" if there(new, kind) else \
                    "no reply" if kind == "skills" and not there(old, "reply") else "unlabelled"
                counts[kind][state] += 1
    return counts


def agreement(pairs: Sequence[tuple[Labels, Turn]], kinds: Sequence[str]) -> dict[str, float | int | None]:
    """How a labeller's labels compare with those that were there, over turns that have both; `n_<kind>` of `of_<kind>` had both.

    >>> agreement([({"skills": ("a",)}, Turn("hi", skills=("a", "b"), reply="x")), ({}, Turn("ho", skills=("a",), reply="x"))], ["skills"])["f1"]
    0.6666666666666666
    """
    mean = lambda values: sum(values) / len(values) if values else None
    result: dict[str, float | int | None] = {}
    for kind in kinds:
        there = [(labels.get(kind), getattr(turn, kind)) for labels, turn in pairs if getattr(turn, kind) is not None and (turn.reply or kind != "skills")]
        both = [(guess, truth) for guess, truth in there if guess is not None]
        result |= {f"n_{kind}": len(both), f"of_{kind}": len(there)}
        if kind == "skills":
            result |= {"exact": mean([g == t for g, t in both]), "f1": mean([skill_f1(g, t) for g, t in both]), "esndcg": mean([esndcg(g, t) for g, t in both])}
        else:
            result[f"accuracy_{kind}"] = mean([g == t for g, t in both])
    return result


def check(path: Path, labeller: Any, found: Survey, number: int) -> dict[str, float | int | None]:
    """Agreement on `number` turns that had labels, chosen by hash: the same at every call."""
    wanted: dict[str, list[int]] = {}
    for _, id, i, _ in sorted(entry for entry in found.labelled if set(entry[3]) & set(labeller.kinds))[:number]:
        wanted.setdefault(id, []).append(i)
    chosen = [(row.dialogue.turns, wanted[row.dialogue.id]) for row in islice(read_rows(path), found.dialogues) if row.dialogue.id in wanted]
    labels = label_turns(labeller, chosen)
    return agreement([(got.get(i, {}), turns[i]) for (turns, some), got in zip(chosen, labels) for i in some], labeller.kinds)


def report(cfg: LabelConfig, path: Path, out: Output, labeller: Any, found: Survey) -> None:
    print(f"{out.path}: labelled by {labeller.name}")
    for kind, counts in coverage(path, out).items():
        turns, missing = sum(counts.values()), counts["unlabelled"] + counts["no reply"]
        why = "" if kind in labeller.kinds else "  (not asked for: " + ("rules label skills only)" if cfg.model == "rules" else f"give --{kind}s a,b,c)")
        print(f"  {kind:8s} {turns} turns: {counts['had']} had it, {counts['labelled']} labelled now, {missing} null"
              + (f" ({counts['no reply']} have no reply)" if counts["no reply"] else "") + (why if missing else ""))
    a = check(path, labeller, found, cfg.check) if cfg.check else {}
    if any(a.get(f"of_{kind}") for kind in KINDS):
        figure = lambda value: "—" if value is None else f"{value:.3f}"
        print(f"agreement of {labeller.name} with the labels that were there:")
        print(f"  skills   {a['n_skills']} of {a['of_skills']} labelled: exact {figure(a['exact'])}, F1 {figure(a['f1'])}, ESNDCG {figure(a['esndcg'])}")
        for kind in labeller.kinds[1:]:
            print(f"  {kind:8s} {a[f'n_{kind}']} of {a[f'of_{kind}']} labelled: accuracy {figure(a[f'accuracy_{kind}'])}")
    elif cfg.check:
        print("agreement: — (no turn had labels to compare with)")


# --- the command -----------------------------------------------------------------------------------------------------------------------

def output_of(cfg: LabelConfig, path: Path) -> Output:
    out = Path(cfg.output) if cfg.output else path.with_name(path.name.removesuffix(".jsonl") + ".labelled.jsonl")
    if not out.name.endswith(".jsonl"):
        raise DataError(f"--output {out}: give a name that ends in .jsonl, or train.py will not read it")
    if out.resolve() == path.resolve() or (out.exists() and out.samefile(path)):
        raise DataError(f"--output {out} is the input itself, which is never overwritten; give another name")
    if not out.parent.is_dir():
        raise DataError(f"--output {out}: no such folder {out.parent}; make it first")
    return Output(out)


def run(path: Path, cfg: LabelConfig, api: ApiConfig) -> None:
    """Everything but the command line: reads, labels, reports."""
    if (cfg.model == "rules") == bool(api.api_base):
        missing = "--api_base is given, so name the model there" if api.api_base else "a hosted model needs --api_base http://.../v1"
        raise DataError(f"--model {cfg.model}: {missing}")
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the path of your logs")
    out, base = output_of(cfg, path), read_pool(cfg, path)
    found = survey(path, cfg.limit, base.pool)
    if not found.dialogues:
        raise DataError(f"{path}: no dialogue in it")
    chosen = choices(cfg, base, found)
    labeller = RuleLabeller(chosen) if cfg.model == "rules" else HostedLabeller(Client(cfg.model, api), chosen)
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    pool = _digest([asdict(s) for s in chosen.pool.values()])
    out.begin({"input": content, "skill pool": pool, "labeller": labeller.name, "prompt": labeller.signature}, chosen.pool)
    label_file(path, out, labeller, found.dialogues)
    report(cfg, path, out, labeller, found)
    if cfg.model != "rules":
        print(labeller.client.report())
    print(f"next: python train.py --dataset {out.path}")


def main(argv: Sequence[str] | None = None) -> int:
    from transformers import HfArgumentParser
    parser = HfArgumentParser([LabelConfig, ApiConfig], prog="data.py label", allow_abbrev=False, description=__doc__.split("\n\n")[0])
    parser.add_argument("file", type=Path, help="your logs, one dialogue a line (README)")
    try:
        cfg, api, rest = parser.parse_args_into_dataclasses(sys.argv[1:] if argv is None else list(argv))
    except ValueError as error:
        parser.error(str(error))
    go_on = "what was labelled is kept: the same command goes on from there"
    try:
        run(rest.file, cfg, api)
    except BudgetSpent as error:
        print(f"label.py: {error}\n{go_on}", file=sys.stderr)
        return 3
    except (DataError, OSError) as error:
        print(f"label.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; {go_on}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
