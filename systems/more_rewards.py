"""MORE's rewards by rule, each in [0, 1] and higher for better (its Secs. 3.4 and 5.3).

    NAT   naturalness   well-shaped, spoken to a person, without the stock phrases of a machine
    RSN   reasoning     share of the values that answer the customer which the reply states
    FID   fidelity      share of the numbers said that are true: of the profile, or by rule
    COV   coverage      share of what was asked for that the reply speaks of
    RUD   "redundancy"  novelty: share of word pairs that none of the last five replies has
    REP   repetition    distance to the last reply, 1 - Jaccard of their word pairs
    RGE   ROUGE-L F1 against the reference
    BLEU  of the sentence, smoothed, against the reference
The paper has an LLM mark the first five from 0 to 2 and divides by 2; a rule sees form and numbers
only, and nothing of what a sentence means.  RUD scores novelty in spite of its name.
An empty reply earns 0 everywhere: silence says nothing false, and must not win FID by it.
What the data does not allow to check is None, never 0.
RSN is won by saying every number, and FID pays for only a part of it: the simulated caller, who
hears nothing of such a reply, is the check on that (shop/sale.py).

Try it:  python -m systems.more_rewards        four replies to one question, and their marks
Exercise: stuff a reply with every number of the profile.  Which rewards rise, and which fall?"""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import lru_cache

from sacrebleu import sentence_bleu

from data import Facts, Judged
from judge import WORD, common_subsequence

Marks = tuple[float | None, ...]                 # one for each name, in its order

WINDOW = 5                                       # replies that RUD looks back on
SHAPELY = (3, 40)                                # words of a natural reply
# what machines say and people do not
STOCK = re.compile(
    r"\b(?:dear (?:valued )?(?:customer|user|client)|valued customer|this is an automat\w+"
    r"|automated (?:message|service|system)|please be (?:informed|advised)|hereby"
    r"|your (?:inquiry|request) has been|in accordance with|as per\b|kindly note"
    r"|for your information)",
    re.IGNORECASE,
)
PERSONAL = re.compile(r"\b(?:you|your|yours|i|i'm|i'll|we|we'll|me|us|my|our)\b", re.IGNORECASE)
# a date as 06-12, or a number, with thousands apart or not
NUMBER = re.compile(r"(?<![\w.,-])\d+-\d+(?![\w-])|(?<![\w.-])\d+(?:,\d{3})*(?:\.\d+)?(?![\w-])")


# --- numbers ------------------------------------------------------------------------------------

def plain_number(number: str) -> str:
    """One form for one number; a date, and digits with a 0 in front, stay as they are.

    >>> [plain_number(n) for n in ("40.00", "20,000", "7.30", "06-12", "07")]
    ['40', '20000', '7.3', '06-12', '07']
    """
    bare = number.replace(",", "")
    if "-" in bare or re.fullmatch(r"0\d+", bare):
        return bare
    whole, _, fraction = f"{Decimal(bare):f}".partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


@lru_cache(65536)
def numbers(text: str) -> tuple[str, ...]:
    """The numbers of a text, in their order and plain form.

    >>> numbers("For 20,000 it is 7.30 percent until 06-12, phone ending 07.")
    ('20000', '7.3', '06-12', '07')
    """
    return tuple(plain_number(found) for found in NUMBER.findall(text))


# --- the six by rule ----------------------------------------------------------------------------

def naturalness(item: Judged) -> float:
    """NAT: the mean of four marks; 0 for a reply without words.

    A capital letter first and an end mark last; 3 to 40 words; no stock phrase of a machine; a
    person is spoken to, or speaks.
    """
    reply = item.reply.strip()
    words = _words(reply)
    if not words:
        return 0.0
    shape = re.match(r"[A-Z0-9]", reply) is not None and reply[-1] in ".!?"
    length = SHAPELY[0] <= len(words) <= SHAPELY[1]
    free = STOCK.search(reply) is None
    personal = PERSONAL.search(reply) is not None
    return (shape + length + free + personal) / 4


def consistency(item: Judged, facts: Facts) -> float | None:
    """RSN: the share of needed values that are among the numbers said; 1 if nothing is needed."""
    if facts.needed is None:
        return None
    if not _words(item.reply):
        return 0.0
    said = set(numbers(item.reply))
    return _share([plain_number(value) in said for value in facts.needed])


