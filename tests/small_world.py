"""A tiny shop in which a voucher is worth something: the fast test of CMPO.

Three customers in ten are eager.  A dialogue has three turns.  A voucher adds two stars for an
eager customer, and for any other one star or none, by luck.  So without a price everybody is given
one, and a price between .125 and .5 (half a star and two stars, in units of R_O) is worth paying
for the eager alone.  The customers say which they are, and hear words."""
from __future__ import annotations

import random

import torch

from csagent import CustomerServiceAgent
from data import Dataset, Dialogue, Episode, Labels, Observation, Outcome, Skill, Turn
from expert import ExpertConfig
from judge import RuleJudge
from lm.config import AgentConfig, LMConfig
from lm.deciding import TAGS
from lm.models import build_tiny
from play import GopoConfig
from policies import keyed
from start.warm_expert import warm_expert
from systems.cmpo import CMPO
from systems.cmpo_config import CMPOConfig
from text import split_decision

SKILLS = {
    "explain": Skill("explain", examples=("This is why.",)),
    "propose_voucher": Skill("propose_voucher", examples=("Would a voucher help?",)),
    "issue_voucher": Skill("issue_voucher", examples=("The voucher is in your account.",)),
}
EAGER = ("It was cold and I want something for it.", "Make it up to me please.")
CALM = ("It was a bit cold.", "I only wanted to tell you.")
GENEROUS = 0.5                                   # share of logged dialogues with a voucher
TURNS = 3


class Customer:
    """`reset()`, then `step(reply)` three times."""

    def __init__(self, split: str, number: int, seed: int, turns: int = TURNS):
        self.key = f"{split}/{number}/{seed}"
        self.turns = turns
        self.luck = 0

    def rng(self, *key) -> random.Random:
        parts = [self.key, *key]
        if self.luck:
            parts.append(self.luck)
        return random.Random("/".join(map(str, parts)))

    def reset(self) -> Observation:
        rng = self.rng("person")
        self.eager = rng.random() < 0.3
        self.issued = 0
        self.valid = True
        self.turn = 0
        return self.observe()

    def step(self, reply: str) -> Observation:
        self.turn += 1
        self.heard = reply
        decision, words, valid = split_decision(reply)
        self.valid = self.valid and valid
        self.issued += "issue_voucher" in offers(words, {}) and decision != "chat"
        return self.observe()

    def stars(self) -> int:
        gain = 2 if self.eager else int(self.rng("luck").random() < 0.5)
        return 2 + gain * min(1, self.issued)

    def observe(self) -> Observation:
        over = self.turn >= self.turns
        satisfaction = self.stars() if over else None
        outcome = Outcome(
            over, vouchers=self.issued, satisfaction=satisfaction,
            valid=self.issued <= 1 and self.valid)
        words = EAGER if self.eager else CALM
        user = self.rng("words", self.turn).choice(words)
        banned = ("issue_voucher",) if self.issued else ()
        labels = Labels("complain", "neutral", ("explain",), "This is why.")
        return Observation(
            user, {}, terminated=over, labels=labels, outcome=outcome, banned=banned)


def template(skills, context, rng) -> str:
    return " ".join(SKILLS[name].examples[0] for name in skills) or "Hm."


def offers(text: str, context: dict) -> set[str]:
    """The acts about a voucher that a customer hears."""
    heard = set()
    if "in your account" in text:
        heard.add("issue_voucher")
    if "a voucher help" in text:
        heard.add("propose_voucher")
    return heard


def logged(split: str, number: int) -> Dialogue:
    """A clerk who is as generous with one customer as with another."""
    customer = Customer(split, number, 0)
    seen = customer.reset()
    generous = random.Random(f"clerk/{split}/{number}").random() < GENEROUS
    turns = []
    while not seen.terminated:
        skills = ("explain",)
        if generous and customer.turn == 1:
            skills = ("explain", "issue_voucher")
        reply = template(skills, {}, None)
        turns.append(Turn(seen.user, "complain", "neutral", {}, skills, reply))
        seen = customer.step(reply)
    return Dialogue(f"{split}-{number}", tuple(turns))


def load(data_dir=None, turns: int = TURNS) -> Dataset:
    def environment(split: str, number: int, seed: int) -> Customer:
        return Customer(split, number, seed, turns)

    splits = {"train": 60, "dev": 10, "test": 10}
    made = {}
    for split, count in splits.items():
        made[split] = [logged(split, number) for number in range(count)]
    return Dataset(
        "small", SKILLS, ("complain",), ("neutral",), **made, environment=environment,
        template=template, horizon=turns, offers=offers, note="a tiny shop for tests")


# --- CMPO on it -----------------------------------------------------------------------------------

def made(steps: int = 40, warm: bool = True, turns: int = 3, **flags) -> CMPO:
    """CMPO on the tiny shop, after an imitation of its clerk."""
    shop = load(turns=turns)
    torch.manual_seed(0)
    cfg = ExpertConfig(width=24, history=1, expert_warm=2, expert_decay=steps, expert_lr=5e-3)
    options = CMPOConfig(**({"customers": 8, "genrm": "none"} | flags))
    expert = CMPO.new_policy(shop, cfg, options)
    if warm:
        warm_expert(expert, shop, 0)
    return CMPO(shop, expert, None, RuleJudge(shop.skills), GopoConfig(), options=options)


def made_of_words(**flags) -> CMPO:
    """CMPO on the tiny shop with a small language model that has read nothing."""
    shop = load()
    torch.manual_seed(0)
    options = CMPOConfig(**({"customers": 4, "genrm": "none", "cmpo_epochs": 1} | flags))
    expert = CMPO.new_policy(shop, ExpertConfig(width=24, history=1, expert_decay=40), options)
    model, tokenizer = build_tiny([*EAGER, *CALM, "This is why."] * 9, (), 0, 64, 2, 320, TAGS)
    lm, cfg = LMConfig(max_new_tokens=32), AgentConfig(agent_lr=5e-3)
    agent = CustomerServiceAgent(model, tokenizer, shop.skills, (), cfg, lm)
    return CMPO(
        shop, expert, agent, RuleJudge(shop.skills), GopoConfig(no_expert=True), options=options)


def practised(cmpo: CMPO, customers=(3, 4, 5), seed: int = 1) -> list[Episode]:
    """The groups of these customers, played."""
    return cmpo.play(
        cmpo.copies("train", customers, 0), cmpo.chooser(keyed(seed)), judge_by="nobody")
