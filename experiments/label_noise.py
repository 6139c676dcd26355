"""Labels as an imperfect labeller would write them: with a blind spot, or with a confusion.

The teacher of the simulated shop looks into the customer's head.  Real labels come from people or
models, who miss things.  `flawed` makes the labels of a shop so, in its logs and in play, always in
the same way: R^E is then computed from flawed labels, imitation copies them, Memento remembers
them.  Held-out customers, and how they are measured, stay as they are.

    omit     each of the skills is left out of the teacher's list with probability `share`
    confuse  the first skill is written as the second with probability `share`
"""
from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from data import DataError, Dataset, Dialogue, Environment, Observation, Turn

CALMING = ("apologise", "reassure", "empathise")
Skills = tuple[str, ...]


@dataclass(frozen=True)
class Fault:
    """What the labeller gets wrong."""
    share: float = 0.0
    skills: Skills = CALMING
    kind: str = "omit"

    def __post_init__(self):
        if not 0 <= self.share <= 1:
            raise ValueError(f"--label_noise must lie in [0, 1], got {self.share}")
        if self.kind not in ("omit", "confuse"):
            raise ValueError(f"--noise_kind must be omit or confuse, got {self.kind!r}")
        if self.kind == "confuse" and len(self.skills) != 2:
            raise ValueError(
                f"--noise_kind confuse needs two --noise_skills, got {' '.join(self.skills)}")

    @property
    def name(self) -> str:
        if not self.share:
            return "true labels"
        named = "" if self.skills == CALMING else f" {' '.join(self.skills)}"
        return f"{self.kind} {self.share:g}{named}"


def flawed(dataset: Dataset, fault: Fault) -> Dataset:
    """The dataset with its training labels made wrong: those of the logs, and those of play."""
    if not fault.share:
        return dataset
    if not dataset.environment:
        raise DataError(
            f"--label_noise needs a live shop: {dataset.name} has no true labels to measure by")
    unknown = set(fault.skills) - set(dataset.skills)
    if unknown:
        raise DataError(f"--noise_skills: {dataset.name} has no skill {sorted(unknown)[0]}")
    start = dataset.environment

    def environment(split: str, number: int, seed: int) -> Environment:
        env = start(split, number, seed)
        return Mislabelled(env, fault, f"{seed} {number}") if split == "train" else env

    train = [relabelled(dialogue, fault) for dialogue in dataset.train]
    dev = [relabelled(dialogue, fault) for dialogue in dataset.dev]
    return replace(dataset, train=train, dev=dev, environment=environment)


def wrong(skills: Skills | None, fault: Fault, key: str) -> Skills | None:
    """A label as the labeller writes it; the same for the same key."""
    if skills is None:
        return None
    rng = random.Random(zlib.crc32(f"label noise {key}".encode()))
    written = []
    for skill in skills:
        missed = rng.random() < fault.share
        if not missed or skill not in fault.skills:
            written.append(skill)
        elif fault.kind == "confuse" and skill == fault.skills[0]:
            written.append(fault.skills[1])
        elif fault.kind == "confuse":
            written.append(skill)
    return tuple(dict.fromkeys(written))


def relabelled(dialogue: Dialogue, fault: Fault) -> Dialogue:
    turns: list[Turn] = []
    for number, turn in enumerate(dialogue.turns):
        skills = wrong(turn.skills, fault, f"{dialogue.id} {number}")
        turns.append(replace(turn, skills=skills))
    return replace(dialogue, turns=tuple(turns))


class Mislabelled:
    """A customer whose turns are labelled by the imperfect labeller."""

    def __init__(self, env: Environment, fault: Fault, key: str):
        self.env = env
        self.fault = fault
        self.key = key
        self.turn = 0

    def reset(self) -> Observation:
        self.turn = 0
        return self._seen(self.env.reset)

    def step(self, reply: str) -> Observation:
        self.turn += 1
        return self._seen(lambda: self.env.step(reply))

    def _seen(self, observe: Callable[[], Observation]) -> Observation:
        seen = observe()
        teacher = wrong(seen.labels.teacher, self.fault, f"{self.key} {self.turn}")
        return replace(seen, labels=replace(seen.labels, teacher=teacher))
