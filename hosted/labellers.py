"""Who labels logs: a hosted model, or rules (the paper's offline teacher, Sec. 3.3).

Both are given windows of a dialogue and say, for the turns asked for, which labels they know.  The
hosted model reads a few turns a request and answers with one JSON object.  Each label is checked on
its own, so that a bad one leaves that turn null and the others stay.  The *rule labeller* goes by
must_say phrases and by word overlap with the pool's examples; it is no LLM and knows skills alone.
What is labelled is data, quoted as for the judge (hosted/judge.py).  Nothing here reads or writes a
file."""
from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple, Protocol

from data import MAX_SKILLS, DataError, Skill, Turn, fill
from hosted.agents import skill_sequence
from hosted.judge import DATA_RULE, quoted
from infra.answers import Answer, parse_json
from infra.client import Client
from judge import RuleJudge

# the fields of a turn that hold labels
KINDS = ("skills", "intent", "emotion")
WINDOW = 8                                       # turns that a request labels at most
BEFORE = 4                                       # turns shown before them
LENGTH = 2000                                    # characters of a text that are shown
MAX_TOKENS = 128 + 96 * WINDOW
# kind -> value, only the labels that are known
Found = dict[str, Any]


@dataclass(frozen=True)
class Choices:
    """What a labeller may choose from."""
    pool: Mapping[str, Skill]
    intents: tuple[str, ...] = ()
    emotions: tuple[str, ...] = ()


class Window(NamedTuple):
    """Some turns of a dialogue, and which of them are to be labelled."""
    turns: tuple[Turn, ...]                      # of the whole dialogue
    first: int                                   # where the window begins
    wanted: tuple[int, ...]                      # numbers from 0, all within the window
    where: str = ""                              # file, line and dialogue, for messages

    @property
    def name(self) -> str:
        """Where it stands, and the turns that are asked for, numbered from 1."""
        turns = ", ".join(str(i + 1) for i in self.wanted)
        return f"{self.where}, turn {turns}"


class Labeller(Protocol):
    name: str
    kinds: tuple[str, ...]                       # what it can label
    signature: str                               # another one: other labels must be expected

    def label(self, windows: Sequence[Window]) -> list[dict[int, Found]]:
        """For each window, number of the turn -> its labels."""
        ...


# ---------------------------------------------------------------- rules

class RuleLabeller:
    """Skills by must_say phrases and examples.

    A reply that shows no skill stays unlabelled, because rules cannot tell "no skill was used" from
    "not recognised".
    """
    name = "rule labeller (must_say and examples; not an LLM)"
    kinds = ("skills",)
    signature = ""

    def __init__(self, choices: Choices):
        pool = choices.pool
        # must_say phrase -> its skill
        self.phrases = _own_phrases(pool)
        self.rules = RuleJudge(dict(pool))
        if not self.phrases and not any(skill.examples for skill in pool.values()):
            raise DataError(
                "--model rules: no skill of the pool has examples or must_say, so rules have "
                "nothing to go by; add them, or give --api_base and --model")

    def label(self, windows: Sequence[Window]) -> list[dict[int, Found]]:
        return [self._label(window) for window in windows]

    def _label(self, window: Window) -> dict[int, Found]:
        found = {}
        for i in window.wanted:
            skills = self.sequence(window.turns[i].reply or "")
            if skills:
                found[i] = {"skills": skills}
        return found

    def sequence(self, reply: str) -> tuple[str, ...]:
        """The skills of a reply (with slots) in the order of the text, each once, at most five."""
        text = " ".join(reply.split())
        # (place in the text, skill)
        marks: list[tuple[int, str]] = []
        for phrase, skill in self.phrases.items():
            place = text.lower().find(phrase)
            if place >= 0:
                marks.append((place, skill))
        for sentence in re.finditer(r"[^.!?]+[.!?]*", text):
            acts = self.rules.acts(sentence[0])
            marks += [(sentence.start(), act) for act in acts if act]
        # stable: at one place the phrases come first
        marks.sort(key=lambda mark: mark[0])
        skills = dict.fromkeys(skill for _, skill in marks)
        return tuple(skills)[:MAX_SKILLS]


