"""The seven criteria of the budget study.  They were fixed before any row was run.

Each is computed from the cells, and printed with its verdict whatever that is: holds, fails, or
open while a seed is missing.

(1) cmpo holds the budget: V on the test customers in [.22, .33] for at least 4 of 5 seeds, sampled
    and greedy, and no 20 steps of training with a mean V below .10
(2) cmpo serves well for it: satisfaction >= never + .35 of the gain from never to free, and above
    the coin line at its own V, sampled and greedy
(3) a price is needed, and no fixed one does: V of lambda = 0 >= .60; one fixed price, chosen on
    hard customers, misses .30 by more than .05 on hard or easy ones, and cmpo on neither
(4) cost-to-go serves better than the cost as printed
(5) Eq. 8 as printed, or the release's dual ascent, dies (V < .05) or cycles (the sd of V over the
    last 100 steps is at least twice cmpo's) in at least 3 of 5 seeds
(6) no format error under hard constraints; without the ban it is measured
(7) the paper's fourteen rows, by one command

The *coin line* is what a service earns that gives vouchers by coin: never + V / V_free (free -
never), of the planners, who serve without fault.  Intervals resample seeds and customers, and
Student's t is over seeds (intervals.py); an interval excludes 0 where both do."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.budget_rows import FIXED, TABLE, hosted, ours_beside
from experiments.intervals import interval, mean_of, paired, resample, student

BUDGET = 0.30
HELD = (0.22, 0.33)
LOWEST = 0.10                                    # of the mean V of 20 steps of training
WINDOW = 20
ENOUGH = 4                                       # of five seeds
SHARE = 0.35                                     # of the gain from never to free
UNPRICED = 0.60
MISS = 0.05
DEAD = 0.05
CYCLES = 2.0                                     # times the sd of cmpo
LATE = 100
LOOKS = ("sampled", "greedy")
Cells = Mapping[str, Mapping[int, Mapping[str, Any]]]


class Verdict(NamedTuple):
    """What a criterion found; `holds` is None while something is missing."""
    number: int
    condition: str
    measured: str
    holds: bool | None


# --- numbers of a row -----------------------------------------------------------------------------

def of_each(cells: Mapping[int, Mapping], look: str, key: str) -> np.ndarray:
    """[S, C] a value of each seed and customer."""
    return np.array([cells[seed][look][key] for seed in sorted(cells)], float)


def rates(cells: Mapping[int, Mapping], look: str) -> list[float]:
    """V of each seed."""
    return of_each(cells, look, "voucher").mean(1).tolist()


def lowest(cell: Mapping[str, Any]) -> float:
    """The lowest mean V of 20 steps of training in a row."""
    V = [step["voucher_rate"] for step in cell["curve"]]
    width = min(WINDOW, len(V))
    means = np.convolve(V, np.full(width, 1 / width), "valid")
    return float(means.min())


def late_spread(cell: Mapping[str, Any]) -> float:
    """The standard deviation of V over the last steps of training."""
    return float(np.std([step["voucher_rate"] for step in cell["curve"]][-LATE:]))


def near(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def missing(cells: Cells, seeds: int, *names: str) -> str:
    """Which of the rows lack a seed; empty if none does."""
    lacking = []
    for name in names:
        there = len(cells.get(name, {}))
        if there < seeds:
            lacking.append(f"{name} {there} of {seeds} seeds")
    return ", ".join(lacking)


def lacks(cells: Cells, seeds: int, name: str) -> str:
    """As `missing`, of one row; a hosted model has one run and no seeds."""
    wanted = 1 if hosted(name) else seeds
    return missing(cells, wanted, name)


def signed(found: Mapping[str, float], t: list[float] | None) -> str:
    text = f"{found['mean']:+z.3f} [{found['low']:+z.3f}, {found['high']:+z.3f}]"
    return text + (f" t [{t[0]:+z.3f}, {t[1]:+z.3f}]" if t else "")


def above(found: Mapping[str, float], t: list[float] | None) -> bool:
    """Whether a difference is above 0 by its interval, and by Student's where there is one."""
    return found["low"] > 0 and (t is None or t[0] > 0)


