"""What a customer of the simulated shop hears in a reply: its acts, from the text alone.

No label of the Expert reaches the customer.  `hear` is made of patterns.  second_ear.py is a
listener written separately.  Evaluation compares TSE under both, so a policy that merely learned to
please these patterns is found out.

Try it:  python -m shop.ear            hit and false-alarm rates of both ears on given sentences
         python -m shop.ear --misses   and what the first ear missed or misheard"""
from __future__ import annotations

import json
import re
import sys
from functools import cache, lru_cache
from typing import Callable, NamedTuple

from data import fill
from shop import second_ear
from shop.catalogue import BOOKS, OWN, SHOPS, skill_pool

# slot -> the act of saying it
FACT_OF = {
    "product": "recommend",
    "order": "confirm_order",
    "price": "state_price",
    "stock": "state_stock",
    "eta": "state_delivery",
    "window": "state_returns",
    "refund": "state_refund",
    "size": "state_size",
    "status": "state_status",
    "part": "state_partial",
}


class Act(NamedTuple):
    kind: str                                    # a skill id, or "promise"
    candidates: frozenset[str] = frozenset()     # of a fact or a name: whose value was said


Ear = Callable[[str, dict[str, str]], list]      # (text, B_t) -> acts

# --- the table of patterns ------------------------------------------------------------------------