def fidelity(item: Judged, facts: Facts) -> float | None:
    """FID: the share of the numbers said that are allowed; 1 if no number is said."""
    if facts.allowed is None:
        return None
    if not _words(item.reply):
        return 0.0
    allowed = _plain(facts.allowed)
    return _share([number in allowed for number in numbers(item.reply)])


def coverage(item: Judged, facts: Facts) -> float | None:
    """COV: the share of topics of which the reply has one of the words; 1 without a topic."""
    if facts.topics is None:
        return None
    if not _words(item.reply):
        return 0.0
    reply = item.reply.lower()
    return _share([_speaks_of(reply, words) for words in facts.topics])


def novelty(item: Judged, window: int = WINDOW) -> float:
    """RUD: the share of the reply's word pairs that none of the last `window` replies has."""
    pairs = _pairs(item.reply)
    if not pairs:
        return 0.0
    seen: set[tuple[str, ...]] = set()
    for other in item.previous[-window:]:
        seen |= _pairs(other)
    return len(pairs - seen) / len(pairs)


def repetition(item: Judged) -> float:
    """REP: 1 - Jaccard similarity of the word pairs of this reply and the last one."""
    pairs = _pairs(item.reply)
    if not pairs:
        return 0.0
    if not item.previous:
        return 1.0
    last = _pairs(item.previous[-1])
    return 1 - len(pairs & last) / len(pairs | last)


# --- against the reference ----------------------------------------------------------------------

def rouge_l(reply: str, reference: str) -> float:
    """ROUGE-L F1: the longest common subsequence of words, over the mean of both lengths.

    >>> round(rouge_l("the rate is high today", "the yearly rate is high"), 2)
    0.8
    """
    said, wanted = _words(reply), _words(reference)
    if not said or not wanted:
        return 0.0
    return 2 * common_subsequence(said, wanted) / (len(said) + len(wanted))


def bleu_of(reply: str, reference: str) -> float:
    """Sentence BLEU in [0, 1] by sacrebleu, with exponential smoothing; 0 for an empty reply."""
    if not _words(reply):
        return 0.0
    return min(1.0, sentence_bleu(reply, [reference]).score / 100)


# --- several at once ----------------------------------------------------------------------------

def _referred(rule: Callable[[str, str], float]) -> Callable[[Judged, Facts], float | None]:
    """A rule against the reference; None where there is none."""
    def mark(item: Judged, facts: Facts) -> float | None:
        return rule(item.reply, item.reference) if item.reference else None

    return mark


RULES: dict[str, Callable[[Judged, Facts], float | None]] = {
    "NAT": lambda item, facts: naturalness(item),
    "RSN": consistency,
    "FID": fidelity,
    "COV": coverage,
    "RUD": lambda item, facts: novelty(item),
    "REP": lambda item, facts: repetition(item),
    "RGE": _referred(rouge_l),
    "BLEU": _referred(bleu_of),
}
NAMES = tuple(RULES)
DEFAULT = ("NAT", "RSN", "FID", "COV", "RUD", "RGE")


class RuleRewards:
    """Several rewards by name.

    names   of NAMES, in the order of the marks
    raises  ValueError for an unknown or a repeated name, or none
    """

    def __init__(self, names: Sequence[str] = DEFAULT):
        unknown = [name for name in names if name not in NAMES]
        if unknown or not names or len(set(names)) < len(names):
            raise ValueError(
                f"--more_rewards takes each of {', '.join(NAMES)} at most once: got "
                f"{' '.join(names) or 'none'}")
        self.names = tuple(names)

    def rate(self, items: Sequence[Judged], facts: Sequence[Facts]) -> list[Marks]:
        """The marks of each reply; None where a rule cannot check it."""
        return [self._marks(item, known) for item, known in zip(items, facts, strict=True)]

    def _marks(self, item: Judged, facts: Facts) -> Marks:
        return tuple(RULES[name](item, facts) for name in self.names)


# --- the scaffold's tasks -----------------------------------------------------------------------

