"""The customer's profile in `sale`, what follows from it by rule, and the words of the book.

A profile is B_t: the agent sees all of it.  Its slots begin with an underscore, so that they are
read and never said as slots: in this world the agent says raw numbers.
The interest rule is the one that the paper's examples follow: P APR days / 365, two decimals.

Try it:  python -m shop.sale_profile        a profile, and the interest table of its rate"""
from __future__ import annotations

import json
import random
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cache, lru_cache

from data import DataError, Skill
from shop.catalogue import BOOKS, code

SPLITS = ("train", "dev", "test")
# share of the profiles, and of the interest table's cells, of each split
SHARES = {"train": 60, "dev": 20, "test": 20}
LIMITS = range(10_000, 100_000, 10_000)
AMOUNTS = range(10_000, 100_000, 10_000)
DAYS = (2, 5, 7, 10, 20, 30)
COUPONS = range(15, 100, 5)
MONTHS = ("03", "06", "09")
LONGEST = 9                                      # days until a coupon ends, at most
# 3.65 k %: 10,000 for a day cost k, which a small model can learn
CLEAN = tuple(f"{Decimal('3.65') * k:.2f}" for k in range(1, 7))
# as the paper's: two decimals of the interest are needed
PAPER = tuple(f"{Decimal(tenths) / 10:.1f}" for tenths in range(36, 240))
RATES = {"clean": CLEAN, "paper": PAPER}


@lru_cache(4096)
def interest(principal: int, apr: str, days: int) -> str:
    """Simple interest P APR / 100 days / 365, two decimals, half up.

    principal, days  whole numbers > 0
    apr              yearly rate in percent > 0, as text: "7.30"
    raises           ValueError for a number that is not > 0

    >>> interest(10000, "19.8", 30), interest(36500, ".365", 1)
    ('162.74', '0.37')
    """
    if principal <= 0 or days <= 0 or Decimal(apr) <= 0:
        raise ValueError(f"interest wants numbers > 0, got {principal}, {apr} percent, {days} days")
    exact = Decimal(principal) * Decimal(apr) * days / Decimal(36500)
    return str(exact.quantize(Decimal("0.01"), ROUND_HALF_UP))


# --- the book -----------------------------------------------------------------------------------

@cache
def book() -> dict:
    return json.loads((BOOKS / "sale.json").read_text(encoding="utf-8"))


@cache
def skill_pool() -> dict[str, Skill]:
    """What an agent of this world does, in the order of the book."""
    pool = {}
    for spec in book()["skills"]:
        shown = tuple(agent_words(spec["id"])[:2])
        pool[spec["id"]] = Skill(spec["id"], spec["description"], shown, task=spec["task"])
    return pool


def agent_words(act: str) -> list[str]:
    """The agent's sentences for an act, with places for numbers."""
    words = book()["agent"]
    if act == "confirm_amount":
        return words["confirm_within"] + words["confirm_over"]
    return words[act]


@cache
def caller_words(split: str, kind: str) -> tuple[str, ...]:
    """A customer's sentences; of ten, six are of train, two of dev and two of test."""
    every = book()["caller"][kind]
    place = {"train": (0, 1, 2), "dev": (3,), "test": (4,)}[split]
    return tuple(words for i, words in enumerate(every) if i % 5 in place)


# --- a profile ----------------------------------------------------------------------------------

@dataclass(frozen=True)
class Profile:
    """What is on file about one customer."""
    title: str
    name: str
    phone: str                                   # the last two digits
    limit: str
    apr: str                                     # yearly rate in percent
    coupon: str                                  # amount of the coupon
    today: str                                   # mm-dd
    expiry: str                                  # mm-dd, of the same month

    def context(self) -> dict[str, str]:
        """B_t, without anything computed: an agent that is given the answers need not reason."""
        return {f"_{slot}": value for slot, value in vars(self).items()}

    @property
    def left(self) -> str:
        """Days from today to the expiry."""
        return str(int(self.expiry[3:]) - int(self.today[3:]))

    def interest(self, amount: str, days: str) -> str:
        return interest(int(amount), self.apr, int(days))


def profile_of(context: dict[str, str]) -> Profile:
    """The profile in B_t; raises DataError if it is not one of this world."""
    try:
        return Profile(**{slot[1:]: value for slot, value in context.items()})
    except TypeError as error:
        raise DataError(f"B_t is no profile of sale: {error}") from None


def draw_profile(rng: random.Random, split: str, rates: str = "clean") -> Profile:
    """A profile whose name, limit and rate together are of this split alone."""
    stock = book()
    while True:
        name = rng.choice(stock["names"])
        limit, apr = str(rng.choice(LIMITS)), rng.choice(RATES[rates])
        if split_of("profile", name, limit, apr) == split:
            break
    day = rng.randint(1, 30 - LONGEST)
    month = rng.choice(MONTHS)
    expiry = day + rng.randint(1, LONGEST)
    return Profile(
        rng.choice(stock["titles"]), name, f"{rng.randrange(100):02d}", limit, apr,
        str(rng.choice(COUPONS)), f"{month}-{day:02d}", f"{month}-{expiry:02d}")


def draw_cell(rng: random.Random, split: str, profile: Profile) -> tuple[str, str]:
    """(amount, days) of the interest table, in a cell of this split alone.

    The interest is none of the numbers of the question: who repeats the question must not have
    answered it.
    """
    while True:
        amount, days = str(rng.choice(AMOUNTS)), str(rng.choice(DAYS))
        due = Decimal(profile.interest(amount, days))
        if due in (int(amount), int(days)):
            continue
        if split_of("cell", amount, profile.apr, days) == split:
            return amount, days


def split_of(*parts: str) -> str:
    """The split that a profile or a cell belongs to, by its hash."""
    place = code("sale", *parts) % 100
    for split in SPLITS:
        place -= SHARES[split]
        if place < 0:
            return split
    raise AssertionError("the shares sum to 100")


def demo() -> None:
    profile = draw_profile(random.Random(0), "test")
    for slot, value in profile.context().items():
        print(f"{slot:8s} {value}")
    print(f"\n{profile.left} days left; interest at {profile.apr} percent, by split:")
    print("amount " + "".join(f"{days:>15d}" for days in DAYS))
    for amount in AMOUNTS:
        cells = []
        for days in DAYS:
            where = split_of("cell", str(amount), profile.apr, str(days))
            cells.append(f"{profile.interest(str(amount), str(days)):>9s} {where:5s}")
        print(f"{amount:6d} " + "".join(cells))


if __name__ == "__main__":
    demo()
