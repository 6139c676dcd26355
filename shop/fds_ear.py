"""What a customer of the food-delivery store hears in a reply: its acts, from the text alone.

Made like ear.py, with patterns of its own for the acts of this store: it has to tell *proposing* a
voucher ("would a voucher help?") from *issuing* one ("the voucher is in your account"), and a
refund that is declined from one that is promised.  fds_second_ear.py is a listener written
separately; a policy that merely learned to please these patterns is found out by it.

Try it:  python -m shop.fds_ear            hit and false-alarm rates of both ears
         python -m shop.fds_ear --misses   and what each missed or misheard"""
from __future__ import annotations

import json
import re
import sys
from functools import lru_cache

from data import fill
from shop import fds_second_ear
from shop.catalogue import BOOKS, skill_pool
from shop.ear import ALTERNATIVES as OF_SHOPS
from shop.ear import IDIOM, QUOTED, SENTENCE, UNREAL, Act, Ear, inside_a_word, refused

NAME = "fds"
# slot -> the act of saying it
FACT_OF = {"order": "confirm_order", "report": "state_report"}
ADDRESSEE = r"(?:kitchen|merchant|restaurant|courier|team|partner|manager|colleagues)"
VOUCHER = r"(?:voucher|coupon|gift card|store credit)"
MONEY = r"(?:refund\w*|money back|pay (?:\w+ ){0,3}back|reimburse\w*|paid back|return the money)"
CANNOT = (
    r"(?:can(?:not|'t| not)|unable|not able|not (?:possible|an option|available|something)"
    r"|no(?: \w+)? (?:way|possibility|refund)|won't|will not|don't|do not|isn't|not be|impossible"
    r"|never|ruled out|out of the question)"
)
# act -> alternatives, any of which is enough, searched in a lower-case sentence
ALTERNATIVES = {
    "apologise": OF_SHOPS["apologise"],
    "empathise": OF_SHOPS["empathise"],
    "reassure": OF_SHOPS["reassure"],
    "ask_details": (
        *OF_SHOPS["ask_order"],
        r"\bwhich (?:of (?:your|the) )?(?:\w+ )?orders?\b[^.!]*\?",
    ),
    "ask_photo": (
        r"\b(?:photos?|pictures?|images?|snapshots?)\b[^.!]*\?",
        r"\b(?:send|upload|attach|share|show|provide|need|take|let me (?:have|see)|add)\b[^.?!]*"
        r"\b(?:photos?|pictures?|images?|snapshots?)\b",
    ),
    "explain_cause": (
        r"\b(?:reason|cause|explanation)\b[^?]*\b(?:is|was|lies|lay|being)\b(?![^?]*\?)",
        r"\b(?:this|that|it|which)(?:'s| is| was| has)?[^.?!]{0,30}\b(?:because|due to|caused by"
        r"|owing to|down to)\b(?![^?]*\?)",
        r"\bwhat (?:went wrong|happened)\b[^?]*\b(?:is|was)\b(?![^?]*\?)",
        r"^\s*(?:because|due to|owing to)\b(?![^?]*\?)",
        r"\b(?:led to|resulted in|is to blame|was to blame|explains why)\b(?![^?]*\?)",
    ),
    "ask_wish": (
        r"\b(?:what|how)\b[^?]*\b(?:would|can|could|do|should|may)\b[^?]*"
        r"\b(?:wish|like (?:us|me)|want (?:us|me)|expect|settled?|make (?:it|this) (?:up|good)"
        r"|(?:make|put) (?:it|this) right|solution|hope for|have in mind|resolve|prefer)\b[^?]*\?",
        r"\b(?:what|which)\b[^?]*\b(?:outcome|solution|wish|expectation)\b[^?]*\?",
        r"\btell me what you (?:wish|want|would like|expect)\b",
    ),
    "decline_refund": (
        rf"\b{CANNOT}\b[^.,;?!]*\b{MONEY}",
        rf"\b{MONEY}\b[^.,;?!]*\b{CANNOT}\b",
        r"\bno (?:refund|money back)\b",
    ),
    "pass_on": (
        r"\b(?:pass|passing|hand|handing) (?:\w+ ){0,4}on\b",
        r"\b(?:forward\w*|relay\w*|escalat\w+)\b",
        r"\b(?:tell|inform|notify|report (?:\w+ ){0,3}to|raise (?:\w+ ){0,3}with|speak to"
        rf"|take (?:\w+ ){{0,3}}up with)\b[^.?!]*\b{ADDRESSEE}\b",
        rf"\b(?:let|letting)\b[^.?!]*\b{ADDRESSEE}\b[^.?!]*\bknow\b",
    ),
    "propose_voucher": (
        rf"\b{VOUCHER}\b[^.!]*\?",
        rf"\b(?:could|can|would like to|happy to|like to|glad to|may) (?:\w+ ){{0,3}}"
        rf"(?:offer|propose|suggest)\b[^.?!]*\b{VOUCHER}\b",
        rf"\b(?:offer|propose|suggest)\b[^.?!]*\b{VOUCHER}\b",
        rf"\b(?:how|what) about\b[^.!]*\b{VOUCHER}\b",
        rf"\b{VOUCHER}\b[^.?!]*\b(?:if you (?:like|wish|want|agree)|would be possible)\b",
    ),
    "issue_voucher": (
        rf"\b(?:i|we)(?:'ve| have|'m| am| are|'re)? (?:\w+ )?(?:added|issued|credited|sent"
        rf"|put|placed|booked|loaded|issuing|adding|crediting|sending|granted)\b[^.?!]*"
        rf"\b{VOUCHER}\b",
        rf"\b{VOUCHER}\b[^.?!]*\b(?:is|are) (?:now |already |just )*"
        r"(?:in|on|waiting|active|ready|there|available|yours)\b",
        rf"\b{VOUCHER}\b[^.?!]*\b(?:has|have) (?:\w+ )?(?:been )?(?:added|issued|credited|sent"
        r"|booked|loaded|placed|granted|arrived)\b",
        rf"\b{VOUCHER}\b[^.?!]*\b(?:was|is|were) (?:\w+ )?(?:added|issued|credited|sent|booked"
        r"|loaded|placed|granted)\b",
        rf"\bhere (?:is|comes)\b[^.?!]*\b{VOUCHER}\b",
        rf"\byou(?:'ve got| have| now have| will find| can find| find)\b[^.?!]*\b{VOUCHER}\b[^.?!]*"
        r"\b(?:account|app|wallet|now)\b",
    ),
    "close": (*OF_SHOPS["close"], r"\b(?:good ?bye|bye|farewell)\b"),
    "promise": (
        *OF_SHOPS["promise"],
        r"\b(?:will|shall|going to|'ll)\b[^.,;?!]*\b(?:refund|reimburse|pay you back"
        r"|return (?:your|the) money)\b",
        r"\b(?:get|receive|have)\b[^.,;?!]*\b(?:money back|refund)\b",
    ),
}
NAMED = re.compile(VOUCHER, re.I)
OFFERS = {"propose_voucher", "issue_voucher"}
PATTERNS = {kind: "|".join(alternatives) for kind, alternatives in ALTERNATIVES.items()}
COMPILED = {kind: re.compile(pattern, re.I) for kind, pattern in PATTERNS.items()}
# A negation before these acts in the clause refuses them.  The others carry theirs.
NEGATABLE = set(PATTERNS) - {
    "reassure", "empathise", "ask_details", "ask_wish", "decline_refund", "ask_photo",
    "explain_cause"}
