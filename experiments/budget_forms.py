"""Comm, Logic and Compensation of the budget study, by a hosted judge.

    python -m experiments.budget --tables --judge api:MODEL --api_base http://127.0.0.1:8000/v1

The sheets (hosted/service.py) are filled in for the dialogues that are kept to be read: SHOWN of
each row and seed, the same customers for all rows.  The sums lie in `<folder>/forms.json`, with the
judge's name and a digest of the dialogues, so that a row that was made again has no figures until
it is judged again.  Without a judge nothing is asked, and the columns are dashes."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.budget_criteria import Cells
from experiments.budget_dialogues import path_of, read
from hosted.service import SHEETS, ServiceJudge
from infra.files import read_json, write_json
from tse import interval

FILE = "forms.json"
Forms = dict[str, Any]


def fill_in(folder: Path, cells: Cells, judge: ServiceJudge) -> None:
    """Has all kept dialogues judged, and writes the sums; what was answered is in the cache."""
    rows: dict[str, dict[str, Any]] = {}
    for name, of_row in cells.items():
        for seed in of_row:
            dialogues = read(folder, name, seed)
            if dialogues:
                totals = judge.totals(dialogues)
                rows.setdefault(name, {})[str(seed)] = {
                    "of": digest(folder, name, seed), "totals": totals}
    write_json(folder / FILE, {"judge": judge.name, "rows": rows})


def digest(folder: Path, row: str, seed: int) -> str:
    return hashlib.sha256(path_of(folder, row, seed).read_bytes()).hexdigest()[:16]


def read_forms(folder: Path) -> Forms:
    """{"judge": name, "rows": {row: {form: {mean, low, high, seeds, dialogues}}}}; {} if none."""
    path = folder / FILE
    if not path.exists():
        return {}
    found = read_json(path)
    rows = {}
    for name, of_row in found["rows"].items():
        valid = {}
        for seed, judged in of_row.items():
            there = path_of(folder, name, int(seed)).exists()
            if there and judged["of"] == digest(folder, name, int(seed)):
                valid[seed] = judged["totals"]
        rows[name] = {form: over(valid, form) for form in SHEETS}
    return {"judge": found["judge"], "rows": rows}


def over(totals: Mapping[str, list[dict[str, int | None]]], form: str) -> Forms | None:
    """The mean over dialogues with its interval; None where no dialogue has a figure."""
    known, of_seeds = [], []
    for of_seed in totals.values():
        values = [total[form] for total in of_seed if total.get(form) is not None]
        known += values
        mean = float(np.mean(values)) if values else None
        of_seeds.append(mean)
    if not known:
        return None
    return interval(known) | {"seeds": of_seeds, "dialogues": len(known)}


def unscored(folder: Path) -> int:
    """Forms that were asked for and not filled in."""
    if not (folder / FILE).exists():
        return 0
    text = (folder / FILE).read_text(encoding="utf-8")
    count = 0
    for of_row in json.loads(text)["rows"].values():
        for judged in of_row.values():
            for total in judged["totals"]:
                count += list(total.values()).count(None)
    return count
