"""The measured rows of a results folder: evals/<row>-<seed>.json, their cells and differences.

`eval.py --paper` leaves one file a row and seed.  Nothing is measured here."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from data import DataError
from experiments.intervals import (
    Interval,
    Numbers,
    Statistic,
    bleu_of,
    bootstrap,
    mean_of,
    of_each,
    paired,
    student,
)
from experiments.reading import EVAL, check, parse, present_name


@dataclass(frozen=True)
class Eval:
    """One row of one seed.

    metrics  name -> [C], NaN where a value is unknown or the event never happened
    bleu     sacrebleu's statistics [C, 10], or None without references
    """
    metrics: dict[str, Numbers]
    bleu: Numbers | None


def load_eval(path: Path) -> tuple[str, int, Eval]:
    """(row, seed, numbers) of a file; raises DataError if it is broken or wrongly named."""
    found = check(parse(path.read_bytes(), str(path)), EVAL, str(path))
    row, seed, statistics = found["row"], found["seed"], found.get("bleu")
    metrics = by_metric(found["customers"])
    if wrong := what_is_wrong(path, row, seed, metrics, len(found["customers"]), statistics):
        raise DataError(f"{path}: {wrong}; correct it, or evaluate this row again")
    bleu = None if statistics is None else np.array(statistics, dtype=float)
    return present_name(row), seed, Eval(metrics, bleu)


def by_metric(customers: Sequence[dict[str, float | None]]) -> dict[str, Numbers]:
    """metric -> [C]; None becomes NaN."""
    names: dict[str, None] = {}
    for customer in customers:
        names |= dict.fromkeys(customer)
    metrics = {}
    for name in names:
        metrics[name] = np.array([c.get(name) for c in customers], dtype=float)
    return metrics


def what_is_wrong(
    path: Path,
    row: str,
    seed: int,
    metrics: dict[str, Numbers],
    customers: int,
    statistics: list[list[int]] | None,
) -> str | None:
    """What a file's shape alone does not tell; None if nothing is wrong."""
    name = f"{row}-{seed}.json"
    if path.name != name:
        return f"holds row {row}, seed {seed}, and must be named {name}"
    if not metrics:
        return "no customers, or no numbers of theirs"
    if any(np.isinf(values).any() for values in metrics.values()):
        return "a number too large"
    if statistics is None:
        return None
    broken = any(len(s) != 10 or min(s) < 0 for s in statistics)
    if len(statistics) != customers or broken:
        return "bleu: ten whole numbers, none below 0, are needed for each customer"
    return None


def load_evals(folder: Path) -> dict[str, dict[int, Eval]]:
    """row -> seed -> numbers, of all <folder>/evals/*.json.

    Raises DataError with the name of a file that is broken or that met other customers."""
    evals: dict[str, dict[int, Eval]] = {}
    sizes: dict[int, Path] = {}
    for path in sorted((Path(folder) / "evals").glob("*.json")):
        row, seed, read = load_eval(path)
        evals.setdefault(row, {})[seed] = read
        sizes.setdefault(len(next(iter(read.metrics.values()), ())), path)
        if len(sizes) > 1:
            refuse_other_customers(sizes)
    if not evals:
        raise DataError(f"{folder}: no evals/*.json in it; python eval.py --paper writes them")
    return {row: dict(sorted(seeds.items())) for row, seeds in evals.items()}


def refuse_other_customers(sizes: dict[int, Path]) -> None:
    (n, first), (m, other) = sizes.items()
    raise DataError(
        f"{other}: {m} customers, but {n} in {first.name}; all rows must meet the same ones: "
        "evaluate again, with one number of them"
    )


def statistic_of(metric: str) -> Statistic:
    return bleu_of if metric == "bleu" else mean_of


class Measured:
    """Cells and differences of a folder's rows, each computed once; None where nothing is known."""

    def __init__(self, evals: dict[str, dict[int, Eval]]):
        self.evals = evals
        self.cell = cache(self._cell)
        self.difference = cache(self._difference)
        # of the row that has the most
        self.seeds = max(map(len, evals.values()))

    def values(self, row: str, metric: str) -> dict[int, Numbers]:
        """seed -> numbers [C] (BLEU: [C, 10]), of the seeds where any is known."""
        found = {}
        for seed, read in self.evals.get(row, {}).items():
            values = read.bleu if metric == "bleu" else read.metrics.get(metric)
            if values is not None and not np.isnan(values).all():
                found[seed] = values
        return found

    def _cell(self, row: str, metric: str) -> Interval | None:
        values = list(self.values(row, metric).values())
        if not values:
            return None
        statistic = statistic_of(metric)
        found = bootstrap(np.stack(values), statistic=statistic)
        return found | {"seeds": of_each(values, statistic)}

    def _difference(self, row: str, other: str, metric: str) -> Interval | None:
        """row - other, over the seeds that both have.

        N_i: the difference of two means, each over the customers who completed the task."""
        ours = self.values(row, metric)
        theirs = self.values(other, metric)
        both = [seed for seed in ours if seed in theirs]
        if not both:
            return None
        statistic = statistic_of(metric)
        a = [ours[seed] for seed in both]
        b = [theirs[seed] for seed in both]
        each = np.subtract(of_each(a, statistic), of_each(b, statistic)).tolist()
        found = paired(np.stack(a), np.stack(b), statistic=statistic)
        return found | {"seeds": each, "t": student(each)}

    def share_a_seed(self, row: str, other: str) -> bool:
        return bool(set(self.evals[row]) & set(self.evals[other]))


def episodes_of(evals: dict[str, dict[int, Any]]) -> int:
    """How many customers each row met; the same for all."""
    first = next(iter(next(iter(evals.values())).values()))
    return len(next(iter(first.metrics.values())))
