"""Satisfaction: what a customer gives at the end of a dialogue, a mark of 1 to 5 stars.

InteractCS-RL ends a dialogue with such a mark (its Eqs. 3 and 4).  The food-delivery store counts
its stars itself (fds_customer.py).  The other shops had no mark; `of_shop` makes one of what their
customers feel at the end.  Its weights are ours, and nothing was ever tuned to them.

Try it:  python -m shop.stars        the marks of four ends, by hand"""
from __future__ import annotations

import math

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
