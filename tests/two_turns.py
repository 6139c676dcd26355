"""A dialogue of two turns, made by hand, with agents and a judge whose every number is known."""
from __future__ import annotations

from types import SimpleNamespace

from csagent import CustomerServiceAgent
from data import Dataset, Labels, Observation, Outcome, Reply
from gopo import Gopo, GopoConfig
from judge import RuleJudge
from lm.config import AgentConfig, LMConfig
from lm.constraints import prepare_plain
from lm.models import build_tiny
from tests.helpers import POOL, expert_of

CONTEXT = {"refund_1": "39 euros"}
PLAIN = GopoConfig()


class TwoTurns:
    """A customer who says "one", then "two"; then it is over.  Remembers what was replied."""

    def __init__(self, truncated=False, success=True, context=None):
        """context: B_t of the second turn."""
        self.heard = []
        self.truncated = truncated
        self.success = success
        self.context = context or {}

    def reset(self):
        labels = Labels("refund", "angry", ("pay",), "gold")
        return Observation("one", CONTEXT, labels=labels)

    def step(self, reply):
        self.heard.append(reply)
        if len(self.heard) == 1:
            return Observation("two", self.context, labels=Labels(teacher=("sorry", "guide")))
        return Observation(
            "bye", {}, terminated=not self.truncated, truncated=self.truncated,
            outcome=Outcome(self.success, (1, 2, 2)))


class Parrot:
    """Replies "one/0", "one/1", ...: the customer's words and the number in the group."""

    def prepare(self, requests):
        self.requests = requests
        return prepare_plain(requests, POOL, ())

    def speak(self, prepared, group=1, temperature=None, generator=None):
        return [self._group(p.request.user, group) for p in prepared]

    def _group(self, user, group):
        return [Reply(f"{user}/{k}") for k in range(group)]


class Grader:
    """S = (k/4, 1, 1, 1) for the k-th reply: later ones are better.

    Nothing is scored at the turns of `silent`.
    """
    name = "grader"

    def __init__(self, silent=()):
        self.silent = silent
        self.seen = []

    def score(self, items):
        self.seen += items
        return [self._score(item) for item in items]

    def _score(self, item):
        if item.user in self.silent:
            return None
        return (int(item.reply[-1]) / 4, 1.0, 1.0, 1.0)

    def gre(self, items):
        return [(1.0, 2.0, 3.0)] * len(items)


def perceives(texts):
    return [("refund", "neutral")] * len(texts)


def wording(skills, context, rng):
    """A phrase book that ends in a number, which Grader reads."""
    return f"{'+'.join(skills)}/{rng.randrange(4)}"


def two_turns(template=wording, **end) -> Dataset:
    """The hand-made dialogue as a shop.  Customers with even numbers succeed, if `end` is empty."""

    def customer(split, number, seed):
        return TwoTurns(**(end or {"success": number % 2 == 0}))

    return Dataset(
        "two", POOL, ("refund", "other"), ("angry", "neutral"), [], [], [],
        environment=customer, horizon=3, template=template)


def small_gopo(cfg=PLAIN, seed=0, speaker=None, judge=None, end=None, **expert) -> Gopo:
    """Gopo on the two turns: a small Expert, the phrase book or `speaker`, and Grader."""
    policy = expert_of(list(POOL), seed, **expert)
    return Gopo(two_turns(**(end or {})), policy, None, judge or Grader(), cfg, speaker)


def play_two(
    cfg=PLAIN, group=3, silent=(), skills=(("pay",), ("guide",)), expert=None, **end
) -> SimpleNamespace:
    """The two turns, played: .episode, .gopo, .steps, .heard by the customer, .judged, .requests.

    skills  those that are chosen in the two turns
    expert  flags of the Expert, which does not choose here
    end     arguments of TwoTurns
    """

    def choose(states, episodes):
        return [skills[len(e.steps)] for e in episodes]

    end = {"success": True} | end
    gopo = small_gopo(cfg, 0, Parrot(), Grader(silent), end, **(expert or {}))
    gopo.expert.perception.perceive = perceives
    episode, = gopo.play(gopo.episodes("train", [7], 0), choose, group=group)
    return SimpleNamespace(
        gopo=gopo, episode=episode, steps=episode.steps, heard=episode.env.heard,
        judged=gopo.judge.seen, requests=gopo.speaker.requests)


# --- who speaks ---------------------------------------------------------------------------------

def examples(skills, context, rng) -> str:
    """A phrase book without chance."""
    return " ".join(POOL[name].examples[0] for name in skills) or "Well."


def speaking(who: str) -> Gopo:
    """Gopo on the two turns; `who` speaks: "phrase book", or a small "language model"."""
    shop = two_turns(examples, context=CONTEXT)
    shop.context = lambda said: CONTEXT
    agent = small_agent() if who == "language model" else None
    return Gopo(shop, expert_of(list(POOL)), agent, RuleJudge(POOL), GopoConfig(dialogues=3))


def small_agent() -> CustomerServiceAgent:
    """An untrained language model that knows the pool."""
    said = [skill.examples[0] for skill in POOL.values()]
    model, tokenizer = build_tiny(said * 20, ["refund"], 0, width=64, layers=1)
    lm = LMConfig(max_new_tokens=8)
    agent = CustomerServiceAgent(model, tokenizer, POOL, ("never",), AgentConfig(group=2), lm)
    agent.freeze_embedding(said)
    return agent
