"""Intervals over seeds and customers, and paired differences of two rows.

An interval answers: what if other seeds had been trained and other customers had come?  Both are
resampled, and crossed, because every seed meets the same customers (the pigeonhole bootstrap,
Owen 2007).  The bootstrap is rough with few seeds, and its intervals are then too narrow: three
seeds cannot show how much seeds differ.  Each difference therefore also has Student's t over its
seeds, and an order of two rows counts as found only where both intervals leave 0 out.

    S seeds, C customers, D draws; draw 0 is the sample itself; NaN is an unknown value

Exercise: resample customers only and leave t out; which of the orders that were undecided are now
"agrees", and would another seed believe it?"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU
from scipy.stats import t as student_t

DRAWS = 1000
# mean, low, high; over: what was resampled; seeds: the value of each; t: Student's, of a difference
Interval = dict[str, Any]
Numbers = np.ndarray
Statistic = Callable[..., Numbers]


@cache
def resample(seeds: int, customers: int, draws: int, seed: int) -> tuple[Numbers, Numbers]:
    """How often each draw takes each seed [1 + D, S] and each customer [1 + D, C].

    Draw 0 takes each once.  Customers are drawn first, so any number of seeds meets the same."""
    rng = np.random.default_rng(seed)

    def drawn(n: int) -> Numbers:
        return np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), draws)])

    of_customers = drawn(customers)
    of_seeds = drawn(seeds)
    return of_seeds, of_customers


def mean_of(values: Numbers, of_seeds: Numbers, of_customers: Numbers) -> Numbers:
    """The mean over customers of the mean of what is known of each: [D].

    values        [S, C]
    of_seeds      [D, S]  how often each seed counts
    of_customers  [D, C]  how often each customer counts
    """
    there = ~np.isnan(values)
    # (D, C) how often something is known of a customer
    times = of_seeds @ there
    each = of_seeds @ np.where(there, values, 0) / np.maximum(times, 1)
    weight = of_customers * (times > 0)
    total = weight.sum(1)
    return np.where(total > 0, (weight * each).sum(1) / np.maximum(total, 1), np.nan)


def bleu_of_sums(sums: Sequence[int]) -> float:
    """Corpus BLEU in [0, 1] from sacrebleu's ten statistics, by the method of corpus_bleu."""
    reply_words, reference_words = sums[:2]
    right, wanted = sums[2:6], sums[6:]
    found = BLEU.compute_bleu(right, wanted, reply_words, reference_words, smooth_method="exp")
    return found.score / 100


def bleu_of(stats: Numbers, of_seeds: Numbers, of_customers: Numbers) -> Numbers:
    """The mean over seeds of corpus BLEU, from the sums of the customers' statistics: [D].

    stats  [S, C, 10]"""
    sums = np.einsum("dc,sck->dsk", of_customers, stats, optimize=True).astype(int).tolist()
    scores = []
    for draw in sums:
        scores.append([bleu_of_sums(of_seed) for of_seed in draw])
    return (of_seeds * np.array(scores)).sum(1) / of_seeds.sum(1)


def interval(drawn: Numbers, seeds: int) -> Interval:
    """The sample's own value (draw 0) and the 95 % percentile interval of the other draws.

    With one seed only customers were resampled, and `over` says so."""
    if np.isnan(drawn[0]):
        return {"mean": None, "low": None, "high": None, "over": None}
    low, high = np.nanpercentile(drawn[1:], [2.5, 97.5])
    over = "seeds and customers" if seeds > 1 else "customers"
    return {"mean": float(drawn[0]), "low": float(low), "high": float(high), "over": over}


def bootstrap(
    values: Numbers, draws: int = DRAWS, seed: int = 0, statistic: Statistic = mean_of
) -> Interval:
    """The mean over seeds and customers with its interval; both are resampled, crossed.

    values  [S, C], or for `bleu_of` [S, C, 10]"""
    weights = resample(*values.shape[:2], draws, seed)
    return interval(statistic(values, *weights), len(values))


def paired(
    a: Numbers, b: Numbers, draws: int = DRAWS, seed: int = 0, statistic: Statistic = mean_of
) -> Interval:
    """a - b of two rows with the same seeds and customers: every draw takes the same of both."""
    if a.shape != b.shape:
        raise ValueError(
            f"paired rows need the same seeds and customers, got {a.shape[:2]} and {b.shape[:2]}"
        )
    weights = resample(*a.shape[:2], draws, seed)
    return interval(statistic(a, *weights) - statistic(b, *weights), len(a))


def student(values: Sequence[float]) -> list[float] | None:
    """[low, high]: the 95 % interval of Student's t for the mean over seeds.

    values  one number a seed; of a single seed the answer is None, it says nothing about others
    """
    if len(values) < 2:
        return None
    half = student_t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return [float(np.mean(values) - half), float(np.mean(values) + half)]


def of_each(rows: Sequence[Numbers], statistic: Statistic) -> list[float]:
    """The statistic of every seed by itself."""
    found = []
    for values in rows:
        once = statistic(values[None], np.ones((1, 1)), np.ones((1, len(values))))
        found.append(float(once[0]))
    return found
