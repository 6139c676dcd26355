"""The metrics of Sec. 4.1.2: TSE (Eq. 11), GRE, BLEU and G-Eval; then metrics of skills and of
wording, and a bootstrap interval for the mean of any of them.

Pure functions of what happened in a dialogue.  None of them is a training signal, except that
`--outcome_weight` adds TSE to the reward.
Departures from the paper: GAP-3 (README).
Try it:  python tse.py        Eq. 11 by hand, where the printed formula breaks, and what ours does
Exercise: let an incomplete task move the anchor.  Which test fails?  What does a dialogue score now
that the customer leaves early?
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from sacrebleu import corpus_bleu
from sacrebleu.metrics import BLEU

# (N_1, N_2, N_3): the turn in which each task was completed, counted from 1; None = never
Turns = tuple[int | None, int | None, int | None]
TASKS = ("requirement matched", "information delivered", "guidance accepted")
EQUAL = (1 / 3, 1 / 3, 1 / 3)  # omega_1..omega_3 [ours: the paper gives none]
PASSES = (1, 2, 4, 8)          # k of pass^k, as far as there are trials
OVER_TRIALS = ("tse", "violations", "vouchers")  # what else is a mean over all trials


# --- TSE: Eq. 11 ---------------------------------------------------------------------------------

def tse(turns: Turns, weights: Sequence[float] = EQUAL, gamma: float = 0.9) -> float:
    """Task-focused Sequential Engagement, Eq. 11, defined everywhere (GAP-3).

    sum_i omega_i I_i gamma^max(0, N_i - anchor_i - 1)
    anchor_i = the largest N_j of the completed tasks j < i; 0 if there is none

    turns    N_1..N_3, counted from 1; None = never completed: adds 0 and does not move the anchor
    weights  omega_1..omega_3, >= 0
    gamma    decay per turn waited, in (0, 1]; `--tse_gamma`, not the discount of Eq. 1
    returns  in [0, sum of weights]; equals `tse_printed` whenever N_1 < N_2 < N_3.
             Completing a task never lowers it.  An earlier completion can, as in the printed
             formula: (3, 4, 5) -> (2, 4, 5) does.  So report N_i and I_i with it
    raises   ValueError for a turn < 1, negative weights, gamma outside (0, 1]

    >>> round(tse((1, 2, 4)), 4)
    0.9667
    """
    _check(turns, weights, gamma)
    total = 0.0
    anchor = 0
    for N, omega in zip(turns, weights):
        if N is None:
            continue
        total += omega * gamma ** max(0, N - anchor - 1)
        anchor = max(anchor, N)
    return total


def tse_printed(
    turns: tuple[int, int, int], weights: Sequence[float] = EQUAL, gamma: float = 0.9
) -> float:
    """Eq. 11 as printed, for three completed tasks.

    omega_1 gamma^(N_1 - 1) + omega_2 gamma^(N_2 - N_1 - 1) + omega_3 gamma^(N_3 - N_2 - 1)

    GAP-3: two tasks completed in one turn can push it over the sum of weights; three at turn 1 give
    1.074.
    """
    _check(turns, weights, gamma)
    if None in turns:
        raise ValueError(f"Eq. 11 as printed is undefined where a task was not completed: {turns}")
    before = (0, *turns)
    return sum(omega * gamma ** (N - M - 1) for omega, N, M in zip(weights, turns, before))


def _check(turns: Sequence[int | None], weights: Sequence[float], gamma: float) -> None:
    if len(turns) != 3 or len(weights) != 3:
        raise ValueError(
            f"Eq. 11 has three tasks: got {len(turns)} turns, {len(weights)} weights"
        )
    if any(n is not None and n < 1 for n in turns):
        raise ValueError(f"turns count from 1, got {tuple(turns)}")
    if min(weights) < 0 or not 0 < gamma <= 1:
        raise ValueError(
            f"weights must be >= 0 and gamma in (0, 1], got {tuple(weights)}, {gamma}"
        )


def replay_turns(covered: Sequence[set[int]]) -> Turns:
    """N_i of TSE-replay on a logged dialogue: the first turn whose chosen skills cover task i.

    GAP-9: the paper does not say how a policy completes a task in a logged dialogue.
    covered  per turn, the tasks of those skills of T that the policy chose itself

    >>> replay_turns([{1}, {1, 2}, set()])
    (1, 2, None)
    """
    return _first_turn(1, covered), _first_turn(2, covered), _first_turn(3, covered)


def _first_turn(task: int, covered: Sequence[set[int]]) -> int | None:
    for turn, tasks in enumerate(covered, 1):
        if task in tasks:
            return turn
    return None


# --- forms that a judge fills in: GRE and G-Eval -------------------------------------------------

def gre(scores: Sequence[tuple[float, float, float] | None]) -> float | None:
    """GRE: mean over turns of (politeness + product appropriateness + action guidance) / 3.

    Each score lies in 0..10.  Turns without a score (None) are left out; None if there is no other.
    """
    return _mean_of_forms(scores)


def g_eval(scores: Sequence[tuple[float, float, float] | None]) -> float | None:
    """G-Eval: mean over replies of (coherence + completeness + emotional appropriateness) / 3.

    Each score lies in 1..5 and comes from an LLM; None without one.
    """
    return _mean_of_forms(scores)


def _mean_of_forms(scores: Sequence[tuple[float, ...] | None]) -> float | None:
    scored = [s for s in scores if s is not None]
    return float(np.mean(scored)) if scored else None


# --- wording -------------------------------------------------------------------------------------

def bleu(replies: Sequence[str], references: Sequence[str]) -> float | None:
    """Corpus BLEU in [0, 1] by sacrebleu, on text with slots.

    Pairs with an empty reference are left out; None if no pair remains.
    """
    pairs = [(reply, reference) for reply, reference in zip(replies, references) if reference]
    if not pairs:
        return None
    hypotheses, wanted = map(list, zip(*pairs))
    return corpus_bleu(hypotheses, [wanted], tokenize=bleu_tokenizer(wanted)).score / 100


def bleu_tokenizer(references: Sequence[str]) -> str:
    """sacrebleu's tokenizer for these texts: "char" if over a fifth is Chinese or Japanese."""
    text = "".join(references)
    cjk = sum("\u3040" <= c <= "\u9fff" for c in text)
    return "char" if cjk > 0.2 * len(text) else "13a"


