"""The rows of the study of strategies: how the agents of each learn, and who chooses the skills.

Adding a row is adding a line to ROWS."""
from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from corpora.sop import by_sop
from data import MAX_SKILLS, Dataset
from expert import ExpertConfig
from expert_learner import labelled_states
from gopo import Gopo, GopoConfig, algorithm
from hosted.judge import judge_for
from policies import Choose, by_chance, by_policy, by_teacher
from rewards import esndcg
from start.warm_expert import warm_expert

Flags = Mapping[str, Any]
NONE: Flags = MappingProxyType({})


class Row(NamedTuple):
    """A row: how its agents learn, who chooses the skills, and where there is such a row.

    algo      of gopo.ALGORITHMS
    flags     what differs from the defaults: fields of ExpertConfig, of GopoConfig or of the
              algorithm's own options
    learns    steps of the algorithm follow the warm start
    chooser   a key of CHOOSERS
    where     anywhere, shop (simulated customers), logs, or charts (STAR comes with the flow charts
              that its agents were given)
    one_seed  all seeds would give the same
    ablation  one part of GOPO is left out or changed
    """
    algo: str = "gopo"
    flags: Flags = NONE
    learns: bool = False
    chooser: str = "policy"
    where: str = "anywhere"
    one_seed: bool = False
    ablation: bool = False


def gopo_row(**flags: Any) -> Row:
    return Row(flags=flags, learns=True, where="shop")


def ablation(**flags: Any) -> Row:
    return Row(flags=flags, learns=True, where="shop", ablation=True)


GOPO = "GOPO, joint (Eq. 10)"
NOTHING = {"expert_warm": 0, "expert_anchor": 0.0}
CLEAN = {"slips": 0.0, "hide": 0.0}
PRINTED = {"expert_clip": 0.0, "expert_epochs": 1, "expert_minibatch": 100_000}
ONE_BAG = {"sentences": 1, "hide_ngrams": 0.0}
# what perception and the warm start depend on
READING = ("sentences", "hide_ngrams", "encoder", "expert_warm", "history", "width")
ROWS = {
    "random": Row(chooser="chance"),
    "teacher": Row(chooser="teacher", where="shop", one_seed=True),
    "SOP graph": Row(chooser="charts", where="charts", one_seed=True),
    "most frequent sequence": Row(chooser="most frequent", one_seed=True),
    "best constant five": Row(chooser="best constant", one_seed=True),
    "imitation, offline": Row(),
    "imitation, offline, without stop": Row(chooser="without stop"),
    "imitation, on-policy": Row("imitation", CLEAN, learns=True, where="shop"),
    "imitation, on-policy, with slips and hidden sentences": Row(
        "imitation", learns=True, where="shop"),
    "imitation, on-policy, of dialogues that ended well": Row(
        "imitation", {"imitate_successes": True}, learns=True, where="shop"),
    "Memento, logs only": Row("memento"),
    "Memento": Row("memento", learns=True, where="shop"),
    "Memento, read by cosine": Row(
        "memento", {"memento_read": "cosine"}, learns=True, where="shop"),
    "Memento, credited turn by turn": Row(
        "memento", {"memento_credit": "turn"}, learns=True, where="shop"),
    GOPO: gopo_row(),
    "GOPO on logs": Row(learns=True, where="logs"),
    "GOPO, joint + terminal TSE": gopo_row(outcome_weight=1.0),
    "GOPO, R^E only": gopo_row(reward="expert"),
    "GOPO, R^A only": gopo_row(reward="cs"),
    "GOPO, nobody told T in play": gopo_row(reward="cs", blind_critic=True),
    "GOPO, from nothing": gopo_row(**NOTHING),
    "GOPO, from nothing, R^A by what was needed": gopo_row(**NOTHING, judge_by="needed"),
    "GOPO, R^A by what was needed": gopo_row(judge_by="needed"),
    "GOPO, R^A only, by what was needed": gopo_row(reward="cs", judge_by="needed"),
    "GOPO, without the end": gopo_row(end_weight=0.0),
    "GOPO, the end only": gopo_row(reward="end"),
    "GOPO, gamma .8": gopo_row(gamma=0.8),
    "GOPO, gamma .99": gopo_row(gamma=0.99),
    "GOPO, end weighs 3": gopo_row(end_weight=3.0),
    "- sentences, hidden n-grams": ablation(**ONE_BAG),
    "- reuse and ratio (Eq. 7 as printed)": ablation(**PRINTED),
    "- slips": ablation(slips=0.0),
    "- hidden sentences": ablation(hide=0.0),
    "- slips, hidden sentences": ablation(**CLEAN),
    "- anchor": ablation(expert_anchor=0.0),
    "- slips, hidden sentences, anchor": ablation(**CLEAN, expert_anchor=0.0),
    "- what the critic is told": ablation(blind_critic=True),
    "+ twice as many rollouts": Row(
        flags={"expert_decay": 120}, learns=True, where="shop", ablation=True),
}


def rows_for(dataset: Dataset) -> dict[str, Row]:
    """The rows that there are for a dataset."""
    there = {"anywhere", "shop" if dataset.environment else "logs"}
    if hasattr(dataset, "sops"):
        there.add("charts")
    return {name: row for name, row in ROWS.items() if row.where in there}


# --- who chooses the skills -------------------------------------------------------------------

def by_constant(skills: Sequence[str]) -> Choose:
    """The same skills at every turn."""
    def choose(states: list, episodes: list) -> list[tuple[str, ...]]:
        return [tuple(skills)] * len(states)

    return choose