# asked and told of, but not done: "I do not need a photo"; "I cannot tell you the reason"
UNWANTED = re.compile(
    r"\b(?:no|not|n't|without|never|needn't|cannot|unable)\b[^.,;?!]*"
    r"\b(?:photo|picture|image|reason|cause|explanation|explain|because|tell|say|know)", re.I)
WITHDRAWABLE = {"ask_photo", "explain_cause", "ask_wish"}
# a sentence that asks whether it was done, or supposes it: nothing is issued by it
ASKS = re.compile(r"\?\s*$")
SUPPOSED = re.compile(r"\b(?:if|once|whether|as soon as|before|unless)\b", re.I)
# what is heard where both are found
STRONGER = {"issue_voucher": "propose_voucher", "decline_refund": "promise"}

Found = tuple[int, Act]


def hear(text: str, context: dict[str, str]) -> list[Act]:
    """Which acts a customer hears in a reply, in the order of the text.

    text     the reply as shown to the customer (slots filled)
    context  B_t: order numbers and delivery records are recognised by their values

    >>> [act.kind for act in hear("Sorry! Would a voucher help?", {})]
    ['apologise', 'propose_voucher']
    >>> [act.kind for act in hear("I have added a voucher to your account.", {})]
    ['issue_voucher']
    """
    values = []
    for slot, value in context.items():
        base, _, number = slot.rpartition("_")
        if base in FACT_OF:
            values.append((FACT_OF[base], number, value.lower()))
    return list(_heard(text, tuple(values)))


