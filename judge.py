"""Judges: who gives the scores S_1..S_4 of Eq. 8, and those of GRE (Sec. 4.1.2).

The paper asks GPT-4 and names neither the four scores nor their scale (GAP-7).  `Judge` is the
protocol.  The two judges here are rules; they know nothing of any simulated shop and read only the
reply, B_t and the skill records.  An LLM as judge is one more class with the same methods:
hosted/judge.py.  How the scores become a reward is rewards.py.
Try it:  python judge.py        four replies to one message, and what each rule takes off
Exercise: let `RuleJudge.compliance` ignore the order of skills.  Which reply gains by it?
"""
from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache
from typing import Protocol, Sequence

from sacrebleu import sentence_chrf

from data import Judged, Scores, Skill, base, fit_of, slots
from rewards import DIMENSIONS, cs_reward
from text import MARKS, NAME
from tse import distinct_pairs

# politeness, product appropriateness, action guidance: each 0-10
GreScores = tuple[float, float, float]
# Texts come back, so what depends on a text alone is computed once: so many texts are kept.
KEPT = 16384


class Judge(Protocol):
    """A rule set or an LLM.

    None means that a reply could not be scored: it leaves the loss and never counts as 0.
    """
    name: str
    def score(self, items: Sequence[Judged]) -> list[Scores | None]: ...
    def gre(self, items: Sequence[Judged]) -> list[GreScores | None]: ...


# --- S_1, S_2, S_4 by rule -----------------------------------------------------------------------

@lru_cache(KEPT)
def quality(reply: str) -> float:
    """S_1: the mean of four marks for a well-shaped reply.

    4 to 50 words; a capital letter or a slot first; an end mark last; few repeated word pairs.
    """
    words = _words(reply)
    length = 4 <= len(words) <= 50
    opening = re.match(r"\s*[\"'(]?([A-Z{]|[^\x00-\x7f])", reply) is not None
    ending = re.search(r"[.!?。！？]\s*$", reply) is not None
    return (length + opening + ending + _variety(reply)) / 4


def fitness(item: Judged) -> float:
    """S_2: F1 of the slots that the reply states against the slots that its skills need.

    A slot of a candidate that does not fit (`fit_2` = "no") is wrong.  A skill whose slot is
    missing in B_t needs nothing: there was nothing to state.
    """
    available = {base(slot) for slot in item.context}
    needed: set[str] = set()
    for skill in item.skills:
        needed |= available.intersection(skill.needs)
    said = set(slots(item.reply))
    if not needed and not said:
        return 1.0
    right = [slot for slot in said if _is_right(slot, needed, item.context)]
    wrong = len(said) - len(right)
    met = {base(slot) for slot in right}
    return 2 * len(met) / (len(met) + wrong + len(needed))


def _is_right(slot: str, needed: set[str], context: dict[str, str]) -> bool:
    """Whether a stated slot was asked for, exists in B_t, and belongs to a candidate that fits."""
    fits = fit_of(slot, context) in (None, "yes")
    return fits and slot in context and base(slot) in needed


def diversity(reply: str, previous: Sequence[str]) -> float:
    """S_4: half distinct-2 of the reply, half its distance to the most similar earlier reply.

    The distance is 1 - Jaccard similarity of the two sets of word pairs.
    """
    pairs = _pairs(reply)
    nearest = max((_jaccard(pairs, _pairs(other)) for other in previous), default=0.0)
    return 0.5 * _variety(reply) + 0.5 * (1 - nearest)


# --- the judges ----------------------------------------------------------------------------------