# --- planners -------------------------------------------------------------------------------------

def planned(cells: Cells, name: str) -> tuple[np.ndarray, np.ndarray]:
    """([1, C] marks, [1, C] vouchers) of a planner."""
    cell = {0: cells[name][0]}
    return of_each(cell, "greedy", "satisfaction"), of_each(cell, "greedy", "voucher")


def frontier(cells: Cells, thresholds: np.ndarray) -> list[tuple[float, float]]:
    """(V, satisfaction) of the planner that gives to v > threshold, for each threshold.

    It does to these customers what `free` does, and to the others what `never` does.
    """
    never, _ = planned(cells, "never")
    free, given = planned(cells, "free")
    value = of_each({0: cells["free"][0]}, "greedy", "value")
    points = []
    for threshold in thresholds:
        chosen = value > threshold
        marks = np.where(chosen, free, never)
        points.append((float((given * chosen).mean()), float(marks.mean())))
    return points


def gained(cells: Cells, name: str, look: str) -> tuple[dict, list[float] | None]:
    """Satisfaction above the coin line at the row's own V: its two intervals."""
    row = cells[name]
    marks, vouchers = of_each(row, look, "satisfaction"), of_each(row, look, "voucher")
    never, _ = planned(cells, "never")
    free, given = planned(cells, "free")
    one = np.ones((1, 1))

    def margin(of_seeds: np.ndarray, of_customers: np.ndarray) -> np.ndarray:
        alone = np.broadcast_to(one, (len(of_customers), 1))
        low, high = (mean_of(x, alone, of_customers) for x in (never, free))
        V, V_free = mean_of(vouchers, of_seeds, of_customers), mean_of(given, alone, of_customers)
        # unknown in a draw of few customers, of whom none gained anything
        share = np.divide(V, V_free, out=np.full_like(V, np.nan), where=V_free > 0)
        return mean_of(marks, of_seeds, of_customers) - low - share * (high - low)

    weights = resample(*marks.shape, 1000, 0)
    each = []
    for seed in range(len(marks)):
        alone = np.eye(len(marks))[seed][None]
        each.append(float(margin(alone, np.ones((1, marks.shape[1])))[0]))
    return interval(margin(*weights), len(marks)), student(each)


# --- the criteria ---------------------------------------------------------------------------------

def holds_budget(cells: Cells, seeds: int) -> tuple[str, bool]:
    found, enough = [], True
    for look in LOOKS:
        V = rates(cells["cmpo"], look)
        inside = sum(HELD[0] <= value <= HELD[1] for value in V)
        enough = enough and inside * 5 >= ENOUGH * seeds
        found.append(f"{look} V {near(V)}: {inside} of {seeds} inside")
    low = [lowest(cell) for cell in cells["cmpo"].values()]
    found.append(f"lowest 20 steps {near(low)}")
    return "; ".join(found), enough and min(low) >= LOWEST


def serves_well(cells: Cells, seeds: int) -> tuple[str, bool]:
    never, free = (float(planned(cells, name)[0].mean()) for name in ("never", "free"))
    found, good = [f"never {never:.2f}, free {free:.2f}"], True
    for look in LOOKS:
        S = float(of_each(cells["cmpo"], look, "satisfaction").mean())
        share = (S - never) / (free - never)
        margin, t = gained(cells, "cmpo", look)
        good = good and share >= SHARE and above(margin, t)
        found.append(f"{look} {S:.2f}, {share:.2f} of the gain, over coin {signed(margin, t)}")
    return "; ".join(found), good