# act -> alternatives, any of which is enough, searched in a lower-case sentence
ALTERNATIVES = {
    "greet": (
        r"(?:^|[,!] ?)\s*(?:hello|hi|hey)\b(?! \w+\')",
        r"\b(?:you(?:'re| are) (?:very )?welcome here"
        r"|(?:^\s*|and |a (?:warm|very warm) |you are )welcome(?: to\b|[,!.]|$)"
        r"|^\s*good (?:day|morning|afternoon|evening)"
        r"|greetings"
        r"|nice to (?:have|meet)"
        r"|thank(?:s| you) for (?:contacting|reaching|getting in touch|writing|calling))",
    ),
    "ask_need": (
        r"\b(?:budget|price range|spend|up to which price)\b[^?]*\?",
        r"\b(?:which|what)\b[^?]*"
        r"\b(?:feature|kind|type|sort|model|should it|looking for|have in mind|prefer"
        r"|matters?|important)\b[^?]*\?",
        r"\bwhat are you (?:looking|after|searching)",
        r"\btell me (?:more |a bit )*(?:about )?what "
        r"(?:it should|you(?:'re| are)? (?:need|want|look|after))",
        r"\b(?:which|what)\b[^?]*\b(?:colou?r|size|effect|shade|skin)\b[^?]*\?",
        r"(?<!no need to )\b(?:tell|give|describe|name)\b(?! you)[^.?!]*"
        r"\byour? (?:size|budget|colou?r|skin)",
        r"\btell me (?:the )?(?:size|colou?r)",
        r"\bdescribe what\b",
    ),
    "ask_order": (
        r"\border (?:number|no|id|reference)\b[^.!]*\?",
        r"\b(?:number of|which|what)\b[^?]*\border\b[^?]*\?",
        r"\b(?:give|tell|send|share|provide|need|have|let me have|may i|could i|can i)\b"
        r"[^.?!]*\b(?:order(?:'s)? (?:number|no|id|reference)|number of (?:your|the) order)",
    ),
    "empathise": (
        r"\b(?:understand|see|imagine|get|hear|realise|realize|appreciate|know)\b[^.?!]*"
        r"\b(?:disappoint\w*|frustrat\w*|upset\w*|let ?down|annoy\w*|feel\w*|hoped"
        r"|unpleasant|sad)",
        r"\b(?:must|sounds?|is|that's|was)(?: be| really| so| very| quite| truly)* "
        r"(?:frustrating|disappointing|annoying|unpleasant|upsetting|a let-?down"
        r"|a disappointment)",
        r"\bi hear you\b",
        r"\b(?:anyone|anybody|everyone) would (?:also )?(?:be|feel) "
        r"(?:frustrat\w+|disappointed|upset|annoyed)",
        r"^\s*how (?:annoying|frustrating|disappointing|upsetting)\b",
    ),
    "apologise": (
        r"\b(?:sorry|apolog\w+|regret|forgive|our (?:fault|mistake)|my apologies|excuse us)\b",
    ),
    "reassure": (
        r"\b(?:do not|don't|no need to|no reason to|not to|needn't) (?:be )?"
        r"(?:worr\w+|panic|fret|anxious|concerned)",
        r"\brest assured\b",
        r"\bno worries\b",
        r"\bgood hands\b",
        r"(?:\b(?:will|can|get|going to)\b|'ll\b)[^.?!]*"
        r"\b(?:sort\w*|solve\w*|resolve\w*|fix\w*|work\w*) (?:this|that|it|out|everything)",
        r"\b(?:taking|take) care of (?:it|this|that|everything)",
        r"\b(?:will|going to) be "
        r"(?:fine|okay|ok|all right|alright|sorted|solved|resolved|settled)",
        r"\bcan be (?:solved|sorted|resolved)",
        r"\bunder control\b",
        r"\bstay calm\b",
    ),
    "guide_checkout": (
        r"\b(?:basket|cart|check ?out|checkout)\b",
        r"\bplace (?:the|your|an) order\b",
        r"\b(?:order|buy) it (?:now|right)",
        r"\bcomplete (?:the|your) (?:purchase|order)",
        r"\bproceed to pay\w*",
        r"\bshopping bag\b",
        r"\bpay for it\b",
        r"\b(?:tap|click|press)(?: on)? (?:buy|pay)\b",
        r"\border it (?:with|here|online|directly|straight)\b",
    ),
    "guide_tracking": (
        r"\btracking\b",
        r"\btrack (?:it|the|your)\b",
        r"\bfollow (?:the|your|its) (?:parcel|package|shipment|delivery|way|journey)",
    ),
    "guide_return": (
        r"\b(?:return|shipping|prepaid|postage|send-back) (?:label|slip|sticker)\b",
        r"\blabel\b",
    ),
    "guide_exchange": (
        r"\b(?:replace\w*|exchang\w+|swap\w*|substitute)\b",
        r"\bnew (?:one|item|unit) (?:right away|instead|sent|to you|is on)",
        r"\bsend (?:you |out )*(?:a|another) (?:new|fresh)",
    ),
    "guide_refund": (
        r"\b(?:release|start|book|trigger|initiate|arrange)\b[^.,;?!]*"
        r"\b(?:payment|pay-?out|transfer|money|sum|amount)\b",
        r"\bpay(?:ing)?\b[^.,;?!]*\bout\b",
        r"\bconfirm\b[^.?!]*\b(?:bank|account|card|payment|pay-?out)\b",
        r"\b(?:have|get)\b[^.,;?!]*\b(?:money|sum|amount|refund)\b[^.,;?!]*"
        r"\b(?:sent|paid|transferred)\b",
        r"\btransfer (?:it|the (?:money|sum|amount))\b",
    ),
    "offer_voucher": (
        r"\b(?:voucher|coupon|gift card|discount(?: code)?|store credit"
        r"|(?<!to her )credit(?! card)|percent off|% off|goodwill)\b",
    ),
    "upsell": (
        r"\b(?:also|too|in addition|as well|additionally)\b[^.?!]*"
        r"\b(?:buy|bought|order|get|accessor\w+|care set|equipment|bundle|matching|extra"
        r"|add|recommend|suggest|consider|interested)",
        r"\b(?:would you|you would|you might) like to add\b",
        r"\bhave you thought (?:about|of)\b",
        r"\b(?:accessor\w+|care set|extra equipment|bundle|add-on"
        r"|go(?:es)? (?:well|nicely) with|pairs? (?:well|nicely))",
    ),
    "close": (
        r"\banything else\b",
        r"\b(?:something|anything) more\b",
        r"\bany (?:other|further|more) (?:question|help|matter|concern|request|wish)\w*",
        r"\belse (?:i|we) can\b",
        r"\bwhat else (?:can|could|may) (?:i|we)\b",
        r"\b(?:thanks?|thank you|cheers)(?: so much| very much)? for "
        r"(?:your|shopping|being|choosing|stopping|bearing|the)\b",
        r"\bhave a (?:nice|good|great|lovely|pleasant|wonderful)\b",
    ),
    "promise": (
        r"\bguarantee\w*",
        r"\b(?:i|we) promise\b",
        r"\b(?:100|hundred) ?(?:percent|%)",
        r"\bfull refund no matter what\b",
    ),
}
PATTERNS = {kind: "|".join(alternatives) for kind, alternatives in ALTERNATIVES.items()}
COMPILED = {kind: re.compile(pattern, re.I) for kind, pattern in PATTERNS.items()}

