"""The public side of the food-delivery store: orders, delivery records, B_t; and the profiles.

B_t (`search`) depends on what the customer has said and on the public order book alone.  It lists
the three recent orders with the dish that was named, of which two are other people's:
order_i, dish_i, merchant_i, report_i, and fit_i = "no" where the customer has named another number.
report_i is what the delivery record says.  Some records excuse what went wrong, some are plain.

A profile is one way of being a customer: 45 of them, nine for each level of cooperation.  Of the
nine, six serve training, one dev and two test: a test customer's manner is new as a whole.

Try it:  python -m shop.fds_catalogue        B_t growing with a talk, the profiles of a split"""
from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple, Sequence

from shop.agenda import ATTENTION, OPENER
from shop.catalogue import book, code

NAME = "fds"
LEVELS = (1, 2, 3, 4, 5)                         # from highly uncooperative to highly cooperative
# of the nine profiles of a level, in the order of their hash
PROFILE_SHARES = {"train": slice(0, 6), "dev": slice(6, 7), "test": slice(7, 9)}


# --- profiles -------------------------------------------------------------------------------------

class Profile(NamedTuple):
    """The traits of a customer that do not depend on what is wished for."""
    level: int                                   # of cooperation, 1..5
    style: str                                   # terse, plain, chatty: length of talk, attention
    frank: bool                                  # tells more, or less, than others of this level
    direct: bool                                 # sends a photo unasked, where there is one
    temper: str                                  # the emotion this person mostly falls into


@cache
def profiles(split: str) -> tuple[Profile, ...]:
    """The profiles of a split.

    >>> [len(profiles(split)) for split in ("train", "dev", "test")]
    [30, 5, 10]
    """
    kept: list[Profile] = []
    for level in LEVELS:
        kept += _of_level(level)[PROFILE_SHARES[split]]
    return tuple(kept)


@cache
def _of_level(level: int) -> list[Profile]:
    """Nine of all combinations: each style and each temper three times."""
    pairs = itertools.product(ATTENTION, OPENER)
    made = []
    for style, temper in pairs:
        bits = code("profile", level, style, temper)
        made.append(Profile(level, style, bits % 2 == 1, bits // 2 % 2 == 1, temper))
    return sorted(made, key=_by_hash)


def _by_hash(profile: Profile) -> int:
    return code("split", *profile)


# --- the order book -------------------------------------------------------------------------------

@cache
def orders(split: str, dish: str) -> tuple[str, ...]:
    """The numbers of the three recent orders with a dish."""
    first = code(NAME, split, dish)
    return tuple(str(1000 + (first + 2311 * i) % 9000) for i in range(3))


@cache
def _dish_of(split: str) -> dict[str, str]:
    table = {}
    for dish in book(NAME)["dishes"][split]:
        table |= dict.fromkeys(orders(split, dish), dish)
    return table


@cache
def merchant(split: str, order: str) -> str:
    names = book(NAME)["merchants"][split]
    return names[code(order, "merchant") % len(names)]


@cache
def report(split: str, order: str) -> str:
    """What the delivery record of an order says.

    Of the three orders with a dish one excuses, one is plain, and the third may be either.
    """
    place = orders(split, _dish_of(split)[order]).index(order)
    turn = (place + code(split, _dish_of(split)[order])) % 3
    excuses = turn == 0 or (turn == 1 and code(order, "third") % 2 == 0)
    choices = book(NAME)["reports"]["excuse" if excuses else "plain"]
    return choices[code(order, "report") % len(choices)]


def excuses(said: str) -> bool:
    """Whether a delivery record shows that something went wrong."""
    return said in book(NAME)["reports"]["excuse"]


# --- what the customer has said, and B_t ----------------------------------------------------------

@dataclass(frozen=True)
class Focus:
    """What the customer has said about the order: all that B_t may depend on."""
    dish: str | None = None
    order: str | None = None


NUMBER = re.compile(r"\b\d{4}\b")


@cache
def _dishes(split: str) -> re.Pattern:
    names = "|".join(map(re.escape, book(NAME)["dishes"][split]))
    return re.compile(rf"\b({names})\b", re.I)


def update_focus(focus: Focus, utterance: str, split: str) -> Focus:
    """Folds one customer utterance into what the back office searches for."""
    dish, order = focus.dish, focus.order
    if named := _dishes(split).findall(utterance):
        dish = named[0].lower()
    for number in NUMBER.findall(utterance):
        if number in _dish_of(split):
            order = number
            dish = _dish_of(split)[number]
    return Focus(dish, order)


@lru_cache(4096)
def search(focus: Focus, split: str) -> dict[str, str]:
    """What the back office finds.  The result is shared between dialogues: copy it first."""
    if focus.dish is None:
        return {}
    context = {}
    found = sorted(orders(split, focus.dish), key=_place)
    for i, number in enumerate(found, 1):
        fits = focus.order in (None, number)
        context[f"order_{i}"] = number
        context[f"dish_{i}"] = focus.dish
        context[f"merchant_{i}"] = merchant(split, number)
        context[f"report_{i}"] = report(split, number)
        context[f"fit_{i}"] = "yes" if fits else "no"
    return context


def _place(number: str) -> int:
    return code(number, "place")


def business_context(utterances: Sequence[str], split: str = "test") -> dict[str, str]:
    """B_t: the orders that fit what the customer has said so far."""
    focus = Focus()
    for utterance in utterances:
        focus = update_focus(focus, utterance, split)
    return dict(search(focus, split))


def demo() -> None:
    number = orders("test", "tagine")[0]
    talk = ["My tagine arrived cold.", f"The order number is {number}."]
    for n, utterance in enumerate(talk, 1):
        print(f"customer: {utterance}\n  B_t = {business_context(talk[:n])}")
    for profile in profiles("test"):
        print(profile)


if __name__ == "__main__":
    demo()
