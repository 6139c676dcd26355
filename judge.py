"""Judges: who fills in S_1..S_4 of Eq. 8, for which the paper asks GPT-4, and GRE.

`Judge` is the protocol.  Ours are rules, say so, and know nothing of any simulated shop: they read the reply, B_t and the skill
records.  An LLM as judge is one more class with the same `score` and `gre`: hosted/judge.py.  Departure from the paper: GAP-7.
Try it:  python judge.py        the four scores of one reply"""
from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache
from typing import Protocol, Sequence

from data import Judged, Scores, Skill, base, slots
from rewards import DIMENSIONS, cs_reward


class Judge(Protocol):
    """A rule set or an LLM.  None = could not be scored: such a reply leaves the loss, it is never counted as 0."""
    name: str
    def score(self, items: Sequence[Judged]) -> list[Scores | None]: ...
    def gre(self, items: Sequence[Judged]) -> list[tuple[float, float, float] | None]: ...


class RuleJudge:
    """Offline rules for a shop that speaks by a skill pool.  No substitute for GPT-4: it measures form, facts and order of acts."""
    name = "rule judge"

    def __init__(self, pool: dict[str, Skill]):
        self.pool = pool
        self.disclaimers = tuple(_plain(p) for s in pool.values() for p in s.must_say)
        examples = {s.id: [_words(e) for e in s.examples] for s in pool.values()}
        seen_in = Counter(w for group in examples.values() for w in {w for e in group for w in e})
        self.idf = {w: math.log((1 + len(pool)) / n) for w, n in seen_in.items()}
        self.examples = [(skill, frozenset(e)) for skill, group in examples.items() for e in group]
        self.act_of = lru_cache(65536)(self._act_of)

    def score(self, items: Sequence[Judged]) -> list[Scores | None]:
        return [(quality(i.reply), fitness(i), self.compliance(i), diversity(i.reply, i.previous)) for i in items]

    def acts(self, reply: str) -> list[str | None]:
        """The skill that each sentence carries out, by idf-weighted word overlap with the pool's examples; None = no skill's."""
        sentences = [_plain(s) for s in re.findall(r"[^.!?]+[.!?]*", re.sub(r"_\d+\}", "}", reply))]
        return [self.act_of(s) for s in sentences if s and not any(s in d or d in s for d in self.disclaimers)]

    def _act_of(self, sentence: str) -> str | None:
        words = frozenset(_words(sentence))
        best, score = None, 0.0
        for skill, example in self.examples:
            overlap, union = self._weight(words & example), self._weight(words | example)
            if union and overlap / union > score:
                best, score = skill, overlap / union
        return best if score >= 0.3 else None

    def _weight(self, words: frozenset[str]) -> float:
        return math.fsum(self.idf.get(w, 1.0) for w in words)      # fsum: the same for every order of a set, which changes from process to process

    def compliance(self, item: Judged) -> float:
        """S_3: the skills asked for, in order, nothing else: longest common subsequence over the longer list; halved when shouting.

        It scores what decoding does not force (GAP-7): must-say and must-not-say hold by construction and would be constant.
        """
        asked, done = [s.id for s in item.skills], self.acts(item.reply)
        shouting = item.reply.count("!") > 2 or sum(w.isupper() and len(w) > 3 for w in item.reply.split()) > 1
        return _lcs(asked, done) / max(len(asked), len(done), 1) * (0.5 if shouting else 1.0)

    def gre(self, items: Sequence[Judged]) -> list[tuple[float, float, float] | None]:
        """Politeness, product appropriateness, action guidance, each 0-10, by rule."""
        return [(10 * min(1.0, len(POLITE.findall(i.reply)) / 2), 10 * fitness(i), 10 * self._guides(i.reply)) for i in items]

    def _guides(self, reply: str) -> float:
        """1 for a next step, 0.5 for a question, else 0."""
        steps = any(a is not None and self.pool[a].task == 3 for a in self.acts(reply))
        return 1.0 if steps else 0.5 * reply.rstrip().endswith("?")


