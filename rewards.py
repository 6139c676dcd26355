"""Rewards of the Expert (Sec. 3.3, Eqs. 2-6), of the Customer Service Agent (Eq. 8), and their
mix over a dialogue (Eqs. 10 and 1).

Pure functions of plain numbers and skill names: no model, no config, no logging.  Eq. 8 weighs four
scores S_1..S_4, which a judge gives (judge.py).  At the end stands the process credit of a sister
paper, InteractCS-RL: its process judge is in shop/genrm.py, its other equations in
systems/interactcs.py, and both import it from here.
Departures from the paper: GAP-2, GAP-4, GAP-7 (README).
Try it:  python rewards.py        Eqs. 2-6 term by term, then Eqs. 8 and 10 on one reply
Exercise: replace the gain 2^rel - 1 by rel, retrain, compare `esndcg` and `tse` in metrics.jsonl.
"""
from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import Sequence

from data import MAX_SKILLS

# alpha_1..alpha_4 and S_1..S_4 of Eq. 8 [both ours: the paper gives no weights and no names, GAP-7]
CS_WEIGHTS = (0.3, 0.3, 0.3, 0.1)
DIMENSIONS = ("quality", "fitness", "compliance", "diversity")
# InteractCS-RL: what its released judge marks, and what each mark counts; the last counts twice.
PRINCIPLES = ("persona", "stage", "quality", "scenario")
WEIGHTS = (1, 1, 1, 2)


# --- Eqs. 2-6: the Expert ------------------------------------------------------------------------

def relevance(skill: str | None, teacher: Sequence[str]) -> int:
    """Rel(s) = n - index(s in T) + 1 if s in T else 0, Eq. 2.

    The index counts from 1, so the teacher's first skill has relevance n and its last skill 1.

    >>> relevance("refund", ["soothe", "refund"])
    1
    """
    if skill not in teacher:
        return 0
    return len(teacher) - list(teacher).index(skill)


def discounted_gains(predicted: Sequence[str | None], teacher: Sequence[str]) -> list[float]:
    """The terms of Eq. 3: (2^Rel(p_i) - 1) / log2(i + 1) for i = 1..m.

    >>> discounted_gains(["soothe", "refund"], ["refund"])[0]
    0.0
    """
    return [(2 ** relevance(p, teacher) - 1) / math.log2(i + 1) for i, p in enumerate(predicted, 1)]


def dcg(predicted: Sequence[str | None], teacher: Sequence[str]) -> float:
    """DCG(P), Eq. 3 as printed: the sum of its terms; a repeated skill earns its gain each time."""
    return sum(discounted_gains(predicted, teacher))


def idcg(teacher: Sequence[str]) -> float:
    """IDCG(T) = DCG of the teacher's own sequence, Eq. 4."""
    return dcg(teacher, teacher)


def prefix_esndcg(predicted: Sequence[str], teacher: Sequence[str]) -> list[float]:
    """ESNDCG (Eq. 5) after no pick, after the first pick, ... and after all m of them.

    predicted  P = [p_1..p_m], m <= 5 skill ids, in the order chosen
    teacher    T = [t_1..t_n], n <= 5 distinct skill ids, best first
    returns    m + 1 floats in [0, 1].  Two empty sequences agree: 1.  One empty sequence: 0
    raises     ValueError if a sequence is longer than 5 or T repeats a skill

    GAP-2: a repeat earns 0 and keeps its position; as printed, five copies of t_1 score 2.003.

    >>> prefix_esndcg(["soothe", "soothe"], ["soothe"])
    [0.0, 1.0, 1.0]
    """
    return list(_prefixes(tuple(predicted), tuple(teacher)))


# A policy that has learned something proposes the same few sequences again and again.
@lru_cache(16384)
def _prefixes(predicted: tuple[str, ...], teacher: tuple[str, ...]) -> tuple[float, ...]:
    _check(predicted, teacher)
    if not teacher:
        return (1.0,) + (0.0,) * len(predicted)
    gains = discounted_gains(_first_mentions(predicted), teacher)
    ideal = idcg(teacher)
    return tuple(sum(gains[:i]) / ideal for i in range(len(gains) + 1))


def _first_mentions(predicted: Sequence[str]) -> list[str | None]:
    """The same sequence with None in the place of each repeat."""
    return [None if p in predicted[:i] else p for i, p in enumerate(predicted)]