def teachers_sequences(dataset: Dataset) -> Counter[tuple[str, ...]]:
    """How often the teacher chose each sequence on the training split."""
    return Counter(teacher for _, teacher in labelled_states(dataset.train))


def most_frequent(dataset: Dataset) -> tuple[str, ...]:
    """The teacher's most frequent sequence on the training split."""
    return teachers_sequences(dataset).most_common(1)[0][0]


def best_constant(dataset: Dataset) -> tuple[str, ...]:
    """The five skills that score the highest ESNDCG on the training split if said every turn.

    Greedy, position by position."""
    teachers = teachers_sequences(dataset)

    def score(skills: tuple[str, ...]) -> float:
        return sum(n * esndcg(skills, teacher) for teacher, n in teachers.items())

    chosen: tuple[str, ...] = ()
    for _ in range(min(MAX_SKILLS, len(dataset.skills))):
        rest = [skill for skill in dataset.skills if skill not in chosen]
        chosen = max(((*chosen, skill) for skill in rest), key=score)
    return chosen


def greedy(gopo: Gopo, seed: int) -> Choose:
    return gopo.chooser(greedy=True)


def without_stop(gopo: Gopo, seed: int) -> Choose:
    return by_policy(gopo.expert, greedy=True, stops=False)


def chance(gopo: Gopo, seed: int) -> Choose:
    return by_chance(list(gopo.dataset.skills), seed)


def teacher(gopo: Gopo, seed: int) -> Choose:
    return by_teacher


def charts(gopo: Gopo, seed: int) -> Choose:
    return by_sop(gopo.dataset)


def frequent(gopo: Gopo, seed: int) -> Choose:
    return by_constant(most_frequent(gopo.dataset))


def constant(gopo: Gopo, seed: int) -> Choose:
    return by_constant(best_constant(gopo.dataset))


CHOOSERS = {
    "policy": greedy,
    "without stop": without_stop,
    "chance": chance,
    "teacher": teacher,
    "charts": charts,
    "most frequent": frequent,
    "best constant": constant,
}


# --- how the agents of a row learn ------------------------------------------------------------

class Begun(NamedTuple):
    """What rows of a seed have in common."""
    weights: dict[str, torch.Tensor]
    seconds: float                               # CPU time


class Trainer:
    """Makes the agents of a row.  What rows of a seed have in common is learned once.

    dataset  what is learned from; its labels may be flawed
    steps    of the algorithm
    """

    def __init__(self, dataset: Dataset, steps: int):
        self.dataset = dataset
        self.steps = steps
        self.start = cache(self._start)

    def begun(self, row: Row, seed: int) -> tuple[Gopo, float]:
        """The agents of a row before their first step, and the CPU seconds that it took.

        Perception is trained and the warm start is over; it takes its time once a seed, and counts
        for every row whose policy began so."""
        gopo = self.untrained(row, seed)
        if row.chooser not in ("policy", "without stop"):
            return gopo, 0.0
        begun = self.start(row.algo == "memento", self._reading(row), gopo.warms, seed)
        gopo.expert.load_state_dict(begun.weights)
        return gopo, begun.seconds

    def learn(self, gopo: Gopo, row: Row, seed: int, name: str) -> None:
        """The steps of a row's algorithm."""
        if row.learns:
            for step in tqdm(range(1, self.steps_of(row) + 1), desc=name, leave=False):
                gopo.step(step, seed, stage=1)

    def steps_of(self, row: Row) -> int:
        return row.flags.get("expert_decay", self.steps)

    def untrained(self, row: Row, seed: int) -> Gopo:
        torch.manual_seed(seed)
        method = algorithm(row.algo)
        options = method.Options(**own(method.Options, row)) if method.Options else None
        live = self.dataset.environment is not None
        cfg = replace(ExpertConfig(), **own(ExpertConfig, row))
        usual = {"history": self.dataset.history} | method.usual_of_expert
        cfg = cfg.settled(live, self.steps_of(row), usual)
        policy = method.new_policy(self.dataset, cfg, options)
        rewards = GopoConfig(**own(GopoConfig, row))
        return method(self.dataset, policy, None, judge_for(self.dataset), rewards, options=options)

    def _reading(self, row: Row) -> tuple:
        """What the perception and the warm start of a row depend on."""
        cfg = replace(ExpertConfig(), **own(ExpertConfig, row))
        return tuple(getattr(cfg, name) for name in READING)

    def _start(self, bank: bool, reading: tuple, warms: bool, seed: int) -> Begun:
        """After perception and the warm start; a bank after its logged cases."""
        clock = time.process_time()
        algo = "memento" if bank else "gopo"
        gopo = self.untrained(Row(algo, dict(zip(READING, reading))), seed)
        gopo.expert.perception.fit(self.dataset, seed=seed, hidden=gopo.expert.cfg.hide_ngrams)
        gopo.prepare_policy(gopo.expert, self.dataset)
        if warms and gopo.expert.cfg.expert_warm:
            warm_expert(gopo.expert, self.dataset, seed)
        weights = {name: value.clone() for name, value in gopo.expert.state_dict().items()}
        return Begun(weights, time.process_time() - clock)


def own(config: type, row: Row) -> dict[str, Any]:
    """The flags of a row that are fields of `config`."""
    names = {field.name for field in fields(config)}
    return {name: value for name, value in row.flags.items() if name in names}


def fresh(dataset: Dataset, seed: int, steps: int = 1, name: str = "imitation, offline") -> Gopo:
    """The agents of a row before the first of `steps`; by default a warm-started policy."""
    return Trainer(dataset, steps).begun(ROWS[name], seed)[0]