@lru_cache(16384)
def _heard(text: str, values: tuple[tuple[str, str, str], ...]) -> tuple[Act, ...]:
    lowered = IDIOM.sub(_blank, text.lower())
    for skill in skill_pool(NAME).values():
        for phrase in skill.must_say:
            lowered = lowered.replace(phrase.lower(), " " * len(phrase))
    found: list[Found] = []
    for match in SENTENCE.finditer(lowered):
        sentence = match.group()
        here = list(_facts(sentence, values))
        if not UNREAL.search(sentence):
            here += _acts(_without_values(sentence, values))
        found += [(match.start() + at, act) for at, act in here]
    found.sort(key=_position)
    return tuple(act for _, act in found)


def hear_offers(text: str, context: dict[str, str]) -> set[str]:
    """Which acts about a voucher a customer hears in words with slots; most name none, and cost
    nothing.

    >>> hear_offers("I have credited a coupon to you.", {})
    {'issue_voucher'}
    """
    if not NAMED.search(text):
        return set()
    return {act.kind for act in hear(fill(text, context), context)} & OFFERS


def _position(found: Found) -> int:
    return found[0]


def _blank(match: re.Match) -> str:
    return " " * len(match.group())


def _without_values(sentence: str, values: tuple[tuple[str, str, str], ...]) -> str:
    """A delivery record that is read out is a value, whatever words are in it."""
    for kind, _, value in values:
        if kind == "state_report":
            sentence = sentence.replace(value, " " * len(value))
    return sentence


@lru_cache(65536)
def _acts(sentence: str) -> tuple[Found, ...]:
    """One hit per kind and sentence, unless refused."""
    sentence = QUOTED.sub(_blank, sentence)
    found: dict[str, int] = {}
    for kind, pattern in COMPILED.items():
        hit = pattern.search(sentence)
        if hit and not _denied(kind, sentence, hit):
            found[kind] = hit.start()
    for strong, weak in STRONGER.items():
        if strong in found:
            found.pop(weak, None)
    return tuple((at, Act(kind)) for kind, at in found.items())


def _denied(kind: str, sentence: str, hit: re.Match) -> bool:
    if kind == "issue_voucher" and (ASKS.search(sentence) or SUPPOSED.search(sentence)):
        return True
    if kind in WITHDRAWABLE and UNWANTED.search(sentence):
        return True
    return kind in NEGATABLE and refused(sentence, hit.start(), hit.end())


@lru_cache(65536)
def _facts(sentence: str, values: tuple[tuple[str, str, str], ...]) -> tuple[Found, ...]:
    """Orders and delivery records stated in a sentence.  A question states nothing."""
    if sentence.rstrip().endswith("?"):
        return ()
    said: dict[tuple[int, str], set[str]] = {}
    for kind, number, value in values:
        at = sentence.find(value)
        end = at + len(value)
        if at < 0 or inside_a_word(sentence, at, end) or refused(sentence, at, end):
            continue
        said.setdefault((at, kind), set()).add(number)
    return tuple((at, Act(kind, frozenset(numbers))) for (at, kind), numbers in said.items())


# --- how well the ears hear -----------------------------------------------------------------------

def examine(ear: Ear, part: str = "held_out") -> dict[str, float | list]:
    """Rates of an ear on sentences written by hand.

    hit          acts heard, of the acts affirmed
    false_alarm  share of sentences in which something was heard that was not said
    errors       (sentence, acts missed, acts misheard)
    """
    written = json.loads((BOOKS / "fds_sentences.json").read_text(encoding="utf-8"))
    context = written["context"]
    said, hits, alarms = 0, 0, 0
    errors = []
    for text, *acts in written[part]:
        wanted = set(acts)
        got = {act.kind for act in ear(fill(text, context), context)}
        said += len(wanted)
        hits += len(wanted & got)
        alarms += bool(got - wanted)
        if got != wanted:
            errors.append((text, sorted(wanted - got), sorted(got - wanted)))
    count = len(written[part])
    return {
        "sentences": count, "hit": hits / said, "false_alarm": alarms / count, "errors": errors}


def demo(misses: bool) -> None:
    ears = {"patterns (fds_ear.py)": hear, "exemplars (fds_second_ear.py)": fds_second_ear.hear}
    for part in ("development", "held_out"):
        for name, ear in ears.items():
            rates = examine(ear, part)
            print(f"{part:12s} {name:30s} {rates['sentences']} sentences: ", end="")
            print(f"hit {rates['hit']:.3f}, false alarms {rates['false_alarm']:.3f}")
            if misses:
                for text, missed, misheard in rates["errors"]:
                    print(f"  {text}   missed {missed}   misheard {misheard}")


if __name__ == "__main__":
    demo("--misses" in sys.argv)
