"""What a customer of the simulated shop hears in a reply: its acts, from the text alone.

No label of the Expert reaches the customer.  `hear` is made of patterns; second_ear.py is a separately written listener, and
evaluation compares TSE under both, so a policy that merely learned to please these patterns is found out.

Try it:  python ear.py            hit and false-alarm rates of both ears on held-out sentences (ear_sentences.json, tmallbrand_sentences.json)
         python ear.py --misses   and what the first ear missed or misheard"""
from __future__ import annotations

import itertools
import json
import re
import sys
from functools import cache, lru_cache
from pathlib import Path
from typing import Callable, NamedTuple

from data import fill
from shop.catalogue import SHOPS, skill_pool

FACT_OF = {"product": "recommend", "order": "confirm_order", "price": "state_price", "stock": "state_stock",
           "eta": "state_delivery", "window": "state_returns", "refund": "state_refund", "size": "state_size",
           "status": "state_status", "part": "state_partial"}    # slot -> the act of saying it


class Act(NamedTuple):
    kind: str                                                    # a skill id, or "promise"
    candidates: frozenset[str] = frozenset()                     # for a fact or a name: the candidates whose value was said


Ear = Callable[[str, dict[str, str]], list]                       # (text, B_t) -> acts

NEGATION = r"\b(?:not|no|never|nothing|nobody|none|whether|cannot|without|unable|neither|nor|stop|decline|refuse|rather than|instead of)\b|n't\b"
PATTERNS = {
    "greet": r"(?:^|[,!] ?)\s*(?:hello|hi|hey)\b(?! \w+\')|\b(?:you(?:'re| are) (?:very )?welcome here|(?:^\s*|and |a (?:warm|very warm) |you are )welcome(?: to\b|[,!.]|$)|^\s*good (?:day|morning|afternoon|evening)|greetings|nice to (?:have|meet)|thank(?:s| you) for (?:contacting|reaching|getting in touch|writing|calling))",
    "ask_need": r"\b(?:budget|price range|spend|up to which price)\b[^?]*\?|\b(?:which|what)\b[^?]*\b(?:feature|kind|type|sort|model|should it|looking for|have in mind|prefer|matters?|important)\b[^?]*\?|\bwhat are you (?:looking|after|searching)|\btell me (?:more |a bit )*(?:about )?what (?:it should|you(?:'re| are)? (?:need|want|look|after))|\b(?:which|what)\b[^?]*\b(?:colou?r|size|effect|shade|skin)\b[^?]*\?|(?<!no need to )\b(?:tell|give|describe|name)\b(?! you)[^.?!]*\byour? (?:size|budget|colou?r|skin)|\btell me (?:the )?(?:size|colou?r)|\bdescribe what\b",
    "ask_order": r"\border (?:number|no|id|reference)\b[^.!]*\?|\b(?:number of|which|what)\b[^?]*\border\b[^?]*\?|\b(?:give|tell|send|share|provide|need|have|let me have|may i|could i|can i)\b[^.?!]*\b(?:order(?:'s)? (?:number|no|id|reference)|number of (?:your|the) order)",
    "empathise": r"\b(?:understand|see|imagine|get|hear|realise|realize|appreciate|know)\b[^.?!]*\b(?:disappoint\w*|frustrat\w*|upset\w*|let ?down|annoy\w*|feel\w*|hoped|unpleasant|sad)|\b(?:must|sounds?|is|that's|was)(?: be| really| so| very| quite| truly)* (?:frustrating|disappointing|annoying|unpleasant|upsetting|a let-?down|a disappointment)|\bi hear you\b|\b(?:anyone|anybody|everyone) would (?:also )?(?:be|feel) (?:frustrat\w+|disappointed|upset|annoyed)|^\s*how (?:annoying|frustrating|disappointing|upsetting)\b",
    "apologise": r"\b(?:sorry|apolog\w+|regret|forgive|our (?:fault|mistake)|my apologies|excuse us)\b",
    "reassure": r"\b(?:do not|don't|no need to|no reason to|not to|needn't) (?:be )?(?:worr\w+|panic|fret|anxious|concerned)|\brest assured\b|\bno worries\b|\bgood hands\b|(?:\b(?:will|can|get|going to)\b|'ll\b)[^.?!]*\b(?:sort\w*|solve\w*|resolve\w*|fix\w*|work\w*) (?:this|that|it|out|everything)|\b(?:taking|take) care of (?:it|this|that|everything)|\b(?:will|going to) be (?:fine|okay|ok|all right|alright|sorted|solved|resolved|settled)|\bcan be (?:solved|sorted|resolved)|\bunder control\b|\bstay calm\b",
    "guide_checkout": r"\b(?:basket|cart|check ?out|checkout)\b|\bplace (?:the|your|an) order\b|\b(?:order|buy) it (?:now|right)|\bcomplete (?:the|your) (?:purchase|order)|\bproceed to pay\w*|\bshopping bag\b|\bpay for it\b|\b(?:tap|click|press)(?: on)? (?:buy|pay)\b|\border it (?:with|here|online|directly|straight)\b",
    "guide_tracking": r"\btracking\b|\btrack (?:it|the|your)\b|\bfollow (?:the|your|its) (?:parcel|package|shipment|delivery|way|journey)",
    "guide_return": r"\b(?:return|shipping|prepaid|postage|send-back) (?:label|slip|sticker)\b|\blabel\b",
    "guide_exchange": r"\b(?:replace\w*|exchang\w+|swap\w*|substitute)\b|\bnew (?:one|item|unit) (?:right away|instead|sent|to you|is on)|\bsend (?:you |out )*(?:a|another) (?:new|fresh)",
    "guide_refund": r"\b(?:release|start|book|trigger|initiate|arrange)\b[^.,;?!]*\b(?:payment|pay-?out|transfer|money|sum|amount)\b|\bpay(?:ing)?\b[^.,;?!]*\bout\b|\bconfirm\b[^.?!]*\b(?:bank|account|card|payment|pay-?out)\b|\b(?:have|get)\b[^.,;?!]*\b(?:money|sum|amount|refund)\b[^.,;?!]*\b(?:sent|paid|transferred)\b|\btransfer (?:it|the (?:money|sum|amount))\b",
    "offer_voucher": r"\b(?:voucher|coupon|gift card|discount(?: code)?|store credit|(?<!to her )credit(?! card)|percent off|% off|goodwill)\b",
    "upsell": r"\b(?:also|too|in addition|as well|additionally)\b[^.?!]*\b(?:buy|bought|order|get|accessor\w+|care set|equipment|bundle|matching|extra|add|recommend|suggest|consider|interested)|\b(?:would you|you would|you might) like to add\b|\bhave you thought (?:about|of)\b|\b(?:accessor\w+|care set|extra equipment|bundle|add-on|go(?:es)? (?:well|nicely) with|pairs? (?:well|nicely))",
    "close": r"\banything else\b|\b(?:something|anything) more\b|\bany (?:other|further|more) (?:question|help|matter|concern|request|wish)\w*|\belse (?:i|we) can\b|\bwhat else (?:can|could|may) (?:i|we)\b|\b(?:thanks?|thank you|cheers)(?: so much| very much)? for (?:your|shopping|being|choosing|stopping|bearing|the)\b|\bhave a (?:nice|good|great|lovely|pleasant|wonderful)\b",
    "promise": r"\bguarantee\w*|\b(?:i|we) promise\b|\b(?:100|hundred) ?(?:percent|%)|\bfull refund no matter what\b",
}
# Acts that are refused by a negation before them in the clause; "do not worry" and "no need to worry" carry theirs inside.
NEGATABLE = set(PATTERNS) - {"reassure", "greet", "ask_order", "ask_need", "empathise"}
COMPILED = {kind: re.compile(pattern, re.I) for kind, pattern in PATTERNS.items()}
REFUSED = re.compile(NEGATION, re.I)
WITHDRAWN = re.compile(r"\b(?:expired|no longer|(?:is|are|be) not|isn't|aren't|never)\b", re.I)        # "... a voucher is not possible"
UNREAL = re.compile(                                             # sentences that report, recall, or suppose instead of doing
    r"^\s*(?:did|has|was|were|have you (?:already|ever))\b.*\?|^\s*(?:if\b.*\b(?:were|had|was)\b|had\b|only once\b|whether\b)"
    r"|\b(?:you|a colleague|a friend|somebody|someone|your \w+) (?:\w+ )?(?:wrote|said|asked|told|mentioned|expect|quoted|spoke|sent|mailed)\b"
    r"|\bout of the question\b|\blast (?:week|month|year|night|spring|summer)\b|\bused to\b|\b(?:would|could|should) have\b|\bno longer\b", re.I | re.S)
