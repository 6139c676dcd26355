"""What R^A says about the choice of skills, judged by those that were chosen and by those needed.

In the states of training customers whom the warm-started Expert serves, several sequences are drawn
as in training, a phrase book words each, and the judge marks the replies twice.  If R^A is to teach
the Expert anything, it must differ between the sequences of one state.  Simulated shops only.

    python -m experiments.judging --seed 0

prints, for R^E and both R^A: the mean, the standard deviation within a state, and the correlation
with R^E within a state; then the mean of each for random skills and for the teacher's."""
from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import data
from data import DataError, Episode, Judged
from experiments.strategy_rows import fresh
from gopo import Gopo
from policies import keyed
from rewards import CS_WEIGHTS, cs_reward, esndcg, extra_cost

COPIES = 8                                       # sequences drawn in a state
Skills = tuple[str, ...]


class State(NamedTuple):
    """A turn of a training customer, and the sequences that were drawn there."""
    episode: Episode
    turn: int
    drawn: list[Skills]


def states(gopo: Gopo, customers: int, seed: int) -> list[State]:
    """Every labelled turn of some dialogues, each with `COPIES` sequences of the policy."""
    episodes = gopo.episodes("train", range(customers), seed)
    gopo.play(episodes, gopo.chooser(keyed(seed)), draws=keyed(seed), judge_by="nobody")
    found = []
    for episode in tqdm(episodes, desc="drawing sequences", leave=False):
        for turn, step in enumerate(episode.steps):
            draws = [keyed(seed + 1 + i)(episode.number, turn) for i in range(COPIES)]
            found.append(State(episode, turn, gopo.expert.act([step.state] * COPIES, draws)))
    return found


def marks(gopo: Gopo, state: State, skills: Skills) -> tuple[float, float, float]:
    """(R^E, R^A by the skills chosen, R^A by the skills needed) of a sequence in a state."""
    step = state.episode.steps[state.turn]
    teacher = step.teacher
    wording = gopo.dataset.template(skills, step.seen.context, random.Random(state.turn))
    cost = gopo.expert.cfg.skill_cost
    R_E = esndcg(skills, teacher) - extra_cost(len(skills), len(teacher), cost)
    earlier = tuple(s.reply for s in state.episode.steps[:state.turn])
    asked = []
    for names in (skills, teacher):
        wanted = tuple(gopo.dataset.skills[name] for name in names)
        asked.append(Judged(
            step.state.user, step.seen.context, wanted, wording, earlier,
            step.seen.labels.reference, step.state.history))
    chosen, needed = (cs_reward(scores, CS_WEIGHTS) for scores in gopo.judge.score(asked))
    return R_E, chosen, needed


def within(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of [states, copies, 3]: the spread within a state, and the correlation there with R^E."""
    centred = values - values.mean(1, keepdims=True)
    spread = centred.std(1).mean(0)
    together = (centred * centred[..., :1]).sum((0, 1))
    scale = np.sqrt((centred ** 2).sum((0, 1)))
    return spread, together / (scale * scale[0])


def by_policy(gopo: Gopo, found: Sequence[State], seed: int) -> dict[str, np.ndarray]:
    """Mean marks of random skills and of the teacher's, in the same states."""
    rng = random.Random(seed)
    pool = list(gopo.dataset.skills)
    rows: dict[str, list] = {"random skills": [], "the teacher's": []}
    for state in found:
        teacher = state.episode.steps[state.turn].teacher
        drawn = tuple(rng.sample(pool, rng.randint(1, 5)))
        rows["random skills"].append(marks(gopo, state, drawn))
        rows["the teacher's"].append(marks(gopo, state, teacher))
    return {name: np.mean(values, 0) for name, values in rows.items()}


def report(gopo: Gopo, found: Sequence[State], seed: int) -> None:
    rows = []
    for state in tqdm(found, desc="judging", leave=False):
        rows.append([marks(gopo, state, skills) for skills in state.drawn])
    values = np.array(rows)                      # [states, copies, 3]
    spread, with_expert = within(values)
    names = ("R^E", "R^A by the skills chosen", "R^A by the skills needed")
    print(f"{len(found)} states, {COPIES} sequences of the warm-started Expert in each")
    print(f"{'':28s}{'mean':>8s}{'spread within a state':>24s}{'correlation with R^E':>24s}")
    for i, name in enumerate(names):
        mean = values[..., i].mean()
        print(f"{name:28s}{mean:8.3f}{spread[i]:24.3f}{with_expert[i]:24.2f}")
    for policy, means in by_policy(gopo, found, seed).items():
        said = ", ".join(f"{name} {mean:.3f}" for name, mean in zip(names, means))
        print(f"{policy}: {said}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What R^A says about the choice of skills.")
    parser.add_argument("--dataset", default="mgshop", help="a simulated shop (default mgshop)")
    parser.add_argument("--customers", type=int, default=100, help="dialogues (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of training and customers (default 0)")
    args = parser.parse_args(argv)
    if args.customers < 1 or args.seed < 0:
        parser.error("--customers must be at least 1, --seed at least 0")
    try:
        dataset = data.load(args.dataset, os.environ.get("GOPO_DATA", "data"))
        if dataset.environment is None:
            raise DataError(f"--dataset {dataset.name}: nobody words its skills; take a shop")
    except (DataError, OSError) as error:
        print(f"judging: {error}", file=sys.stderr)
        return 2
    gopo = fresh(dataset, args.seed)
    report(gopo, states(gopo, args.customers, args.seed), args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
