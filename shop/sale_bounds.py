"""What trivial agents reach in `sale`, before any training: is right reasoning what decides?

`verdicts` checks conditions that were fixed before any policy was trained.  The last one is what
the world is for: the right acts with wrong numbers must lose at least half of the conversions.

Try it:  python -m shop.sale --bounds --episodes 200"""
from __future__ import annotations

import random
from functools import cache

from tqdm import tqdm

from data import Observation
from shop.bounds import ends, print_verdicts
from shop.sale_caller import Caller
from shop.sale_logs import FLAWS, Agent, call, careless_agent, good_agent, logged_call
from shop.sale_profile import draw_profile, skill_pool
from tse import interval

METRICS = (
    "accepted", "reached", "handoff", "hung up", "declined", "false", "turns", "words")
LOGGED = 300                                     # calls from which replies of others are drawn

Table = dict[str, dict[str, dict]]               # agent -> metric -> mean, low, high


# --- trivial agents -----------------------------------------------------------------------------

@cache
def replies_by_move() -> dict[str, list[str]]:
    """Replies of logged calls, by what the customer had said."""
    found: dict[str, list[str]] = {}
    for number in range(LOGGED):
        for turn in logged_call("train", number):
            found.setdefault(turn.intent, []).append(turn.reply)
    return found


def anothers_reply(caller: Caller, seen: Observation, rng: random.Random) -> str:
    """A logged reply to the same move of another customer: the world's random policy."""
    return rng.choice(replies_by_move()[seen.labels.intent])


def random_numbers(caller: Caller, seen: Observation, rng: random.Random) -> str:
    """The right acts and words, with the numbers of another customer."""
    other = draw_profile(rng, caller.split, caller.rates)
    return caller.worded(seen.labels.teacher, rng, other)


def random_acts(caller: Caller, seen: Observation, rng: random.Random) -> str:
    """As many acts as are needed, drawn at random, with the right numbers."""
    pool = list(skill_pool())
    return caller.worded(rng.sample(pool, len(seen.labels.teacher)), rng)


def every_number(caller: Caller, seen: Observation, rng: random.Random) -> str:
    """All that the profile holds, at every turn, and an invitation."""
    acts = [act for act in skill_pool() if act.startswith(("introduce", "state", "confirm"))]
    return caller.worded([*acts, "invite"], rng)


def three_numbers(caller: Caller, seen: Observation, rng: random.Random) -> str:
    """As many numbers as a customer listens to, the same at every turn, and an invitation."""
    return caller.worded(("introduce", "state_limit", "state_rate", "invite"), rng)


def careful_with_numbers(caller: Caller, seen: Observation, rng: random.Random) -> str:
    """The agent of the logs, with right numbers: its other flaws alone."""
    return careless_agent(caller, seen, rng, FLAWS | {"wrong": 0.0})


def only_invites(caller: Caller, seen: Observation, rng: random.Random) -> str:
    return caller.worded(("invite",), rng)


def always_invites(caller: Caller, seen: Observation, rng: random.Random) -> str:
    """The good agent, who invites at every turn."""
    acts = [act for act in seen.labels.teacher if act != "invite"]
    return caller.worded([*acts, "invite"], rng)


def never_invites(caller: Caller, seen: Observation, rng: random.Random) -> str:
    """The good agent without invitations."""
    acts = [act for act in seen.labels.teacher if act != "invite"]
    return caller.worded(acts or ["introduce"], rng)


def silence(caller: Caller, seen: Observation, rng: random.Random) -> str:
    return ""


AGENTS: dict[str, Agent] = {
    "teacher": good_agent,
    "logs": careless_agent,
    "logs, right numbers": careful_with_numbers,
    "another's reply": anothers_reply,
    "right acts, random numbers": random_numbers,
    "right numbers, random acts": random_acts,
    "every number each turn": every_number,
    "three numbers each turn": three_numbers,
    "only invites": only_invites,
    "answers, always invites": always_invites,
    "answers, never invites": never_invites,
    "silence": silence,
}
STUFFING = ("every number each turn", "three numbers each turn", "only invites")


# --- the table ----------------------------------------------------------------------------------

def play(caller: Caller, agent: Agent) -> dict[str, float]:
    """One call: its METRICS."""
    turns = call(caller, agent)
    words = sum(len(turn.reply.split()) for turn in turns)
    numbers = {end: float(caller.ending == end)
               for end in ("accepted", "handoff", "hung up", "declined")}
    return numbers | {
        "reached": float(caller.reached),
        "false": float(caller.wrong),
        "turns": float(len(turns)),
        "words": words / len(turns),
    }


def bounds(episodes: int, seed: int = 0, split: str = "dev") -> Table:
    """Every agent with the same customers."""
    table = {}
    for row, agent in tqdm(AGENTS.items(), desc="bounds", leave=False):
        played = [play(Caller(seed, split, n), agent) for n in range(episodes)]
        table[row] = {}
        for metric in METRICS:
            table[row][metric] = interval([numbers[metric] for numbers in played], seed)
    return table


def verdicts(table: Table) -> dict[str, bool]:
    """Do the numbers decide?  Conditions fixed before any training."""
    mean = {name: row["accepted"]["mean"] for name, row in table.items()}
    teacher, chance = mean["teacher"], mean["another's reply"]
    low, high = table["teacher"]["accepted"]["low"], table["logs"]["accepted"]["high"]
    # one customer has no interval
    apart = low is not None and high is not None and low > high
    found = {
        "teacher - logs >= .25 conversion, intervals disjoint":
            teacher - mean["logs"] >= 0.25 and apart,
        "logs > another's reply >= silence":
            mean["logs"] > chance >= mean["silence"],
        "right acts, random numbers <= half of the teacher":
            mean["right acts, random numbers"] <= teacher / 2,
        "right numbers, random acts <= half of the teacher":
            mean["right numbers, random acts"] <= teacher / 2,
    }
    for row in STUFFING:
        found[f"{row} <= random + 25 % of the gap"] = (
            mean[row] <= chance + 0.25 * (teacher - chance))
    return found


def print_bounds(table: Table) -> None:
    print(f"{'agent':28s}" + "".join(f"{metric:>9s}" for metric in METRICS) + "   accepted 95 %")
    for name, row in table.items():
        cells = "".join(f"{row[metric]['mean']:9.2f}" for metric in METRICS)
        print(f"{name:28s}{cells}   {ends(row['accepted'])}")
    print_verdicts(verdicts(table))
