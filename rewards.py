"""Rewards of the Expert (Sec. 3.3, Eqs. 2-6), of the Customer Service Agent (Eq. 8), their mix (Eq. 10), and the rule judges.

The equations are pure functions of plain numbers.  The judges fill in Eq. 8's S_1..S_4, for which the paper asks GPT-4; ours are
rules, say so, and know nothing of any simulated shop: they read the reply, B_t and the skill records.  An LLM judge is one more class
with the same `score` and `gre`.  Departures from the paper: GAP-2, GAP-4, GAP-7 (README).
Try it:  python rewards.py        the worked example of Eqs. 2-5, and of Eqs. 8 and 10 on one reply
Exercise: replace the gain 2^rel - 1 by rel, retrain, compare `esndcg` and `tse` in metrics.jsonl."""
from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, Sequence

from data import MAX_SKILLS, Skill, base, slots

CS_WEIGHTS = (0.3, 0.3, 0.3, 0.1)                # alpha_1..alpha_4 of Eq. 8 [ours: the paper gives none, GAP-7]
DIMENSIONS = ("quality", "fitness", "compliance", "diversity")        # S_1..S_4 [ours: the paper names none, GAP-7]


# --- Eqs. 2-6: the Expert ---------------------------------------------------------------------------------------------------

def relevance(skill: str, teacher: Sequence[str]) -> int:
    """Rel(s) = n - index(s in T) + 1 if s in T else 0, Eq. 2; index counts from 1, so the teacher's first skill has n.

    >>> relevance("refund", ["soothe", "refund"])
    1
    """
    return len(teacher) - list(teacher).index(skill) if skill in teacher else 0


def dcg(predicted: Sequence[str], teacher: Sequence[str]) -> float:
    """DCG(P) = sum_i (2^Rel(p_i) - 1) / log2(i + 1), Eq. 3, literally: a skill that repeats is paid each time."""
    return sum((2 ** relevance(s, teacher) - 1) / math.log2(i + 1) for i, s in enumerate(predicted, 1))


def idcg(teacher: Sequence[str]) -> float:
    """IDCG(T) = DCG of the teacher's own sequence, Eq. 4."""
    return dcg(teacher, teacher)


def esndcg(predicted: Sequence[str], teacher: Sequence[str]) -> float:
    """Expert Skill NDCG = DCG(P) / IDCG(T), Eq. 5; the Expert's reward R^E_t of Eq. 6.

    predicted  P = [p_1..p_m], m <= 5 skill ids, in the order chosen
    teacher    T = [t_1..t_n], n <= 5 distinct skill ids, best first
    returns    float in [0, 1]; 1 means P starts with T in T's order
    raises     ValueError if a list is longer than 5 or T repeats a skill

    >>> esndcg(["soothe", "refund"], ["soothe", "refund"])
    1.0
    """
    if len(predicted) > MAX_SKILLS or len(teacher) > MAX_SKILLS:
        raise ValueError(f"at most {MAX_SKILLS} skills: got {len(predicted)} predicted, {len(teacher)} of the teacher")
    if len(set(teacher)) < len(teacher):
        raise ValueError(f"the teacher's sequence repeats a skill: {list(teacher)}")
    if not predicted or not teacher:
        return float(not predicted and not teacher)
    # GAP-2: a repeat earns 0 and keeps its position, or five copies of t_1 would score 2.003.
    firsts = [s if s not in predicted[:i] else None for i, s in enumerate(predicted)]
    return dcg(firsts, teacher) / idcg(teacher)


def skill_reward(predicted: Sequence[str], teacher: Sequence[str], cost: float = 0.1) -> float:
    """R^E_t = ESNDCG - c * max(0, m - n), Eq. 6 with a price on extra skills (GAP-2); c = 0 is the paper."""
    return esndcg(predicted, teacher) - cost * max(0, len(predicted) - len(teacher))


def skill_gains(predicted: Sequence[str], teacher: Sequence[str], cost: float = 0.1) -> list[float]:
    """What each pick adds to `skill_reward`: m numbers, and one for the stop; their sum is `skill_reward` (Eq. 5 is a sum over positions).

    A pick is not to blame for what was earned before it: this is what lets Eq. 7 credit pick by pick (GAP-8).

    >>> skill_gains(["soothe"], ["soothe"])
    [1.0, 0.0]
    """
    earned = [skill_reward(predicted[:i], teacher, cost) for i in range(len(predicted) + 1)]
    earned[0] = 0.0 if predicted else earned[0]  # (empty, empty) = 1 belongs to the stop
    return [b - a for a, b in zip(earned, earned[1:])] + [0.0 if predicted else earned[0]]


# --- Eqs. 8 and 10: the Customer Service Agent, and both -----------------------------------------------------------------------