QUOTED = re.compile(r"[\"\u201c][^\"\u201d]*[\"\u201d]")
STRETCH = re.compile(r"[,;:]|\b(?:but|however|and|so)\b", re.I)
IDIOM = re.compile(r"\bbetter safe than sorry\b|\b(?:can't|cannot|can not) go wrong with\b|\bsorry to see you go\b", re.I)


@cache
def _disclaimers() -> tuple[str, ...]:
    return tuple(phrase.lower() for shop in SHOPS for s in skill_pool(shop).values() for phrase in s.must_say)


def hear(text: str, context: dict[str, str]) -> list[Act]:
    """Which acts a customer hears in a reply, in the order of the text.  Only affirmed acts: what is refused or denied is not said.

    text     the reply as shown to the customer (slots filled)
    context  B_t: names and facts are recognised by their values

    >>> hear("Sorry! It costs 39 euros.", {"price_1": "39 euros", "price_2": "64 euros"})
    [Act(kind='apologise', candidates=frozenset()), Act(kind='state_price', candidates=frozenset({'1'}))]
    """
    lowered = IDIOM.sub(_blank, text.lower())
    for phrase in _disclaimers():                                # a disclaimer is no act
        lowered = lowered.replace(phrase, " " * len(phrase))
    found: list[tuple[int, Act]] = []
    for sentence in re.finditer(r"[^.!?]+[.!?]*", lowered):
        if UNREAL.search(sentence.group()):
            continue
        quoteless = QUOTED.sub(_blank, sentence.group())         # a quoted value is a value, a quoted act is none
        found += [(sentence.start() + at, act) for at, act in _general_acts(quoteless)]
        found += _facts(sentence.group(), sentence.start(), _values(context))
    return [act for _, act in sorted(found, key=lambda f: f[0])]


