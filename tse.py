"""The metrics of Sec. 4.1.2: TSE (Eq. 11), GRE, BLEU, G-Eval, and the skill metrics that stand beside ESNDCG.

Pure functions of what happened in a dialogue; nothing here is a training signal unless `--outcome_weight` makes it one.
Departures from the paper: GAP-3 (README).
Try it:  python tse.py        Eq. 11 by hand, where the printed formula breaks, and what ours does there
Exercise: let an incomplete task move the anchor; which test fails, and what does a customer who leaves early now score?"""
from __future__ import annotations

from typing import Sequence

import numpy as np

Turns = tuple[int | None, int | None, int | None]                # (N_1, N_2, N_3), 1-based; None = never completed
TASKS = ("requirement matched", "information delivered", "guidance accepted")


def tse(turns: Turns, weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3), gamma: float = 0.9) -> float:
    """Task-focused Sequential Engagement, Eq. 11, defined everywhere (GAP-3).

    sum_i w_i I_i gamma^max(0, N_i - anchor_i - 1), anchor_i = the largest N_j of the tasks j < i that were completed, 0 at first.

    turns    completion turns N_1..N_3, counted from 1; None = never: adds 0 and does not move the anchor
    weights  omega_1..omega_3, >= 0
    gamma    decay per turn waited, in (0, 1]; `--tse_gamma`, not the discount of Eq. 1
    returns  in [0, sum of weights]; equals `tse_printed` whenever N_1 < N_2 < N_3.  Completing a task never lowers it.
             Like the printed formula it is not monotone in N_i: (3, 4, 5) -> (2, 4, 5) lowers it.  Print N_i and I_i beside it.
    raises   ValueError for a turn < 1, negative weights, gamma outside (0, 1]

    >>> round(tse((1, 2, 4)), 4)
    0.9667
    """
    _check(turns, weights, gamma)
    total, anchor = 0.0, 0
    for n, w in zip(turns, weights):
        if n is not None:
            total += w * gamma ** max(0, n - anchor - 1)
            anchor = max(anchor, n)
    return total


def tse_printed(turns: tuple[int, int, int], weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3), gamma: float = 0.9) -> float:
    """Eq. 11 as printed: w_1 gamma^(N_1 - 1) + w_2 gamma^(N_2 - N_1 - 1) + w_3 gamma^(N_3 - N_2 - 1), for three completed tasks.

    Exceeds the sum of weights when two tasks fall in one turn: three at turn 1 give 1.074 (GAP-3).
    """
    _check(turns, weights, gamma)
    if None in turns:
        raise ValueError(f"Eq. 11 as printed is undefined for a task that was never completed: {turns}")
    previous = (0, *turns)
    return sum(w * gamma ** (n - p - 1) for w, n, p in zip(weights, turns, previous))


def _check(turns: Sequence[int | None], weights: Sequence[float], gamma: float) -> None:
    if len(turns) != 3 or len(weights) != 3:
        raise ValueError(f"Eq. 11 has three tasks: got {len(turns)} turns, {len(weights)} weights")
    if any(n is not None and n < 1 for n in turns):
        raise ValueError(f"turns count from 1, got {tuple(turns)}")
    if min(weights) < 0 or not 0 < gamma <= 1:
        raise ValueError(f"weights must be >= 0 and gamma in (0, 1], got {tuple(weights)}, {gamma}")


def replay_turns(covered: Sequence[set[int]]) -> Turns:
    """TSE-replay's N_i on a logged dialogue: the first turn whose chosen skills cover task i (GAP-9: the paper does not say).

    covered  per turn, the tasks of the skills of T that the policy chose itself

    >>> replay_turns([{1}, {1, 2}, set()])
    (1, 2, None)
    """
    return tuple(next((t for t, done in enumerate(covered, 1) if i in done), None) for i in (1, 2, 3))


def gre(scores: Sequence[tuple[float, float, float] | None]) -> float | None:
    """GRE: mean over turns of (politeness + product appropriateness + action guidance) / 3, each 0-10; unscored turns left out."""
    return _mean_of_forms(scores)


def g_eval(scores: Sequence[tuple[float, float, float] | None]) -> float | None:
    """G-Eval: mean over replies of (coherence + completeness + emotional appropriateness) / 3, each 1-5, from an LLM; None without one."""
    return _mean_of_forms(scores)


def _mean_of_forms(scores: Sequence[tuple[float, ...] | None]) -> float | None:
    scored = [s for s in scores if s is not None]
    return float(np.mean(scored)) if scored else None


def bleu(replies: Sequence[str], references: Sequence[str]) -> float | None:
    """Corpus BLEU in [0, 1] by sacrebleu, on text with slots; Chinese and Japanese are split into characters.

    None where there is no reference.  Pairs with an empty reference are left out.
    """
    from sacrebleu import corpus_bleu
    pairs = [(h, r) for h, r in zip(replies, references) if r]
    if not pairs:
        return None
    hypotheses, refs = map(list, zip(*pairs))
    return corpus_bleu(hypotheses, [refs], tokenize=bleu_tokenizer(refs)).score / 100


def bleu_tokenizer(references: Sequence[str]) -> str:
    """sacrebleu's tokenizer for these texts: characters if a fifth of them is Chinese or Japanese."""
    cjk = sum("\u3040" <= c <= "\u9fff" for r in references for c in r)
    return "char" if cjk > 0.2 * sum(map(len, references)) else "13a"


def distinct_2(texts: Sequence[str]) -> float | None:
    """Diversity of replies (Li et al. 2016): different word pairs over all word pairs, in (0, 1]; None without a pair.  It falls with the number of texts.

    >>> distinct_2(["we are here", "we are there"])
    0.75
    """
    pairs = [pair for words in (t.lower().split() for t in texts) for pair in zip(words, words[1:])]
    return len(set(pairs)) / len(pairs) if pairs else None


def repeated(replies: Sequence[str]) -> float:
    """Share of a dialogue's replies that were said before in it, word for word.

    >>> repeated(["Hello.", "One moment.", "One moment.", "One moment."])
    0.5
    """
    return 1 - len(set(replies)) / len(replies) if replies else 0.0


def skill_f1(predicted: Sequence[str], teacher: Sequence[str]) -> float:
    """F1 of the two sets of skills, order ignored; (empty, empty) = 1."""
    if not predicted and not teacher:
        return 1.0
    return 2 * len(set(predicted) & set(teacher)) / (len(set(predicted)) + len(set(teacher)))


def interval(values: Sequence[float | None], seed: int = 0, draws: int = 2000) -> dict[str, float | None]:
    """Mean and 95 % percentile bootstrap interval over dialogues: {mean, low, high}; None values are left out."""
    kept = np.array([v for v in values if v is not None], dtype=float)
    if not len(kept):
        return {"mean": None, "low": None, "high": None}
    means = np.random.default_rng(seed).choice(kept, (draws, len(kept))).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(kept.mean()), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    print("Eq. 11 with w_i = 1/3, gamma = 0.9\n(N_1, N_2, N_3)      ours   printed")
    for turns in [(1, 2, 3), (1, 2, 4), (3, 4, 5), (2, 4, 5), (1, 1, 1), (3, 1, 2), (2, None, None), (2, 3, None)]:
        printed = "undefined" if None in turns else f"{tse_printed(turns):.3f}"
        print(f"{turns!s:20s} {tse(turns):.3f}   {printed}")
    print("two tasks in one turn push the printed formula over 1; an unfinished task leaves it undefined (GAP-3)")
