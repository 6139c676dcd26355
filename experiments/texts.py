"""tables.md and tables.csv: the tables of results.json as text."""
from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from experiments.cells import brackets, figure, known, t_of, with_brackets
from experiments.report import SERVED, view_table

RERUN = "python -m experiments.tables"


# --- tables.md --------------------------------------------------------------------------------

def spread(row: dict[str, Any], lead: dict[str, Any], part: str, sign: str) -> str:
    cell = known(row, lead["key"], part)
    return with_brackets(cell, lead["digits"], sign) if cell else "—"


def markdown_row(row: dict[str, Any], columns: Sequence[dict]) -> list[str]:
    lead, *others = columns
    key, digits = lead["key"], lead["digits"]
    name = row["name"] + (f" ({row['note']})" if row["note"] else "")
    student = brackets(t_of(known(row, key, "difference")), digits, "+") or "—"
    # the paper prints TSE with four digits
    of_paper = figure((row["paper"] or {}).get(key), digits + (key == "tse"))
    means = []
    for c in others:
        cell = known(row, c["key"]) or {}
        means.append(figure(cell.get("mean"), c["digits"]))
    return [
        name,
        spread(row, lead, "cells", ""),
        spread(row, lead, "difference", "+"),
        student,
        of_paper,
        *means,
        ", ".join(row["saw"]) or "nothing",
    ]


def markdown_line(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|").replace("*", "\\*") for cell in cells]
    return "| " + " | ".join(escaped) + " |"


def markdown_orders(table: dict[str, Any]) -> str:
    view = view_table(table, 0)
    lines = []
    for order, seen in zip(table["orders"], view["orders"]):
        line = f"- {seen['metric']}: {order['above']} > {order['below']}: {seen['word']}"
        lines.append(line.replace("*", "\\*"))
    if not lines:
        return "The paper orders no two of these rows here."
    return f"The paper's orders ({view['tally']}):\n\n" + "\n".join(lines)


def markdown_table(table: dict[str, Any]) -> str:
    lead, *others = table["columns"]
    name = lead["name"]
    names = [c["name"] for c in others]
    head = [
        "",
        f"{name} [95 %]",
        f"{name} − GOPO's",
        "t",
        f"{name}, paper",
        *names,
        "saw in training",
    ]
    lines = [head, ["---"] * len(head)]
    lines += [markdown_row(row, table["columns"]) for row in table["rows"]]
    body = "\n".join(map(markdown_line, lines))
    notes = "\n\n".join(note.replace("*", "\\*") for note in table["notes"])
    return f"## {table['title']}\n\n{body}\n\n{markdown_orders(table)}\n\n{notes}"


def markdown_head(results: dict[str, Any]) -> str:
    made = results["made"]
    seeds = ", ".join(map(str, made["seeds"]))
    title = f"# {results['dataset']}: {made['episodes']} test customers, training seeds {seeds}"
    commands = made.get("commands") or [RERUN]
    by = "Made by " + ", then ".join(f"`{command}`" for command in commands)
    if "wall_seconds" in made:
        by += f", {made['wall_seconds'] / 60:.0f} minutes in all"
    return f"{title}\n\n{results['note']}\n\n{by}."


def markdown_reliability(table: dict[str, Any]) -> str:
    """pass^k with its interval, a row a method."""
    columns = table["columns"]
    lines = [["", *[c["name"] for c in columns]], ["---"] * (1 + len(columns))]
    for row in table["rows"]:
        lines.append([row["name"], *[spread(row, c, "cells", "") for c in columns]])
    body = "\n".join(map(markdown_line, lines))
    return "\n\n".join([f"## {table['title']}", body, *table["notes"]])


def markdown(results: dict[str, Any]) -> str:
    parts = [markdown_head(results), *map(markdown_table, results["tables"])]
    parts += [markdown_reliability(results[name]) for name in SERVED if results.get(name)]
    return "\n\n".join(parts) + "\n"


# --- tables.csv -------------------------------------------------------------------------------

CSV_HEAD = (
    "table row metric mean low high difference diff_low diff_high "
    "seeds paper diff_t_low diff_t_high"
).split()


def six_digits(x: float | None) -> str:
    return "" if x is None else f"{x:.6g}"


def csv_numbers(row: dict[str, Any], key: str) -> list[float | None]:
    """The numbers of a line, in the order of CSV_HEAD."""
    cell = known(row, key, "cells") or {}
    delta = known(row, key, "difference") or {}
    of_paper = (row["paper"] or {}).get(key)
    ends = t_of(delta)
    numbers = [cell.get(k) for k in ("mean", "low", "high")]
    numbers += [delta.get(k) for k in ("mean", "low", "high")]
    return [*numbers, len(cell.get("seeds", ())), of_paper, ends.get("low"), ends.get("high")]


def comma_separated(results: dict[str, Any]) -> str:
    """One line a table, row and metric: six significant digits, empty where nothing is known.

    `seeds` counts those of the mean."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for table in results["tables"]:
        keys = [c["key"] for c in table["columns"]]
        for row in table["rows"]:
            for key in keys:
                numbers = map(six_digits, csv_numbers(row, key))
                writer.writerow([table["id"], row["key"], key, *numbers])
    return out.getvalue()
