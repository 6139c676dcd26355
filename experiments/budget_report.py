"""What the budget study writes: tables.md, criteria.json and two figures.  Nothing is measured.

The paper's figures come from other customers, models and judges: they are not comparable, and stand
there for the order of the rows alone."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import budget_figures
from experiments.budget_criteria import Cells, Verdict, gained, of_each, rates, verdicts
from experiments.budget_forms import Forms, read_forms, unscored
from experiments.budget_rows import (
    BESIDE,
    TABLE,
    Line,
    Printed,
    hosted,
    names_of,
    ours_beside,
    row_of,
    trained,
)
from experiments.cells import figure
from experiments.studies import markdown
from infra.files import write_atomic, write_json
from shop.fds_person import DEMANDS
from tse import wilson

HEAD = (
    "| row | seeds | V sampled [Wilson] | sd | V greedy | S sampled | sd | S greedy | over coin "
    "| FR | TSE | settled | turns |")
FORMS_HEAD = (
    "| row | Comm (LLM) | Logic (LLM) | Comp (LLM) | rule: process | rule: unfair "
    "| rule: agreed before | rule: lies |")
PRINTED_HEAD = (
    "| paper's row | S | FR | Comm | Logic | V | ours | V sampled | V greedy | S sampled "
    "| S greedy | FR | Comm | Logic |")
FURTHER_HEAD = (
    "| row | S, V on training's sentences | S, V on the other mix | FR without the ban "
    "| rigid | preference | incentive | feedback |")
NOTE = (
    "S: satisfaction, 1 to 5 stars. V: share of dialogues with a voucher; its interval counts "
    "every dialogue of every seed as one draw. sd: over seeds. Over coin: S less what vouchers by "
    "coin earn at the same V. FR: share of dialogues without a format error. Process: Eq. 6 by "
    "rules, 0 to 1. Settled: all tasks done. Sampled: skills drawn as in training; greedy: the "
    "most probable; planners draw nothing.")
AGREED_HELP = (
    "of the vouchers, the share to which the customer had agreed before: negotiated, then issued")
NOT_COMPARABLE = (
    "The paper's figures are not comparable with ours: other customers (language models), "
    "other agents (7B and 14B models), other judges.")
STAND_INS = (
    "Comm (0 to 28), Logic (0 to 12) and Comp (0 to 6, dialogues with a voucher alone) need a "
    "hosted judge, and are dashes without one. Stand-ins by rule: process is Eq. 6, 0 to 1; "
    "unfair, the share of dialogues with a voucher although nothing had gone wrong; agreed "
    "before, of the vouchers the share to which the customer had agreed; lies, the share of "
    "dialogues in which the customer caught a voucher that was promised and not issued.")
FORMS = ("comm", "logic", "compensation")


def write(folder: Path, difficulty: str, seeds: int, cells: Cells) -> str:
    """Writes the files of the cells that are there; returns what is to be printed."""
    found = verdicts(cells, seeds)
    forms = read_forms(folder)
    text = "\n\n".join(page(difficulty, seeds, cells, found, forms, unscored(folder)))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "tables.md", text + "\n")
    write_json(folder / "criteria.json", [verdict._asdict() for verdict in found])
    budget_figures.write(folder, difficulty, cells)
    return f"{text}\n\nwritten: {folder / 'tables.md'}, criteria.json, curves.png, pareto.png"


def page(
    difficulty: str, seeds: int, cells: Cells, found: Sequence[Verdict], forms: Forms,
    unfilled: int = 0,
) -> list[str]:
    """The parts of tables.md."""
    customers = 0
    for of_row in cells.values():
        customers = len(next(iter(of_row.values()))["greedy"]["voucher"])
    names = names_of(cells)
    own = [our_row(name, cells) for name in names]
    judged = [judged_row(name, cells[name], forms) for name in names]
    beside = [printed_row(line, difficulty, cells, forms) for line in TABLE]
    further = [further_row(name, cells[name]) for name in names if trained(name)]
    return [
        f"# The budget study: fds, {difficulty} customers, {seeds} seeds, strategy level",
        f"Simulated customers, {customers} of the test split, the same for every row.",
        "## The criteria, fixed before any row was run",
        markdown("| | condition | measured | verdict |", [said(verdict) for verdict in found]),
        "## The rows",
        markdown(HEAD, own),
        NOTE,
        "## How the dialogues are judged",
        markdown(FORMS_HEAD, judged),
        f"{STAND_INS} {judged_by(forms, unfilled)}",
        f"## The paper's fourteen rows ({difficulty}), and ours beside them",
        NOT_COMPARABLE,
        markdown(PRINTED_HEAD, beside),
        f"Ours without a row of the paper: {', '.join(BESIDE)}.",
        "## Who gets a voucher, and other customers",
        markdown(FURTHER_HEAD, further),
        "The last four columns: V by demand, sampled.",
    ]


def said(verdict: Verdict) -> list[str]:
    word = {True: "**holds**", False: "**fails**", None: "open"}[verdict.holds]
    return [f"({verdict.number})", verdict.condition, verdict.measured, word]


# --- rows -----------------------------------------------------------------------------------------

def look_of(of_row: Mapping[int, Any]) -> str:
    """The look that stands for drawn skills: a planner draws none, and has the greedy one."""
    return "sampled" if all("sampled" in cell for cell in of_row.values()) else "greedy"


def mean_over(of_row: Mapping[int, Any], look: str, key: str) -> float | None:
    # .get(): a cell may be older than a column
    values = [cell[look].get(key) for cell in of_row.values()]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def spread(values: Sequence[float]) -> str:
    return figure(float(np.std(values, ddof=1)), 3) if len(values) > 1 else "—"


def marks_of(of_row: Mapping[int, Any], look: str) -> list[float]:
    """Mean satisfaction of each seed."""
    return of_each(of_row, look, "satisfaction").mean(1).tolist()


def rate_text(of_row: Mapping[int, Any], look: str) -> str:
    found = wilson(of_each(of_row, look, "voucher").ravel().tolist())
    return f"{figure(found['mean'], 3)} [{figure(found['low'], 3)}, {figure(found['high'], 3)}]"


def our_row(name: str, cells: Cells) -> list[str]:
    of_row = cells[name]
    look = look_of(of_row)
    over = "—"
    if {"never", "free"} <= set(cells) and trained(name):
        margin, _ = gained(cells, name, look)
        ends = f"[{figure(margin['low'], 2, '+')}, {figure(margin['high'], 2, '+')}]"
        over = f"{figure(margin['mean'], 2, '+')} {ends}"
    return [
        f"`{name}`: {row_of(name).said}",
        str(len(of_row)),
        rate_text(of_row, look),
        spread(rates(of_row, look)),
        figure(float(np.mean(rates(of_row, "greedy"))), 3),
        figure(float(np.mean(marks_of(of_row, look))), 2),
        spread(marks_of(of_row, look)),
        figure(float(np.mean(marks_of(of_row, "greedy"))), 2),
        over,
        figure(mean_over(of_row, look, "valid"), 3),
        figure(mean_over(of_row, look, "tse"), 3),
        figure(mean_over(of_row, look, "success"), 3),
        figure(mean_over(of_row, look, "turns"), 1),
    ]


def judged_by(forms: Forms, unfilled: int) -> str:
    """Who filled in the forms, and of how many dialogues."""
    if not forms:
        return "No dialogue was judged by a language model."
    return (
        f"Filled in by {forms['judge']} for the dialogues that are kept to be read, the same "
        f"customers in every row; {unfilled} forms without a whole answer were left out.")


def form_text(forms: Forms, name: str, form: str) -> str:
    """The mean of a form, and of how many dialogues."""
    found = ((forms.get("rows") or {}).get(name) or {}).get(form)
    return f"{figure(found['mean'], 2)} ({found['dialogues']})" if found else "—"


def judged_row(name: str, of_row: Mapping[int, Any], forms: Forms) -> list[str]:
    """Forms of a hosted judge, in brackets of how many dialogues, and stand-ins by rule."""
    look = look_of(of_row)
    process = None
    if not hosted(name):
        process = float(of_each(of_row, look, "process").mean())
    return [
        f"`{name}`",
        *[form_text(forms, name, form) for form in FORMS],
        figure(process, 3),
        figure(mean_over(of_row, look, "unfair"), 3),
        figure(mean_over(of_row, look, "agreed"), 3),
        figure(mean_over(of_row, look, "lied"), 3),
    ]


def printed_of(line: Line | None, difficulty: str) -> dict[str, float]:
    """The paper's figures of a row by our columns; V and FR as shares."""
    if line is None:
        return {}
    S, FR, comm, logic, V = line.printed if difficulty == "hard" else line.easy
    shares = {"FR": FR and FR / 100, "V": V and V / 100}
    figures = {"satisfaction": S, "comm": comm, "logic": logic} | shares
    return {key: value for key, value in figures.items() if value is not None}


