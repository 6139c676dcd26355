"""Who marks single turns for Eq. 6 of InteractCS-RL: `--genrm rules`, or nobody."""
from __future__ import annotations

import importlib
from typing import Any

from data import DataError, Dataset

# dataset -> whose rules know its acts
GENRMS = {"fds": "shop.genrm:RuleGenRM"}


def genrm_of(name: str, dataset: Dataset) -> Any:
    """Who marks single turns (Eq. 6): `score` of what a judge sees -> S_j; or None."""
    if name == "none":
        return None
    if dataset.name not in GENRMS:
        raise DataError(
            f"--genrm rules has no rules for {dataset.name}, only for {', '.join(GENRMS)}: add "
            "--genrm none")
    module, _, found = GENRMS[dataset.name].partition(":")
    return getattr(importlib.import_module(module), found)(dataset.skills)
