"""Does a judge tell sense from nonsense?  Replies whose order is known by construction, and AUCs.

In states of the logs that the language model has not read, six replies are made:

    logged      what the teacher or a person said           greedy    the warm-started model's best
    hot         the same model's, drawn at temperature 1.5  another   what was said in another turn
    looped      the first sentence, four times              shuffled  the logged words, mixed

For every pair of kinds whose order is known, the AUC is the share of (better, worse) replies of
which the better one has the higher mark, ties counting half: 1 = always, .5 = a coin.

    python -m experiments.likelihood --run RUN --states 17

marks 102 replies by the rules (S_1 and R^A) and by the likelihood of the run's warm-started model
(S_1, start/own_judge.py)."""
from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from csagent import CustomerServiceAgent, load_agent
from data import DataError, Dataset, Judged, load_used
from infra.runs import read_config
from infra.terminal import forgive
from judge import RuleJudge
from rewards import cs_reward
from start.own_judge import LikelihoodJudge
from start.pairs import Pair, warm_pairs

HOT = 1.5
KINDS = ("logged", "greedy", "hot", "another", "looped", "shuffled")
# (better, worse): what is known of their order
PAIRS = (
    ("logged", "hot"), ("logged", "another"), ("logged", "looped"), ("logged", "shuffled"),
    ("greedy", "hot"), ("greedy", "another"), ("greedy", "looped"), ("greedy", "shuffled"),
)
Kinds = dict[str, list[Judged]]


def made_replies(agent: CustomerServiceAgent, dataset: Dataset, pairs: Sequence[Pair],
                 seed: int) -> Kinds:
    """Kind -> its reply in each of these states."""
    rng = random.Random(seed)
    chance = torch.Generator().manual_seed(seed)
    prepared = agent.prepare([request for request, _ in pairs])
    greedy = agent.speak(prepared, temperature=0.0)
    hot = agent.speak(prepared, temperature=HOT, generator=chance)
    found: Kinds = {kind: [] for kind in KINDS}
    for i, (request, logged) in enumerate(pairs):
        others = [text for asked, text in pairs if asked.skills != request.skills]
        said = {
            "logged": logged,
            "greedy": greedy[i][0].text,
            "hot": hot[i][0].text,
            "another": rng.choice(others or [logged]),
            "looped": looped(logged),
            "shuffled": shuffled(logged, rng),
        }
        skills = tuple(dataset.skills[name] for name in request.skills)
        for kind, text in said.items():
            found[kind].append(Judged(request.user, request.context, skills, text))
    return found


def looped(text: str) -> str:
    """
    >>> looped("I see. It costs 3.")
    'I see. I see. I see. I see.'
    """
    first = re.match(r"[^.!?]*[.!?]*", text)[0].strip()
    return " ".join([first] * 4)


def shuffled(text: str, rng: random.Random) -> str:
    """The same words in random order, with a capital first and the end mark last."""
    words = text.rstrip(".!?").split()
    rng.shuffle(words)
    mixed = " ".join(words)
    return f"{mixed[:1].upper()}{mixed[1:]}."


def auc(better: Sequence[float], worse: Sequence[float]) -> float:
    """The share of pairs in which the better one is higher; ties count half.

    >>> auc([1.0, 0.5], [0.5, 0.0])
    0.875
    """
    won = 0.0
    for high in better:
        for low in worse:
            won += (high > low) + 0.5 * (high == low)
    return won / (len(better) * len(worse))


def table(marks: dict[str, dict[str, list[float]]]) -> str:
    """Judge -> kind -> marks, as means and AUCs."""
    lines = ["| | " + " | ".join(marks) + " |", "|---|" + "---|" * len(marks)]
    for kind in KINDS:
        means = [f"{sum(m[kind]) / len(m[kind]):.2f}" for m in marks.values()]
        lines.append(f"| {kind}, mean mark | " + " | ".join(means) + " |")
    for better, worse in PAIRS:
        told = [f"{auc(m[better], m[worse]):.2f}" for m in marks.values()]
        lines.append(f"| {better} over {worse}, AUC | " + " | ".join(told) + " |")
    return "\n".join(lines)


def marks_of(agent: CustomerServiceAgent, dataset: Dataset, kinds: Kinds,
             logged: Sequence[Pair]) -> dict[str, dict[str, list[float]]]:
    """What each judge says of each reply."""
    rules = RuleJudge(dataset.skills)
    own = LikelihoodJudge(rules, lambda: agent, logged)
    found: dict[str, dict[str, list[float]]] = {"S_1, rules": {}, "R^A, rules": {}}
    found["S_1, likelihood"] = {}
    found["R^A, likelihood"] = {}
    for kind, items in kinds.items():
        for name, judge in (("rules", rules), ("likelihood", own)):
            scores = judge.score(items)
            found[f"S_1, {name}"][kind] = [s[0] for s in scores]
            found[f"R^A, {name}"][kind] = [cs_reward(s) for s in scores]
    return found


def states_of(dataset: Dataset, count: int) -> tuple[list[Pair], list[Pair]]:
    """(states to reply in, other logged replies) of the dev split; neither was read."""
    pairs = warm_pairs(dataset.dev)
    pairs = [(request, reply) for request, reply in pairs if request.skills]
    if len(pairs) < 2 * count:
        raise DataError(f"--states {count}: {dataset.name} has {len(pairs)} dev replies, of which "
                        "half must stay for comparison")
    return pairs[:count], pairs[count:]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--run", type=Path, required=True, help="a run with a language model")
    parser.add_argument("--states", type=int, default=17, help="six replies are made in each")
    parser.add_argument("--seed", type=int, default=0)
    forgive()
    args = parser.parse_args(argv)
    try:
        config = read_config(args.run, "--run")
        dataset = load_used(config["run"])
        agent = load_agent(args.run / "warm_start", dataset, config)
        states, logged = states_of(dataset, args.states)
    except (DataError, OSError) as error:
        print(f"experiments.likelihood: {error}", file=sys.stderr)
        return 2
    kinds = made_replies(agent, dataset, states, args.seed)
    print(f"{len(states)} states, {len(KINDS)} replies in each\n")
    print(table(marks_of(agent, dataset, kinds, logged)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
