"""What the tests of the language model share: an agent whose errors would show, and requests."""
import itertools

import torch

import csagent
from csagent import CustomerServiceAgent, demo_agent
from data import Reply, Request, Skill
from lm.decoder import Drawn, token_logp

RULED = {
    "sorry": Skill("sorry", examples=("We are sorry.",), must_not_say=("e a", "抱歉", "is", "on")),
    "must": Skill("must", examples=("x",), must_say=("Terms 1.", "No {eta}?")),
}
CONTEXT = {"eta": "Friday", "price_1": "3"}
REQUESTS = [
    Request("Where is my lamp? ", ("sorry",), CONTEXT),
    Request("Where is my lamp? " * 3, ("sorry", "must"), CONTEXT),
    Request("Where is my lamp? " * 2, (), CONTEXT),
]
REWARDS = [[0.0, 1.0, 0.5], [0.3, None, -1.0], [None, 0.2, 0.1]]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sharp_agent(**flags) -> CustomerServiceAgent:
    """Random, but not uniform: weights so large that an error of the computation would show."""
    agent = demo_agent(**{"max_new_tokens": 20, "temperature": 0.7} | flags)
    for p in agent.params:
        if p.ndim > 1:
            p.data.mul_(2.0)
    agent.skills.update(RULED)
    agent.freeze_embedding(csagent.TALK)
    return agent


def flattened(groups: list[list[Reply]]) -> list[Reply]:
    return list(itertools.chain.from_iterable(groups))


def scored(agent: CustomerServiceAgent, requests: list[Request], replies: list[list[Reply]]):
    """logits, log-probabilities and mask of all replies, as `update` computes them."""
    drawn = []
    for state, group in enumerate(replies):
        drawn += [Drawn(state, reply) for reply in group]
    with torch.no_grad():
        logits, ids, mask = agent.masked_logits(agent.prepare(requests), drawn)
    return logits, token_logp(logits, ids), mask


def gradients(agent: CustomerServiceAgent, run) -> torch.Tensor:
    """The gradient that reaches the optimiser, before clipping."""
    kept = []

    def keep(optimizer, terms):
        kept.extend(p.grad.flatten().clone() for p in agent.params)
        return terms

    agent.step = keep
    run()
    return torch.cat(kept)