def needs_a_price(cells: Cells, seeds: int) -> tuple[str, bool]:
    unpriced = float(np.mean(rates(cells["cmpo_lambda0"], "sampled")))
    found, good = [f"lambda = 0: V {unpriced:.3f}"], unpriced >= UNPRICED
    worst = {}
    for name in (FIXED, "cmpo"):
        V = [float(np.mean(rates(cells[name], look))) for look in ("sampled", "other")]
        worst[name] = max(abs(value - BUDGET) for value in V)
        found.append(f"{name}: V {V[0]:.3f}, on the other mix {V[1]:.3f}")
    return "; ".join(found), good and worst[FIXED] > MISS >= worst["cmpo"]


def to_go_is_better(cells: Cells, seeds: int) -> tuple[str, bool]:
    ours, printed = (
        of_each(cells[name], "sampled", "satisfaction") for name in ("cmpo", "cmpo_printed_cost"))
    each = ours.mean(1) - printed.mean(1)
    found, t = paired(ours, printed), student(each.tolist())
    V = float(np.mean(rates(cells["cmpo_printed_cost"], "sampled")))
    return f"{signed(found, t)} stars; V as printed {V:.3f}", above(found, t)


def others_fail(cells: Cells, seeds: int) -> tuple[str, bool]:
    spread = float(np.mean([late_spread(cell) for cell in cells["cmpo"].values()]))
    found, worst = [f"sd of cmpo {spread:.3f}"], 0
    for name in ("cmpo_printed_pid", "cmpo_dual"):
        V = rates(cells[name], "sampled")
        own = [late_spread(cell) for cell in cells[name].values()]
        dead = sum(value < DEAD for value in V)
        cycling = sum(v >= DEAD and sd >= CYCLES * spread for v, sd in zip(V, own))
        worst = max(worst, dead + cycling)
        found.append(f"{name}: V {near(V)}, sd {near(own)}: {dead} dead, {cycling} cycling")
    return "; ".join(found), worst * 5 >= 3 * seeds


def keeps_the_format(cells: Cells, seeds: int) -> tuple[str, bool]:
    row = list(cells["cmpo"].values())
    shares = [cell["sampled"]["valid"] for cell in row]
    shares += [cell["greedy"]["valid"] for cell in row]
    hard = min(shares)
    soft = float(np.mean([cell["soft"]["valid"] for cell in row]))
    return f"hard {hard:.1%}, without the ban {soft:.1%}", hard == 1


CRITERIA = (
    (1, "cmpo: V in [.22, .33] in 4 of 5 seeds; never below .10 over 20 steps",
     ("cmpo",), holds_budget),
    (2, "cmpo: >= .35 of the gain, and above the coin line", ("cmpo",), serves_well),
    (3, "lambda = 0 and a fixed price miss the budget, cmpo does not",
     ("cmpo", "cmpo_lambda0", FIXED), needs_a_price),
    (4, "cost-to-go - printed cost > 0 in satisfaction",
     ("cmpo", "cmpo_printed_cost"), to_go_is_better),
    (5, "printed PID or dual ascent dead or cycling in 3 of 5 seeds",
     ("cmpo", "cmpo_printed_pid", "cmpo_dual"), others_fail),
    (6, "FR 100 % under hard constraints; soft measured", ("cmpo",), keeps_the_format),
)


def verdicts(cells: Cells, seeds: int) -> list[Verdict]:
    """All seven; what lacks a seed or a planner is open."""
    found = []
    planners = missing(cells, 1, "never", "free")
    for number, condition, names, judged in CRITERIA:
        lacking = missing(cells, seeds, *names) or planners
        if lacking:
            found.append(Verdict(number, condition, f"missing: {lacking}", None))
        else:
            found.append(Verdict(number, condition, *judged(cells, seeds)))
    there = [line.paper for line in TABLE if not lacks(cells, seeds, ours_beside(line, cells))]
    absent = [line.paper for line in TABLE if line.paper not in there]
    text = f"{len(there)} of {len(TABLE)}; not {', '.join(absent)}"
    found.append(Verdict(7, "the paper's fourteen rows by one command", text, not absent))
    return found
