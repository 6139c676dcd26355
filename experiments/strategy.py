"""What strategy alone is worth, without a language model: simple policies, imitation and GOPO.

On the simulated shop the phrase book writes every reply; on logs nothing is said, because the next
state ignores it.  The rows are in ROWS: random skills, the most frequent sequence, the best five
constant skills, imitation, Memento, and GOPO with R^E only, with the joint reward of Eq. 10, and
with terminal TSE.  Imitation is cross-entropy on the teacher's sequences: offline on the logged
states, or on-policy on the states that the Expert itself reaches.  "Without stop" lets the same
supervised Expert never stop before the fifth skill: ESNDCG as printed does not charge for that
(GAP-2).

Try it:  python -m experiments.strategy --dataset mgshop --seeds 1
         python -m experiments.strategy --dataset multiwoz --seeds 3 --json results.json"""
from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import data
from baselines.imitation import imitate_offline
from corpora.sop import by_sop
from data import MAX_SKILLS, DataError, Dataset
from expert import ExpertConfig
from gopo import Gopo, GopoConfig, algorithm
from hosted.judge import judge_for
from infra.files import read_json, write_json
from measure import evaluate
from policies import Choose, by_chance, by_policy, by_teacher
from rewards import esndcg
from start.pairs import labelled_states

COMMAND = "python -m experiments.strategy"
SHOWN = (
    *("tse", "I_1", "I_2", "I_3", "N_1", "N_2", "N_3", "turns", "success"),
    *("esndcg", "f1", "exact", "length", "vouchers"),
)


# --- the rows ---------------------------------------------------------------------------------

class Row(NamedTuple):
    """A row: how its agents learn, who chooses the skills, and where there is such a row.

    algo      of gopo.ALGORITHMS
    rewards   fields of GopoConfig
    imitates  first imitation of the logs, offline
    learns    then steps of the algorithm
    chooser   a key of CHOOSERS
    where     anywhere, shop (simulated customers), logs, or charts (STAR comes with the flow charts
              that its agents were given)
    one_seed  all seeds would give the same
    """
    algo: str = "gopo"
    rewards: Mapping[str, object] = MappingProxyType({})
    imitates: bool = False
    learns: bool = False
    chooser: str = "policy"
    where: str = "anywhere"
    one_seed: bool = False


def gopo_row(**rewards: object) -> Row:
    return Row(rewards=rewards, learns=True, where="shop")