def _check(predicted: Sequence[str], teacher: Sequence[str]) -> None:
    m, n = len(predicted), len(teacher)
    if max(m, n) > MAX_SKILLS:
        raise ValueError(f"at most {MAX_SKILLS} skills: got {m} predicted, {n} of the teacher")
    if len(set(teacher)) < n:
        raise ValueError(f"the teacher's sequence repeats a skill: {list(teacher)}")


def esndcg(predicted: Sequence[str], teacher: Sequence[str]) -> float:
    """Expert Skill NDCG = DCG(P) / IDCG(T), Eq. 5; it is the Expert's reward R^E_t, Eq. 6.

    Arguments, errors and empty sequences as in `prefix_esndcg`.
    returns    float in [0, 1]; 1 means that P starts with T in T's order

    >>> esndcg(["soothe", "refund"], ["soothe", "refund"])
    1.0
    """
    return prefix_esndcg(predicted, teacher)[-1]


def skill_reward(predicted: Sequence[str], teacher: Sequence[str], cost: float = 0.1) -> float:
    """R^E_t = ESNDCG - c max(0, m - n): Eq. 6, less a price for each extra skill (GAP-2).

    c = 0 is the paper.

    >>> skill_reward(["soothe", "upsell"], ["soothe"])
    0.9
    """
    return esndcg(predicted, teacher) - extra_cost(len(predicted), len(teacher), cost)


def extra_cost(m: int, n: int, cost: float) -> float:
    """c max(0, m - n): the price of m skills where the teacher has n (GAP-2)."""
    return cost * max(0, m - n)


def skill_gains(
    predicted: Sequence[str], teacher: Sequence[str], cost: float = 0.1
) -> list[float]:
    """What each pick adds to `skill_reward`, and last what the stop adds: m + 1 numbers.

    Eq. 5 is a sum over positions, so the numbers sum to `skill_reward`.  With them Eq. 7 can credit
    pick by pick: a pick is not to blame for what was earned before it (GAP-8).

    >>> skill_gains(["soothe"], ["soothe"])
    [1.0, 0.0]
    """
    return pick_gains(prefix_esndcg(predicted, teacher), len(teacher), cost)


def pick_gains(prefixes: Sequence[float], n: int, cost: float) -> list[float]:
    """`skill_gains` from the m + 1 values of `prefix_esndcg`, where the teacher has n skills."""
    earned = [value - extra_cost(i, n, cost) for i, value in enumerate(prefixes)]
    if len(earned) == 1:
        return earned  # the stop is the only pick: 1 if the teacher stops here as well
    earned[0] = 0.0  # nothing is earned before the first pick, also where T is empty
    picks = [after - before for before, after in pairwise(earned)]
    return [*picks, 0.0]


# --- Eq. 8: the Customer Service Agent -----------------------------------------------------------

def cs_reward(scores: Sequence[float], weights: Sequence[float] = CS_WEIGHTS) -> float:
    """R^A_t = sum_i alpha_i S_i, Eq. 8.

    The weights are normalised to sum to 1: scores in [0, 1] give R^A in [0, 1].

    >>> round(cs_reward((1.0, 0.5, 0.5, 0.0)), 3)
    0.6
    """
    if len(scores) != len(weights):
        raise ValueError(f"{len(scores)} scores for {len(weights)} weights")
    return sum(w * s for w, s in zip(weights, scores)) / _whole_weight(tuple(weights))


@lru_cache(64)
def _whole_weight(weights: tuple[float, ...]) -> float:
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights must be >= 0 and not all 0, got {weights}")
    return sum(weights)


# --- Eqs. 10 and 1: both agents, and a whole dialogue --------------------------------------------

def expert_weight(turn: int, horizon: int) -> float:
    """w^E_t = 0.3 + 0.4 min(1, (t - 1) / (horizon - 1)), Eq. 10 (GAP-4: the paper gives no form).

    It grows with the turn and leaves w^A_t = 1 - w^E_t >= 0.3, as the paper asks.

    >>> [expert_weight(t, 5) for t in (1, 3, 5, 9)]
    [0.3, 0.5, 0.7, 0.7]
    """
    if turn < 1 or horizon < 1:
        raise ValueError(f"turn and horizon count from 1, got turn {turn}, horizon {horizon}")
    if horizon == 1:
        return 0.3
    return 0.3 + 0.4 * min(1.0, (turn - 1) / (horizon - 1))