def _own_phrases(pool: Mapping[str, Skill]) -> dict[str, str]:
    """must_say phrase -> the skill that says it; a phrase that two skills share marks neither."""
    skills_of: dict[str, list[str]] = {}
    for skill in pool.values():
        for phrase in skill.must_say:
            skills_of.setdefault(_flat(phrase), []).append(skill.id)
    return {phrase: ids[0] for phrase, ids in skills_of.items() if len(ids) == 1}


def _flat(text: str) -> str:
    return " ".join(text.lower().split())


# ---------------------------------------------------------------- a hosted model

class HostedLabeller:
    """All labels by a hosted model.

    An answer from which no label can be taken is asked for again by the client, then given up.
    """

    def __init__(self, client: Client, choices: Choices):
        self.client = client
        self.choices = choices
        self.name = f"LLM {client.model}"
        sets = (choices.pool, choices.intents, choices.emotions)
        self.kinds = tuple(kind for kind, known in zip(KINDS, sets) if known)
        # what the customer's message is labelled with: kind -> its labels
        self.sets: dict[str, tuple[str, ...]] = {}
        if choices.intents:
            self.sets["intent"] = choices.intents
        if choices.emotions:
            self.sets["emotion"] = choices.emotions
        self.system = self._instructions()
        self.signature = digest_of(self.system)

    def _instructions(self) -> str:
        lines = [
            "You label customer service logs.",
            DATA_RULE.format(task="label"),
            "skills: what the agent's reply does, as ids of the pool, in the order of the text, "
            f"each once, at most {MAX_SKILLS}; [] if it does none of them, or if the turn has no "
            "agent. A name in braces stands for a fact.",
            "Pool:",
        ]
        lines += [_listed(skill) for skill in self.choices.pool.values()]
        for kind, labels in self.sets.items():
            lines.append(
                f"{kind}: of the customer's message of that turn, exactly one of: "
                f"{', '.join(labels)}")
        row: dict[str, Any] = {"turn": 1, "skills": ["<id>", "..."]}
        row |= {kind: f"<{kind}>" for kind in self.sets}
        lines.append(
            "Answer with one JSON object and nothing else, a row for each turn you are asked for:")
        lines.append(f'{{"turns": [{json.dumps(row)}, ...]}}')
        return "\n".join(lines)

    def label(self, windows: Sequence[Window]) -> list[dict[int, Found]]:
        prompts = [self.prompt(window) for window in windows]
        answers = self.client.ask(prompts, self.read, max_tokens=MAX_TOKENS, temperature=0.0,
                                  names=[window.name for window in windows])
        found = []
        for window, answer in zip(windows, answers):
            found.append(_for_window(answer, window))
        return found

    def prompt(self, window: Window) -> list[dict[str, str]]:
        first = window.first
        before = [_shown(turn) for turn in window.turns[max(0, first - BEFORE):first]]
        turns = []
        for i, turn in enumerate(window.turns[first:first + WINDOW], first):
            turns.append({"turn": i + 1} | _shown(turn))
        numbers = ", ".join(str(i + 1) for i in window.wanted)
        data = quoted({"before": before, "turns": turns})
        asked = f"The data ends here. Label turn {numbers}: the JSON object alone."
        return [
            {"role": "system", "content": self.system},
            {"role": "user", "content": f"{data}\n{asked}"},
        ]

    def read(self, answer: Answer) -> dict[int, Found]:
        """Turn number (from 1) -> its valid labels; a turn that stands there twice has none.

        raises  ValueError if no label is valid
        """
        rows = parse_json(answer.text, {"turns": _rows_of_answer})["turns"]
        times = Counter(row["turn"] for row in rows)
        labels = {}
        for row in rows:
            if times[row["turn"]] == 1:
                labels[row["turn"]] = self._valid(row)
        if not any(labels.values()):
            raise ValueError("no turn has a valid label")
        return labels

    def _valid(self, row: dict[str, Any]) -> Found:
        """The labels of a row that can be believed; none if it has other fields than asked for."""
        labels: Found = {}
        if set(row) != {"turn", *self.kinds}:
            return labels
        for kind, known in self.sets.items():
            if isinstance(row[kind], str) and row[kind] in known:
                labels[kind] = row[kind]
        try:
            labels["skills"] = skill_sequence(row["skills"], self.choices.pool)
        except ValueError:
            # this label alone is missing: the turn keeps the others
            pass
        return labels


