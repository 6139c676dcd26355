"""Ten conversations by hand, said to a trained run of mgshop: is a person understood?

A simulated customer answers what is said; these lines are fixed, so an agent that leads a talk
elsewhere is not followed.  Of each line it is written which skills the answer should hold, and
which would be out of place.  Five were looked at while faults were mended, by kinds and never by
teaching their sentences; the other five were run once, at the end.

Try it:  python -m experiments.conversations --run runs/mgshop-gopo-0
         python -m experiments.conversations --run runs/mgshop-gopo-0 --part "reported once\""""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data import DataError, Dataset, Episode, Observation, Step, load_used
from gopo import Gopo, load_gopo
from infra.runs import read_config
from policies import keyed
from show import show_turn

HERE = Path(__file__).parent
PARTS = ("mended from", "reported once")


class Line(NamedTuple):
    """What the person says, and what the answer should hold.

    wanted    groups of skills: one of each group must be among those chosen
    unwanted  skills of which none may be
    """
    text: str
    wanted: Sequence[Sequence[str]]
    unwanted: Sequence[str]


class Talk(NamedTuple):
    name: str
    part: str                                    # of PARTS
    lines: tuple[Line, ...]


def conversations(part: str | None = None) -> list[Talk]:
    """All ten, or those of a part."""
    listed = json.loads((HERE / "conversations.json").read_text(encoding="utf-8"))
    talks = []
    for record in listed:
        if part in (None, record["part"]):
            lines = [Line(*line) for line in record["said"]]
            talks.append(Talk(record["name"], record["part"], tuple(lines)))
    return talks


class Speaking:
    """A person who says the lines one after another, whatever the agent answers."""

    def __init__(self, dataset: Dataset, lines: Sequence[Line]):
        self.context_of = dataset.context
        self.lines = lines
        self.turn = 0

    def reset(self) -> Observation:
        return self._next()

    def step(self, reply: str) -> Observation:
        self.turn += 1
        return self._next()

    def _next(self) -> Observation:
        if self.turn == len(self.lines):
            return Observation("", {}, terminated=True)
        said = [line.text for line in self.lines[:self.turn + 1]]
        context = self.context_of(said) if self.context_of else {}
        return Observation(said[-1], context)


def faults(line: Line, skills: Sequence[str]) -> list[str]:
    """What is wrong with the skills of an answer.

    >>> faults(Line("Hello?", [["ask_need", "ask_order"]], ["close"]), ("close", "greet"))
    ['misses ask_need or ask_order', 'close is out of place']
    """
    missed = [group for group in line.wanted if not set(group) & set(skills)]
    found = [f"misses {' or '.join(group)}" for group in missed]
    return found + [f"{skill} is out of place" for skill in line.unwanted if skill in skills]


def hold(gopo: Gopo, talks: Sequence[Talk]) -> list[list[Step]]:
    """The turns of each conversation."""
    episodes = []
    for number, talk in enumerate(talks):
        person = Speaking(gopo.dataset, talk.lines)
        episodes.append(Episode(number, person, person.reset()))
    gopo.play(episodes, gopo.chooser(greedy=True), temperature=0.0, draws=keyed(0))
    return [episode.steps for episode in episodes]


def show(talk: Talk, steps: Sequence[Step]) -> int:
    """Prints a conversation; returns how many of its answers are as they should be."""
    print(f"\n===== {talk.name} ({talk.part})")
    good = 0
    for number, (line, step) in enumerate(zip(talk.lines, steps), 1):
        show_turn(step, number, rewarded=False)
        wrong = faults(line, step.skills)
        good += not wrong
        print(f"  verdict    {'; '.join(wrong) or 'good'}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="Ten conversations by hand, said to a run.")
    parser.add_argument("--run", required=True, help="a run directory of mgshop")
    parser.add_argument("--part", choices=PARTS, help="only these conversations (default all)")
    args = parser.parse_args()
    dataset = load_used(read_config(Path(args.run))["run"])
    if dataset.name != "mgshop":
        raise DataError(
            f"--run {args.run}: the conversations are with mgshop, this run is of {dataset.name}")
    gopo = load_gopo(args.run, dataset)
    talks = conversations(args.part)
    good = 0
    for talk, steps in zip(talks, hold(gopo, talks)):
        good += show(talk, steps)
    print(f"\n{good} of {sum(len(talk.lines) for talk in talks)} answers are as they should be")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DataError as error:
        sys.exit(f"conversations: {error}")