# A negation before these acts in the clause refuses them.  The others carry theirs: "do not worry".
NEGATABLE = set(PATTERNS) - {"reassure", "greet", "ask_order", "ask_need", "empathise"}
NEGATION = (
    r"\b(?:not|no|never|nothing|nobody|none|whether|cannot|without|unable|neither|nor"
    r"|stop|decline|refuse|rather than|instead of)\b|n't\b"
)
REFUSED = re.compile(NEGATION, re.I)
# "... a voucher is not possible"
WITHDRAWN = re.compile(
    r"\b(?:expired|no longer|(?:is|are|be) not|isn't|aren't|never)\b", re.I
)
# sentences that report, recall, or suppose instead of doing
UNREAL = re.compile(
    r"^\s*(?:did|has|was|were|have you (?:already|ever))\b.*\?"
    r"|^\s*(?:if\b.*\b(?:were|had|was)\b|had\b|only once\b|whether\b)"
    r"|\b(?:you|a colleague|a friend|somebody|someone|your \w+) (?:\w+ )?"
    r"(?:wrote|said|asked|told|mentioned|expect|quoted|spoke|sent|mailed)\b"
    r"|\bout of the question\b"
    r"|\blast (?:week|month|year|night|spring|summer)\b"
    r"|\bused to\b"
    r"|\b(?:would|could|should) have\b"
    r"|\bno longer\b",
    re.I | re.S,
)
QUOTED = re.compile(r"[\"\u201c][^\"\u201d]*[\"\u201d]")
STRETCH = re.compile(r"[,;:]|\b(?:but|however|and|so)\b", re.I)
IDIOM = re.compile(
    r"\bbetter safe than sorry\b"
    r"|\b(?:can't|cannot|can not) go wrong with\b"
    r"|\bsorry to see you go\b",
    re.I,
)
SENTENCE = re.compile(r"[^.!?]+[.!?]*")

# --- hearing --------------------------------------------------------------------------------------

Found = tuple[int, Act]                          # (position in the text, act)
Value = tuple[str, str, str]                     # (act that states it, candidate, in lower case)


@cache
def _disclaimers() -> dict[str, str]:
    """What the shops have to say by law or policy, which is no act, and as many spaces."""
    phrases: list[str] = []
    for shop in SHOPS:
        for skill in skill_pool(shop).values():
            phrases += [phrase.lower() for phrase in skill.must_say]
    return {phrase: " " * len(phrase) for phrase in phrases}


def ear_in(shop: str, ear: Ear) -> Ear:
    """The ear of a shop's customers: what a shop of your own has to say by law is no act either."""
    phrases: list[str] = []
    if shop in OWN:
        for skill in skill_pool(shop).values():
            phrases += map(re.escape, skill.must_say)
    if not phrases:
        return ear
    by_law = re.compile("|".join(phrases), re.I)

    def hears(text: str, context: dict[str, str]) -> list[Act]:
        return ear(by_law.sub(_blank, text), context)

    return hears


def hear(text: str, context: dict[str, str]) -> list[Act]:
    """Which acts a customer hears in a reply, in the order of the text.

    Only affirmed acts count: what is refused or denied is not said.

    text     the reply as shown to the customer (slots filled)
    context  B_t: names and facts are recognised by their values

    >>> prices = {"price_1": "39 euros", "price_2": "64 euros"}
    >>> for act in hear("Sorry! It costs 39 euros.", prices):
    ...     print(act.kind, sorted(act.candidates))
    apologise []
    state_price ['1']
    """
    return list(_heard(text, _values(tuple(context.items()))))


# Replies and their sentences come back, so what is heard in them is computed once.
@lru_cache(16384)
def _heard(text: str, values: tuple[Value, ...]) -> tuple[Act, ...]:
    lowered = IDIOM.sub(_blank, text.lower())
    for phrase, blank in _disclaimers().items():
        lowered = lowered.replace(phrase, blank)
    found: list[Found] = []
    for match in SENTENCE.finditer(lowered):
        sentence = match.group()
        if _is_unreal(sentence):
            continue
        heard = [*_general_acts(sentence), *_facts(sentence, values)]
        found += [(match.start() + at, act) for at, act in heard]
    found.sort(key=_position)
    return tuple(act for _, act in found)


@lru_cache(65536)
def _is_unreal(sentence: str) -> bool:
    return UNREAL.search(sentence) is not None


def _position(found: Found) -> int:
    return found[0]


def _blank(match: re.Match) -> str:
    return " " * len(match.group())


