"""Why customers are lost: the turns that cost most patience, by what went wrong in them.

Of each dialogue without success the turn is taken after which the customer had lost most patience.
Either perception was wrong there (a feeling or a wish), or it was right and the skills were not:
what was missing and what was too much is counted, against the teacher's.  Simulated shops only.

Try it:  python -m experiments.failures --run runs/mgshop-gopo-0 --episodes 200
         python -m experiments.failures --run runs/mgshop-gopo-0 --show 3"""
from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data import DataError, Episode, Step, load_used
from gopo import Gopo, load_gopo
from infra.runs import read_config
from perception import reading
from policies import keyed
from shop.agenda import OPENER
from show import show_dialogue


class Lost(NamedTuple):
    """The dearest turn of a dialogue without success."""
    episode: Episode
    turn: int                                    # from 0
    cost: float                                  # patience

    @property
    def step(self) -> Step:
        return self.episode.steps[self.turn]


def play(gopo: Gopo, episodes: list[Episode]) -> list[list[float]]:
    """Plays to the ends; the patience that each turn of each dialogue cost."""
    costs: list[list[float]] = [[] for _ in episodes]
    choose = gopo.chooser(greedy=True)
    with reading(gopo.expert):
        while live := [i for i, episode in enumerate(episodes) if not episode.over]:
            before = [episodes[i].env.patience for i in live]
            turns = [episodes[i] for i in live]
            gopo.take_turn(turns, choose, temperature=0.0, draws=keyed(0), judge_by="nobody")
            for i, patience in zip(live, before):
                costs[i].append(patience - episodes[i].env.patience)
    return costs


def lost(episodes: Sequence[Episode], costs: Sequence[Sequence[float]]) -> list[Lost]:
    found = []
    for episode, spent in zip(episodes, costs):
        if not episode.seen.outcome.success:
            dearest = max(range(len(spent)), key=spent.__getitem__)
            found.append(Lost(episode, dearest, spent[dearest]))
    return found


def cause(step: Step) -> str:
    """What went wrong in a turn, in one phrase."""
    labels = step.seen.labels
    intent, emotion = step.perceived
    upset = emotion in OPENER or labels.emotion in OPENER
    if emotion != labels.emotion and upset:
        return "feeling misread"
    if intent != labels.intent:
        return "wish misread"
    if step.skills == step.teacher:
        return "right skills, an unlucky customer"
    return "understood, other skills than the teacher's"


def differences(step: Step) -> list[str]:
    """Skills that the teacher's sequence has and the turn's has not, and the reverse."""
    missing = [f"- {skill}" for skill in step.teacher if skill not in step.skills]
    extra = [f"+ {skill}" for skill in step.skills if skill not in step.teacher]
    if missing or extra:
        return missing + extra
    return ["order"] if step.skills != step.teacher else []


def report(found: Sequence[Lost], played: int) -> None:
    print(f"{len(found)} of {played} customers were not served in full")
    for name, count in Counter(cause(one.step) for one in found).most_common():
        print(f"  {count:3d}  {name}")
    changes: Counter[str] = Counter()
    for one in found:
        changes.update(differences(one.step))
    print("skills missing (-) and too many (+) in these turns:")
    for name, count in changes.most_common(12):
        print(f"  {count:3d}  {name}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Why customers of a simulated shop are lost.")
    parser.add_argument("--run", required=True, help="a run directory of a simulated shop")
    parser.add_argument("--episodes", type=int, default=200, help="test customers (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the customers (default 0)")
    parser.add_argument("--show", type=int, default=0, help="print so many of these dialogues")
    args = parser.parse_args(argv)
    if args.episodes < 1 or min(args.seed, args.show) < 0:
        parser.error("--episodes must be at least 1, --seed and --show at least 0")
    try:
        execute(args)
    except (DataError, OSError) as error:
        print(f"failures: {error}", file=sys.stderr)
        return 2
    return 0


def execute(args: argparse.Namespace) -> None:
    dataset = load_used(read_config(Path(args.run))["run"])
    if dataset.environment is None:
        raise DataError(f"--run {args.run}: {dataset.name} has no customers who could be lost")
    gopo = load_gopo(args.run, dataset)
    episodes = gopo.episodes("test", range(args.episodes), args.seed)
    found = lost(episodes, play(gopo, episodes))
    report(found, len(episodes))
    for one in found[:args.show]:
        print(f"\nturn {one.turn + 1} cost {one.cost:.2f} of patience: {cause(one.step)}")
        show_dialogue(gopo, one.episode)


if __name__ == "__main__":
    sys.exit(main())