def cs_reward(scores: Sequence[float], weights: Sequence[float] = CS_WEIGHTS) -> float:
    """R^A_t = sum_i alpha_i S_i, Eq. 8; the weights are normalised to sum to 1, so scores in [0, 1] give R^A in [0, 1].

    >>> round(cs_reward((1.0, 0.5, 0.5, 0.0)), 3)
    0.6
    """
    if len(scores) != len(weights):
        raise ValueError(f"{len(scores)} scores for {len(weights)} weights")
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights must be >= 0 and not all 0, got {tuple(weights)}")
    return sum(w * s for w, s in zip(weights, scores)) / sum(weights)


def expert_weight(turn: int, horizon: int) -> float:
    """w^E_t = 0.3 + 0.4 * min(1, (t - 1) / (horizon - 1)), Eq. 10: grows with the turn, leaves w^A_t = 1 - w^E_t >= 0.3 (GAP-4).

    >>> [expert_weight(t, 5) for t in (1, 3, 5, 9)]
    [0.3, 0.5, 0.7, 0.7]
    """
    if turn < 1 or horizon < 1:
        raise ValueError(f"turn and horizon count from 1, got turn {turn}, horizon {horizon}")
    return 0.3 if horizon == 1 else 0.3 + 0.4 * min(1.0, (turn - 1) / (horizon - 1))


def joint_reward(r_expert: float, r_cs: float | None, turn: int, horizon: int) -> float:
    """R_t = w^E_t R^E_t + w^A_t R^A_t, Eq. 10.  A reply that the judge could not score (None) leaves R_t = R^E_t (GAP-7)."""
    w = expert_weight(turn, horizon)
    return r_expert if r_cs is None else w * r_expert + (1 - w) * r_cs


def end_bonus(turn: int, horizon: int, gamma: float, success: bool) -> float:
    """Discounted sum of R = 1 over the turns left after a success, sum_{j=1..horizon-turn} gamma^j; 0 if the customer left (GAP-4).

    Without it a sum of non-negative rewards pays for stalling: 12 turns at 0.5 beat 4 turns at 0.95.

    >>> end_bonus(turn=10, horizon=12, gamma=0.5, success=True)
    0.75
    """
    return sum(gamma ** j for j in range(1, horizon - turn + 1)) if success else 0.0


def dialogue_return(rewards: Sequence[float], horizon: int, gamma: float, success: bool) -> float:
    """Eq. 1 for one dialogue: sum_t gamma^t R_t over the turns played (t from 0), then the absorbing end."""
    played = sum(gamma ** t * r for t, r in enumerate(rewards))
    return played + gamma ** (len(rewards) - 1) * end_bonus(len(rewards), horizon, gamma, success)


# --- judges: S_1..S_4 of Eq. 8, and GRE ---------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Judged:
    """What a judge sees of one reply."""
    user: str
    context: dict[str, str]
    skills: tuple[Skill, ...]                    # what the reply was asked to do, in order
    reply: str                                   # with slots
    previous: tuple[str, ...] = ()               # the agent's earlier replies in this dialogue
    reference: str | None = None                 # the human reply, in logs
    history: tuple[tuple[str, str], ...] = ()    # H_t: (customer, agent) of the turns before


Scores = tuple[float, float, float, float]       # S_1..S_4, each in [0, 1]


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
    T, P = ["apologise", "confirm_order", "state_refund"], ["apologise", "state_refund", "confirm_order"]
    print(f"teacher T = {T}\nexpert  P = {P}")
    for i, s in enumerate(P, 1):
        print(f"  p_{i} = {s:14s} Rel = {relevance(s, T)}   (2^Rel - 1) / log2({i} + 1) = {(2 ** relevance(s, T) - 1) / math.log2(i + 1):.3f}")
    print(f"DCG = {dcg(P, T):.3f}   IDCG = {idcg(T):.3f}   ESNDCG = R^E = {esndcg(P, T):.3f}")
    pool = {"apologise": Skill("apologise", examples=("I am very sorry for the trouble.",)),
            "state_refund": Skill("state_refund", examples=("You get {refund} back.",), needs=("refund",))}
    item = Judged("Where is my money?", {"refund_1": "39 euros", "fit_1": "no", "refund_2": "20 euros", "fit_2": "yes"},
                  tuple(pool.values()), "I am very sorry for the trouble. You get {refund_1} back.")
    S = RuleJudge(pool).score([item])[0]
    print(f"\nreply: {item.reply}   (candidate 1 does not fit)")
    print("S = " + ", ".join(f"{d} {v:.2f}" for d, v in zip(DIMENSIONS, S)) + f"   R^A = {cs_reward(S):.3f}")
    for t in (1, 6, 12):
        print(f"turn {t:2d} of 12: w^E = {expert_weight(t, 12):.2f}   R_t = {joint_reward(esndcg(P, T), cs_reward(S), t, 12):.3f}")