def bleu_counts(metric: BLEU, pairs: Sequence[tuple[str, str]]) -> list[int]:
    """What corpus BLEU is made of, summed over (reply, reference) pairs: ten counts.

    returns  [reply words, reference words, right n-grams for n = 1..4, all n-grams for n = 1..4]
    """
    if not pairs:
        return [0] * 10
    replies, references = zip(*pairs)
    counted = metric._extract_corpus_statistics(list(replies), [list(references)])
    return np.sum(counted, 0).astype(int).tolist()


def distinct_pairs(texts: Sequence[Sequence[str]]) -> float | None:
    """Distinct-2 (Li et al. 2016) of texts given as lists of words, in (0, 1].

    The number of different word pairs over the number of word pairs, where a pair is two neighbours
    of one text.  None without a pair.

    >>> distinct_pairs([["we", "are", "here"], ["we", "are", "there"]])
    0.75
    """
    pairs: list[tuple[str, str]] = []
    for words in texts:
        pairs += zip(words, words[1:])
    return len(set(pairs)) / len(pairs) if pairs else None


def distinct_2(texts: Sequence[str]) -> float | None:
    """Diversity of replies: `distinct_pairs` of their words in lower case.

    It falls as texts are added, so compare equal numbers of replies.

    >>> distinct_2(["we are here", "We are there"])
    0.75
    """
    return distinct_pairs([text.lower().split() for text in texts])


def repeated(replies: Sequence[str]) -> float:
    """Share of a dialogue's replies that repeat an earlier one word for word.

    >>> repeated(["Hello.", "One moment.", "One moment.", "One moment."])
    0.5
    """
    return 1 - len(set(replies)) / len(replies) if replies else 0.0


# --- skills, and intervals -----------------------------------------------------------------------

def skill_f1(predicted: Sequence[str], teacher: Sequence[str]) -> float:
    """F1 of the two sets of skills, order ignored; 1 if both are empty.

    >>> skill_f1(["refund", "soothe"], ["soothe", "refund"])
    1.0
    """
    P = set(predicted)
    T = set(teacher)
    if not P and not T:
        return 1.0
    return 2 * len(P & T) / (len(P) + len(T))


