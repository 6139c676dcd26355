"""Who a customer of the food-delivery store is: everything that is hidden from the agents.

After InteractCS-RL, whose release gives the shares of the levels and demands; all other numbers
are ours.  Drawn once for each customer: a profile (fds_catalogue.py), a demand given its level,
the evidence, and v, what a voucher is worth to this customer in stars.  v is continuous: with one v
for each demand the share of vouchers would be a staircase in their price, and no controller could
hold it.  v, level and demand leave noisy traces in the words: `grade`, `manner`, and the wish.

Marks are whole stars.  `leniency`, uniform over one star, makes the mean mark equal to the mean of
the stars.  Without it half a star would be worth a whole one at some levels and nothing at others.

Exercise: give every demand one fixed v (VALUES), run `python -m shop.fds --bounds`: B7 fails."""
from __future__ import annotations

import random
from typing import NamedTuple

from shop.agenda import OPENER
from shop.fds_catalogue import LEVELS, Profile, profiles

DIFFICULTIES = ("hard", "easy")
# share of the levels 1..5 [release]
MIX = {"hard": (0.10, 0.30, 0.25, 0.25, 0.10), "easy": (0.10, 0.10, 0.30, 0.30, 0.20)}
# insists on a refund, would prefer one, is open to an offer, only wants it known
DEMANDS = ("rigid", "preference", "incentive", "feedback")
# share of each demand, for the levels 1..5 [release]
DEMAND_SHARES = (
    (0.70, 0.15, 0.10, 0.05),
    (0.60, 0.10, 0.15, 0.15),
    (0.40, 0.15, 0.20, 0.25),
    (0.40, 0.15, 0.20, 0.25),
    (0.50, 0.20, 0.10, 0.20),
)
REFUND_WISH = ("rigid", "preference")
# v is uniform between these; a rigid customer's is multiplied by RIGID of the level
VALUES = {
    "rigid": (0.1, 1.3), "preference": (0.7, 1.7), "incentive": (1.3, 2.5), "feedback": (-0.2, 0.5)}
RIGID = (0.3, 0.6, 1.0, 1.1, 1.2)
GRADES = ("low", "mid", "high")
GRADE_FROM = (0.6, 1.2)                          # v from which a voucher matters some, and a lot
RIGHT_GRADE = 0.85                               # chance that the words carry the right grade
UPSET = (1.0, 0.9, 0.7, 0.5, 0.3)                # chance that the first message is upset
OWN_TEMPER = 0.6                                 # chance of the profile's own temper
FRANK = (0.2, 0.4, 0.5, 0.7, 0.9)                # chance that the order number comes unasked
EARLY_WISH = 0.55                                # chance that the wish comes with it
REPORTED = 0.4                                   # chance that the delivery record excuses
PHOTOGRAPHED = 0.85                              # chance of a photo, where it does not


class Hidden(NamedTuple):
    """What no agent is told."""
    profile: Profile
    demand: str
    value: float                                 # v, in stars
    evidence: str                                # report, photo, or none: unfounded
    patience: float
    emotion: str                                 # of the first message
    frank: bool                                  # says the order number at once
    early_wish: bool                             # says the wish at once
    manner: int                                  # how rude (1) or kind (5) the words are
    grade: str                                   # how much the words say that it matters
    leniency: float                              # added to the stars before they are rounded

    @property
    def level(self) -> int:
        return self.profile.level

    @property
    def wants_refund(self) -> bool:
        return self.demand in REFUND_WISH


def draw_hidden(rng: random.Random, split: str, difficulty: str) -> Hidden:
    level, = rng.choices(LEVELS, MIX[difficulty])
    profile = rng.choice([p for p in profiles(split) if p.level == level])
    demand, = rng.choices(DEMANDS, DEMAND_SHARES[level - 1])
    value = _value(rng, demand, level)
    return Hidden(
        profile,
        demand,
        value,
        evidence=_evidence(rng),
        patience=2.2 + 0.5 * level + rng.random(),
        emotion=_first_emotion(rng, profile),
        frank=rng.random() < FRANK[level - 1] + (0.1 if profile.frank else -0.1),
        early_wish=rng.random() < EARLY_WISH,
        manner=min(5, max(1, level + rng.choice([-1, 0, 0, 1]))),
        grade=_grade(rng, value),
        leniency=rng.uniform(-0.5, 0.5),
    )


def _value(rng: random.Random, demand: str, level: int) -> float:
    value = rng.uniform(*VALUES[demand])
    return value * RIGID[level - 1] if demand == "rigid" else value


def _evidence(rng: random.Random) -> str:
    if rng.random() < REPORTED:
        return "report"
    return "photo" if rng.random() < PHOTOGRAPHED else "none"


def _first_emotion(rng: random.Random, profile: Profile) -> str:
    if rng.random() < UPSET[profile.level - 1]:
        return upset(rng, profile)
    return "happy" if rng.random() < 0.3 else "neutral"


def upset(rng: random.Random, profile: Profile) -> str:
    """Mostly the profile's own temper, sometimes another one."""
    if rng.random() < OWN_TEMPER:
        return profile.temper
    return rng.choice([emotion for emotion in OPENER if emotion != profile.temper])


def _grade(rng: random.Random, value: float) -> str:
    """Mostly the right one, else one next to it."""
    right = sum(value >= least for least in GRADE_FROM)
    if rng.random() >= RIGHT_GRADE:
        right = rng.choice([0, 2]) if right == 1 else 1
    return GRADES[right]
