"""An example of the results page from a few seconds of training.

Customers are simulated, there is no language model, and the numbers are few: see EXAMPLE.
Try it:  python -m experiments.example        writes results/demo/report.html"""
from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import data
from experiments.cells import side_of_zero
from experiments.played import dialogue_row, watched
from experiments.report import write
from experiments.strategy_rows import fresh
from gopo import Gopo
from infra.files import write_atomic, write_json
from infra.runs import versions
from measure import measure, training_row
from policies import Choose, by_chance, by_policy, by_teacher
from tse import interval


def column(key: str, name: str, digits: int, better: str, help: str) -> dict[str, Any]:
    return {"key": key, "name": name, "digits": digits, "better": better, "help": help}


TSE_HELP = "Task-focused Sequential Engagement, Eq. 11: which tasks were done, and how soon"
SUCCESS_HELP = "share of customers for whom everything was done"
ESNDCG_HELP = "Eq. 5: the skills against the teacher's list of the turn"
COLUMNS = [
    column("tse", "TSE", 3, "high", TSE_HELP),
    column("success", "success", 2, "high", SUCCESS_HELP),
    column("turns", "turns", 1, "", "length of a dialogue"),
    column("esndcg", "ESNDCG", 3, "high", ESNDCG_HELP),
    column("g_eval", "G-Eval", 2, "high", "needs an LLM judge; there is none here"),
]
EXAMPLE = (
    "An example of this page, not a result: simulated customers, few of them, no language model "
    "(the phrase book writes the replies), and an Expert trained for {steps} steps. "
    "The numbers are measured, and too few to conclude anything from."
)
SAW = {
    "GOPO": ["teacher labels", "judge"],
    "Untrained": [],
    "Random skills": [],
    "Teacher": ["the hidden agenda of the customer"],
}
# [seeds][customers] of metrics
Runs = list[list[dict[str, float | None]]]


@dataclass
class Played:
    """Rows of curves.jsonl and dialogues.jsonl, and every method's numbers."""
    curves: list[dict] = field(default_factory=list)
    dialogues: list[dict] = field(default_factory=list)
    numbers: dict[str, Runs] = field(default_factory=lambda: {name: [] for name in SAW})

    def meet(self, gopo: Gopo, method: str, choose: Choose, seed: int, customers: int) -> None:
        """A method plays the test customers."""
        moods: dict[int, list] = {}
        numbers, played = measure(gopo, watched(choose, moods), customers, 0, label=method)
        for episode in played:
            row = dialogue_row(gopo, episode, method, seed, moods[episode.number])
            self.dialogues.append(row)
        self.numbers[method].append(numbers)


def play_example(steps: int, customers: int, seeds: Sequence[int]) -> Played:
    dataset = data.load("mgshop")
    found = Played()
    for seed in seeds:
        gopo = fresh(dataset, seed, steps, "GOPO, from nothing")
        by_expert = by_policy(gopo.expert, greedy=True)
        found.meet(gopo, "Untrained", by_expert, seed, customers)
        for step in range(1, steps + 1):
            played, learned = gopo.step(step, seed)
            row = training_row(step, gopo, played, learned)
            found.curves.append({"method": "GOPO", "seed": seed, **row})
        found.meet(gopo, "GOPO", by_expert, seed, customers)
        found.meet(gopo, "Random skills", by_chance(list(dataset.skills), seed), seed, customers)
        found.meet(gopo, "Teacher", by_teacher, seed, customers)
    return found


# --- the table --------------------------------------------------------------------------------

def of_runs(runs: Runs, key: str) -> list[list[float | None]]:
    """One metric of every customer, a list a seed."""
    found = []
    for run in runs:
        found.append([customer[key] for customer in run])
    return found


def over_seeds(runs: list[list[float | None]]) -> list[float | None]:
    """Every customer's mean over the seeds; None where a seed does not know it."""
    def mean(values: tuple[float | None, ...]) -> float | None:
        return None if None in values else sum(values) / len(values)

    return [mean(values) for values in zip(*runs)]


def less(ours: list[float | None], other: list[float | None]) -> Iterator[float | None]:
    for a, b in zip(ours, other):
        yield None if a is None else a - b


def example_row(name: str, found: dict[str, Runs]) -> dict[str, Any]:
    """A row of the example's table.

    Its intervals are over customers (of their mean over seeds), paired with GOPO's customers."""
    cells = {}
    differences = {}
    for column in COLUMNS:
        key = column["key"]
        runs = of_runs(found[name], key)
        average = over_seeds(runs)
        seeds = [interval(run)["mean"] for run in runs]
        cells[key] = interval(average) | {"seeds": seeds}
        differences[key] = None
        if name != "GOPO":
            of_gopo = over_seeds(of_runs(found["GOPO"], key))
            differences[key] = interval(list(less(average, of_gopo)))
    return {
        "name": name,
        "saw": SAW[name],
        "cells": cells,
        "difference": differences,
        "paper": None,
    }


def order(below: str, ours: bool | None) -> dict[str, Any]:
    return {"metric": "tse", "above": "GOPO", "below": below, "paper": True, "ours": ours}


def example_table(found: dict[str, Runs]) -> dict[str, Any]:
    rows = {name: example_row(name, found) for name in SAW}
    lead = rows["Untrained"]["difference"]["tse"]
    # the lead is Untrained's over GOPO
    gopo_is_above = {1: False, -1: True}.get(side_of_zero(lead))
    not_run = {"name": "PPO", "note": "not run in this example", "saw": None, "cells": None}
    note = "The teacher looks at the customer's hidden agenda: it is a reference, no competitor."
    return {
        "id": "table1",
        "title": "Four policies and the same customers",
        "columns": COLUMNS,
        "rows": [*rows.values(), not_run],
        "orders": [order("Untrained", gopo_is_above), order("PPO", None)],
        "notes": [note],
    }


# --- the folder -------------------------------------------------------------------------------

def write_lines(path: Path, lines: Sequence[dict]) -> None:
    texts = [json.dumps(line, ensure_ascii=False) + "\n" for line in lines]
    write_atomic(path, "".join(texts))


def demo(
    folder: Path, steps: int = 120, customers: int = 24, seeds: Sequence[int] = (0, 1)
) -> None:
    """A results folder of real dialogues that takes a minute to make."""
    clock = time.perf_counter()
    found = play_example(steps, customers, seeds)
    made = {
        "commit": versions()["commit"],
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commands": ["python -m experiments.example"],
        "wall_seconds": time.perf_counter() - clock,
        "seeds": list(seeds),
        "episodes": customers,
    }
    results = {
        "dataset": "mgshop (example)",
        "note": EXAMPLE.format(steps=steps),
        "made": made,
        "tables": [example_table(found.numbers)],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", results)
    write_lines(folder / "curves.jsonl", found.curves)
    write_lines(folder / "dialogues.jsonl", found.dialogues)


def main() -> None:
    folder = Path("results/demo")
    demo(folder)
    print(f"written: {write(folder)}; open it in a browser")


if __name__ == "__main__":
    main()
