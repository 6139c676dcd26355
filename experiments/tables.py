"""From measured rows to the paper's tables: means, intervals, differences and orders.

`eval.py --paper` leaves one file a row and seed, results/<dataset>/evals/<row>-<seed>.json.  This
file reads those and curves.jsonl.  It writes results.json, tables.md, tables.csv and, through
figures.py and report.py, figure1.png, figure3.png, hacking.png and report.html.  Nothing is
measured here: evals.py reads the numbers, intervals.py computes with them, layout.py says which
rows and columns there are, and texts.py writes them.

Try it:  python -m experiments.tables results/mgshop        everything again from the files
         python -m experiments.tables results/mgshop --difference ppo single_warm
                                                            one row less another"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from data import DataError
from experiments import figures, report
from experiments.cells import brackets, figure, known, side_of_zero, t_of, with_brackets
from experiments.evals import Measured, episodes_of, load_evals
from experiments.intervals import DRAWS
from experiments.layout import (
    COLUMNS,
    FIGURE3,
    INTERVALS,
    ORDERED,
    REFERENCES,
    ROWS,
    RULE_JUDGE,
    SHARED,
    TABLES,
    Table,
    prefix_of,
    row_of,
)
from experiments.printed import DATASETS, printed
from experiments.reading import CURVE, DIALOGUE, present_name, read_lines, read_results
from experiments.reliability import reliability
from experiments.texts import RERUN, comma_separated, markdown
from experiments.trials import table_of_trials
from infra.files import write_atomic, write_json

# As in eval.py: a larger difference of TSE between the two ears is flagged.
EAR_TOLERANCE = 0.05


# --- one row ----------------------------------------------------------------------------------

def hosted_rows(prefix: str, evals: dict[str, Any]) -> list[str]:
    """The rows of hosted models whose longest prefix is this one."""
    return sorted(row for row in evals if prefix and prefix_of(row) == prefix)


def plain(name: str) -> str:
    """A model's name without case and signs: api_deepseek-r1 is the paper's DeepSeek-R1."""
    return "".join(filter(str.isalnum, name.casefold()))


def paper_row(table: Table, row: str, dataset: str) -> tuple[str | None, dict[str, float]]:
    """(the paper's row beside ours, its figures); a hosted model is found by its name."""
    of_paper = printed(table.number, dataset)
    if row in table.rows:
        wanted = table.rows[row]
    else:
        model = plain(row.removeprefix(table.hosted))
        wanted = next((name for name in of_paper if plain(name) == model), None)
    return (wanted, of_paper[wanted]) if wanted in of_paper else (None, {})


def remarks_on(row: str, beside: str | None, measured: Measured) -> str | None:
    """What the reader of a row must know, joined; None if there is nothing."""
    remarks = [f"paper: {beside}"] if beside else []
    if row not in measured.evals:
        return "; ".join([*remarks, "not run"])
    if len(measured.evals[row]) == 1 < measured.seeds:
        remarks.append("one seed: intervals over customers only")
    compared = row != "gopo" and "gopo" in measured.evals
    if compared and not measured.share_a_seed(row, "gopo"):
        remarks.append("no seed shared with GOPO")
    first_ear = measured.cell(row, "tse")
    second_ear = measured.cell(row, "tse_2nd_ear")
    both = first_ear and second_ear
    if both and abs(first_ear["mean"] - second_ear["mean"]) > EAR_TOLERANCE:
        remarks.append("FLAG: it may please one ear only")
    return "; ".join(remarks) or None


def build_row(
    table: Table, row: str, dataset: str, columns: Sequence[dict], measured: Measured
) -> dict[str, Any]:
    """A row of results.json: its cells, its differences to GOPO's, the paper's figures."""
    name, saw = row_of(row)
    beside, paper = paper_row(table, row, dataset)
    keys = [c["key"] for c in columns]
    ran = row in measured.evals
    cells = None
    differences = None
    if ran:
        cells = {key: measured.cell(row, key) for key in keys}
    if ran and row != "gopo":
        differences = {key: measured.difference(row, "gopo", key) for key in keys}
    return {
        "key": row,
        "name": name,
        "saw": saw,
        "note": remarks_on(row, beside, measured),
        "cells": cells,
        "difference": differences,
        "paper": {key: paper[key] for key in keys if key in paper} or None,
    }


# --- the paper's orders -----------------------------------------------------------------------

def pairs_of_paper(rows: Sequence[dict[str, Any]], metric: str) -> Iterator[tuple[dict, dict]]:
    """(the higher row, the lower row) of every two that the paper orders by a metric."""
    with_figure = [row for row in rows if metric in (row["paper"] or {})]
    ranked = sorted(with_figure, key=lambda row: -row["paper"][metric])
    for above, below in combinations(ranked, 2):
        if above["paper"][metric] != below["paper"][metric]:
            yield above, below


def compare(
    rows: Sequence[dict[str, Any]], measured: Measured
) -> tuple[list[dict[str, Any]], list[str]]:
    """Whether our orders are the paper's.

    returns  the pairs that the paper orders, with the higher one `above` and whether `ours` agrees;
             notes on pairs that share no seed
    """
    orders = []
    notes = []
    for metric in ORDERED:
        for above, below in pairs_of_paper(rows, metric):
            lead = measured.difference(above["key"], below["key"], metric)
            if lead is None and known(above, metric) and known(below, metric):
                notes.append(
                    f"{above['name']} and {below['name']} share no seed: not compared in {metric}."
                )
                continue
            orders.append(order_of(metric, above["name"], below["name"], lead))
    return orders, notes


def order_of(metric: str, above: str, below: str, lead: dict[str, Any] | None) -> dict[str, Any]:
    """A pair of results.json; ours: True, False, or None where our numbers do not decide."""
    side = side_of_zero(lead) if lead else 0
    ours = None if side == 0 else side > 0
    return {"metric": metric, "above": above, "below": below, "paper": True, "ours": ours}


def alone_in_paper(table: Table, rows: Sequence[dict[str, Any]], dataset: str) -> list[str]:
    """A note with the paper's rows that stand beside none of ours, so that its table is whole."""
    beside = {paper_row(table, row["key"], dataset)[0] for row in rows}
    left = []
    for name, of_paper in printed(table.number, dataset).items():
        if name not in beside:
            figures_of = ", ".join(f"{m.upper()} {value:g}" for m, value in of_paper.items())
            left.append(f"{name} {figures_of}")
    if not left:
        return []
    return [f"Rows of the paper without a counterpart here: {'; '.join(left)}."]


# --- one table, and all of them ---------------------------------------------------------------

def columns_of(table: Table, measured: Measured) -> list[dict[str, Any]]:
    """The columns of a table: all, or G-Eval for Table 3; on logs TSE is called TSE-replay."""
    columns = [c for c in COLUMNS if table.number != 3 or c["key"] == "g_eval"]
    # a logged customer cannot be served to the end
    live = any(measured.values(row, "success") for row in measured.evals)
    if live:
        return columns
    return [c | {"name": c["name"].replace("TSE", "TSE-replay")} for c in columns]


def notes_of(
    table: Table,
    alone: Sequence[str],
    unpaired: Sequence[str],
    one_seed: bool,
    made: dict[str, Any],
) -> list[str]:
    """What stands below a table.

    alone     the paper's rows that stand beside none of ours, see `alone_in_paper`
    unpaired  pairs that could not be compared, see `compare`
    """
    sizes = {name: made.get(name, "unknown") for name in ("model", "small_model")}
    notes = []
    if one_seed:
        notes.append("One seed: intervals over customers only.")
    notes += [note.format(**sizes) for note in table.notes]
    notes += alone
    notes += unpaired
    if table.number == 1:
        notes.append(SHARED)
    judge = made.get("judge") or RULE_JUDGE
    notes.append(f"* {judge}; the paper's GRE comes from another judge.")
    notes.append(INTERVALS.format(draws=DRAWS))
    return notes


def build_table(
    table: Table, dataset: str, measured: Measured, made: dict[str, Any]
) -> dict[str, Any]:
    columns = columns_of(table, measured)
    keys = [*table.rows, *hosted_rows(table.hosted, measured.evals)]
    rows = [build_row(table, key, dataset, columns, measured) for key in keys]
    orders, unpaired = compare(rows, measured)
    alone = alone_in_paper(table, rows, dataset)
    return {
        "id": f"table{table.number}",
        "title": table.title,
        "columns": columns,
        "rows": rows,
        "orders": orders,
        "notes": notes_of(table, alone, unpaired, measured.seeds == 1, made),
    }


def perception(dialogues: Sequence[dict[str, Any]]) -> str:
    """How often u_t and e_t were perceived as they were, in the teacher's dialogues that are kept.

    An Expert reads both, so both bound it."""
    turns = []
    for dialogue in dialogues:
        if dialogue["method"] == "teacher":
            turns += [t for t in dialogue["turns"] if t.get("perceived") and t.get("truth")]
    if not turns:
        return ""

    def rightly(kind: str) -> float:
        return 100 * np.mean([t["perceived"].get(kind) == t["truth"].get(kind) for t in turns])

    return (
        f"Perception named the intent rightly in {rightly('intent'):.0f} % and the emotion in "
        f"{rightly('emotion'):.0f} % of the {len(turns)} turns with the teacher's skills "
        "that are kept to read."
    )


def against_paper(dataset: str) -> str:
    """How our numbers may be read beside the paper's."""
    if dataset not in DATASETS:
        return ""
    warning = "Compare orders with the paper, not values: other models and another judge"
    if dataset == "multiwoz":
        return warning + "."
    private = f"for the paper's {DATASETS[dataset]} is not public."
    return f"{warning}, and simulated customers, {private}"


def note_above(
    folder: Path, dataset: str, evals: dict[str, Any], shown: set[str], made: dict[str, Any]
) -> str:
    """What stands above all tables."""
    notes = []
    trained_on = made.get("train_on", dataset)
    if trained_on != dataset:
        notes.append(f"Trained on {trained_on}, tested on {dataset}.")
    notes.append(against_paper(dataset))
    if not hosted_rows("api_", evals):
        notes.append(
            "Tables 2 and 3, hosted models as both agents, are left out: no API was given."
        )
    notes.append(perception(read_lines(folder / "dialogues.jsonl", DIALOGUE)))
    if left := sorted(set(evals) - shown):
        notes.append(f"Evaluated, but in no table: {', '.join(left)}.")
    return " ".join(filter(None, notes))


def build(folder: Path, dataset: str, made: dict[str, Any]) -> dict[str, Any]:
    """The content of results.json from <folder>/evals.

    made  what report.py says about how it was made; seeds and episodes are taken from the files.
          made["judge"]               who scored GRE and R^A, if not the rule judge
          made["model", "small_model"]  of Table 4
    """
    measured = Measured(load_evals(folder))
    evals = measured.evals
    tables = []
    shown = set()
    for table in TABLES:
        if table.optional and not hosted_rows(table.hosted, evals):
            continue
        built = build_table(table, dataset, measured, made)
        tables.append(built)
        shown |= {row["key"] for row in built["rows"]}
    seeds = set().union(*evals.values())
    counted = {"seeds": sorted(seeds), "episodes": episodes_of(evals)}
    note = note_above(folder, dataset, evals, shown, made)
    found = {"dataset": dataset, "note": note, "tables": tables, "made": made | counted}
    extra = {"reliability": reliability(measured), "trials": table_of_trials(folder)}
    return found | {name: table for name, table in extra.items() if table}


# --- the folder -------------------------------------------------------------------------------

def write(
    folder: str | Path, dataset: str | None = None, made: dict[str, Any] | None = None
) -> Path:
    """Writes all files of a results folder, each whole or not at all; returns the page's path.

    What is not given stays as results.json says; the dataset is else the folder's name."""
    folder = Path(folder)
    before = read_results(folder) if (folder / "results.json").is_file() else {}
    dataset = dataset or before.get("dataset") or folder.resolve().name
    if made is None:
        made = before.get("made") or {}
    results = build(folder, dataset, made)
    curves = read_lines(folder / "curves.jsonl", CURVE)
    write_json(folder / "results.json", results)
    write_atomic(folder / "tables.md", markdown(results))
    write_atomic(folder / "tables.csv", comma_separated(results))
    draw(folder, results, curves)
    return report.write(folder)


def draw(folder: Path, results: dict[str, Any], curves: Sequence[dict[str, Any]]) -> None:
    names = {key: row.name for key, row in ROWS.items()}
    dataset = results["dataset"]
    shown = {table["id"]: table for table in results["tables"]}
    methods = shown.get("table2", shown["table1"])
    figures.bars(methods, REFERENCES, folder / "figure1.png", dataset)
    figures.losses(curves, names, FIGURE3, folder / "figure3.png", dataset)
    figures.hacking(curves, names, folder / "hacking.png", dataset)


# --- a difference in words --------------------------------------------------------------------

def difference_line(column: dict[str, Any], delta: dict[str, Any]) -> str:
    digits = column["digits"]
    line = f"{column['name']:12} {with_brackets(delta, digits, '+')}"
    if over_seeds := brackets(t_of(delta), digits, "+"):
        line += f"  t {over_seeds}"
    each = " ".join(figure(x, digits, "+") for x in delta["seeds"])
    return f"{line}  each seed {each}"


def difference_in_words(folder: Path, row: str, other: str) -> str:
    """row - other, a line for every column in which both have numbers.

    Each line holds the paired difference, Student's interval, and each seed's own difference."""
    measured = Measured(load_evals(folder))
    row, other = present_name(row), present_name(other)
    if unknown := {row, other} - set(measured.evals):
        raise DataError(
            f"--difference {sorted(unknown)[0]}: no such row in {folder}/evals; "
            f"there are {', '.join(measured.evals)}"
        )
    lines = [f"{row} - {other}, 95 % intervals"]
    for column in COLUMNS:
        if delta := measured.difference(row, other, column["key"]):
            lines.append(difference_line(column, delta))
    return "\n".join(lines)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=RERUN,
        description="Tables, figures and page of a results folder, "
        "from its evals/ and curves.jsonl.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="a folder written by eval.py --paper, e.g. results/mgshop",
    )
    parser.add_argument(
        "--difference",
        nargs=2,
        metavar=("ROW", "OTHER"),
        help="write nothing, but print ROW - OTHER in every column, paired, "
        "by the names of evals/, e.g. ppo single_warm",
    )
    return parser


def execute(folder: Path | None, difference: Sequence[str] | None) -> None:
    if folder is None:
        raise DataError(f"name a results folder: {RERUN} results/mgshop")
    if difference:
        print(difference_in_words(folder, *difference))
        return
    page = write(folder)
    print(f"written: results.json, tables.md, tables.csv, the figures and {page}")


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments().parse_args(argv)
    try:
        execute(args.folder, args.difference)
    except (DataError, OSError) as error:
        print(f"{RERUN}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
