"""Satisfaction: what a customer gives at the end of a dialogue, a mark of 1 to 5 stars.

InteractCS-RL ends a dialogue with such a mark (its Eqs. 3 and 4).  `of_delivery` counts the stars
of the food-delivery store (fds.py).  The other shops had no mark: `of_shop` makes one of what their
customers feel at the end.  Its weights are ours, and nothing was ever tuned to them.

Try it:  python -m shop.stars        the marks of four ends, by hand"""
from __future__ import annotations

import math
from dataclasses import dataclass

LOWEST = 1
HIGHEST = 5


def mark(stars: float) -> int:
    """The mark for a number of stars: rounded, halves up, and kept in 1..5.

    >>> mark(3.5), mark(3.49), mark(-2.0), mark(9.0)
    (4, 3, 1, 5)
    """
    return min(HIGHEST, max(LOWEST, math.floor(stars + 0.5)))


def of_shop(guided: float, mood: float, patience: float, left: bool) -> int:
    """The mark of a customer of mgshop, tmallbrand-a or tmallbrand-b.

    stars = 1 + 4 (.5 guided + .3 mood + .2 min(1, patience / 4)), less 1 for one who left

    guided    share of the needs that were settled
    mood      in [0, 1]
    patience  what is left of it; below 0 it counts as 0
    """
    content = 0.5 * guided + 0.3 * mood + 0.2 * min(1.0, max(0.0, patience) / 4)
    stars = 1 + 4 * content
    if left:
        stars -= 1
    return mark(stars)


BASE = (0.9, 1.2, 1.6, 2.0, 2.4)                 # stars that a customer of level 1..5 begins with
BROKEN = 1.0                                     # a promise of a voucher that was not kept
FREE_TURNS = 6
LEFT_AT_MOST = 1.9


@dataclass
class End:
    """What the stars of a customer of the food-delivery store depend on."""
    level: int                                   # of cooperation, 1..5
    calm: bool = True                            # not upset at the end
    explained: bool = False                      # the cause, on evidence
    passed: bool = False                         # the complaint was passed on
    feedback: bool = False                       # which is all that this customer wanted
    voucher: float = 0.0                         # what the voucher brought: a share of v; 0: none
    open_refund: bool = False                    # a refund was wished for, and never declined
    broken: bool = False                         # a voucher was promised, and never issued
    turns: int = 0
    needless: int = 0                            # acts that this customer did not need
    left: bool = False                           # ran out of patience


def of_delivery(end: End) -> float:
    """The stars of a customer of the food-delivery store, not yet rounded.

    stars = BASE + .4 calm + .7 explained + passed on (1.2 for feedback, else .25) + the voucher
            - .4 open refund - 1 broken promise - .1 a turn beyond the sixth - .15 a needless act
    who leaves gives half a star less, and at most 1.9
    """
    stars = BASE[end.level - 1] + 0.4 * end.calm + 0.7 * end.explained + end.voucher
    if end.passed:
        stars += 1.2 if end.feedback else 0.25
    stars -= 0.4 * end.open_refund + BROKEN * end.broken
    stars -= 0.1 * max(0, end.turns - FREE_TURNS) + 0.15 * end.needless
    return min(stars - 0.5, LEFT_AT_MOST) if end.left else stars


def demo() -> None:
    print("guided  mood  patience  left   mark")
    for guided, mood, patience, left in (
        (1.0, 1.0, 4.0, False),
        (1.0, 0.6, 2.0, False),
        (0.5, 0.5, 0.0, False),
        (0.0, 0.3, 0.0, True),
    ):
        given = of_shop(guided, mood, patience, left)
        print(f"{guided:6.1f}{mood:6.1f}{patience:10.1f}  {left!s:6s} {given}")


if __name__ == "__main__":
    demo()
