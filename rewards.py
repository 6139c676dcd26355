"""Rewards of the Expert (Sec. 3.3, Eqs. 2-6), of the Customer Service Agent (Eq. 8), their mix (Eq. 10), and the rule judges.

The equations are pure functions of plain numbers.  The judges fill in Eq. 8's S_1..S_4, for which the paper asks GPT-4; ours are
rules, say so, and know nothing of any simulated shop: they read the reply, B_t and the skill records.  An LLM judge is one more class
with the same `score` and `gre`.  Departures from the paper: GAP-2, GAP-4, GAP-7 (README).
Try it:  python rewards.py        the worked example of Eqs. 2-5, and of Eqs. 8 and 10 on one reply
Exercise: replace the gain 2^rel - 1 by rel, retrain, compare `esndcg` and `tse` in metrics.jsonl."""
from __future__ import annotations

import math
from typing import Sequence

from data import MAX_SKILLS

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


if __name__ == "__main__":
    T, P = ["apologise", "confirm_order", "state_refund"], ["apologise", "state_refund", "confirm_order"]
    print(f"teacher T = {T}\nexpert  P = {P}")
    for i, s in enumerate(P, 1):
        print(f"  p_{i} = {s:14s} Rel = {relevance(s, T)}   (2^Rel - 1) / log2({i} + 1) = {(2 ** relevance(s, T) - 1) / math.log2(i + 1):.3f}")
    print(f"DCG = {dcg(P, T):.3f}   IDCG = {idcg(T):.3f}   ESNDCG = R^E = {esndcg(P, T):.3f}")
    for t in (1, 6, 12):
        print(f"turn {t:2d} of 12: w^E = {expert_weight(t, 12):.2f}   R_t = {joint_reward(esndcg(P, T), 0.8, t, 12):.3f}")
