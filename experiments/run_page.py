"""The rows of one run as a page: `eval.py --run RUN --page FOLDER` writes FOLDER/report.html.

The page is that of experiments/report.py: what came out in plain words, the table (with pass^k
where there were --trials), the run's curves, and a browser of the first dialogues of each row.  In
the food-delivery store a turn has its decision and the marks of the process judge, a dialogue the
price of the run's last step.  A hosted judge also fills in Comm, Logic and Compensation for these
dialogues (hosted/service.py).  Nothing is played here."""
from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data import Episode
from experiments import report
from experiments.budget_dialogues import rows_of, write_lines
from experiments.cells import with_brackets
from experiments.layout import COLUMNS, column
from experiments.played import dialogue_row
from gopo import Gopo
from hosted.judge import LLMJudge
from hosted.service import SHEETS, ServiceJudge, Sheet
from infra.files import write_json
from infra.runs import read_rows, versions
from judge import Judge
from measure import Row, trained_row
from shop.fds_customer import Desk
from tse import PASSES, interval

SHOWN = 12                                       # customers of each row
REPLICATED = "A run of train.py, measured on held-out customers"
NOTE = "Intervals over customers. The dialogues are the first of each row, however they went."


def of_pass(k: int) -> dict[str, Any]:
    served = f"share of customers whom {k} of {k} trials serve, with replies drawn as in training"
    return column(f"pass_{k}", f"pass^{k}", 2, "high", served)


def of_sheet(sheet: Sheet) -> dict[str, Any]:
    marked = f"0 to {sheet.high}, by the hosted judge, of the dialogues below"
    return column(sheet.name, f"{sheet.name.capitalize()} (LLM)", 2, "high", marked)


OWN = [
    column("satisfaction", "stars", 2, "high", "the customer's own mark at the end, 1 to 5"),
    column("voucher_rate", "V", 3, "", "share of dialogues with a voucher"),
    *map(of_pass, PASSES),
    *map(of_sheet, SHEETS.values()),
]


class RunPage:
    """Collects the dialogues of an evaluation, and writes the page at the end."""

    def __init__(self, run: Path, config: Mapping[str, Any], judge: Judge):
        self.run = run
        self.trained = trained_row(config)
        self.seed = config["run"]["seed"]
        self.dataset = config["run"]["dataset"]
        self.sheets = ServiceJudge(judge.client) if isinstance(judge, LLMJudge) else None
        self.metrics = read_rows(run / "metrics.jsonl")
        self.dialogues: dict[str, list[dict[str, Any]]] = {}
        self.decides = False

    def keep(self, name: str, gopo: Gopo, played: Sequence[Episode]) -> None:
        """The first dialogues of a row."""
        first = played[:SHOWN]
        self.decides = isinstance(first[0].env, Desk)
        if self.decides:
            found = rows_of(gopo, first, name, self.seed, self._price(name))
        else:
            found = []
            for episode in first:
                moods = [step.seen.outcome.mood for step in episode.steps]
                found.append(dialogue_row(gopo, episode, name, self.seed, moods))
        self.dialogues[name] = found

    def _price(self, name: str) -> float | None:
        """lambda of the last step; of the rows of what was trained."""
        if name not in (self.trained, f"{self.trained}_sampled") or not self.metrics:
            return None
        return self.metrics[-1].get("lambda")

    def fill_in(self, table: Mapping[str, Row]) -> None:
        """Comm, Logic and Compensation of the kept dialogues, into the table's rows."""
        if not self.sheets or not self.decides:
            return
        for name, dialogues in self.dialogues.items():
            totals = self.sheets.totals(dialogues)
            for form in SHEETS:
                table[name][form] = interval([total.get(form) for total in totals])

    def write(self, folder: Path, table: Mapping[str, Row], said: str, episodes: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        results = {
            "dataset": f"{self.dataset}, run {self.run.name}",
            "paper": REPLICATED,
            "reference": self.trained,
            "note": NOTE,
            "findings": findings(table, self.trained),
            "tables": [table_of(table)],
            "made": {
                "commit": versions()["commit"], "date": time.strftime("%Y-%m-%d"),
                "commands": [said], "seeds": [self.seed], "episodes": episodes},
        }
        write_json(folder / "results.json", results)
        curves = [row | {"method": self.trained, "seed": self.seed} for row in self.metrics]
        write_lines(folder / "curves.jsonl", curves)
        every: list[dict[str, Any]] = []
        for dialogues in self.dialogues.values():
            every += dialogues
        write_lines(folder / "dialogues.jsonl", every)
        return report.write(folder)


def findings(table: Mapping[str, Row], trained: str) -> list[dict[str, str]]:
    """What the run's own row says, in words; without that row, nothing."""
    row = table.get(trained)
    if row is None:
        return []
    said = {
        "Are the customers served?": [
            in_words(row, "success", "{} of 100 customers are served to the end", 100, 0),
            in_words(row, "tse", "TSE is {}", 1, 3)],
        "And what do they and the vouchers say?": [
            in_words(row, "satisfaction", "they give {} of 5 stars", 1, 2),
            in_words(row, "voucher_rate", "{} of 100 got a voucher", 100, 0)],
        "Each time, or by luck?": [
            in_words(row, f"pass_{k}", f"{{}} of 100 customers are served in {k} of {k} trials",
                     100, 0)
            for k in PASSES],
    }
    found = []
    for question, answers in said.items():
        known_ones = list(filter(None, answers))
        if known_ones:
            found.append({"question": question, "answer": f"{trained}: {'; '.join(known_ones)}."})
    return found


def in_words(row: Row, key: str, words: str, times: float, digits: int) -> str:
    """A mean and its interval in a sentence; nothing where there is none."""
    cell = row.get(key)
    if not cell or cell["mean"] is None:
        return ""
    scaled = {}
    for part in ("mean", "low", "high"):
        value = cell.get(part)
        scaled[part] = None if value is None else times * value
    return words.format(with_brackets(scaled, digits).strip())


def table_of(table: Mapping[str, Row]) -> dict[str, Any]:
    """The rows as a table of results.json; a column that no row knows is left out."""
    first, *others = COLUMNS
    columns = []
    for each in (first, *OWN, *others):
        cells = [row.get(each["key"]) for row in table.values()]
        if any(cell and cell["mean"] is not None for cell in cells):
            columns.append(each)
    rows = []
    for name, row in table.items():
        cells = {each["key"]: row.get(each["key"]) for each in columns}
        rows.append({"key": name, "name": name, "cells": cells})
    return {"id": "rows", "title": "All rows of the run", "columns": columns, "rows": rows}
