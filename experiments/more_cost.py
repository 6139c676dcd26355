"""What lambda costs: whole steps of MORE with different weights, in turn, in CPU seconds.

    python -m experiments.more_cost --model tiny --rounds 5

The model is untrained and its replies are cut at --max_new_tokens, about the length of trained
ones.  Steps of all kinds alternate, so that what else the machine does falls on all of them alike;
the step size is so small that the policy stays.  A ratio is the median over rounds of a kind's CPU
seconds over those of equal weights in the same round."""
from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import data
from experiments.more_rows import Maker, Settings
from expert import ExpertConfig
from judge import RuleJudge
from play import GopoConfig
from systems.more_config import MoreConfig
from systems.more_train import MORE

COMMAND = "python -m experiments.more_cost"
KINDS = {
    "equal": {"more_weights": "equal"},
    "std": {"more_weights": "std"},
    "rank, head in closed form": {"more_norm_params": "head"},
    "rank, a backward pass a reward": {},
}
# what was to be shown
MOST = {"std": 1.15, "rank, head in closed form": 1.15, "rank, a backward pass a reward": 3.0}


def made(model: str, tokens: int) -> MORE:
    dataset = data.load("sale")
    agent = Maker(dataset, Settings(model=model), Path()).agent(0)
    agent.lm = replace(agent.lm, max_new_tokens=tokens)
    for group in agent.optimizer.param_groups:
        group["lr"] = 1e-9
    options = MoreConfig()
    expert = MORE.new_policy(dataset, ExpertConfig(), options)
    cfg = GopoConfig(no_expert=True)
    more = MORE(dataset, expert, agent, RuleJudge(dataset.skills), cfg, options=options)
    more.grpo.freeze()
    return more


def seconds(more: MORE, kind: str, number: int) -> float:
    """CPU seconds of one step."""
    options = replace(MoreConfig(more_watch=10**6), **KINDS[kind])
    more.options = more.grpo.cfg = options
    clock = time.process_time()
    more.step(number, 0)
    return time.process_time() - clock


def ratios(more: MORE, rounds: int) -> dict[str, tuple[float, float]]:
    """kind -> (median seconds, median ratio to equal weights)."""
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(rounds + 1):
        for kind in KINDS:
            times[kind].append(seconds(more, kind, number + 1))
    found = {}
    for kind, row in times.items():
        # the first round warms up
        each = [own / equal for own, equal in zip(row[1:], times["equal"][1:])]
        found[kind] = (statistics.median(row[1:]), statistics.median(each))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="What MORE's weights cost, in CPU seconds.", allow_abbrev=False)
    parser.add_argument("--model", choices=("tiny", "nano"), default="tiny")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each kind (default 5)")
    parser.add_argument("--max_new_tokens", type=int, default=20, help="of a reply (default 20)")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.max_new_tokens < 1:
        parser.error("--rounds and --max_new_tokens must be at least 1")
    torch.set_num_threads(1)
    for kind, (median, ratio) in ratios(made(args.model, args.max_new_tokens), args.rounds).items():
        said = ""
        if kind in MOST:
            said = f"   at most {MOST[kind]:.2f}: {'holds' if ratio <= MOST[kind] else 'FAILS'}"
        print(f"{kind:32s} {median:6.2f} CPU s   x{ratio:.2f}{said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