def printed_row(line: Line, difficulty: str, cells: Cells, forms: Forms) -> list[str]:
    """A row of the paper as printed, and ours beside it or why there is none."""
    paper: Printed = line.printed if difficulty == "hard" else line.easy
    printed = [figure(value, digits) for value, digits in zip(paper, (2, 1, 2, 2, 1))]
    name = ours_beside(line, cells)
    of_row = cells.get(name)
    if not of_row:
        reason = line.without or "not run yet"
        return [line.paper, *printed, f"{line.ours and f'`{line.ours}`: '}{reason}", *["—"] * 7]
    look = look_of(of_row)
    return [
        line.paper,
        *printed,
        f"`{name}`, {len(of_row)} seeds",
        rate_text(of_row, look),
        figure(float(np.mean(rates(of_row, "greedy"))), 3),
        figure(float(np.mean(marks_of(of_row, look))), 2),
        figure(float(np.mean(marks_of(of_row, "greedy"))), 2),
        figure(100 * mean_over(of_row, look, "valid"), 1),
        *[form_text(forms, name, form) for form in ("comm", "logic")],
    ]


def further_row(name: str, of_row: Mapping[int, Any]) -> list[str]:
    """Other customers, soft constraints, and V by demand."""
    pairs = []
    for look in ("seen", "other"):
        S = figure(float(np.mean(marks_of(of_row, look))), 2)
        pairs.append(f"{S}, {figure(float(np.mean(rates(of_row, look))), 3)}")
    return [
        f"`{name}`",
        *pairs,
        figure(mean_over(of_row, "soft", "valid"), 3),
        *[figure(rate_of_demand(of_row, demand), 2) for demand in DEMANDS],
    ]


def rate_of_demand(of_row: Mapping[int, Any], demand: str) -> float | None:
    """V among the customers with a demand, over all seeds."""
    counted = np.sum([cell["sampled"]["by_demand"][demand] for cell in of_row.values()], 0)
    return float(counted[0] / counted[1]) if counted[1] else None
