"""S_1 by the run's own language model, as it was after the warm start: `--judge likelihood`.

The rules of judge.py look at the form of a reply.  A pretrained model can break sense and keep the
form, and gets full marks.  Such a reply surprises a model that has read the shop's own replies:

    S_1 = min(1, perplexity of logged replies / perplexity of this reply)        in [0, 1]

Perplexity is exp of the mean -log pi of a reply's tokens, without its end token, given s^A_t; of
logged replies it is the median over the dev split.  The model is a second one, which stands still:
the one that learns would otherwise find its own words better and better.  S_2..S_4 and GRE stay
with the rules.  GAP-7: the paper does not say what the four scores are.
Exercise: let the learning model judge, and watch `entropy` in metrics.jsonl."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from data import DataError, Dataset, Judged, Request, Scores
from judge import GreScores, Judge
from start.flags import LIKELIHOOD
from start.pairs import Pair, warm_pairs

if TYPE_CHECKING:
    from csagent import CustomerServiceAgent

NAME = LIKELIHOOD
LOGGED = 64                                      # dev replies of which the median is taken
AT_ONCE = 16                                     # replies in a pass


class LikelihoodJudge:
    """Another judge's marks, but S_1, which is the likelihood of the reply."""

    def __init__(self, rules: Judge, load: Callable[[], CustomerServiceAgent],
                 logged: Sequence[Pair]):
        """
        load    the model as it was after the warm start; called when the first reply is judged
        logged  replies of people or of the teacher, in states that the model has not read
        """
        self.rules = rules
        self.name = f"{rules.name}, S_1 by likelihood"
        self._load = load
        self._logged = logged[:LOGGED]

    @cached_property
    def agent(self) -> CustomerServiceAgent:
        return self._load()

    @cached_property
    def usual(self) -> float:
        """Median of the logged replies' mean log pi, nats per token."""
        return median(mean_logp(self.agent, self._logged))

    def score(self, items: Sequence[Judged]) -> list[Scores | None]:
        told = mean_logp(self.agent, [_pair(item) for item in items])
        marks = self.rules.score(items)
        found: list[Scores | None] = []
        for logp, scores in zip(told, marks):
            found.append(scores and (quality(logp, self.usual), *scores[1:]))
        return found

    def gre(self, items: Sequence[Judged]) -> list[GreScores | None]:
        return self.rules.gre(items)


def quality(logp: float, usual: float) -> float:
    """S_1 of a reply with this mean log pi, where `usual` is that of logged replies; in nats.

    >>> quality(-0.5, -1.0), round(quality(-2.0, -1.0), 3), quality(-math.inf, -1.0)
    (1.0, 0.368, 0.0)
    """
    return math.exp(min(0.0, logp - usual))


def _pair(item: Judged) -> Pair:
    skills = tuple(skill.id for skill in item.skills)
    return Request(item.user, skills, item.context), item.reply


@torch.no_grad()
def mean_logp(agent: CustomerServiceAgent, pairs: Sequence[Pair]) -> list[float]:
    """Mean log pi of each reply's tokens, nats; -inf for one without a token."""
    from lm.decoder import token_logp
    found = []
    for first in range(0, len(pairs), AT_ONCE):
        part = pairs[first:first + AT_ONCE]
        prompts = [agent.prompt(request) for request, _ in part]
        replies = [agent.encode(text) for _, text in part]
        # a reply without a token is read as its end, and then not counted
        read = [ids or [agent.end] for ids in replies]
        with agent.autocast():
            logits, ids, mask = agent.reply_logits(prompts, range(len(part)), read)
        logp = (token_logp(logits, ids) * mask).sum(-1) / mask.sum(-1)                # [B]
        for reply, value in zip(replies, logp.tolist()):
            mean = value if reply else -math.inf
            found.append(mean)
    return found


def judge_by_likelihood(rules: Judge, run: Path, dataset: Dataset, config: dict[str, Any]) -> Judge:
    """The judge of a run with `--judge likelihood`, whose warm start is not there yet."""

    def load() -> CustomerServiceAgent:
        from csagent import load_agent
        return load_agent(run / "warm_start", dataset, config)

    return LikelihoodJudge(rules, load, warm_pairs(dataset.dev))


def refuse_unlearned(dataset: Dataset, config: dict[str, Any]) -> None:
    """DataError where no model reads the shop's replies before the steps, or none by skills."""
    run, warm = config["run"], config["warm"]
    if run["judge"] != NAME:
        return
    why = None
    if run["replies"] != "lm":
        why = "no language model writes here (--replies template)"
    elif config["gopo"]["no_expert"]:
        why = "a single agent's replies have no skills that they could be judged by"
    elif not warm["warm_steps"] or not warm["warm_dialogues"]:
        why = "without a warm start the model has read no reply of the shop"
    elif not warm_pairs(dataset.dev):
        why = f"{dataset.name} has no dev replies that others could be compared with"
    if why:
        raise DataError(f"--judge {NAME}: {why}; take --judge rules")