YES = re.compile(r"\b(?:yes|within)\b", re.IGNORECASE)
NO = re.compile(r"\b(?:no|not|over|above|exceeds?)\b", re.IGNORECASE)
# |x - x*| of an amount that still counts as right
CLOSE = Decimal("0.01")


def scaffold_reward(text: str, answer: str, kind: str, given: Sequence[str] = ()) -> float:
    """r_e of MORE's Sec. 3.2, before the reward for form: 1 if the sentence states the answer.

    text    one sentence
    answer  what it has to state: "5.42", "06-12", "07", "yes"
    kind    "amount": within .01; "digits": as it is written; "yes": yes or no, never both
    given   numbers of the question, which the sentence may repeat
    raises  ValueError for another kind

    Two candidates are none: who lists values until one fits has computed nothing.  So no task may
    be drawn whose answer is one of the given numbers.

    >>> scaffold_reward("the interest on 20000 is 5.41.", "5.42", "amount", ["20000"])
    1.0
    """
    if kind == "yes":
        said = YES.search(text) is not None
        denied = NO.search(text) is not None
        wanted = answer == "yes"
        return float(said is wanted and denied is not wanted)
    if kind not in ("amount", "digits"):
        raise ValueError(f"kind is amount, digits or yes, got {kind!r}")
    candidates = _candidates(text, given)
    if len(candidates) != 1:
        return 0.0
    if kind == "digits":
        return float(candidates[0] == plain_number(answer))
    if not _is_amount(candidates[0]):
        return 0.0
    return float(abs(Decimal(candidates[0]) - Decimal(answer)) <= CLOSE)


def scaffold_format(text: str, kind: str, given: Sequence[str] = ()) -> float:
    """1 if a sentence has the form of an answer: one number besides those given, and an end mark.

    `yes` has no number, and the form is one of both words.
    """
    ends = text.rstrip().endswith(".")
    if kind == "yes":
        one = (YES.search(text) is None) is not (NO.search(text) is None)
    else:
        one = len(_candidates(text, given)) == 1
    return float(ends and one)


def _candidates(text: str, given: Sequence[str]) -> list[str]:
    """The different numbers of a sentence that the question did not hold."""
    known = _plain(frozenset(given))
    return [number for number in dict.fromkeys(numbers(text)) if number not in known]


def _is_amount(number: str) -> bool:
    return "-" not in number


# --- text ---------------------------------------------------------------------------------------

@lru_cache(65536)
def _words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(text.lower()))


@lru_cache(65536)
def _pairs(text: str) -> frozenset[tuple[str, ...]]:
    """Pairs of neighbouring words; a reply of one word is its own pair."""
    words = _words(text)
    if len(words) == 1:
        return frozenset([words])
    return frozenset(zip(words, words[1:]))


@lru_cache(4096)
def _plain(values: frozenset[str]) -> frozenset[str]:
    return frozenset(plain_number(value) for value in values)


def _speaks_of(text: str, words: Sequence[str]) -> bool:
    return any(re.search(rf"\b{re.escape(word)}", text) for word in words)


def _share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks) if marks else 1.0


def demo() -> None:
    user = "What would 20000 cost me for 10 days?"
    facts = Facts(
        ("40.00",), frozenset({"50000", "7.30", "20", "06-12", "07", "20000", "10", "40.00"}),
        (("interest", "cost"),))
    before = ("Hello, this is Anna, you have a coupon of 20.",)
    replies = (
        "For 20000 over 10 days you pay 40.00 of interest.",
        "For 20000 over 10 days you pay 38.50 of interest.",
        "Dear customer, please be informed that the limit is 50000.",
        "It is 7.30, 20, 06-12, 07, 50000, 41.00 and 40.00.",
        "",
    )
    judge = RuleRewards(NAMES)
    print(f"customer: {user}   (right: 40.00)")
    print("   ".join(f"{name:>4s}" for name in NAMES))
    for reply in replies:
        item = Judged(user, {}, (), reply, before, "That makes 40.00 of interest for 10 days.")
        marks = judge.rate([item], [facts])[0]
        print("   ".join(f"{mark:4.2f}" for mark in marks), f"  {reply or '(nothing)'}")


if __name__ == "__main__":
    demo()
