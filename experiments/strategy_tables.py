"""Tables and pictures of the study of strategies, from the files that it left.

    python -m experiments.strategy_tables runs/strategy/mgshop --to docs/results

writes for the true labels a table of all rows, their paired differences from GOPO, whom the agents
of all seeds serve (pass^k) and the ablations; and for each kind of flawed labels a table and its
differences (strategy_<dataset>.md).  The rows of the true labels are drawn as well
(strategy_<dataset>.png), and TSE over the share of wrong labels (label_noise_<kind>_<dataset>.png;
label_noise_<kind>_parts_<dataset>.png for the parts of GOPO's return).  Nothing is trained."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from data import DataError
from experiments.figures import COLOURS, canvas
from experiments.intervals import bootstrap
from experiments.label_noise import Fault
from experiments.strategy import Cell, cell_text, difference_text
from experiments.strategy_rows import GOPO, ROWS
from infra.curves import as_text
from infra.files import read_json, whole
from tse import pass_hat

COMMAND = "python -m experiments.strategy_tables"
GOPO_ON_LOGS = "GOPO on logs"
TRUE = Fault().name
Cells = dict[int, Cell]                          # seed -> what a row gave
Table = dict[str, Cells]                         # row -> its seeds
COLUMNS = ("success", "turns", "esndcg", "f1", "length", "vouchers")
# k of pass^k over training seeds
SEEDS_OF_PASS = (1, 2, 5)
# label noise is drawn for methods, and for what GOPO's return may be made of
CURVES = {
    "": (
        GOPO, "imitation, on-policy", "imitation, on-policy, with slips and hidden sentences",
        "imitation, on-policy, of dialogues that ended well", "imitation, offline",
        "Memento, logs only",
    ),
    "parts_": (GOPO, "GOPO, without the end", "GOPO, the end only", "- anchor"),
}
LEGEND = {"- anchor": "GOPO, without the anchor"}
WRONG = {
    "omit": "share of the affected skills that the labels lack",
    "confuse": "share of turns in which one skill is written as another",
}


# --- reading ----------------------------------------------------------------------------------

def tables_of(folder: Path) -> dict[str, Table]:
    """fault -> row -> seed -> cell, the rows in the order of ROWS."""
    found: dict[str, Table] = {}
    for path in sorted(folder.glob("*/*/*.json")):
        cell = read_json(path)
        rows = found.setdefault(cell["fault"], {})
        rows.setdefault(cell["row"], {})[int(path.stem)] = cell
    if not found:
        raise DataError(f"{folder}: no rows there; make some with python -m experiments.strategy")
    order = list(ROWS)
    return {fault: dict(sorted(rows.items(), key=lambda item: order.index(item[0])))
            for fault, rows in found.items()}


def values(cells: Cells, metric: str, label: str) -> np.ndarray:
    """[seeds, customers] of a metric that is kept for every customer."""
    rows = [cells[seed][label]["of_each"][metric] for seed in sorted(cells)]
    return np.array(rows, float)


# --- tables -----------------------------------------------------------------------------------

def table(rows: Table) -> str:
    """A Markdown table: TSE on three sets of customers, and the rest on the test customers."""
    if not is_live(rows):
        return table_of_logs(rows)
    lines = [
        "| row | seeds | TSE test [95 %] | TSE new | TSE dev | " + " | ".join(COLUMNS)
        + " | CPU s |",
        "|---" * (len(COLUMNS) + 6) + "|",
    ]
    for name, cells in rows.items():
        lines.append(table_line(name, cells))
    return "\n".join(lines)


def table_line(name: str, cells: Cells) -> str:
    found = [name, str(len(cells)), interval_text(cells, "test")]
    for label in ("new", "dev"):
        found.append(mean_text(cells, "tse", label))
    for metric in COLUMNS:
        found.append(mean_text(cells, metric, "test"))
    found.append(f"{np.mean([cell['cpu'] for cell in cells.values()]):.0f}")
    return "| " + " | ".join(found) + " |"


def is_live(rows: Table) -> bool:
    """False of replayed logs, where nobody is served."""
    return any(not np.isnan(values(cells, "success", "test")).all() for cells in rows.values())


def table_of_logs(rows: Table) -> str:
    """A Markdown table of replayed logs: how close the skills are to the logged ones."""
    columns = ("f1", "exact", "length")
    lines = [
        "| row | seeds | ESNDCG test [95 %] | ESNDCG dev | " + " | ".join(columns) + " | CPU s |",
        "|---" * (len(columns) + 5) + "|",
    ]
    for name, cells in rows.items():
        found = [name, str(len(cells)), interval_text(cells, "test", "esndcg")]
        found.append(mean_text(cells, "esndcg", "dev"))
        for metric in columns:
            found.append(mean_text(cells, metric, "test"))
        found.append(f"{np.mean([cell['cpu'] for cell in cells.values()]):.0f}")
        lines.append("| " + " | ".join(found) + " |")
    return "\n".join(lines)


def interval_text(cells: Cells, label: str, metric: str = "tse") -> str:
    each = values(cells, metric, label)
    if np.isnan(each).all():
        return "—"
    found = bootstrap(each)
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def mean_text(cells: Cells, metric: str, label: str) -> str:
    found = [cell[label][metric] for cell in cells.values() if label in cell]
    known = [value for value in found if value is not None]
    return cell_text(known) if known else "—"


def differences(rows: Table) -> str:
    """GOPO less each row: TSE and success of test and new customers, or what logs can tell."""
    sets = (("tse", "test"), ("success", "test"), ("tse", "new"), ("success", "new"))
    head = [f"{metric}, {label} customers" for metric, label in sets]
    if not is_live(rows):
        sets = (("esndcg", "test"), ("f1", "test"), ("esndcg", "dev"), ("f1", "dev"))
        head = [f"{metric}, {label}" for metric, label in sets]
    gopo = gopo_row(rows)
    lines = ["| GOPO less | " + " | ".join(head) + " |", "|---" * 5 + "|"]
    for name, cells in rows.items():
        if name != gopo:
            said = [difference_text(rows[gopo], cells, *of) or "—" for of in sets]
            lines.append(f"| {name} | " + " | ".join(said) + " |")
    return "\n".join(lines)


def passes(rows: Table) -> str:
    """pass^k over training seeds: the share of test customers whom k agents of k serve."""
    columns = list(product(("test", "new"), SEEDS_OF_PASS))
    head = [f"pass^{k}, {label}" for label, k in columns]
    lines = ["| row | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for name, cells in rows.items():
        if len(cells) > 1:
            said = [pass_text(cells, label, k) for label, k in columns]
            lines.append(f"| {name} | " + " | ".join(said) + " |")
    return "\n".join(lines)


def pass_text(cells: Cells, label: str, k: int) -> str:
    served = values(cells, "success", label)                       # [seeds, customers]
    seeds = len(served)
    if k > seeds:
        return "—"
    found = [pass_hat(int(of_one), seeds, k) for of_one in served.sum(0)]
    return f"{np.mean(found):.3f}"


def gopo_row(rows: Table) -> str | None:
    """The row that the others are compared with."""
    names = [name for name in (GOPO, GOPO_ON_LOGS) if name in rows]
    return names[0] if names else None


def text_of(dataset: str, tables: Mapping[str, Table]) -> str:
    """The file of tables."""
    parts = true_parts(dataset, tables[TRUE])
    for fault, rows in tables.items():
        if fault != TRUE:
            parts += [f"## Labels with a fault: {fault}", table(rows)]
            if gopo_row(rows):
                parts.append(differences(rows))
    return "\n\n".join(parts) + "\n"


def true_parts(dataset: str, rows: Table) -> list[str]:
    """The tables of what learned from true labels."""
    gopo = gopo_row(rows)
    usual = {name: cells for name, cells in rows.items() if not ROWS[name].ablation}
    less = {name: cells for name, cells in rows.items() if ROWS[name].ablation or name == gopo}
    parts = [f"# Strategy alone: {dataset}", table(usual)]
    if gopo:
        parts.append(differences(usual))
    if is_live(rows):
        parts += ["## Served by every seed's agent", passes(usual)]
    if len(less) > 1:
        parts += ["## One part of GOPO left out", table(less), differences(less)]
    return parts


# --- pictures ---------------------------------------------------------------------------------

def draw_rows(rows: Table, title: str, path: Path) -> bool:
    """TSE of every row: the mean, its interval, and each seed as a dot; False of logs."""
    if not is_live(rows):
        return False
    picture, axes = canvas(1, 1, (9, 0.34 * len(rows) + 1.4))
    axis = axes[0][0]
    for place, (name, cells) in enumerate(reversed(rows.items())):
        each = values(cells, "tse", "test")
        found = bootstrap(each)
        colour = COLOURS[0] if name == GOPO else COLOURS[1]
        axis.plot([found["low"], found["high"]], [place, place], color=colour, linewidth=2)
        axis.plot(each.mean(1), [place] * len(each), "o", color=colour, markersize=3, alpha=0.5)
        axis.plot(found["mean"], place, "|", color=colour, markersize=12)
    axis.set_yticks(range(len(rows)), list(reversed(rows)), fontsize=8)
    axis.set(xlim=(0, 1), xlabel=f"TSE of {each.shape[1]} test customers; dots are training seeds")
    axis.grid(axis="x", alpha=0.3)
    axis.set_title(title, fontsize=10)
    save(picture, path)
    return True


def share_of(fault: str, kind: str) -> float | None:
    """The share of wrong labels; None if the fault is of another kind."""
    if fault == TRUE:
        return 0.0
    word, number = fault.split()[:2]
    return float(number) if word == kind else None


def draw_noise(
    tables: Mapping[str, Table], kind: str, names: Sequence[str], path: Path
) -> bool:
    """TSE of some rows over the share of wrong labels; False if no two were measured throughout."""
    shares = {}
    for fault in tables:
        share = share_of(fault, kind)
        if share is not None:
            shares[share] = tables[fault]
    # a line through a gap would say what nobody measured
    measured = set(names).intersection(*shares.values())
    if len(shares) < 2 or len(measured) < 2:
        return False
    at = sorted(shares)
    picture, axes = canvas(1, 1, (8.5, 5))
    axis = axes[0][0]
    for number, name in enumerate(sorted(measured, key=names.index)):
        drawn = [bootstrap(values(shares[share][name], "tse", "test")) for share in at]
        mean, low, high = np.array([[d["mean"], d["low"], d["high"]] for d in drawn]).T
        colour = COLOURS[number]
        axis.plot(at, mean, "o-", color=colour, markersize=4, label=LEGEND.get(name, name))
        axis.fill_between(at, low, high, color=colour, alpha=0.12)
    axis.set(xlabel=WRONG[kind], ylabel="TSE of test customers", ylim=(0, 1))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower left")
    save(picture, path)
    return True


def save(picture: Any, path: Path) -> None:
    as_text(picture)
    with whole(path) as part:
        picture.savefig(part, dpi=120, format="png")


# --- the command ------------------------------------------------------------------------------

def execute(folder: Path, to: Path) -> list[Path]:
    """What was written."""
    dataset = folder.name
    tables = tables_of(folder)
    written = []
    if TRUE in tables:
        rows = tables[TRUE]
        path = to / f"strategy_{dataset}.md"
        with whole(path) as part:
            part.write_text(text_of(dataset, tables), encoding="utf-8")
        picture = to / f"strategy_{dataset}.png"
        written.append(path)
        if draw_rows(rows, f"Strategy alone, {dataset}: [95 % over seeds and customers]", picture):
            written.append(picture)
    for kind, (part, names) in product(("omit", "confuse"), CURVES.items()):
        path = to / f"label_noise_{kind}_{part}{dataset}.png"
        if draw_noise(tables, kind, names, path):
            written.append(path)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Tables and pictures of the study of strategies.",
        allow_abbrev=False)
    parser.add_argument(
        "folder", type=Path, help="of a dataset, in the --out of experiments.strategy")
    parser.add_argument(
        "--to", type=Path, default=Path("docs/results"), help="where to write (docs/results)")
    args = parser.parse_args(argv)
    try:
        for path in execute(args.folder, args.to):
            print(f"written: {path}")
    except (DataError, OSError) as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
