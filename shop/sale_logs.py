"""The logs of `sale`: calls of a good agent, and of one with the flaws of real logs.

The flawed agent knows what to do and does it carelessly: FLAWS says how often.  What it said is
what the customer answered to, so a flaw changes the rest of the call."""
from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from data import Observation, Turn
from shop.sale_caller import Caller
from shop.sale_profile import Profile, agent_words, book, draw_profile

# share of the replies where it can happen
FLAWS = {
    "wrong": 0.3,                                # a number of the reply is another customer's
    "robotic": 0.4,                              # a stock phrase opens the reply
    "uninvited": 0.4,                            # no invitation where one was due
    "repeated": 0.5,                             # an invitation in the words of an earlier one
    "early": 0.15,                               # an invitation before it is due
}
# act -> the slot of the profile that its number comes from
SOURCE = {
    "introduce": "coupon",
    "point_coupon": "coupon",
    "state_limit": "limit",
    "confirm_amount": "limit",
    "state_rate": "apr",
    "state_interest": "apr",
    "state_expiry": "expiry",
    "state_phone": "phone",
}

Agent = Callable[..., str]                       # (caller, what it said, rng) -> a reply


def good_agent(caller: Caller, seen: Observation, rng: random.Random) -> str:
    """Does what is needed, with the right numbers and in new words."""
    return seen.labels.reference


def careless_agent(
    caller: Caller, seen: Observation, rng: random.Random, flaws: dict[str, float] = FLAWS
) -> str:
    """The good agent with flaws."""
    acts = _careless_acts(seen.labels.teacher, rng, flaws)
    answers = [act for act in acts if act != "invite"]
    profile = caller.profile
    if rng.random() < flaws["wrong"]:
        profile = with_another(profile, answers, rng, caller.rates)
    parts = []
    if rng.random() < flaws["robotic"]:
        parts.append(rng.choice(book()["stock"]))
    if answers:
        parts.append(caller.worded(answers, rng, profile))
    if "invite" in acts:
        parts.append(_invitation(caller, rng, flaws["repeated"]))
    return " ".join(parts) or caller.worded(("be_brief",), rng)


def _careless_acts(
    needed: tuple[str, ...], rng: random.Random, flaws: dict[str, float]
) -> list[str]:
    acts = [act for act in needed if act != "invite"]
    flaw = "uninvited" if "invite" in needed else "early"
    if (rng.random() < flaws[flaw]) is not ("invite" in needed):
        acts.append("invite")
    return acts


def _invitation(caller: Caller, rng: random.Random, repeated: float) -> str:
    said = [words for words in agent_words("invite") if words in caller.sentences]
    if said and rng.random() < repeated:
        return rng.choice(said)
    return caller.worded(("invite",), rng)


def with_another(
    profile: Profile, acts: list[str], rng: random.Random, rates: str = "clean"
) -> Profile:
    """The profile with one value of another customer, one that an act of the reply says."""
    sources = [SOURCE[act] for act in acts if act in SOURCE]
    if not sources:
        return profile
    slot = rng.choice(sources)
    while True:
        other = getattr(draw_profile(rng, "train", rates), slot)
        if slot == "expiry":
            # of the same month, for the days left are counted within it
            other = profile.today[:3] + other[3:]
        if other != getattr(profile, slot):
            return replace(profile, **{slot: other})


def call(caller: Caller, agent: Agent) -> list[Turn]:
    """A whole call as logged turns."""
    turns = []
    seen = caller.reset()
    while not (seen.terminated or seen.truncated):
        reply = agent(caller, seen, caller.rng("agent", caller.turn))
        labels = seen.labels
        turns.append(Turn(seen.user, labels.intent, None, seen.context, labels.teacher, reply))
        seen = caller.step(reply)
    return turns


# Seeds of live customers are small numbers: no logged customer is met again.
LOGS_SEED = 1_000_003


def logged_call(split: str, number: int, rates: str = "clean") -> list[Turn]:
    return call(Caller(LOGS_SEED, split, number, rates=rates), careless_agent)


def taught_call(split: str, number: int, rates: str = "clean") -> list[Turn]:
    return call(Caller(LOGS_SEED, split, number, rates=rates), good_agent)