@lru_cache(65536)
def _general_acts(sentence: str) -> tuple[Found, ...]:
    """One hit per kind and sentence, unless refused."""
    # a quoted value is a value, a quoted act is none
    sentence = QUOTED.sub(_blank, sentence)
    found = []
    for kind, pattern in COMPILED.items():
        hit = pattern.search(sentence)
        if hit is None:
            continue
        if kind in NEGATABLE and refused(sentence, hit.start(), hit.end()):
            continue
        found.append((hit.start(), Act(kind)))
    return tuple(found)


@lru_cache(65536)
def refused(sentence: str, start: int, end: int) -> bool:
    """Whether a stretch between commas, "but" and "and" denies what it says.

    There is a negation before it, or a withdrawal after it.
    """
    before = STRETCH.split(sentence[:start])[-1]
    after = STRETCH.split(sentence[end:])[0]
    return bool(REFUSED.search(before) or WITHDRAWN.search(after))


@lru_cache(4096)
def _values(context: tuple[tuple[str, str], ...]) -> tuple[Value, ...]:
    """The values of B_t, given as its pairs, that a customer knows as facts or names."""
    values = []
    for slot, value in context:
        name, _, number = slot.rpartition("_")
        if name in FACT_OF:
            values.append((FACT_OF[name], number, value.lower()))
    return tuple(values)


@lru_cache(65536)
def _facts(sentence: str, values: tuple[Value, ...]) -> tuple[Found, ...]:
    """Facts and names stated in a sentence.  A question states nothing."""
    if sentence.rstrip().endswith("?"):
        return ()
    said: dict[tuple[int, str], set[str]] = {}
    for kind, number, value in values:
        at = sentence.find(value)
        if at < 0:
            continue
        end = at + len(value)
        if inside_a_word(sentence, at, end) or refused(sentence, at, end):
            continue
        said.setdefault((at, kind), set()).add(number)
    return tuple((at, Act(kind, frozenset(numbers))) for (at, kind), numbers in said.items())


def inside_a_word(sentence: str, at: int, end: int) -> bool:
    # "64 euros" is not "4 euros", "2 days" is not "12 days"
    return sentence[at - 1:at].isalnum() or sentence[end:end + 1].isalnum()


# --- how well an ear hears ------------------------------------------------------------------------

def examine(
    ear: Ear, part: str = "held_out", file: str = "ear_sentences.json"
) -> dict[str, float | list]:
    """Rates of an ear on the sentences of a file.

    hit          acts heard, of the acts affirmed
    false_alarm  share of sentences in which something was heard that was not said
    per_act      the same of all chances to mishear one of the 25 kinds
    errors       (sentence, acts missed, acts misheard)
    """
    book = json.loads((BOOKS / file).read_text(encoding="utf-8"))
    kinds = len(COMPILED) + len(FACT_OF)
    said = 0
    hits = 0
    alarms = 0
    misheard = 0
    chances = 0
    errors = []
    for item in book[part]:
        context = book[item["talk"]]
        wanted = {kind for kind, _ in item["acts"]}
        got = {act.kind for act in ear(fill(item["text"], context), context)}
        said += len(wanted)
        hits += len(wanted & got)
        alarms += bool(got - wanted)
        misheard += len(got - wanted)
        chances += kinds - len(wanted)
        if got != wanted:
            errors.append((item["text"], sorted(wanted - got), sorted(got - wanted)))
    sentences = len(book[part])
    return {
        "sentences": sentences,
        "hit": hits / said,
        "false_alarm": alarms / sentences,
        "per_act": misheard / chances,
        "errors": errors,
    }


def demo(misses: bool) -> None:
    """Rates of both ears; with `misses`, the errors of the first one."""
    ears = {"patterns (ear.py)": hear, "exemplars (second_ear.py)": second_ear.hear}
    for file in ("ear_sentences.json", "tmallbrand_sentences.json"):
        for part in ("development", "held_out"):
            for name, ear in ears.items():
                rates = examine(ear, part, file)
                print(f"{file:26s} {part:12s} {name:26s} {rates['sentences']} sentences: ", end="")
                print(f"hit {rates['hit']:.3f}, ", end="")
                print(f"sentences with a false alarm {rates['false_alarm']:.3f} ", end="")
                print(f"({rates['per_act']:.4f} of all chances)")
    if misses:
        for text, missed, misheard in examine(hear)["errors"]:
            words = ", ".join(missed) or "—", ", ".join(misheard) or "—"
            print("  {}   missed {}   misheard {}".format(text, *words))


if __name__ == "__main__":
    demo("--misses" in sys.argv)
