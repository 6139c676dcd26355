"""`sale`: calls that offer a loan coupon, a simulated world in which the *numbers* decide (MORE).

The paper's Proactive Sale data is private, so this world is ours and no figure of it is comparable
to the paper's.  An agent calls a customer whose profile it reads (sale_profile.py).  Its replies
carry raw numbers, no slots: the right number has to be found, or computed, without a word of
reasoning.  sale_caller.py is the customer, sale_ear.py what the customer hears, and sale_bounds.py
says what trivial agents reach.  As a dataset:
  train         logs of mixed quality: the flaws of FLAWS in replies of a good agent, each turn
                labelled with the acts that it needed
  dev, test     calls of the good agent
  environment   the live customer, who only evaluates: training is on logged turns, as in the paper
  facts         what can be checked about a reply to a turn
  tasks         the reasoning tasks of the paper's Sec. 3.2, as sentences of a reply
Profiles (name, limit and rate together) and cells of the interest table belong to one split each.

Try it:  python -m shop.sale                          one call of the good agent, with its facts
         python -m shop.sale --bounds --episodes 500  what trivial agents reach; no training
Exercise: set FLAWS["wrong"] to 0.  How much of the logs' distance to the teacher is left?"""
from __future__ import annotations

import argparse
import json
import random
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data import DataError, Dataset, Dialogue, Facts, Judged, Request, Turn
from shop.sale_bounds import bounds, print_bounds, verdicts
from shop.sale_caller import HORIZON, MOVES, Caller
from shop.sale_logs import FLAWS, logged_call, taught_call
from shop.sale_profile import RATES, Profile, draw_cell, draw_profile, profile_of, skill_pool

__all__ = ["FLAWS", "Caller", "Task", "facts", "load", "tasks"]

SIZES = {"train": 3000, "dev": 100, "test": 300}
SHOWN_CALLER = 6
NOTE = (
    "sale is a simulated world: the paper's Proactive Sale data is private, no figure here is "
    "comparable to the paper's.")


# --- facts of a reply ---------------------------------------------------------------------------

# act -> words of which a reply that carries it out has one
TOPICS = {
    "introduce": ("coupon", "voucher"),
    "state_limit": ("limit", "at most", "up to"),
    "state_rate": ("percent", "rate", "a year", "per year"),
    "state_interest": ("interest", "cost", "pay"),
    "state_expiry": ("until", "end", "valid", "last day", "left"),
    "state_phone": ("number", "phone"),
    "no_obligation": ("nothing", "free", "no obligation", "later"),
    "be_brief": ("brief", "short", "minute", "quick"),
    "point_coupon": ("coupon", "voucher", "discount"),
    "invite": ("shall ", "would you", "may i", "do you want"),
}
WITHIN = ("within", "yes", "can have", "possible")
OVER = ("over", "above", "exceed", "not possible", "cannot")
AMOUNT = re.compile(r"(?<!\d)\d{5,}(?!\d)")
DAYS = re.compile(r"(\d+) days")


def asked_cell(user: str) -> tuple[str, str] | None:
    """(amount, days) that a customer's message asks the interest of, if it names both.

    >>> asked_cell("What would 20000 cost me for 10 days?")
    ('20000', '10')
    """
    amount, days = AMOUNT.search(user), DAYS.search(user)
    if amount is None or days is None:
        return None
    return amount[0], days[1]


def facts(item: Judged) -> Facts:
    """What can be checked about a reply to this turn.

    needed    the values of the acts in item.skills
    allowed   the profile's numbers, the days left, the customer's own numbers so far, and the
              interest that the customer asked for, now or before
    topics    words of the acts in item.skills
    raises    DataError if B_t is no profile of this world
    """
    profile = profile_of(item.context)
    needed: list[str] = []
    topics = []
    for skill in item.skills:
        needed += _needed(skill.id, profile, item.user)
        topics.append(_topic(skill.id, profile, item.user))
    return Facts(tuple(needed), _allowed(profile, item), tuple(topics))


def _needed(act: str, profile: Profile, user: str) -> list[str]:
    if act == "state_interest":
        cell = asked_cell(user)
        return [profile.interest(*cell)] if cell else []
    values = {
        "introduce": profile.coupon,
        "point_coupon": profile.coupon,
        "state_limit": profile.limit,
        "confirm_amount": profile.limit,
        "state_rate": profile.apr,
        "state_expiry": profile.expiry,
        "state_phone": profile.phone,
    }
    return [values[act]] if act in values else []


def _topic(act: str, profile: Profile, user: str) -> tuple[str, ...]:
    if act != "confirm_amount":
        return TOPICS[act]
    amount = AMOUNT.search(user)
    within = amount is None or int(amount[0]) <= int(profile.limit)
    return WITHIN if within else OVER


def _allowed(profile: Profile, item: Judged) -> frozenset[str]:
    known = {
        profile.phone, profile.limit, profile.apr, profile.coupon, profile.today, profile.expiry,
        profile.left}
    for user in [item.user, *[said for said, _ in item.history]]:
        known.update(re.findall(r"\d+", user))
        cell = asked_cell(user)
        if cell:
            known.add(profile.interest(*cell))
    return frozenset(known)


# --- the reasoning tasks ------------------------------------------------------------------------

@dataclass(frozen=True)
class Task:
    """One task of MORE's Sec. 3.2: a sentence that has to state one value.

    kind      "mac": a value of the profile; "pnr": one that follows from it by rule
    key       what is asked for
    answer    the value: "50000", "06-12", "40.00", "yes"
    form      how `answer` is compared: amount, digits or yes (systems/more_rewards.py)
    given     numbers of the question
    sentence  a right one, for a warm start
    """
    kind: str
    key: str
    request: Request
    answer: str
    form: str
    given: tuple[str, ...]
    sentence: str


