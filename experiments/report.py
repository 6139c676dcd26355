"""One self-contained HTML page of a results folder.

The page shows our tables with the paper's figures, the curves, and a browser of the dialogues.
`eval.py --paper` writes the folder.  This file reads it (`results.json`, and where they exist
`curves.jsonl`, `dialogues.jsonl`, `figure1.png`, `figure3.png`) and writes `report.html` into it.
Nothing is measured here and nothing is fetched: the page opens from the file system, asks no server
for anything, and forbids itself to.  What customers wrote is escaped (HTML by Jinja2, JSON by its
`tojson`).  A number that was not measured is shown as a dash, and a missing part is named.

Try it:  python -m experiments.example                    plays a few dialogues of four policies
                                                          and writes results/demo/report.html
         python -m experiments.report results/mgshop      a folder written by eval.py --paper
Exercise: sort the dialogues of the browser by the worst R^E of a turn; what do the first ten have
in common?"""
from __future__ import annotations

import argparse
import base64
import hashlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from data import DataError
from experiments.cells import brackets, figure, known, seeds_of, side_of_zero, t_of, with_brackets
from experiments.plain_words import any_decision, any_difference, findings_of, opening, opens
from experiments.reading import CURVE, DIALOGUE, NUMBER, read_lines, read_results
from infra.files import whole
from rewards import DIMENSIONS

PAGE = Path(__file__).with_name("report_page.html")
STYLE = PAGE.with_name("report_page.css")
# parts of one script, in this order
SCRIPTS = ("report_page.js", "report_curves.js", "report_dialogues.js")
FIGURES = {
    "figure1": "Figure 1",
    "figure3": "Figure 3: losses over training",
    "hacking": "What training did to the replies",
    "curves": "The voucher rate V and the price of a voucher over the steps of training",
    "pareto": "What a voucher buys: satisfaction over the voucher rate",
}
GOPO = "gopo"
SERVED = ("reliability", "trials")               # tables that stand behind the others
PAPER = "Goal-Oriented Preference Optimization (arXiv 2602.15854), reproduced"
RERUN = "python -m experiments.report"


# --- tables as the page shows them ------------------------------------------------------------

def scale(rows: Sequence[dict[str, Any]], key: str) -> tuple[float, float]:
    """(lowest, highest) of a column: its bars share one axis."""
    values = []
    for row in rows:
        if cell := known(row, key):
            values += [cell["mean"], cell.get("low"), cell.get("high"), *seeds_of(cell)]
    values = [x for x in values if x is not None]
    return (min(values), max(values)) if values else (0.0, 0.0)


def place_on(axis: tuple[float, float], x: float | None) -> float | None:
    """Where a value stands on a bar, in per cent of its width, with a margin of 4 at both ends."""
    if x is None:
        return None
    low, high = axis
    return round(4 + 92 * (x - low) / ((high - low) or 1), 1)


def view_cell(
    row: dict[str, Any], column: dict[str, Any], axis: tuple[float, float], seeds: int
) -> dict[str, Any]:
    """One cell: its texts, and its bar in per cent of the column's axis."""
    key = column["key"]
    digits = column.get("digits", 3)
    of_paper = figure((row.get("paper") or {}).get(key), digits)
    shown = {"key": key, "has_paper": column["has_paper"], "paper": of_paper, "mean": None}
    cell = known(row, key)
    if not cell:
        return shown
    return (
        shown
        | view_bar(cell, axis, seeds)
        | view_difference(known(row, key, "difference"), digits)
        | {"mean": figure(cell["mean"], digits), "interval": brackets(cell, digits)}
    )


def view_bar(cell: dict[str, Any], axis: tuple[float, float], seeds: int) -> dict[str, Any]:
    """Places of mean, interval and seeds; `few` says of how many seeds a mean is, if not of all."""
    of_seeds = seeds_of(cell)
    marks = []
    if len(of_seeds) > 1:
        marks = [place_on(axis, x) for x in of_seeds]
    few = f"{len(of_seeds)} of {seeds} seeds" if 0 < len(of_seeds) < seeds else ""
    return {
        "at": place_on(axis, cell["mean"]),
        "low": place_on(axis, cell.get("low")),
        "high": place_on(axis, cell.get("high")),
        "seed_marks": marks,
        "few": few,
    }


