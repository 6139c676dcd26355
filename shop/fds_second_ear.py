"""A second, independent ear for the food-delivery store: which acts does a reply perform?

Written apart from fds_ear.py: it shares no list and no pattern with it.  It is made like
second_ear.py, whose tokens and clauses it uses: a clause is compared with exemplars of each act,
and an act is heard where a clause holds enough of the weight of one of them, in the right mood.

asked       the clause is a question, or a request ("please send ...")
modal       ... or says what could be done ("could", "would", "may")
done        is asserted, and neither asked, nor modal, nor negated
negated     is asserted, and holds a negator

Try it:  python -m shop.fds_second_ear        what is heard in a handful of replies"""
from __future__ import annotations

from collections import Counter
from functools import lru_cache
from math import log

from shop.second_ear import IDIOM_INDEX, SUFFIX, Act, Clause, clauses, fold, index_of, tokens_of

THRESHOLD = 0.7
FACTS = {"order": "confirm_order", "report": "state_report"}
# act -> (moods in which it is heard, exemplars as skeletons)
EXEMPLARS = {
    "apologise": (("done",), "sorry / apologise / apology / forgive us / regret trouble"),
    "empathise": (("done", "negated"), """
        understand upset / understand feel / see upset / must upset / sound upset / imagine upset /
        hear you / how upset / know upset / sorry hear / see why down / be upset"""),
    "reassure": (("done", "negated", "modal"), """
        not worry / rest assured / good hands / we sort / be solved / take care / under control /
        no worry / everything fine / stay calm / find solution / no panic"""),
    "ask_details": (("asked",), """
        order number / which order / number of order / what order / order id / order reference"""),
    "ask_photo": (("asked",), """
        send photo / have photo / upload photo / photo of / share photo / attach photo /
        show photo / take photo"""),
    "explain_cause": (("done", "negated"), """
        reason is / cause was / happened because / because / due to / went wrong was that /
        led to / caused by / explanation is / to blame / reason was / fault lay / explains why"""),
    "ask_wish": (("asked",), """
        what like us do / what you wish / what you expect / how like settled / what solution /
        how make up / what put right / what you want us / what you hope / how resolve /
        what outcome / what we do for you / what help you most / how make right"""),
    "decline_refund": (("negated",), """
        not refund / refund not possible / no refund / not money back / unable refund /
        not pay back / refund impossible / not return money"""),
    "pass_on": (("done", "modal"), """
        pass on kitchen / pass on / forward it / forward complaint / forward kitchen /
        tell kitchen / inform kitchen /
        let kitchen know / notify kitchen / report kitchen / speak kitchen /
        raise kitchen / forward feedback / escalate kitchen"""),
    "propose_voucher": (("asked", "modal", "offer"), """
        voucher help / offer voucher / voucher alright / propose voucher / like voucher /
        accept voucher / suggest voucher / voucher suit / happy voucher / voucher settle /
        give voucher / voucher be"""),
    "issue_voucher": (("done",), """
        add voucher / voucher credited / voucher account / issue voucher / send voucher /
        voucher active / here voucher / voucher there / put voucher / voucher yours / voucher app /
        book voucher / voucher ready / voucher wallet / find voucher"""),
    "close": (("done", "asked", "modal", "negated"), """
        anything else / something else / nice evening / nice day / thank patience / goodbye / bye /
        further question / anything more / what else do / nice weekend / thank your time /
        thank contacting / enjoy evening"""),
    "promise": (("done",), """
        guarantee / promise / hundred percent / refund you / get refund / get money back /
        pay you back / refund order / return money"""),
}
# act -> terms without one of which it is not heard, however much else of an exemplar is there
NEEDED = {
    "propose_voucher": {"voucher"},
    "issue_voucher": {"voucher"},
    "ask_photo": {"photo"},
    "ask_details": {"order"},
    "decline_refund": {"refund", "money", "back"},
}
CONCEPTS = {
    "sorry": "apologies", "apologise": "apologize apologises apology apologies",
    "upset": "disappointed disappointing disappointment frustrated frustrating frustration annoyed "
             "annoying annoyance angry unpleasant letdown feel feeling stressful",
    "voucher": "coupon vouchers card credit", "photo": "picture image photos pictures snapshot pic",
    "refund": "reimburse refunded reimbursement refunding refunds",
    "kitchen": "merchant restaurant courier team partner manager colleagues chef staff",
    "add": "added adding load loaded place placed put", "issue": "issued issuing granted grant",
    "credited": "credit credited booked", "send": "sent sending", "like": "want wish prefer",
    "worry": "worried worries", "solved": "sorted resolved fixed", "sort": "solve resolve fix",
    "nice": "good great lovely pleasant wonderful", "thank": "thanks", "offer": "offering",
    "propose": "proposing",
    "suggest": "suggesting", "happened": "happen occurred", "cause": "caused",
    "forward": "forwarding forwarded", "pass": "passing", "inform": "informing", "tell": "telling",
    "expect": "expectation", "account": "wallet app", "settled": "settle", "be": "is was been",
    "number": "no id", "alright": "right okay ok fine acceptable", "help": "helpful",
}
NEGATORS = set("not no never unable impossible without cannot nothing neither nor hardly".split())
MODAL = set("could would may might can happy glad shall should".split())
OFFER = set("offer propose suggest".split())
REQUEST = set("please send give tell upload share attach show need provide take".split())
CONDITION = set("if once whether unless before when".split())
# hidden behind "did you", "have you already": told or asked about, not done
PAST_QUESTION = set("did had have has".split())
DROPPED = set(
    "a an the to my your our of for in on at with it this that so very really i we".split())