ROWS = {
    "random": Row(chooser="chance"),
    "teacher": Row(chooser="teacher", where="shop", one_seed=True),
    "SOP graph": Row(chooser="charts", where="charts", one_seed=True),
    "most frequent sequence": Row(chooser="most frequent", one_seed=True),
    "best constant five": Row(chooser="best constant", one_seed=True),
    "imitation, offline": Row(imitates=True),
    "imitation, offline, without stop": Row(imitates=True, chooser="without stop"),
    "imitation, on-policy": Row(algo="imitation", learns=True, where="shop"),
    "Memento": Row(algo="memento", learns=True, where="shop"),
    "GOPO, R^E only": gopo_row(reward="expert"),
    "GOPO, R^A only": gopo_row(reward="cs"),
    "GOPO, joint (Eq. 10)": gopo_row(),
    "GOPO, joint, from imitation": Row(imitates=True, learns=True, where="shop"),
    "GOPO, joint + terminal TSE": gopo_row(outcome_weight=1.0),
    "GOPO (R^E; replayed logs)": Row(learns=True, where="logs"),
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

def fresh(dataset: Dataset, seed: int, algo: str = "gopo", **rewards: object) -> Gopo:
    """An untrained policy with trained perception, and no language model."""
    torch.manual_seed(seed)
    method = algorithm(algo)
    options = method.Options() if method.Options else None
    policy = method.new_policy(dataset, ExpertConfig(), options)
    policy.perception.fit(dataset, seed=seed)
    method.prepare_policy(policy, dataset)
    cfg = GopoConfig(**rewards)
    return method(dataset, policy, None, judge_for(dataset), cfg, options=options)


def learn(gopo: Gopo, seed: int, steps: int, name: str) -> Gopo:
    for step in tqdm(range(1, steps + 1), desc=name, leave=False):
        gopo.step(step, seed)
    return gopo


class Trainer:
    """Makes the agents of a row.

    An Expert that only imitated is kept: two rows ask it, with and without its stop."""

    def __init__(self, dataset: Dataset, steps: int):
        self.dataset = dataset
        self.steps = steps
        self.supervised = cache(self.imitated)

    def imitated(self, seed: int) -> Gopo:
        return imitate_offline(fresh(self.dataset, seed), seed)

    def agents(self, name: str, row: Row, seed: int) -> Gopo:
        if row.imitates and not row.learns:
            return self.supervised(seed)
        if row.imitates:
            gopo = self.imitated(seed)
        else:
            gopo = fresh(self.dataset, seed, row.algo, **row.rewards)
        if row.learns:
            learn(gopo, seed, self.steps, name)
        return gopo


# --- the study --------------------------------------------------------------------------------

def study(
    dataset: Dataset,
    seeds: int,
    steps: int,
    episodes: int,
    only: Sequence[str],
    path: Path | None,
) -> dict[str, dict]:
    """All rows over training seeds; the test customers are the same throughout (seed 0).

    only  rows whose name contains one of these words; empty: all
    path  where the table is written after every row; rows of an earlier call stay in it
    """
    results: dict[str, dict] = {}
    if path and path.exists():
        results = read_json(path)
    trainer = Trainer(dataset, steps)
    for name, row in rows_for(dataset).items():
        if only and not any(word in name for word in only):
            continue
        clock = time.perf_counter()
        count = 1 if row.one_seed else seeds
        runs = list(measured(trainer, name, row, count, episodes))
        results[name] = over_seeds(runs) | {"seconds": (time.perf_counter() - clock) / len(runs)}
        tqdm.write(line(name, results[name]))
        if path:
            write_json(path, results)
    return results


def measured(
    trainer: Trainer, name: str, row: Row, seeds: int, episodes: int
) -> Iterator[dict[str, float | None]]:
    """metric -> mean, for every training seed of a row."""
    for seed in range(seeds):
        gopo = trainer.agents(name, row, seed)
        choose = CHOOSERS[row.chooser](gopo, seed)
        label = f"{name}, seed {seed}"
        found, _ = evaluate(gopo, choose, episodes, 0, label=label, with_bleu=False)
        yield {m: found[m]["mean"] for m in SHOWN}


def over_seeds(runs: Sequence[dict[str, float | None]]) -> dict[str, dict]:
    """metric -> its summary over the seeds of a row."""
    found = {}
    for metric in SHOWN:
        found[metric] = summary([run[metric] for run in runs])
    return found


def summary(values: Sequence[float | None]) -> dict[str, float | list | None]:
    known = [v for v in values if v is not None]
    mean = float(np.mean(known)) if known else None
    std = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return {"mean": mean, "std": std, "seeds": list(values)}


def cell(value: dict) -> str:
    """A mean, with its standard deviation over seeds if there is more than one."""
    if value["std"] is None:
        return f"{value['mean']:.3f}"
    return f"{value['mean']:.3f}±{value['std']:.3f}"


def line(name: str, row: dict) -> str:
    cells = [f"{m} {cell(row[m])}" for m in SHOWN if row[m]["mean"] is not None]
    return f"{name:34s} " + "  ".join(cells) + f"  ({row['seconds']:.0f} s a seed)"


# --- the command ------------------------------------------------------------------------------

def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Simple policies, imitation and GOPO over skills, without a language model.",
        allow_abbrev=False,
    )
    option = parser.add_argument
    option(
        "--dataset",
        default="mgshop",
        help="mgshop, multiwoz, star, or the path of your logs (default mgshop)",
    )
    option(
        "--split",
        help="star only: dialogue, or task (the test tasks are none of the training ones)",
    )
    option(
        "--data_dir",
        default=os.environ.get("GOPO_DATA", "data"),
        help="where corpora lie (default data, or GOPO_DATA)",
    )
    option("--seeds", type=int, default=1, help="training seeds 0, 1, ... (default 1)")
    option(
        "--steps",
        type=int,
        default=300,
        help="GOPO steps, and steps of on-policy imitation (default 300)",
    )
    option(
        "--episodes", type=int, default=200, help="test dialogues per row and seed (default 200)"
    )
    option("--rows", nargs="*", default=(), help="only rows whose name has one of these words")
    option("--json", type=Path, help="also write the table to this file, after every row")
    return parser


def execute(args: argparse.Namespace) -> None:
    dataset = data.load(args.dataset, args.data_dir, split=args.split)
    if not labelled_states(dataset.train):
        raise DataError(
            f"{dataset.name}: no turn has skills, so there is no strategy to compare"
        )
    print(dataset.note)
    print(
        f"test dialogues {args.episodes}, training seeds {args.seeds}, mean±std over seeds"
    )
    study(dataset, args.seeds, args.steps, args.episodes, args.rows, args.json)


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments()
    args = parser.parse_args(argv)
    if min(args.seeds, args.steps, args.episodes) < 1:
        parser.error("--seeds, --steps and --episodes must be at least 1")
    try:
        execute(args)
    except (DataError, OSError) as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
