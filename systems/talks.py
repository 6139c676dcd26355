"""What a step of CMPO played, as it learns from it."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data import Episode, ExpertState, Prepared, Reply


@dataclass
class SpokenTurns:
    """The turns of several dialogues, flat."""
    prepared: list[Prepared] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    advantage: list[float] = field(default_factory=list)
    dialogue: list[int] = field(default_factory=list)

    def add(self, prepared: Prepared, reply: Reply, advantage: float, dialogue: int) -> None:
        self.prepared.append(prepared)
        self.replies.append(reply)
        self.advantage.append(advantage)
        self.dialogue.append(dialogue)

    def open(self) -> int:
        """In how many turns both decisions were possible."""
        return sum(len(p.request.decisions) > 1 for p in self.prepared)


@dataclass
class Talk:
    """One dialogue of a group, as CMPO sees it."""
    episode: Episode
    group: int
    control: bool                                # it could offer no voucher
    issued: list[int]                            # [T] d_t
    R_O: float | None                            # None: no mark was given
    process: list[float | None]                  # [T] R_P,t

    @property
    def scored(self) -> bool:
        return self.R_O is not None and None not in self.process


@dataclass
class Turns:
    """The turns of several dialogues, flat."""
    states: list[ExpertState] = field(default_factory=list)
    skills: list[tuple[str, ...]] = field(default_factory=list)
    advantage: list[float] = field(default_factory=list)
    dialogue: list[int] = field(default_factory=list)
    spoken: SpokenTurns = field(default_factory=SpokenTurns)     # the same, of a language model

    def could(self, skill: str) -> list[bool]:
        """In which turns a skill could have been chosen."""
        return [skill not in state.banned for state in self.states]


def of_groups(
    talks: Sequence[Talk], rewards: Sequence[Sequence[float]]
) -> tuple[list[float], list[float]]:
    """Of each group the spread of its rewards, and 1 if all its dialogues decided alike, else 0."""
    spreads, dead = [], []
    groups = [talk.group for talk in talks]
    for group in dict.fromkeys(groups):
        members = [i for i, other in enumerate(groups) if other == group]
        earned = [rewards[i] for i in members]
        decided = {any(talks[i].issued) for i in members}
        spreads.append(float(np.concatenate(earned).std()))
        dead.append(float(len(decided) == 1))
    return spreads, dead


def paid(episode: Episode) -> list[int]:
    """[T] d_t by what the shop paid.

    Under hard constraints that is the decision; under soft ones it may be the words alone.
    """
    seen = [step.seen for step in episode.steps] + [episode.seen]
    vouchers = [one.outcome.vouchers or 0 for one in seen]
    return [int(after > before) for before, after in zip(vouchers, vouchers[1:])]
