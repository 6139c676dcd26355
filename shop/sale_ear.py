"""What a caller of `sale` hears in a reply: typed claims, a number with its noun, and a few acts.

This ear is not the judge: the rewards (systems/more_rewards.py) see numbers without their nouns,
and share no line with it.  A number in a question states nothing.  A number that is denied just
before ("not 20000") states nothing either.  A number of which the ear cannot tell what it is
counts as nothing.
Numbers in words are not heard; the agents of this world say digits.

Try it:  python -m shop.sale_ear        some sentences, and what is heard in them"""
from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

NUMBER = re.compile(r"(?<![\w.-])(?:\d{2}-\d{2}(?![\w-])|\d+(?:,\d{3})*(?:\.\d+)?(?![\w-]))")
# a full stop between digits ends no sentence
SENTENCE = re.compile(r"(?:[^.!?]|(?<=\d)\.(?=\d))+[.!?]*")
DENIED = re.compile(r"(?:\bnot|n't|\bnever|\bcannot)(?: \w+){0,2} $", re.IGNORECASE)

PERCENT = re.compile(r"\s*(?:%|percent|per cent)")
DAYS = re.compile(r"\s*(?:more )?days?\b")
LEFT = re.compile(r"\b(?:left|leaves?|remain\w*|more days|still|have \d+ days)\b")
TAIL = re.compile(r"\b(?:ends?|ending|digits)(?: are| is)?(?: in| with)? $")
# what stands before an amount or days of which the interest is meant
OF = re.compile(r"\b(?:on|for|over|of|in|with) $")

# noun of an amount -> the words that show it
NOUNS = {
    "interest": r"interest|costs?|pay|charge",
    "limit": r"limit|at most|up to|maximum",
    "coupon": r"coupon|voucher|off|saves?|saving|discount|cheaper|lowers",
    "offer": r"borrow|take|lend|can have|you get|offer",
    "asked": r"within|over|above|exceeds?|possible|stays",
}
NOUN = {kind: re.compile(rf"\b(?:{words})\b") for kind, words in NOUNS.items()}
INTEREST = NOUN["interest"]

ACTS = {
    "introduce": r"\blotus credit\b",
    "robotic": r"\bdear (?:valued )?customer\b|\bautomated\b|\bplease be (?:informed|advised)\b"
               r"|\bkindly note\b|\bin accordance with\b",
    "no_obligation": r"\bnothing (?:until|for having|as long)|\bfree\b|\bno obligation\b",
    "be_brief": r"\bbrief\b|\bshort\b|\bminute\b|\bquick\b",
    "point_coupon": r"\bcoupon\b.*\b(?:cheaper|off|saves?|lowers?)\b"
                    r"|\b(?:cheaper|saves?|lowers?)\b.*\bcoupon\b",
    "invite": r"\b(?:shall (?:i|we)|would you like|may i|do you want)\b.*\?",
    "yes": r"\byes\b|\b(?:is|stays) within\b|\byou can (?:have|take|borrow)\b|\bis possible\b",
    "no": r"\bno,|\bis (?:over|above)\b|\bexceeds?\b|\bcannot\b|\bnot possible\b",
}
ACT = {act: re.compile(pattern) for act, pattern in ACTS.items()}


class Claim(NamedTuple):
    """A number with its noun."""
    kind: str                                    # limit rate coupon expiry left phone interest
    #                                              offer: an amount that the customer may have
    value: str                                   # as said, thousands not apart
    at: int                                      # place in the reply
    amount: str | None = None                    # of an interest: what it is for, if it was said
    days: str | None = None


@dataclass(frozen=True)
class Heard:
    """What one reply told the caller."""
    claims: tuple[Claim, ...]
    # act -> place of its last mention
    acts: dict[str, int]


class _Number(NamedTuple):
    value: str
    start: int
    end: int


@lru_cache(16384)
def hear(text: str) -> Heard:
    """Claims and acts of a reply, in the order of the text.

    >>> hear("Yes, 30000 is within your limit of 50000.").claims
    (Claim(kind='limit', value='50000', at=35, amount=None, days=None),)
    """
    claims: list[Claim] = []
    acts: dict[str, int] = {}
    for found in SENTENCE.finditer(text.lower()):
        sentence, place = found.group(), found.start()
        for act, pattern in ACT.items():
            if hit := pattern.search(sentence):
                acts[act] = place + hit.start()
        if "?" not in sentence:
            claims += [claim._replace(at=place + claim.at) for claim in _claims(sentence)]
    return Heard(tuple(claims), acts)


def _claims(sentence: str) -> list[Claim]:
    claims = []
    amount = days = None
    money: list[_Number] = []
    about_interest = INTEREST.search(sentence) is not None
    for found in NUMBER.finditer(sentence):
        number = _Number(found.group().replace(",", ""), found.start(), found.end())
        if DENIED.search(sentence[:number.start]):
            continue
        kind = _marked(sentence, number)
        if kind == "money" and about_interest and _is_principal(sentence, number):
            amount = number.value
        elif kind == "money":
            money.append(number)
        elif kind == "days":
            days = number.value
        else:
            claims.append(Claim(kind, number.value, number.start))
    for number in money:
        kind = _noun(sentence, number)
        if kind == "interest":
            claims.append(Claim(kind, number.value, number.start, amount, days))
        elif kind not in ("", "asked"):
            claims.append(Claim(kind, number.value, number.start))
    return claims


def _marked(sentence: str, number: _Number) -> str:
    """The kind of a number that its own form or neighbours show; else "money"."""
    if "-" in number.value:
        return "expiry"
    if PERCENT.match(sentence, number.end):
        return "rate"
    if DAYS.match(sentence, number.end):
        return "left" if LEFT.search(sentence) else "days"
    if TAIL.search(sentence[:number.start]):
        return "phone"
    return "money"


def _is_principal(sentence: str, number: _Number) -> bool:
    """Whether the amount is one on which interest is paid: "on 20000", "20000 for 10 days"."""
    before = OF.search(sentence[:number.start]) is not None
    followed = re.match(r"\s*(?:for|over) \d+ days", sentence[number.end:]) is not None
    of_noun = re.search(r"\b(?:limit|coupon|interest) of $", sentence[:number.start]) is not None
    return (before or followed) and not of_noun


def _noun(sentence: str, number: _Number) -> str:
    """The noun nearest to an amount; one that comes after it counts as half as near."""
    best = ""
    nearest = 1000.0
    for kind, words in NOUN.items():
        for found in words.finditer(sentence):
            distance = number.start - found.end()
            if distance < 0:
                distance = 2 * (found.start() - number.end)
            if 0 <= distance < nearest:
                best, nearest = kind, distance
    return best


def demo() -> None:
    for text in (
        "Hello Mr Adams, this is Anna of Lotus Credit, you have a coupon of 20.",
        "On 20000 for 10 days the interest comes to 40.00.",
        "You can use it until 06-12, so 9 days are left.",
        "No, 90000 is over your limit of 50000. Shall I activate the coupon for you?",
        "Your limit is not 50000.",
    ):
        heard = hear(text)
        print(text)
        for claim in heard.claims:
            about = f" on {claim.amount} for {claim.days} days" if claim.amount else ""
            print(f"    {claim.kind} {claim.value}{about}")
        print(f"    acts: {', '.join(heard.acts) or 'none'}")


if __name__ == "__main__":
    demo()
