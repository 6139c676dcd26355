"""pass^k over training seeds: how many customers are served whichever agents were trained.

A mean success of .9 may be nine customers of ten served by every seed, or each customer served by
nine seeds of ten.  pass^k (tse.pass_hat) tells the two apart: the share of test customers whom k
agents of k serve.  The k trials are training seeds here, each of which plays the same customers
greedily; `eval.py --run RUN --trials 8` has the trials of one agent, with drawn replies.
The numbers are the `success` of evals/<row>-<seed>.json.  Nothing is measured here."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.evals import Measured
from experiments.layout import TABLES, column, row_of
from tse import interval, pass_hat

SEEDS_OF_PASS = (1, 2, 5)
NOTE = (
    "pass^k: the share of customers whom k agents of k serve; the agents are training seeds of a "
    "row, the customers are the same. pass^1 is the mean success. Intervals over customers. A row "
    "of fewer than k seeds has a dash.")


def pass_k(success: Sequence[np.ndarray], k: int) -> dict[str, float | None] | None:
    """pass^k with its interval over customers; None where there are fewer than k seeds.

    success  [S][C] of 0 and 1
    """
    if len(success) < k:
        return None
    counts = np.sum(success, 0)
    return interval([pass_hat(int(count), len(success), k) for count in counts])


def reliability(measured: Measured) -> dict[str, Any] | None:
    """A table of results.json of the rows of Table 1; None where one seed alone was measured."""
    if measured.seeds < 2:
        return None
    rows = []
    for key in TABLES[0].rows:
        success = list(measured.values(key, "success").values())
        if success:
            cells = {f"pass_{k}": pass_k(success, k) for k in SEEDS_OF_PASS}
            rows.append(
                {"key": key, "name": row_of(key).name, "saw": row_of(key).saw, "cells": cells})
    if not rows:
        return None
    return {
        "id": "reliability",
        "title": "Is a customer served each time? pass^k over training seeds",
        "columns": [_column(k) for k in SEEDS_OF_PASS],
        "rows": rows,
        "notes": [NOTE],
    }


def _column(k: int) -> dict[str, Any]:
    served = f"share of customers whom {k} of {k} training seeds serve"
    return column(f"pass_{k}", f"pass^{k}", 3, "high", served)