def view_difference(delta: dict[str, Any] | None, digits: int) -> dict[str, Any]:
    """Texts of a difference to GOPO; `sure`: its intervals leave 0 out."""
    return {
        "delta": delta and with_brackets(delta, digits, "+"),
        "student": brackets(t_of(delta), digits, "+"),
        "sure": delta is not None and side_of_zero(delta) != 0,
    }


def verdict(order: dict[str, Any], rows: dict[str, dict]) -> tuple[str, str]:
    """(sign, word): does our order of two rows agree with the paper's?"""
    pair = (order["above"], order["below"])
    if any(known(rows.get(name, {}), order["metric"]) is None for name in pair):
        return "—", "not measured"
    if order.get("ours") is None:
        return "?", "undecided"
    if order["ours"] == order["paper"]:
        return "✓", "agrees"
    return "✗", "differs"


def view_order(order: dict[str, Any], table: dict[str, Any]) -> dict[str, str]:
    """One pair that the paper orders, and whether ours agrees, in plain words."""
    def words(above: bool) -> str:
        return f"{order['above']} {'above' if above else 'not above'} {order['below']}"

    rows = {row["name"]: row for row in table["rows"]}
    names = {column["key"]: column["name"] for column in table["columns"]}
    mark, word = verdict(order, rows)
    here = {
        "not measured": "one of the two was not measured",
        "undecided": "an interval of the difference contains 0",
    }
    return {
        "metric": names.get(order["metric"], order["metric"]),
        "paper": words(order["paper"]),
        "ours": here.get(word) or words(order["ours"]),
        "mark": mark,
        "word": word,
    }


ARROWS = {"high": ("↑", "higher"), "low": ("↓", "lower")}


