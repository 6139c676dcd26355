"""The two figures of the budget study: V and its price over steps, and satisfaction over V."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.budget_criteria import BUDGET, Cells, frontier, of_each, planned, rates
from experiments.budget_rows import PLANNERS, trained
from experiments.figures import COLOURS, canvas, open_frame, save
from infra.curves import running_mean

# rows whose controllers are compared over steps
CONTROLLED = (
    "cmpo", "cmpo_lambda0", "cmpo_fixed", "cmpo_dual", "cmpo_printed_pid", "cmpo_clip", "release")
THRESHOLDS = np.arange(-0.25, 2.6, 0.05)         # stars, of the planner's frontier
CURVES_CAPTION = (
    "Training dialogues without the control copies, running mean over a twentieth of the run; "
    "one line a seed. Dashed: the budget")
PARETO_CAPTION = (
    "Test customers, skills drawn as in training; one dot a seed, a ring its row's mean. "
    "Line: the planner that gives to v > threshold, who serves without fault;\n"
    "dotted: vouchers by coin; dashed: the budget")


def write(folder: Path, difficulty: str, cells: Cells) -> None:
    """curves.png and pareto.png, as far as there is something to draw."""
    shown = [name for name in CONTROLLED if name in cells]
    if shown:
        curves(folder / "curves.png", difficulty, {name: cells[name] for name in shown})
    if {"never", "free"} <= set(cells):
        pareto(folder / "pareto.png", difficulty, cells)


def curves(path: Path, difficulty: str, cells: Cells) -> None:
    """V and lambda over steps, a column a row."""
    drawn, axes = canvas(2, len(cells), (3.1 * len(cells), 5.2), sharex=True, sharey="row")
    for column, (name, of_row) in enumerate(cells.items()):
        for number, cell in enumerate(of_row.values()):
            colour = COLOURS[number % len(COLOURS)]
            for row, key in enumerate(("voucher_rate", "lambda")):
                line(axes[row][column], cell["curve"], key, colour)
        axes[0][column].axhline(BUDGET, linestyle="--", color="#555555", linewidth=1)
        axes[0][column].set(title=name, ylim=(0, 1))
        axes[1][column].set(xlabel="step")
    axes[0][0].set(ylabel="voucher rate V")
    axes[1][0].set(ylabel="price lambda")
    drawn.suptitle(f"fds, {difficulty} customers: the voucher rate and its price")
    save(drawn, path, CURVES_CAPTION)


def line(axis: Any, curve: list[Mapping], key: str, colour: str) -> None:
    steps = [row["step"] for row in curve]
    axis.plot(steps, running_mean([row[key] or 0.0 for row in curve]), color=colour, linewidth=1.1)
    axis.grid(alpha=0.3)
    open_frame(axis)


def pareto(path: Path, difficulty: str, cells: Cells) -> None:
    """Satisfaction over V of all rows, with the planner's frontier."""
    drawn, axes = canvas(1, 1, (9.5, 6.2))
    axis = axes[0][0]
    V, S = zip(*frontier(cells, THRESHOLDS))
    axis.plot(V, S, color="black", linewidth=1.4, label="planner's frontier")
    ends = [(float(vouchers.mean()), float(marks.mean())) for marks, vouchers in (
        planned(cells, "never"), planned(cells, "free"))]
    axis.plot(*zip(*ends), ":", color="black", label="vouchers by coin")
    axis.axvline(BUDGET, linestyle="--", color="#555555", linewidth=1)
    for number, name in enumerate(name for name in cells if trained(name)):
        dots(axis, name, cells[name], number)
    for name in set(cells) & (set(PLANNERS) - {"never", "free"}):
        marks, vouchers = planned(cells, name)
        axis.plot(vouchers.mean(), marks.mean(), "k^", markersize=6)
        axis.annotate(
            f"30 % {name}", (vouchers.mean(), marks.mean()), (5, 4), textcoords="offset points",
            fontsize=8)
    axis.set(xlabel="voucher rate V", ylabel="satisfaction, 1 to 5 stars", xlim=(-0.03, 1.03))
    axis.set(title=f"fds, {difficulty} customers: what a voucher buys")
    axis.grid(alpha=0.3)
    open_frame(axis)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    save(drawn, path, PARETO_CAPTION)


SHAPES = "osDv"


def dots(axis: Any, name: str, of_row: Mapping[int, Any], number: int) -> None:
    """The seeds of a row, and its mean in a ring of its own colour and shape."""
    colour = COLOURS[number % len(COLOURS)]
    shape = SHAPES[number // len(COLOURS) % len(SHAPES)]
    V = rates(of_row, "sampled")
    S = of_each(of_row, "sampled", "satisfaction").mean(1)
    axis.plot(V, S, shape, color=colour, markersize=3.5, alpha=0.6)
    ring = {"markerfacecolor": "none", "markeredgecolor": colour, "markersize": 9}
    axis.plot(np.mean(V), np.mean(S), shape, linestyle="none", label=name, **ring)