def joint_reward(r_expert: float, r_cs: float | None, turn: int, horizon: int) -> float:
    """R_t = w^E_t R^E_t + w^A_t R^A_t, Eq. 10.

    A reply that the judge could not score (None) leaves R_t = R^E_t (GAP-7).
    """
    w = expert_weight(turn, horizon)
    if r_cs is None:
        return r_expert
    return w * r_expert + (1 - w) * r_cs


def end_bonus(turn: int, horizon: int, gamma: float, success: bool) -> float:
    """sum_{j = 1..horizon - turn} gamma^j after a success: R = 1 for each turn left (GAP-4).

    0 if the customer left.  Without the bonus a sum of non-negative rewards favours stalling:
    12 turns at 0.5 beat 4 turns at 0.95.

    >>> end_bonus(turn=10, horizon=12, gamma=0.5, success=True)
    0.75
    """
    if not success:
        return 0.0
    return sum(gamma ** j for j in range(1, horizon - turn + 1))


def dialogue_return(rewards: Sequence[float], horizon: int, gamma: float, success: bool) -> float:
    """Eq. 1 for one dialogue: sum_t gamma^t R_t over the turns played (t from 0), then the end."""
    played = sum(gamma ** t * r for t, r in enumerate(rewards))
    last = len(rewards) - 1
    return played + gamma ** last * end_bonus(len(rewards), horizon, gamma, success)


# --- Eq. 6 of InteractCS-RL (arXiv 2602.22697): marks for a single turn ------------------------

def process_credit(
    scores: Sequence[float | None], weights: Sequence[float] = WEIGHTS
) -> float | None:
    """R_P,t = sum_j w_j S_j / sum_j w_j, Eq. 6 of InteractCS-RL: how well a single turn was done.

    scores   S_j of each principle: 0, .5 or 1; None: the judge gave no mark
    weights  w_j >= 0 [release: 1, 1, 1, 2; the paper gives none]
    returns  in [0, 1]; None if any mark is missing, for 0 would read as a bad turn
    raises   ValueError on another mark, another number of marks, or weights that are no weights

    >>> process_credit((1, 0.5, 1, 0))
    0.5
    """
    if len(scores) != len(weights):
        raise ValueError(f"{len(scores)} marks for {len(weights)} principles")
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights must be >= 0 and not all 0, got {tuple(weights)}")
    if None in scores:
        return None
    for score in scores:
        if score not in (0, 0.5, 1):
            raise ValueError(f"a mark is 0, .5 or 1, got {score!r}")
    return sum(w * s for w, s in zip(weights, scores)) / sum(weights)


def main() -> None:
    """The worked example: three skills in another order than the teacher's."""
    T = ["apologise", "confirm_order", "state_refund"]
    P = ["apologise", "state_refund", "confirm_order"]
    print(f"teacher T = {T}\nexpert  P = {P}\n")
    print("Eqs. 2-3    skill           Rel   (2^Rel - 1) / log2(i + 1)")
    for i, (skill, gain) in enumerate(zip(P, discounted_gains(P, T)), 1):
        print(f"  p_{i}       {skill:15s}  {relevance(skill, T)}    {gain:.3f}")
    print(f"Eq. 3       DCG(P)  = {dcg(P, T):.3f}, the sum")
    print(f"Eq. 4       IDCG(T) = {idcg(T):.3f}, the same sum for T itself")
    R_E = esndcg(P, T)
    print(f"Eqs. 5-6    R^E = ESNDCG = {dcg(P, T):.3f} / {idcg(T):.3f} = {R_E:.3f}")
    shares = [f"{gain:.3f}" for gain in skill_gains(P, T)]
    print(f"            pick by pick, and the stop: {', '.join(shares)}\n")

    S = (1.0, 0.8, 0.7, 0.5)
    R_A = cs_reward(S)
    terms = [f"{alpha} * {score}" for alpha, score in zip(CS_WEIGHTS, S)]
    print(f"Eq. 8       S = {S}: R^A = {' + '.join(terms)} = {R_A:.3f}")
    for t in (1, 6, 12):
        w = expert_weight(t, 12)
        R = joint_reward(R_E, R_A, t, 12)
        print(f"Eq. 10      turn {t:2d} of 12: R = {w:.2f} R^E + {1 - w:.2f} R^A = {R:.3f}")


if __name__ == "__main__":
    main()