def view_columns(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The columns with the arrow of the better direction, and whether the paper has figures."""
    columns = []
    for column in table["columns"]:
        key = column["key"]
        has_paper = any((row.get("paper") or {}).get(key) is not None for row in table["rows"])
        arrow, better = ARROWS.get(column.get("better"), ("", ""))
        columns.append(column | {"has_paper": has_paper, "arrow": arrow, "better": better})
    return columns


def view_row(
    row: dict[str, Any], columns: Sequence[dict], axes: dict[str, tuple], seeds: int
) -> dict[str, Any]:
    saw = "—"
    if row.get("saw") is not None:
        saw = ", ".join(row["saw"]) or "nothing"
    cells = [view_cell(row, c, axes[c["key"]], seeds) for c in columns]
    return {"name": row["name"], "note": row.get("note"), "saw": saw, "cells": cells}


def tally(orders: Sequence[dict[str, str]]) -> str:
    """How many orders agree, differ and so on; what none does is left out."""
    counts = []
    for word in ("agrees", "differs", "undecided", "not measured"):
        n = sum(order["word"] == word for order in orders)
        if n:
            counts.append(f"{word}: {n}")
    return ", ".join(counts)


def view_table(table: dict[str, Any], seeds: int) -> dict[str, Any]:
    columns = view_columns(table)
    axes = {c["key"]: scale(table["rows"], c["key"]) for c in columns}
    rows = [view_row(row, columns, axes, seeds) for row in table["rows"]]
    orders = [view_order(order, table) for order in table.get("orders") or []]
    helps = [(c["name"], c["help"]) for c in columns if c.get("help")]
    return {
        "id": table["id"],
        "title": table["title"],
        "columns": columns,
        "rows": rows,
        "notes": table.get("notes") or [],
        "orders": orders,
        "tally": tally(orders),
        "helps": helps,
        "shows_saw": any(row.get("saw") is not None for row in table["rows"]),
    }


# --- curves and dialogues as the page's script reads them -------------------------------------

def names_of(tables: Sequence[dict[str, Any]]) -> dict[str, str]:
    """key -> name of all rows, in the tables' order; a key's first place counts."""
    names = {}
    for table in tables:
        for row in table["rows"]:
            if row.get("key"):
                names[row["key"]] = row["name"]
    return names


def in_words(
    rows: Sequence[dict[str, Any]], tables: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows with their method called as in the tables, in the tables' order.

    What no table has stays as it is, at the end."""
    names = names_of(tables)
    place = {key: i for i, key in enumerate(names)}
    ordered = sorted(rows, key=lambda row: place.get(row["method"], len(place)))
    return [row | {"method": names.get(row["method"], row["method"])} for row in ordered]


def metrics_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The columns of curves.jsonl that hold numbers, in order of appearance."""
    keys: dict[str, None] = {}
    for row in rows:
        for key, value in row.items():
            # a key keeps its first place, even if its first value is null
            keys[key] = keys.get(key) or (type(value) in NUMBER or None)
    return [k for k, numeric in keys.items() if numeric and k not in ("method", "seed", "step")]


def pack_line(line: list[dict[str, Any]], metrics: Sequence[str], block: int) -> dict[str, Any]:
    """One method and seed: columns instead of rows, as means of blocks of consecutive steps."""
    line = sorted(line, key=lambda row: row["step"])
    blocks = [line[i : i + block] for i in range(0, len(line), block)]
    values = {}
    for metric in metrics:
        means = []
        for rows in blocks:
            means.append(mean_of([row.get(metric) for row in rows]))
        if any(x is not None for x in means):
            values[metric] = means
    return {"steps": [rows[-1]["step"] for rows in blocks], "values": values}


def pack_curves(rows: Sequence[dict[str, Any]], points: int) -> dict[str, Any]:
    """One line per (method, seed); long ones are shortened to at most `points` means of blocks."""
    lines: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["method"], row["seed"]), []).append(row)
    longest = max(map(len, lines.values()), default=0)
    block = max(1, math.ceil(longest / points))
    metrics = metrics_of(rows)
    packed = []
    for (method, seed), line in lines.items():
        packed.append({"method": method, "seed": seed} | pack_line(line, metrics, block))
    return {"metrics": metrics, "lines": packed, "block": block}


def mean_of(values: Sequence[Any]) -> float | None:
    """Four digits of the mean of what is a number: a page needs no more."""
    numbers = [v for v in values if type(v) in NUMBER]
    return float(f"{sum(numbers) / len(numbers):.4g}") if numbers else None


def by_customer(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The dialogues of each customer of a seed, those met by the most methods first.

    Then the first seed comes first, and then the file's order."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        customer = str(row["customer"])
        groups.setdefault((row["seed"], customer), []).append(row | {"customer": customer})

    def place(group: tuple) -> tuple:
        (seed, _), dialogues = group
        return -len({d["method"] for d in dialogues}), seed

    return [dialogues for _, dialogues in sorted(groups.items(), key=place)]


def customers_in(dialogues: Sequence[dict[str, Any]]) -> int:
    return len({str(d["customer"]) for d in dialogues})


def choose_dialogues(
    rows: Sequence[dict[str, Any]], limit: int
) -> tuple[list[dict[str, Any]], str]:
    """The dialogues put into the page, and a line that says which.

    All methods that met a customer in a seed are kept, or none of them, so that they can be
    compared.  The order is that of `by_customer`, never how a dialogue went.  At least one customer
    is kept."""
    kept: list[dict[str, Any]] = []
    for group in by_customer(rows):
        if kept and len(kept) + len(group) > limit:
            break
        kept += group
    if len(kept) == len(rows):
        return kept, f"All {len(rows)} dialogues with {customers_in(kept)} customers."
    return kept, (
        f"{len(kept)} of {len(rows)} dialogues: those with {customers_in(kept)} of "
        f"{customers_in(rows)} customers, the first of the file, however they went. "
        f"The {len(rows) - len(kept)} left out stand in dialogues.jsonl; "
        "--dialogues N puts more of them here."
    )


# --- the page ---------------------------------------------------------------------------------

def duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 600 else f"{seconds:.0f} seconds"


def facts(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What stands at the head of the page; what is not known is left out."""
    made = results.get("made") or {}
    commit = made.get("commit")
    seconds = made.get("wall_seconds")
    if commit:
        commit = ", ".join(c[:12] for c in commit.split())
    if seconds is not None:
        seconds = duration(seconds)
    found = {
        "made": made.get("date"),
        "commit": commit,
        "training seeds": ", ".join(map(str, made.get("seeds") or [])) or None,
        "test dialogues per row and seed": made.get("episodes"),
        "wall time": seconds,
    }
    return [(name, str(value)) for name, value in found.items() if value is not None]


def embed(path: Path, caption: str) -> dict[str, str]:
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG"):
        raise DataError(f"{path}: not a PNG; draw it again with eval.py --paper, or remove it")
    return {"src": f"data:image/png;base64,{in_base64(content)}", "caption": caption}


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def sha256_of(text: str) -> str:
    """The hash of the page's one <style> or <script>, as a Content-Security-Policy names it.

    Whatever else got in would not run."""
    return f"sha256-{in_base64(hashlib.sha256(text.encode()).digest())}"


def script_of_page() -> str:
    return "".join(PAGE.with_name(name).read_text(encoding="utf-8") for name in SCRIPTS)


def template_of(source: str) -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
    )
    compact = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    environment.policies["json.dumps_kwargs"] = compact
    return environment.from_string(source)