def interval(
    values: Sequence[float | None], seed: int = 0, draws: int = 2000
) -> dict[str, float | None]:
    """{mean, low, high}: the mean over dialogues and its 95 % percentile bootstrap interval.

    None values are left out.  One dialogue has no interval: nothing is known of the others.
    """
    kept = np.array([v for v in values if v is not None], dtype=float)
    if len(kept) < 2:
        mean = float(kept[0]) if len(kept) else None
        return {"mean": mean, "low": None, "high": None}
    means = np.random.default_rng(seed).choice(kept, (draws, len(kept))).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(kept.mean()), "low": float(low), "high": float(high)}


def pass_hat(successes: int, trials: int, k: int) -> float:
    """pass^k of one customer: how likely k independent trials are to succeed all.

    C(successes, k) / C(trials, k), unbiased; the mean over customers is the pass^k of tau-bench
    (Yao et al. 2024, arXiv 2406.12045, Sec. 4.1).  pass^1 is the usual success.

    successes  of `trials`
    k          1..trials
    returns    in [0, 1]; never rises with k
    raises     ValueError for other numbers

    >>> [pass_hat(3, 4, k) for k in (1, 2, 4)]
    [0.75, 0.5, 0.0]
    """
    if not 0 <= successes <= trials or not 1 <= k <= trials:
        raise ValueError(
            f"pass^k needs 0 <= successes <= trials and 1 <= k <= trials, "
            f"got {successes} of {trials}, k = {k}")
    return math.comb(successes, k) / math.comb(trials, k)


def of_trials(
    gained: Sequence[Sequence[Mapping[str, float]]], seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """pass_k for k of PASSES, up to the number of trials; trials_<key> for OVER_TRIALS, means.

    Each has its interval over customers.

    gained  [trials][customers], the numbers of each: success, 0 or 1, and those of OVER_TRIALS
    """
    trials = len(gained)
    row = {}
    successes = [int(sum(of_one)) for of_one in _of_each("success", gained)]
    for k in PASSES:
        if k <= trials:
            row[f"pass_{k}"] = interval([pass_hat(c, trials, k) for c in successes], seed)
    for key in OVER_TRIALS:
        means = [float(np.mean(of_one)) for of_one in _of_each(key, gained)]
        row[f"trials_{key}"] = interval(means, seed)
    return row


def _of_each(key: str, gained: Sequence[Sequence[Mapping[str, float]]]) -> list[list[float]]:
    """Of each customer a metric's values over the trials."""
    of_each = []
    for trials in zip(*gained):
        of_each.append([numbers[key] for numbers in trials])
    return of_each


def wilson(
    values: Sequence[float | None], seed: int = 0, z: float = 1.96
) -> dict[str, float | None]:
    """{mean, low, high}: a share of dialogues, and its 95 % interval by Wilson's score.

    Unlike the bootstrap's it has a width where the share is 0 or 1: no voucher in 80 dialogues does
    not prove that there never is one.

    values  0 or 1 of each dialogue; None values are left out
    seed    unused: nothing is drawn

    >>> {key: round(value, 3) for key, value in wilson([1] * 72 + [0] * 168).items()}
    {'mean': 0.3, 'low': 0.246, 'high': 0.361}
    """
    kept = [v for v in values if v is not None]
    n = len(kept)
    if n < 2:
        return {"mean": float(kept[0]) if n else None, "low": None, "high": None}
    p = sum(kept) / n
    shrunk = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrunk
    half = z / shrunk * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # at 0 and at 1 an end is p itself, but for the last bit
    return {"mean": p, "low": min(p, max(0.0, centre - half)), "high": max(p, centre + half)}


def main() -> None:
    """Eq. 11 by hand: ordered completions, then the cases in which the printed formula breaks."""
    print("Eq. 11 with omega_i = 1/3, gamma = 0.9\n(N_1, N_2, N_3)      ours   printed")
    in_order = [(1, 2, 3), (1, 2, 4), (3, 4, 5), (2, 4, 5)]
    broken = [(1, 1, 1), (3, 1, 2), (2, None, None), (2, 3, None)]
    for turns in in_order + broken:
        printed = "undefined"
        if None not in turns:
            printed = f"{tse_printed(turns):.3f}"
        print(f"{turns!s:20s} {tse(turns):.3f}   {printed}")
    print("(1, 2, 4) by hand: (1 + 1 + 0.9) / 3 = 0.967: task 3 waited one turn.")
    print("Two tasks in one turn push the printed formula over 1.")
    print("A task that was never completed leaves it undefined (GAP-3).")


if __name__ == "__main__":
    main()