class RuleJudge:
    """Offline rules for a shop whose agents speak by a skill pool.

    No substitute for GPT-4: it measures form, facts and the order of acts.
    """
    name = "rule judge"

    def __init__(self, pool: dict[str, Skill]):
        self.pool = pool
        self.disclaimers: list[str] = []
        self.examples: list[tuple[str, frozenset[str]]] = []
        skills_with = Counter()
        for skill in pool.values():
            self.disclaimers += [_plain(phrase) for phrase in skill.must_say]
            examples = [frozenset(_words(example)) for example in skill.examples]
            self.examples += [(skill.id, words) for words in examples]
            skills_with.update(frozenset().union(*examples))
        # a word's weight: the fewer skills use it, the more it tells
        self.idf = {word: math.log((1 + len(pool)) / n) for word, n in skills_with.items()}
        self.acts_in = lru_cache(65536)(self._acts_in)
        self.carried_out = lru_cache(KEPT)(self._carried_out)

    def score(self, items: Sequence[Judged]) -> list[Scores | None]:
        return [self._score(item) for item in items]

    def _score(self, item: Judged) -> Scores:
        return (
            quality(item.reply),
            fitness(item),
            self.compliance(item),
            diversity(item.reply, item.previous),
        )

    def compliance(self, item: Judged) -> float:
        """S_3: the skills asked for, in order, and nothing else; halved for shouting.

        Longest common subsequence of the acts asked for and the acts done, over the longer of both.
        It scores what decoding does not enforce (GAP-7): must-say and must-not-say hold by
        construction and would be constant.
        """
        return self.carried_out(tuple(skill.id for skill in item.skills), item.reply)

    def _carried_out(self, asked: tuple[str, ...], reply: str) -> float:
        done = self.acts(reply)
        longer = max(len(asked), len(done), 1)
        share = common_subsequence(asked, done) / longer
        return 0.5 * share if _shouts(reply) else share

    def acts(self, reply: str) -> list[str | None]:
        """The skill that each sentence carries out, disclaimers left out; None = no skill's."""
        unnumbered = NUMBER.sub("}", reply)      # "{price_2}" -> "{price}", as in the examples
        found: list[str | None] = []
        for sentence in SENTENCE.findall(unnumbered):
            found += self.acts_in(sentence.strip())
        return found

    def _acts_in(self, sentence: str) -> tuple[str | None, ...]:
        """The act of one sentence; nothing if it is a disclaimer or holds no letter."""
        plain = _plain(sentence)
        if not plain or self._is_disclaimer(plain):
            return ()
        return (self._act_of(plain),)

    def _is_disclaimer(self, sentence: str) -> bool:
        return any(sentence in d or d in sentence for d in self.disclaimers)

    def _act_of(self, sentence: str) -> str | None:
        """The skill of the most similar example of the pool; None below a similarity of 0.3.

        Similarity: weight of the common words over the weight of all words of the two.
        """
        words = frozenset(_words(sentence))
        best = None
        highest = 0.0
        for skill, example in self.examples:
            union = self._weight(words | example)
            if not union:
                continue
            similarity = self._weight(words & example) / union
            if similarity > highest:
                best = skill
                highest = similarity
        return best if highest >= 0.3 else None

    def _weight(self, words: frozenset[str]) -> float:
        # fsum: a set's order changes from process to process, and with it a plain sum
        return math.fsum(self.idf.get(word, 1.0) for word in words)

    def gre(self, items: Sequence[Judged]) -> list[GreScores | None]:
        """Politeness, product appropriateness, action guidance, each 0-10, by rule."""
        return [self._gre(item) for item in items]

    def _gre(self, item: Judged) -> GreScores:
        polite = min(1.0, len(POLITE.findall(item.reply)) / 2)
        return 10 * polite, 10 * fitness(item), 10 * self._guidance(item.reply)

    def _guidance(self, reply: str) -> float:
        """1 for a next step (an act that serves task 3 of Eq. 11), 0.5 for a question, else 0."""
        acts = [act for act in self.acts(reply) if act is not None]
        if any(self.pool[act].task == 3 for act in acts):
            return 1.0
        return 0.5 if reply.rstrip().endswith("?") else 0.0


class ReplayJudge:
    """Rules for logged dialogues, against the reply that a person gave; no reference, no score.

    S_1 = chrF to the reference, S_2 = F1 of the slots, S_3 = 1 if the reply says what it must and
    nothing that it must not, S_4 = distinct-2.
    """
    name = "replay judge (chrF, slots)"

    def score(self, items: Sequence[Judged]) -> list[Scores | None]:
        return [self._score(item) if item.reference else None for item in items]

    def _score(self, item: Judged) -> Scores:
        chrf = sentence_chrf(item.reply, [item.reference]).score / 100
        return chrf, _slot_f1(item), float(_keeps_rules(item)), _variety(item.reply)

    def gre(self, items: Sequence[Judged]) -> list[GreScores | None]:
        """None: politeness in any language is not a matter of rules."""
        return [None] * len(items)