def script_data(
    folder: Path, tables: Sequence[dict], lead: str, dialogues: int, points: int
) -> tuple[dict[str, Any], str]:
    """(what the page's script reads, which dialogues are in it)."""
    curves = in_words(read_lines(folder / "curves.jsonl", CURVE), tables)
    played = in_words(read_lines(folder / "dialogues.jsonl", DIALOGUE), tables)
    kept, note = choose_dialogues(played, dialogues)
    names = {}
    for table in tables:
        names |= {c["key"]: c["name"] for c in table["columns"]}
    data = {
        "curves": pack_curves(curves, points),
        "dialogues": kept,
        "opening": opening(kept, lead),
        "dimensions": DIMENSIONS,
        "names": names,
    }
    return data, note


def pictures(folder: Path) -> list[dict[str, str]]:
    found = []
    for name, caption in FIGURES.items():
        path = folder / f"{name}.png"
        if path.is_file():
            found.append(embed(path, caption))
    return found


def has_figures_of_paper(views: Sequence[dict[str, Any]]) -> bool:
    columns = []
    for view in views:
        columns += view["columns"]
    return any(column["has_paper"] for column in columns)


def render(folder: Path, dialogues: int = 400, points: int = 200) -> str:
    """The page of a results folder.

    dialogues  at most so many are put into the page (whole customers, at least one)
    points     at most so many points per curve
    """
    results = read_results(folder)
    made = results.get("made") or {}
    tables = list(results.get("tables") or [])
    reference = results.get("reference") or GOPO
    lead = names_of(tables).get(reference, "GOPO")
    findings = results.get("findings") or findings_of(tables, reference)
    tables += [results[name] for name in SERVED if results.get(name)]
    seeds = len(made.get("seeds") or [])
    style = STYLE.read_text(encoding="utf-8")
    script = script_of_page()
    page_data, note = script_data(folder, tables, lead, dialogues, points)
    views = [view_table(table, seeds) for table in tables]
    return template_of(PAGE.read_text(encoding="utf-8")).render(
        results={"note": "", "paper": PAPER} | results,
        lead=lead,
        findings=findings,
        made={"quick": False, "commands": []} | made,
        facts=facts(results),
        tables=views,
        any_paper=has_figures_of_paper(views),
        compares=any_difference(tables),
        style=style,
        script=script,
        hashes={"style": sha256_of(style), "script": sha256_of(script)},
        figures=pictures(folder),
        dialogue_note=note,
        decides=any_decision(page_data["dialogues"]),
        opens=opens(page_data["dialogues"], page_data["opening"]),
        page_data=page_data,
    )


def write(folder: str | Path, dialogues: int = 400, points: int = 200) -> Path:
    """<folder>/report.html, whole or not at all."""
    path = Path(folder) / "report.html"
    text = render(Path(folder), dialogues, points)
    # "replace": someone's log may hold half a character
    with whole(path) as part:
        part.write_bytes(text.encode("utf-8", "replace"))
    return path


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=RERUN,
        description="One self-contained HTML page of a results folder.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder", type=Path, help="a folder written by eval.py --paper, e.g. results/mgshop"
    )
    parser.add_argument(
        "--dialogues",
        type=int,
        default=400,
        help="at most so many dialogues in the page; whole customers (default 400)",
    )
    parser.add_argument(
        "--points",
        type=int,
        default=200,
        help="at most so many points per curve; longer ones become means of blocks (default 200)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments()
    args = parser.parse_args(argv)
    if min(args.dialogues, args.points) < 1:
        parser.error(
            f"--dialogues and --points must be at least 1, got {args.dialogues} and {args.points}"
        )
    try:
        path = write(args.folder, args.dialogues, args.points)
    except (DataError, OSError) as error:
        print(f"{RERUN}: {error}", file=sys.stderr)
        return 2
    print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