class ReplayJudge:
    """Rules for logged dialogues: S_1 = chrF to the human reply, S_2 slots, S_3 validator, S_4 distinct-2.  No reference, no score."""
    name = "replay judge (chrF, slots)"

    def score(self, items: Sequence[Judged]) -> list[Scores | None]:
        return [self._score(i) if i.reference else None for i in items]

    def _score(self, item: Judged) -> Scores:
        from sacrebleu import sentence_chrf
        wanted, said = set(slots(item.reference)), set(slots(item.reply))
        f1 = 1.0 if not wanted and not said else 2 * len(wanted & said) / (len(wanted) + len(said))
        banned = [p for s in item.skills for p in s.must_not_say if p.lower() in item.reply.lower()]
        missing = [p for s in item.skills for p in s.must_say if p.lower() not in item.reply.lower()]
        return sentence_chrf(item.reply, [item.reference]).score / 100, f1, float(not banned and not missing), distinct_pairs(_words(item.reply))

    def gre(self, items: Sequence[Judged]) -> list[tuple[float, float, float] | None]:
        return [None] * len(items)               # politeness in any language is not a matter of rules


POLITE = re.compile(r"\b(please|thank\w*|sorry|apolog\w+|welcome|glad|happy to|would|could|may i|do not worry|understand)\b", re.I)


def quality(reply: str) -> float:
    """S_1: a sentence-shaped reply: 4 to 50 words, a capital or slot first, an end mark, few repeated word pairs; mean of the four."""
    words = _words(reply)
    shaped = [4 <= len(words) <= 50, bool(re.match(r"\s*[\"'(]?([A-Z{]|[^\x00-\x7f])", reply)), bool(re.search(r"[.!?。！？]\s*$", reply))]
    return (sum(shaped) + distinct_pairs(words)) / 4


def fitness(item: Judged) -> float:
    """S_2: F1 of the slots stated against the slots the skills need; a slot of a candidate with `fit` = "no" is wrong.

    A skill whose slot B_t lacks needs nothing: there was nothing to state.
    """
    available = {base(s) for s in item.context}
    needed = {n for s in item.skills for n in s.needs if n in available}
    said = set(slots(item.reply))
    right = {base(s) for s in said if base(s) in needed and s in item.context and item.context.get(f"fit_{s.rpartition('_')[2]}", "yes") == "yes"}
    wrong = sum(base(s) not in needed or s not in item.context or item.context.get(f"fit_{s.rpartition('_')[2]}", "yes") != "yes" for s in said)
    return 1.0 if not needed and not said else 2 * len(right) / (len(right) + wrong + len(needed))


def diversity(reply: str, previous: Sequence[str]) -> float:
    """S_4: half the share of distinct word pairs, half the distance (1 - Jaccard of word pairs) to the nearest earlier reply."""
    words = _words(reply)
    pairs = set(zip(words, words[1:]))
    nearest = max((len(pairs & other) / max(1, len(pairs | other)) for other in map(_pairs, previous)), default=0.0)
    return 0.5 * distinct_pairs(words) + 0.5 * (1 - nearest)


def distinct_pairs(words: Sequence[str]) -> float:
    """Distinct-2 (Li et al. 2016): distinct word pairs over all word pairs; 0 for fewer than two words."""
    return len(set(zip(words, words[1:]))) / (len(words) - 1) if len(words) > 1 else 0.0


@lru_cache(4096)
def _pairs(reply: str) -> frozenset[tuple[str, str]]:
    words = _words(reply)
    return frozenset(zip(words, words[1:]))


def _plain(text: str) -> str:
    return re.sub(r"[.!?\s]+", " ", text.lower()).strip()


def _words(text: str) -> list[str]:
    """Words in lower case, slots whole; a CJK character is a word of its own."""
    return re.findall(r"\{\w+\}|[\u3040-\u30ff\u4e00-\u9fff]|[^\W\u3040-\u30ff\u4e00-\u9fff]+", text.lower())


def _lcs(a: Sequence, b: Sequence) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        above = row[:]
        for j, y in enumerate(b, 1):
            row[j] = above[j - 1] + 1 if x == y else max(above[j], row[j - 1])
    return row[-1]


if __name__ == "__main__":
    pool = {"apologise": Skill("apologise", examples=("I am very sorry for the trouble.",)),
            "state_refund": Skill("state_refund", examples=("You get {refund} back.",), needs=("refund",))}
    item = Judged("Where is my money?", {"refund_1": "39 euros", "fit_1": "no", "refund_2": "20 euros", "fit_2": "yes"},
                  tuple(pool.values()), "I am very sorry for the trouble. You get {refund_1} back.")
    S = RuleJudge(pool).score([item])[0]
    print(f"\nreply: {item.reply}   (candidate 1 does not fit)")
    print("S = " + ", ".join(f"{d} {v:.2f}" for d, v in zip(DIMENSIONS, S)) + f"   R^A = {cs_reward(S):.3f}")
