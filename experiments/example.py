"""An example of the results page from a few seconds of training: simulated customers, no language model."""
from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import data
from experiments.report import dialogue_row, side_of_zero, watched, write

COLUMNS = [
    {"key": "tse", "name": "TSE", "digits": 3, "better": "high", "help": "Task-focused Sequential Engagement, Eq. 11: which tasks were done, and how soon"},
    {"key": "success", "name": "success", "digits": 2, "better": "high", "help": "share of customers for whom everything was done"},
    {"key": "turns", "name": "turns", "digits": 1, "better": "", "help": "length of a dialogue"},
    {"key": "esndcg", "name": "ESNDCG", "digits": 3, "better": "high", "help": "Eq. 5: the skills against the teacher's list of the turn"},
    {"key": "g_eval", "name": "G-Eval", "digits": 2, "better": "high", "help": "needs an LLM judge; there is none here"}]
EXAMPLE = ("An example of this page, not a result: simulated customers, few of them, no language model (the phrase book writes the replies), and an Expert "
           "trained for {steps} steps. The numbers are measured, and too few to conclude anything from.")
SAW = {"GOPO": ["teacher labels", "judge"], "Untrained": [], "Random skills": [], "Teacher": ["the hidden agenda of the customer"]}
def play_example(steps: int, customers: int, seeds: Sequence[int]) -> tuple[list[dict], list[dict], dict[str, list]]:
    """(rows of curves.jsonl, rows of dialogues.jsonl, method -> [seeds][customers] of metrics)."""
    from experiments.strategy import fresh
    from measure import dialogue_metrics, evaluate
    from policies import by_chance, by_policy, by_teacher
    dataset = data.load("mgshop")
    curves, dialogues, found = [], [], {name: [] for name in SAW}
    def meet(gopo, method, choose, seed):
        moods: dict[int, list] = {}
        _, played = evaluate(gopo, watched(choose, moods), customers, 0, label=method, with_bleu=False)
        dialogues.extend(dialogue_row(gopo, e, method, seed, moods[e.number]) for e in played)
        found[method].append([dialogue_metrics(gopo, e, [], []) for e in played])
    for seed in seeds:
        gopo = fresh(dataset, seed)
        meet(gopo, "Untrained", by_policy(gopo.expert, greedy=True), seed)
        curves += [{"method": "GOPO", "seed": seed, **gopo.step(step, seed)[0]} for step in range(1, steps + 1)]
        meet(gopo, "GOPO", by_policy(gopo.expert, greedy=True), seed)
        meet(gopo, "Random skills", by_chance(list(dataset.skills), seed), seed)
        meet(gopo, "Teacher", by_teacher, seed)
    return curves, dialogues, found


def example_row(name: str, found: dict[str, list]) -> dict[str, Any]:
    """A row of the example's table: intervals over customers (their mean over seeds), paired with GOPO's."""
    from tse import interval
    row = {"name": name, "saw": SAW[name], "cells": {}, "difference": {}, "paper": None}
    for key in (c["key"] for c in COLUMNS):
        runs, gopo = ([[dialogue[key] for dialogue in run] for run in found[method]] for method in (name, "GOPO"))
        average = lambda runs: [None if None in c else sum(c) / len(c) for c in zip(*runs)]             # [seeds][customers] -> [customers]
        row["cells"][key] = interval(average(runs)) | {"seeds": [interval(run)["mean"] for run in runs]}
        row["difference"][key] = interval([None if a is None else a - b for a, b in zip(average(runs), average(gopo))]) if name != "GOPO" else None
    return row


def demo(folder: Path, steps: int = 120, customers: int = 24, seeds: Sequence[int] = (0, 1)) -> None:
    """A results folder of real dialogues that takes a minute to make."""
    from infra.files import write_atomic, write_json
    from infra.runs import versions
    clock = time.perf_counter()
    curves, dialogues, found = play_example(steps, customers, seeds)
    rows = [*(example_row(name, found) for name in SAW), {"name": "PPO", "note": "not run in this example", "saw": None, "cells": None}]
    lead = rows[1]["difference"]["tse"]          # Untrained against GOPO
    orders = [{"metric": "tse", "above": "GOPO", "below": "Untrained", "paper": True, "ours": {1: False, -1: True}.get(side_of_zero(lead))},
              {"metric": "tse", "above": "GOPO", "below": "PPO", "paper": True, "ours": None}]
    table = {"id": "table1", "title": "Four policies and the same customers", "columns": COLUMNS, "rows": rows, "orders": orders,
             "notes": ["The teacher looks at the customer's hidden agenda: it is a reference, no competitor."]}
    made = {"commit": versions()["commit"], "date": datetime.now(UTC).strftime("%Y-%m-%d"), "commands": ["python -m experiments.example"],
            "wall_seconds": time.perf_counter() - clock, "seeds": list(seeds), "episodes": customers}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", {"dataset": "mgshop (example)", "note": EXAMPLE.format(steps=steps), "made": made, "tables": [table]})
    for name, lines in (("curves", curves), ("dialogues", dialogues)):
        write_atomic(folder / f"{name}.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def main() -> None:
    folder = Path("results/demo")
    demo(folder)
    print(f"written: {write(folder)}; open it in a browser")


if __name__ == "__main__":
    main()