def _listed(skill: Skill) -> str:
    """A skill as a line of the instructions."""
    line = f"- {skill.id}: {skill.description}"
    for example in skill.examples[:2]:
        line += f"  e.g. {json.dumps(example, ensure_ascii=False)}"
    return line


def _rows_of_answer(value: Any) -> list[dict[str, Any]]:
    wrong = "turns is no list of objects, each with the number of its turn"
    if not isinstance(value, list):
        raise ValueError(wrong)
    for row in value:
        if not isinstance(row, dict) or type(row.get("turn")) is not int:
            raise ValueError(wrong)
    return value


def _for_window(answer: dict[int, Found] | None, window: Window) -> dict[int, Found]:
    """The labels of the turns asked for; none if there was no answer."""
    found = {}
    if answer is None:
        return found
    for i in window.wanted:
        labels = answer.get(i + 1, {})
        found[i] = {k: v for k, v in labels.items() if has_material(window.turns[i], k)}
    return found


def _shown(turn: Turn) -> dict[str, str]:
    """What the model sees of a turn."""
    texts = {"customer": turn.user[:LENGTH]}
    if turn.reply:
        texts["agent"] = fill(turn.reply, turn.context)[:LENGTH]
    return texts


# ---------------------------------------------------------------- turns of several dialogues

def has_material(turn: Turn, kind: str) -> bool:
    """Whether a turn holds what a label is read from; skills are read from the reply."""
    return bool(turn.reply) or kind != "skills"


def lacking(turn: Turn, kinds: Sequence[str]) -> tuple[str, ...]:
    """The labels that a turn lacks and that a labeller of these kinds could give."""
    return tuple(k for k in kinds if getattr(turn, k) is None and has_material(turn, k))


def labelled(turn: Turn, kinds: Sequence[str]) -> tuple[str, ...]:
    """The labels that a turn has, where it also holds what they are read from."""
    return tuple(k for k in kinds if getattr(turn, k) is not None and has_material(turn, k))


def windows(turns: tuple[Turn, ...], wanted: Iterable[int], where: str = "") -> list[Window]:
    """The requests that label these turns: up to WINDOW neighbours at once.

    >>> [w.wanted for w in windows((Turn("hi"),) * 10, [1, 2, 9])]
    [(1, 2), (9,)]
    """
    numbers = sorted(wanted)
    found = []
    for first in range(0, len(turns), WINDOW):
        inside = tuple(i for i in numbers if first <= i < first + WINDOW)
        if inside:
            found.append(Window(turns, first, inside, where))
    return found


def label_turns(
    labeller: Labeller,
    asked: Sequence[tuple[tuple[Turn, ...], Iterable[int]]],
    names: Sequence[str] = (),
) -> list[dict[int, Found]]:
    """Labels of some turns of several dialogues, all requests at once.

    asked    for each dialogue (its turns, the numbers of those wanted)
    names    where each dialogue stands: file, line and id
    returns  for each dialogue number of the turn -> its labels
    """
    named = zip_longest(asked, names, fillvalue="")
    cut = [windows(turns, wanted, name) for (turns, wanted), name in named]
    requests: list[Window] = []
    for some in cut:
        requests += some
    answers = iter(labeller.label(requests))
    found = []
    for some in cut:
        labels: dict[int, Found] = {}
        for _ in some:
            labels |= next(answers)
        found.append(labels)
    return found


def digest_of(value: Any) -> str:
    """sha256 of a JSON value."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
