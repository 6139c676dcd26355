"""What is measured of a row of the budget study: a *look* at customers who are the same for all.

A look holds for each customer the mark, whether a voucher was issued, the mean process credit of
the dialogue (Eq. 6, by the rules of shop/genrm.py) and v, what a voucher is worth to the customer;
and some means over all.  A row that learned has further looks: at customers with the sentences and
profiles of training, at the other mix of customers, and without the ban on a second voucher."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from data import Dataset, Episode, Observation
from experiments.strategy import NEW_SEED, moved
from gopo import Gopo
from measure import measure
from metrics import Numbers, present
from policies import Choose, keyed
from rewards import process_credit
from shop.fds_customer import AGREED, Desk
from shop.fds_person import DEMANDS, DIFFICULTIES
from shop.genrm import RuleGenRM

MEANS = ("tse", "success", "turns", "vouchers")
FURTHER = 200                                    # customers of a further look
OTHER_MIX = 400                                  # of the one on whose V a criterion rests
Look = dict[str, Any]


def measured(
    gopo: Gopo, choose: Mapping[str, Choose], episodes: int, difficulty: str, learned: bool,
    keep: Callable[[str, list[Episode]], None] | None = None, by_rule: bool = True,
) -> dict[str, Look]:
    """The looks of a row.

    choose      greedy -> who chooses the skills; and sampled, if they are drawn
    difficulty  of the customers that `gopo` has
    learned     it has the further looks
    keep        is given the dialogues of greedy and of sampled
    by_rule     the process judge by rule can read the replies
    """
    looks = {}
    for name, chooser in choose.items():
        played = meet(gopo, chooser, episodes, label=name)
        looks[name] = look_at(gopo, *played, by_rule)
        if keep:
            keep(name, played[1])
    if learned:
        few = min(episodes, FURTHER)
        drawn = gopo.chooser(keyed(0))
        looks["seen"] = look(gopo, drawn, few, "train", NEW_SEED, "seen sentences")
        mixed = moved(gopo, other_mix(gopo.dataset, difficulty))
        looks["other"] = look(mixed, drawn, min(episodes, OTHER_MIX), label="other mix")
        looks["soft"] = {"valid": valid_without_ban(gopo, drawn, few), "customers": few}
    return looks


def look(
    gopo: Gopo, choose: Choose, episodes: int, split: str = "test", seed: int = 0, label: str = ""
) -> Look:
    return look_at(gopo, *meet(gopo, choose, episodes, split, seed, label))


def meet(
    gopo: Gopo, choose: Choose, episodes: int, split: str = "test", seed: int = 0, label: str = ""
) -> tuple[list[Numbers], list[Episode]]:
    """The customers of a look, served."""
    return measure(gopo, choose, episodes, seed, split, label, forms=())


def look_at(
    gopo: Gopo, numbers: Sequence[Numbers], played: Sequence[Episode], by_rule: bool = True
) -> Look:
    """What is kept of dialogues.

    by_rule  the process judge by rule can read the replies: they are the phrase book's
    """
    desks = [episode.env for episode in played]
    ends = [episode.seen.outcome for episode in played]
    value = [round(desk.hidden.value, 4) for desk in desks]
    marks = [end.satisfaction for end in ends]
    issued = [int(end.vouchers > 0) for end in ends]
    found: Look = {
        "satisfaction": marks,
        "voucher": issued,
        "process": process_credits(gopo, played) if by_rule else None,
        "value": value,
    }
    return found | means_of(numbers) | of_vouchers(desks)


def process_credits(gopo: Gopo, played: Sequence[Episode]) -> list[float]:
    """The mean R_P,t of each dialogue, by the rules, whatever the row was trained with."""
    genrm = RuleGenRM(gopo.dataset.skills)
    found = []
    for episode in played:
        marks = genrm.score([step.judged for step in episode.steps])
        found.append(float(np.mean([process_credit(row) for row in marks])))
    return found


def means_of(numbers: Sequence[Numbers]) -> Look:
    found = {}
    for metric in MEANS:
        values = present([n.get(metric) for n in numbers])
        found[metric] = float(np.mean(values)) if values else None
    return found


def of_vouchers(desks: Sequence[Desk]) -> Look:
    """Format errors, and what can be said of the vouchers.

    valid      share of dialogues without a format error: FR
    lied       share of dialogues in which the customer caught a voucher promised, not issued
    unfair     share of dialogues with a voucher where nothing had gone wrong
    agreed     of the vouchers, the share to which the customer had agreed before
    by_demand  demand -> [dialogues with a voucher, dialogues]
    """
    issued = [desk for desk in desks if desk.case.issued]
    agreed = [desk.voucher_worth == AGREED * desk.hidden.value for desk in issued]
    every = Counter(desk.hidden.demand for desk in desks)
    given = Counter(desk.hidden.demand for desk in issued)
    found: Look = {"agreed": float(np.mean(agreed)) if issued else None}
    for name in ("valid", "unfair", "left", "lied"):
        found[name] = float(np.mean([getattr(desk, name) for desk in desks]))
    found["by_demand"] = {demand: [given[demand], every[demand]] for demand in DEMANDS}
    return found


# --- other customers ------------------------------------------------------------------------------

def other_mix(dataset: Dataset, difficulty: str) -> Dataset:
    """The same store with the other mix of customers."""
    other, = set(DIFFICULTIES) - {difficulty}

    def environment(split: str, number: int, seed: int) -> Desk:
        return Desk(seed, split, number, difficulty=other)

    return replace(dataset, environment=environment)


class Unbanned:
    """A customer with whom nothing keeps the agent from a second voucher: soft constraints."""

    def __init__(self, desk: Desk):
        self.desk = desk

    def reset(self) -> Observation:
        return replace(self.desk.reset(), banned=())

    def step(self, reply: str) -> Observation:
        return replace(self.desk.step(reply), banned=())


def valid_without_ban(gopo: Gopo, choose: Choose, episodes: int) -> float:
    """The share of dialogues without a format error where a second voucher is not banned."""
    dataset = gopo.dataset

    def environment(split: str, number: int, seed: int) -> Unbanned:
        return Unbanned(dataset.environment(split, number, seed))

    free = moved(gopo, replace(dataset, environment=environment))
    _, played = measure(free, choose, episodes, 0, "test", "without the ban", forms=())
    return float(np.mean([episode.seen.outcome.valid for episode in played]))
