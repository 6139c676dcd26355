"""pass^k over trials: is a customer served each time by the same agents, whose words are drawn?

`eval.py --paper --trials 8` serves every test customer eight times with the agents of the first
training seed, and leaves trials/<row>-<seed>.json beside evals/.  In each trial the customer has
the same wishes and the same luck; skills are the most probable, words are drawn as in training.
reliability.py has the pass^k of the other question, over training seeds.  paper.py measures."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from data import DataError
from experiments.layout import TABLES, column, row_of
from experiments.reading import NUMBER, check, parse
from tse import OVER_TRIALS, PASSES, of_trials

SEED = 0                                         # the training seed whose agents are tried
TRIED = tuple(TABLES[0].rows)                    # the rows of Table 1
FILE = {"row": str, "seed": int, "trials": [[{"*": NUMBER}]]}
NOTE = (
    "pass^k: the share of customers whom k trials of k serve. The agents are those of training "
    "seed {seed}; every customer comes {trials} times, with the same wishes, and the words are "
    "drawn as in training. pass^1 is the mean success. TSE, violations and vouchers: the mean over "
    "all trials. Intervals over customers.")
HELP = {
    "tse": ("TSE", 3, "high", "Eq. 11, the mean over all trials"),
    "violations": ("violations", 2, "low", "of the hard constraints, a dialogue"),
    "vouchers": ("vouchers", 2, "low", "given away, a dialogue"),
}


# --- the table ------------------------------------------------------------------------------------

def table_of_trials(folder: Path) -> dict[str, Any] | None:
    """A table of results.json; None where nothing was tried."""
    rows = []
    numbers = set()
    for key in TRIED:
        path = Path(folder) / "trials" / f"{key}-{SEED}.json"
        if path.exists():
            tried = read_trials(path)
            numbers.add(len(tried))
            rows.append(_row(key, tried))
    if not rows:
        return None
    if len(numbers) > 1:
        raise DataError(
            f"{folder}/trials: rows of {sorted(numbers)} trials; remove those of one number, and "
            "measure them again")
    trials = numbers.pop()
    return {
        "id": "trials",
        "title": "Is a customer served each time? pass^k over trials of one agent",
        "columns": _columns(trials),
        "rows": rows,
        "notes": [NOTE.format(seed=SEED, trials=trials)],
    }


def read_trials(path: Path) -> list[list[dict[str, float]]]:
    """[trials][customers], each a customer's numbers; DataError for a broken file."""
    tried = check(parse(path.read_bytes(), str(path)), FILE, str(path))["trials"]
    sizes = {len(customers) for customers in tried}
    if len(sizes) != 1 or 0 in sizes:
        raise DataError(f"{path}: every trial must meet the same customers; measure the row again")
    return tried


def _row(key: str, tried: list[list[dict[str, float]]]) -> dict[str, Any]:
    found = of_trials(tried)
    cells = {name.removeprefix("trials_"): cell for name, cell in found.items()}
    return {"key": key, "name": row_of(key).name, "saw": row_of(key).saw, "cells": cells}


def _columns(trials: int) -> list[dict[str, Any]]:
    columns = []
    for k in PASSES:
        if k <= trials:
            served = f"share of customers whom {k} of {k} trials serve"
            columns.append(column(f"pass_{k}", f"pass^{k}", 3, "high", served))
    return columns + [column(key, *HELP[key]) for key in OVER_TRIALS]
