"""The budget study as one page: answers in plain words, tables, figures, curves, dialogues.

results.json, curves.jsonl and dialogues.jsonl are made of the cells, in the forms that
experiments/reading.py names, and experiments/report.py makes `report.html` of them.  Nothing is
measured here.  The figures of the paper stand in columns of their own, which are not comparable.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import report
from experiments.budget_criteria import Cells, Verdict, gained, of_each, planned, rates, verdicts
from experiments.budget_dialogues import read, write_lines
from experiments.budget_forms import Forms, read_forms, unscored
from experiments.budget_report import (
    AGREED_HELP,
    NOT_COMPARABLE,
    STAND_INS,
    judged_by,
    look_of,
    mean_over,
    printed_of,
    rate_of_demand,
)
from experiments.budget_rows import TABLE, names_of, ours_beside, row_of, trained
from experiments.cells import figure
from experiments.intervals import bootstrap, paired, student
from experiments.layout import column
from infra.files import read_json, write_json
from shop.fds_person import DEMANDS
from tse import wilson

PAPER = "Cost-aware Multi-turn Policy Optimization of InteractCS-RL (arXiv 2602.22697), reproduced"
REFERENCE = "cmpo"
QUESTIONS = {
    1: "Does CMPO hold its budget: a voucher for at most 30 of 100 customers?",
    2: "Does it spend the vouchers where they please: more stars than vouchers by coin?",
    3: "Does it take a controller: do no price, and a price that is fixed, miss the budget?",
    4: "Is it better to charge a turn for the vouchers still to come (ours) than as printed?",
    5: "Do the paper's controller as printed, or its published code's, die or swing?",
    6: "Is no voucher ever issued twice?",
    7: "Does one command make all fourteen rows of the paper's table?",
}
WORDS = {True: "yes", False: "no", None: "not known yet"}
COLUMNS = [
    column("satisfaction", "stars", 2, "high",
           "the customer's own mark at the end, 1 to 5; skills drawn as in training"),
    column("V", "V", 3, "",
           "share of dialogues with a voucher; the budget is .30; Wilson's interval"),
    column("over_coin", "over coin", 2, "high",
           "stars less what vouchers by coin earn at the same V"),
    column("FR", "FR", 3, "high", "share of dialogues without a format error"),
    column("comm", "Comm (LLM)", 2, "high", "0 to 28, by a hosted judge; a dash without one"),
    column("logic", "Logic (LLM)", 2, "high", "0 to 12, by a hosted judge; a dash without one"),
    column("compensation", "Comp (LLM)", 2, "high",
           "0 to 6, of dialogues with a voucher, by a hosted judge; a dash without one"),
    column("process", "process (rule)", 3, "high", "Eq. 6 by rules, 0 to 1, of each turn"),
    column("unfair", "unfair (rule)", 3, "low",
           "share of dialogues with a voucher although nothing had gone wrong"),
    column("agreed", "agreed (rule)", 3, "high", AGREED_HELP),
    column("lied", "lies (rule)", 3, "low",
           "share of dialogues in which the customer caught a voucher promised, not issued"),
    column("greedy_satisfaction", "stars, greedy", 2, "high", "with the most probable skills"),
    column("greedy_V", "V, greedy", 3, "", "with the most probable skills"),
    column("tse", "TSE", 3, "high", "Task-focused Sequential Engagement, Eq. 11 of GOPO"),
    column("success", "settled", 3, "high", "share of customers for whom everything was done"),
    column("turns", "turns", 1, "", "length of a dialogue"),
]
OTHERS = [
    column("seen", "stars, training's sentences", 2, "high",
           "customers with the sentences and profiles of training"),
    column("seen_V", "V, training's sentences", 3, "", "the same customers"),
    column("other", "stars, other mix", 2, "high", "customers of the other difficulty"),
    column("other_V", "V, other mix", 3, "", "the same customers"),
    column("soft", "FR without the ban", 3, "high",
           "nothing keeps the agent from a second voucher"),
    *[column(demand, demand, 2, "", f"V among customers with the demand {demand}")
      for demand in DEMANDS],
]
MEANS = {"FR": "valid", "tse": "tse", "success": "success", "turns": "turns", "unfair": "unfair",
         "agreed": "agreed", "lied": "lied"}
CURVES = ("voucher_rate", "lambda", "satisfaction", "process", "dead_groups", "kl")
NO_DIALOGUES = (
    "No dialogues were kept of {}: their cells were made before dialogues were kept, and their "
    "weights are gone. Made again in another folder they have some.")


def write(folder: Path, difficulty: str, seeds: int, cells: Cells) -> Path:
    """report.html and what it is made of, of the cells that are there."""
    found = results(folder, difficulty, seeds, cells)
    write_json(folder / "results.json", found)
    write_lines(folder / "curves.jsonl", curves(cells))
    write_lines(folder / "dialogues.jsonl", dialogues(folder, cells))
    return report.write(folder)


def results(folder: Path, difficulty: str, seeds: int, cells: Cells) -> dict[str, Any]:
    """The content of results.json."""
    judged = verdicts(cells, seeds)
    first = next(iter(cells[next(iter(cells))].values()))
    customers = len(first["greedy"]["voucher"])
    made = {"episodes": customers, "seeds": sorted(set().union(*map(set, cells.values())))}
    if (folder / "calls.json").exists():
        calls = read_json(folder / "calls.json")["calls"]
        made["commands"] = list(dict.fromkeys(call["command"] for call in calls))
        made["wall_seconds"] = sum(call["seconds"] for call in calls)
    return {
        "dataset": f"fds, {difficulty} customers",
        "paper": PAPER,
        "reference": REFERENCE,
        "note": " ".join(["Simulated customers; strategy alone is learned, and the phrase book "
                          "speaks.", *unread(folder, cells)]),
        "findings": [*in_words(cells), *map(answered, judged)],
        "tables": [main_table(folder, difficulty, cells), further_table(cells)],
        "made": made,
    }


# --- in plain words -------------------------------------------------------------------------------

def answered(verdict: Verdict) -> dict[str, str]:
    """A criterion as a question, with what was measured."""
    measured = verdict.measured.capitalize()
    if verdict.holds is not None:
        measured = f"Measured: {verdict.measured}"
    return {
        "question": QUESTIONS[verdict.number],
        "answer": f"Criterion: {verdict.condition}. {measured}.",
        "verdict": WORDS[verdict.holds],
    }


def in_words(cells: Cells) -> list[dict[str, str]]:
    """What a voucher is worth here, and what CMPO makes of its budget."""
    found = []
    if {"never", "free"} <= set(cells):
        (never, _), (free, given) = planned(cells, "never"), planned(cells, "free")
        found.append({
            "question": "What is a voucher worth in this store?",
            "answer": (
                f"A planner that never gives one earns {never.mean():.2f} of 5 stars; one that "
                "gives it wherever it is worth anything earns "
                f"{free.mean():.2f}, with a voucher for {100 * given.mean():.0f} of 100 customers.")
        })
    if REFERENCE in cells:
        found.append({"question": "What does CMPO make of 30 %?", "answer": _of_cmpo(cells)})
    return found


def _of_cmpo(cells: Cells) -> str:
    of_row = cells[REFERENCE]
    look = look_of(of_row)
    V, S = float(np.mean(rates(of_row, look))), of_each(of_row, look, "satisfaction").mean()
    said = f"It gives a voucher to {100 * V:.0f} of 100 customers and earns {S:.2f} stars"
    if not {"never", "free"} <= set(cells):
        return said + "."
    margin, _ = gained(cells, REFERENCE, look)
    side = "more" if margin["mean"] >= 0 else "fewer"
    ends = f"[{figure(margin['low'], 2, '+')}, {figure(margin['high'], 2, '+')}]"
    return (
        f"{said}: {abs(margin['mean']):.2f} {side} than vouchers by coin would at the same rate "
        f"(95 % {ends}).")


def unread(folder: Path, cells: Cells) -> list[str]:
    """Which rows have no dialogue to read."""
    without = []
    for name, of_row in cells.items():
        if not any(read(folder, name, seed) for seed in of_row):
            without.append(name)
    return [NO_DIALOGUES.format(", ".join(without))] if without else []


# --- tables ---------------------------------------------------------------------------------------

def main_table(folder: Path, difficulty: str, cells: Cells) -> dict[str, Any]:
    beside = {ours_beside(line, cells): line for line in TABLE}
    forms = read_forms(folder)
    rows = []
    for name in names_of(cells):
        rows.append(main_row(name, cells, printed_of(beside.get(name), difficulty), forms))
    alone = []
    for line in TABLE:
        if not ours_beside(line, cells):
            alone.append(f"{line.paper} ({line.without})")
    return {
        "id": "rows",
        "title": "Who earns how many stars, with how many vouchers",
        "columns": COLUMNS,
        "rows": rows,
        "notes": [
            NOT_COMPARABLE,
            f"{STAND_INS} {judged_by(forms, unscored(folder))}",
            f"Rows of the paper without one of ours: {'; '.join(alone)}.",
        ],
    }


def main_row(
    name: str, cells: Cells, paper: Mapping[str, float], forms: Forms
) -> dict[str, Any]:
    of_row = cells[name]
    look = look_of(of_row)
    own = {
        "satisfaction": over_customers(of_row, look, "satisfaction"),
        "V": rate(of_row, look),
        "process": over_customers(of_row, look, "process"),
        "greedy_satisfaction": over_customers(of_row, "greedy", "satisfaction"),
        "greedy_V": rate(of_row, "greedy"),
    }
    for key, of_look in MEANS.items():
        own[key] = over_seeds(of_row, look, of_look)
    if {"never", "free"} <= set(cells) and trained(name):
        own["over_coin"] = gained(cells, name, look)[0]
    own |= (forms.get("rows") or {}).get(name) or {}
    if not trained(name):
        # a planner has one run by nature, and not one of five
        own = {key: without_seeds(cell) for key, cell in own.items()}
    difference = None
    if name != REFERENCE and trained(name) and REFERENCE in cells:
        difference = {key: less(cells, name, of_look) for key, of_look in (
            ("satisfaction", "satisfaction"), ("V", "voucher"))}
    return {
        "key": name, "name": name, "note": row_of(name).said, "cells": own,
        "difference": difference, "paper": dict(paper) or None}


def further_table(cells: Cells) -> dict[str, Any]:
    """Other customers, soft constraints, and V by demand, of the rows that learned."""
    rows = []
    for name in filter(trained, names_of(cells)):
        of_row = cells[name]
        own = {"soft": over_seeds(of_row, "soft", "valid")}
        for look in ("seen", "other"):
            own[look] = over_customers(of_row, look, "satisfaction")
            own[f"{look}_V"] = rate(of_row, look)
        for demand in DEMANDS:
            own[demand] = {"mean": rate_of_demand(of_row, demand)}
        rows.append({"key": name, "name": name, "cells": own})
    return {
        "id": "others",
        "title": "Other customers, and who gets a voucher",
        "columns": OTHERS,
        "rows": rows,
    }


# --- cells ----------------------------------------------------------------------------------------

def over_customers(of_row: Mapping[int, Any], look: str, key: str) -> dict[str, Any] | None:
    """A mean over customers and seeds with its interval, and the mean of each seed."""
    if any(cell[look][key] is None for cell in of_row.values()):
        return None
    values = of_each(of_row, look, key)
    return bootstrap(values) | {"seeds": values.mean(1).tolist()}


def rate(of_row: Mapping[int, Any], look: str) -> dict[str, Any]:
    """V: every dialogue of every seed is one draw."""
    return wilson(of_each(of_row, look, "voucher").ravel().tolist()) | {
        "seeds": rates(of_row, look)}


def over_seeds(of_row: Mapping[int, Any], look: str, key: str) -> dict[str, Any]:
    """A mean that was kept as one number a seed: it has no interval."""
    each = [cell[look].get(key) for cell in of_row.values()]
    return {"mean": mean_over(of_row, look, key), "seeds": each}


def less(cells: Cells, name: str, key: str) -> dict[str, Any] | None:
    """A row less cmpo over the seeds that both have, with skills drawn as in training."""
    both = sorted(set(cells[name]) & set(cells[REFERENCE]))
    if not both:
        return None
    ours, theirs = (common(cells[row], both, key) for row in (name, REFERENCE))
    each = (ours.mean(1) - theirs.mean(1)).tolist()
    return paired(ours, theirs) | {"seeds": each, "t": student(each)}


def common(of_row: Mapping[int, Any], seeds: Sequence[int], key: str) -> np.ndarray:
    """[S, C] of these seeds."""
    return of_each({seed: of_row[seed] for seed in seeds}, "sampled", key)


def without_seeds(cell: dict[str, Any] | None) -> dict[str, Any] | None:
    return cell and {key: value for key, value in cell.items() if key != "seeds"}


# --- curves and dialogues -------------------------------------------------------------------------

def curves(cells: Cells) -> list[dict[str, Any]]:
    rows = []
    for name, of_row in cells.items():
        for seed, cell in of_row.items():
            for step in cell["curve"]:
                kept = {key: step.get(key) for key in CURVES}
                rows.append({"method": name, "seed": seed, "step": step["step"]} | kept)
    return rows


def dialogues(folder: Path, cells: Cells) -> Sequence[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, of_row in cells.items():
        for seed in of_row:
            found += read(folder, name, seed)
    return found