MAC = {
    "limit": ("amount", "your limit is {}."),
    "rate": ("amount", "your yearly rate is {} percent."),
    "coupon": ("amount", "you have a coupon of {}."),
    "expiry": ("digits", "the coupon ends on {}."),
    "phone": ("digits", "your number ends in {}."),
}
PNR = ("interest", "left", "within")


def tasks(split: str, rng: random.Random, rates: str = "clean") -> Task:
    """One task about a new profile of the split; every key is equally likely."""
    profile = draw_profile(rng, split, rates)
    key = rng.choice([*MAC, *PNR])
    if key in MAC:
        form, words = MAC[key]
        answer = {"rate": profile.apr}.get(key) or getattr(profile, key)
        return _task("mac", key, profile, answer, form, (), words.format(answer))
    if key == "left":
        words = f"there are {profile.left} days left."
        return _task("pnr", key, profile, profile.left, "amount", (), words)
    if key == "interest":
        given = draw_cell(rng, split, profile)
        answer = profile.interest(*given)
        words = "the interest on {} for {} days is {}.".format(*given, answer)
        return _task("pnr", key, profile, answer, "amount", given, words)
    amount = str(rng.randrange(10_000, 100_000, 10_000))
    if int(amount) <= int(profile.limit):
        return _task(
            "pnr", key, profile, "yes", "yes", (amount,), f"yes, {amount} is within your limit.")
    return _task("pnr", key, profile, "no", "yes", (amount,), f"{amount} is over your limit.")


def _task(
    kind: str, key: str, profile: Profile, answer: str, form: str, given: tuple[str, ...],
    sentence: str,
) -> Task:
    request = Request(" ".join(["say:", key, *given]), context=profile.context())
    return Task(kind, key, request, answer, form, given, sentence)


# --- the dataset --------------------------------------------------------------------------------

def load(data_dir: Path | None = None, rates: str = "clean") -> Dataset:
    """Logs of each split, and the live customer.

    data_dir  unused: the book comes with the code
    rates     "clean": a small model can learn the interest; "paper": two decimals, see sale_profile
    raises    DataError for other rates
    """
    if rates not in RATES:
        raise DataError(f"--sale_rates must be one of {', '.join(RATES)}, got {rates!r}")

    def environment(split: str, number: int, seed: int) -> Caller:
        return Caller(seed, split, number, rates=rates)

    def calls(split: str) -> list[Dialogue]:
        made = logged_call if split == "train" else taught_call
        return [_dialogue(split, n, made(split, n, rates)) for n in range(SIZES[split])]

    return Dataset(
        "sale",
        skill_pool(),
        MOVES,
        (),
        train=calls("train"),
        dev=calls("dev"),
        test=calls("test"),
        environment=environment,
        horizon=HORIZON,
        note=NOTE,
        facts=facts,
        tasks=partial(tasks, rates=rates),
    )


def _dialogue(split: str, number: int, turns: list[Turn]) -> Dialogue:
    return Dialogue(f"sale-{split}-{number}", tuple(turns), source="sale, simulated")


# --- the command line ---------------------------------------------------------------------------

def demo() -> None:
    """One call of the good agent, with what can be checked of each reply."""
    caller = Caller(0, "test", SHOWN_CALLER)
    seen = caller.reset()
    profile = ", ".join(f"{slot[1:]} {value}" for slot, value in seen.context.items())
    print(f"profile: {profile}")
    print(f"hidden: need {caller.need}, trust {caller.trust:.2f}, patience {caller.patience:.2f}, "
          f"will bring up {', '.join(ask.move for ask in caller.agenda[1:])}")
    history: tuple[tuple[str, str], ...] = ()
    while not (seen.terminated or seen.truncated):
        reply, acts = seen.labels.reference, seen.labels.teacher
        skills = tuple(skill_pool()[act] for act in acts)
        known = facts(Judged(seen.user, seen.context, skills, reply, history=history))
        print(f"\n  customer: {seen.user}")
        print(f"  agent:    {reply}")
        print(f"  acts {', '.join(acts)}; needed {', '.join(known.needed) or 'no number'}")
        history = (*history, (seen.user, reply))
        seen = caller.step(reply)
        claims = [f"{claim.kind} {claim.value}" for claim in caller.heard.claims]
        print(f"  heard: {', '.join([*claims, *caller.heard.acts])}")
    print(f"\n  customer: {seen.user}\n{caller.ending}, {caller.wrong} false numbers heard")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="The simulated sale calls: one call to read, or the bounds table.",
        allow_abbrev=False)
    flag = parser.add_argument
    flag("--bounds", action="store_true", help="what trivial agents reach, before any training")
    flag("--episodes", type=int, default=500, help="customers for --bounds (default 500)")
    flag("--seed", type=int, default=0, help="seed of the customers (default 0)")
    flag("--split", choices=("train", "dev", "test"), default="dev",
         help="whose customers (default dev: the world was settled on them)")
    flag("--json", type=Path, help="also write the bounds table to this file")
    args = parser.parse_args()
    if args.episodes < 1:
        parser.error(f"--episodes must be at least 1, got {args.episodes}")
    return args


def main() -> None:
    args = arguments()
    if not args.bounds:
        return demo()
    table = bounds(args.episodes, args.seed, args.split)
    print_bounds(table)
    if args.json:
        written = {
            "seed": args.seed,
            "episodes": args.episodes,
            "split": args.split,
            "rows": table,
            "conditions": verdicts(table),
        }
        args.json.write_text(json.dumps(written, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