def _slot_f1(item: Judged) -> float:
    wanted = set(slots(item.reference))
    said = set(slots(item.reply))
    if not wanted and not said:
        return 1.0
    return 2 * len(wanted & said) / (len(wanted) + len(said))


def _keeps_rules(item: Judged) -> bool:
    """Whether a reply holds each must_say of its skills and no must_not_say, in any case."""
    reply = item.reply.lower()
    for skill in item.skills:
        if any(phrase.lower() in reply for phrase in skill.must_not_say):
            return False
        if any(phrase.lower() not in reply for phrase in skill.must_say):
            return False
    return True


# --- text ----------------------------------------------------------------------------------------

POLITE = re.compile(
    r"\b(please|thank\w*|sorry|apolog\w+|welcome|glad|happy to|would|could|may i|do not worry"
    r"|understand)\b",
    re.IGNORECASE,
)
# a character of a script without spaces
CJK = r"\u3040-\u30ff\u4e00-\u9fff"
WORD = re.compile(rf"\{{{NAME}\}}|[{CJK}]|[^\W{CJK}]+(?:[{MARKS}]+[^\W{CJK}]*)*")
SENTENCE = re.compile(r"[^.!?]+[.!?]*")
NUMBER = re.compile(r"_\d+\}")                  # of a candidate, in a slot


@lru_cache(KEPT)
def _words(text: str) -> tuple[str, ...]:
    """Words in lower case, slots whole; a Chinese or Japanese character is a word of its own."""
    return tuple(WORD.findall(text.lower()))


@lru_cache(KEPT)
def _variety(reply: str) -> float:
    """Distinct-2 of one reply; 0 for fewer than two words."""
    return distinct_pairs([_words(reply)]) or 0.0


@lru_cache(KEPT)
def _pairs(reply: str) -> frozenset[tuple[str, str]]:
    words = _words(reply)
    return frozenset(zip(words, words[1:]))


def _jaccard(a: frozenset, b: frozenset) -> float:
    shared = len(a & b)
    return shared / max(1, len(a) + len(b) - shared)


def _plain(text: str) -> str:
    """Lower case, with end marks and white space as single spaces."""
    return re.sub(r"[.!?\s]+", " ", text.lower()).strip()


def _shouts(reply: str) -> bool:
    """More than two exclamation marks, or more than one word of four or more capitals."""
    capitals = [word for word in reply.split() if word.isupper() and len(word) > 3]
    return reply.count("!") > 2 or len(capitals) > 1


def common_subsequence(a: Sequence, b: Sequence) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        above = row[:]
        for j, y in enumerate(b, 1):
            row[j] = above[j - 1] + 1 if x == y else max(above[j], row[j - 1])
    return row[-1]


def main() -> None:
    """One message, four replies, their scores."""
    sorry = Skill("apologise", examples=("I am very sorry for the trouble.",))
    refund = Skill("state_refund", examples=("You get {refund} back.",), needs=("refund",))
    judge = RuleJudge({"apologise": sorry, "state_refund": refund})
    context = {"refund_1": "39 euros", "fit_1": "no", "refund_2": "20 euros", "fit_2": "yes"}
    earlier = ("Hello, how can I help?",)
    replies = {
        "I am very sorry for the trouble. You get {refund_2} back.": "as asked",
        "I am very sorry for the trouble. You get {refund_1} back.": "candidate 1 does not fit",
        "You get {refund_2} back. I am very sorry for the trouble.": "the other order",
        "very sorry, very sorry, {refund_2}": "no shape, no act of the pool, one pair twice",
    }
    print("customer: Where is my money?")
    print(f"asked:    apologise, state_refund      B_t: {context}\n")
    for reply, remark in replies.items():
        item = Judged("Where is my money?", context, (sorry, refund), reply, earlier)
        S = judge.score([item])[0]
        named = [f"{name} {value:.2f}" for name, value in zip(DIMENSIONS, S)]
        print(f"{reply}   ({remark})")
        print(f"  {', '.join(named)}   R^A = {cs_reward(S):.3f}")


if __name__ == "__main__":
    main()