def _blank(match: re.Match) -> str:
    return " " * len(match.group())


@lru_cache(65536)
def _general_acts(sentence: str) -> tuple[tuple[int, Act], ...]:
    """One hit per kind and sentence, unless refused."""
    hits = [(kind, pattern.search(sentence)) for kind, pattern in COMPILED.items()]
    return tuple((hit.start(), Act(kind)) for kind, hit in hits if hit and not (kind in NEGATABLE and _refused(sentence, hit.start(), hit.end())))


def _refused(sentence: str, start: int, end: int) -> bool:
    """Denied in the same stretch between commas, "but", "and": a negation before it, or a withdrawal after it."""
    before, after = STRETCH.split(sentence[:start])[-1], STRETCH.split(sentence[end:])[0]
    return bool(REFUSED.search(before) or WITHDRAWN.search(after))


def _values(context: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((slot, value.lower()) for slot, value in context.items() if not slot.startswith("fit_"))


def _facts(sentence: str, offset: int, values: tuple[tuple[str, str], ...]) -> list[tuple[int, Act]]:
    said: dict[tuple[int, str], set[str]] = {}
    for slot, value in values:
        at = sentence.find(value)
        if at < 0 or sentence[at - 1:at].isalnum() or sentence[at + len(value):at + len(value) + 1].isalnum():
            continue                                             # "64 euros" is not "4 euros", "2 days" is not "12 days"
        name, _, number = slot.rpartition("_")
        if name in FACT_OF and not _refused(sentence, at, at + len(value)) and not sentence.rstrip().endswith("?"):
            said.setdefault((at, FACT_OF[name]), set()).add(number)
    return [(offset + at, Act(kind, frozenset(numbers))) for (at, kind), numbers in said.items()]


# --- how well an ear hears -----------------------------------------------------------------------------------------------------

def examine(ear: Ear, part: str = "held_out", file: str = "ear_sentences.json") -> dict[str, float | list]:
    """Rates of an ear on the sentences of a file.

    hit           acts heard of the acts affirmed
    false_alarm   sentences in which something was heard that was not said; `per_act`: of all chances to mishear one of the 25 kinds
    """
    book = json.loads(Path(__file__).with_name("books").joinpath(file).read_text(encoding="utf-8"))
    said = hits = alarms = chances = false = 0
    errors = []
    for item in book[part]:
        context, wanted = book[item["talk"]], {kind for kind, _ in item["acts"]}
        got = {a.kind for a in ear(fill(item["text"], context), context)}
        said, hits = said + len(wanted), hits + len(wanted & got)
        alarms, chances, false = alarms + bool(got - wanted), chances + len(COMPILED) + len(FACT_OF) - len(wanted), false + len(got - wanted)
        if got != wanted:
            errors.append((item["text"], sorted(wanted - got), sorted(got - wanted)))
    return {"sentences": len(book[part]), "hit": hits / said, "false_alarm": alarms / len(book[part]), "per_act": false / chances, "errors": errors}


if __name__ == "__main__":
    from shop import second_ear
    for file, part in itertools.product(("ear_sentences.json", "tmallbrand_sentences.json"), ("development", "held_out")):
        for name, ear in (("patterns (ear.py)", hear), ("exemplars (second_ear.py)", second_ear.hear)):
            rates = examine(ear, part, file)
            print(f"{file:26s} {part:12s} {name:26s} {rates['sentences']} sentences: hit {rates['hit']:.3f}, sentences with a false alarm {rates['false_alarm']:.3f}"
                  f" ({rates['per_act']:.4f} of all chances)")
    for text, missed, misheard in examine(hear)["errors"] if "--misses" in sys.argv else ():
        print(f"  {text}   missed {', '.join(missed) or '—'}   misheard {', '.join(misheard) or '—'}")
