"""What the tests of PPO share: a shop of two turns, a judge by length, and a learner in it."""
from __future__ import annotations

import torch

import csagent
from baselines.ppo import PPO
from csagent import demo_agent
from data import Dataset, Dialogue, Episode, Labels, Observation, Outcome, Step, Turn
from expert import Expert, ExpertConfig
from measure import training_row
from perception import Perception
from play import GopoConfig


class TwoTurns:
    """Odd customers are cut off by the horizon; the others leave, all done.

    Second turns differ in length."""

    def __init__(self, number):
        self.number = number
        self.answers = 0

    def reset(self):
        labels = Labels(teacher=("soothe",))
        return Observation("Where is my lamp?", {"eta": "Friday"}, labels=labels)

    def step(self, reply):
        self.answers += 1
        if self.answers == 1:
            user = "And the price? " * (1 + self.number % 3)
            return Observation(user, {"price_1": "3"}, labels=Labels(teacher=("price",)))
        cut = bool(self.number % 2)
        third = None if cut else 2
        outcome = Outcome(True, (1, 2, third))
        return Observation("Bye.", {}, terminated=not cut, truncated=cut, outcome=outcome)


class Lengths:
    """Scores by the length of the reply; the words of nobody in particular."""

    def score(self, items):
        return [(len(i.reply) % 7 / 7, len(i.reply) % 3 / 3, 0.5, 0.25) for i in items]


class Nobody:
    """A judge that can score nothing."""

    def score(self, items):
        return [None] * len(items)


def toy_shop(live: bool = True) -> Dataset:
    """Live, or replayed from its logs."""
    logs = []
    for n in range(3):
        turns = tuple(Turn(user, reply="We are sorry.") for user in ("Hi.", "My lamp?"))
        logs.append(Dialogue(str(n), turns))

    def customer(split, number, seed):
        return TwoTurns(number)

    environment = customer if live else None
    return Dataset(
        "toy", csagent.DEMO, (), (), logs, [], [], environment=environment,
        must_not_say=("guarantee",))


def learner(live=True, judge=None, options=None, cfg=None, **agent_flags) -> PPO:
    """Random, but not uniform: weights so large that an error of the computation would show.

    cfg          fields of GopoConfig
    agent_flags  fields of LMConfig and AgentConfig
    """
    flags = {"max_new_tokens": 10, "temperature": 0.7, "group": 2, "agent_lr": 1e-3}
    agent = demo_agent(**(flags | agent_flags))
    for p in agent.params:
        if p.ndim > 1:
            p.data.mul_(2.0)
    torch.manual_seed(0)
    expert = Expert(list(csagent.DEMO), Perception((), ()), ExpertConfig(width=8), words=4)
    config = GopoConfig(**({"no_expert": True, "dialogues": 3} | (cfg or {})))
    return PPO(toy_shop(live), expert, agent, judge or Lengths(), config, options=options)


def played_by(p: PPO, step: int = 1) -> list[Episode]:
    """The dialogues of a step; nothing is learned from them."""
    learn = p.learn
    p.learn = lambda played, seed: {}
    try:
        return p.step(step, 0)[0]
    finally:
        p.learn = learn


def row_of(p: PPO, number: int) -> dict:
    """A row of metrics.jsonl."""
    return training_row(number, p, *p.step(number, 0))


def sharpen(p: PPO) -> None:
    """A value head that says something: what reaches the LM through it would show."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        p.head.weight.normal_(0, 0.3, generator=generator)


def steps_of(played: list[Episode]) -> list[Step]:
    found = []
    for episode in played:
        found += episode.steps
    return found


def drawn_ids(step: Step) -> list[int]:
    """The tokens of reply 0 that the agent drew."""
    reply = step.replies[0]
    return reply.ids[:sum(reply.mask)]