def _table() -> dict[str, str]:
    table = {}
    for head, words in CONCEPTS.items():
        for word in (head, *words.split()):
            table.setdefault(word, head)
    return table


CONCEPT = _table()


def _term(word: str) -> str:
    if word in CONCEPT:
        return CONCEPT[word]
    stem = SUFFIX.sub("", word)
    return CONCEPT.get(stem, stem)


def _terms(words: list[str] | tuple[str, ...]) -> list[str]:
    return [_term(word) for word in words if word not in DROPPED]


def _bags() -> list[tuple[str, frozenset[str]]]:
    bags = []
    for act, (_, listed) in EXEMPLARS.items():
        for text in listed.split("/"):
            bags.append((act, frozenset(_terms(text.split()))))
    return bags


BAGS = _bags()
COUNTS: Counter[str] = Counter()
for _, terms in BAGS:
    COUNTS.update(terms)


def _weight(term: str) -> float:
    return log(1 + len(BAGS) / COUNTS[term]) if term in COUNTS else 0.0


WEIGHTS = [sum(sorted(map(_weight, bag))) for _, bag in BAGS]


def _moods(clause: Clause) -> set[str]:
    words = set(clause.tokens)
    negated = clause.refused or not NEGATORS.isdisjoint(words)
    moods = set()
    if clause.asked and clause.tokens[0] not in PAST_QUESTION:
        moods.add("asked")
    if not clause.asked and not negated and not REQUEST.isdisjoint(words):
        moods.add("asked")
    if clause.condition or not CONDITION.isdisjoint(clause.tokens[:1]):
        return moods
    if not negated and not MODAL.isdisjoint(words):
        moods.add("modal")
    if not negated and not OFFER.isdisjoint(words):
        moods.add("offer")
    if not clause.asked:
        said = "negated" if negated else "done"
        moods.add(said)
    return moods


@lru_cache(1 << 14)
def _fired(clause_tokens: tuple[str, ...], moods: frozenset[str]) -> tuple[str, ...]:
    here = set(_terms(clause_tokens))
    best: dict[str, float] = {}
    for (act, bag), whole in zip(BAGS, WEIGHTS):
        if moods.isdisjoint(EXEMPLARS[act][0]):
            continue
        if act in NEEDED and NEEDED[act].isdisjoint(here):
            continue
        held = sum(sorted(_weight(term) for term in bag & here))
        if held >= THRESHOLD * whole:
            best[act] = max(best.get(act, 0.0), held)
    return _one_reading(best, moods)


def _one_reading(best: dict[str, float], moods: frozenset[str]) -> tuple[str, ...]:
    """Where readings exclude each other, one is left."""
    if "propose_voucher" in best and not moods.isdisjoint(("asked", "modal", "offer")):
        best.pop("issue_voucher", None)
    if "decline_refund" in best:
        best.pop("promise", None)
    if "apologise" in best:
        # "sorry for what went wrong"
        best.pop("explain_cause", None)
    if "empathise" in best:
        best.pop("apologise", None)
    if "close" in best or "ask_photo" in best or "ask_details" in best or "propose_voucher" in best:
        best.pop("ask_wish", None)
    return tuple(best)


def hear(text: str, context: dict[str, str]) -> list[Act]:
    """The acts of one reply under B_t, in the order of the text.

    >>> [act.kind for act in hear("Sorry! Would a voucher help?", {})]
    ['apologise', 'propose_voucher']
    """
    values = []
    for slot, value in context.items():
        base = slot.rpartition("_")[0]
        if base in FACTS:
            values.append((value, f"x{base}", slot))
    tokens, found = fold(tokens_of(text), index_of(tuple(values)), IDIOM_INDEX)
    acts: list[Act] = []
    for clause in clauses(tokens):
        moods = frozenset(_moods(clause))
        if len(clause.tokens) <= 60:
            acts += [Act(kind) for kind in _fired(clause.tokens, moods)]
        if moods & {"done"}:
            acts += _facts(clause, found)
    return [act for i, act in enumerate(acts) if i == 0 or act != acts[i - 1]]


def _facts(clause: Clause, found: dict[int, list[str]]) -> list[Act]:
    owners: dict[str, set[str]] = {}
    for i in range(clause.start, clause.start + len(clause.tokens)):
        for slot in found.get(i, ()):
            base, _, number = slot.rpartition("_")
            owners.setdefault(FACTS[base], set()).add(number)
    return [Act(kind, frozenset(numbers)) for kind, numbers in owners.items()]


def demo() -> None:
    context = {"order_1": "4711", "report_1": "handed over 38 minutes late"}
    for reply in (
        "I am sorry. Which order is it?",
        "Your order 4711 was handed over 38 minutes late.",
        "We cannot refund it, but could I offer you a voucher?",
        "I have added a voucher to your account. Have a nice evening!",
    ):
        print(reply, [act.kind for act in hear(reply, context)])


if __name__ == "__main__":
    demo()
