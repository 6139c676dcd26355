"""One self-contained HTML page of a results folder: the tables beside the paper's, the curves, and a browser of the dialogues.

`eval.py --paper` writes the folder; this file reads it (`results.json`, and where they exist `curves.jsonl`, `dialogues.jsonl`,
`figure1.png`, `figure3.png`) and writes `report.html` into it.  Nothing is measured here and nothing is fetched: the page opens from the
file system, asks no server for anything, and forbids itself to.  What customers wrote is escaped (HTML by Jinja2, JSON by its `tojson`).
A number that was not measured is shown as a dash, a part that is missing is said to be missing.
Try it:  python -m experiments.example           plays a few dialogues of four policies and writes results/demo/report.html
         python report.py results/mgshop         the page of a folder written by eval.py --paper
Exercise: sort the dialogues of the browser by the worst R^E of a turn; what do the first ten have in common?"""
from __future__ import annotations

import argparse
import base64
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from data import DataError, fill
from rewards import DIMENSIONS

PAGE = Path(__file__).with_name("report_page.html")
FIGURES = {"figure1": "Figure 1", "figure3": "Figure 3: losses over training", "hacking": "What training did to the replies"}

# What the three files hold.  A kind, a list of one schema, or an object; a field with "?" may be missing or null, "*" stands for every field.
NUMBER, COUNT, OR_NULL, NAME = (int, float), (int,), (int, float, type(None)), (str, int)
KINDS = {dict: "an object", list: "a list", str: "a string", bool: "true or false", NUMBER: "a number", COUNT: "a whole number", OR_NULL: "a number or null",
         NAME: "a string or a whole number"}
INTERVAL = {"mean?": NUMBER, "low?": NUMBER, "high?": NUMBER, "seeds?": [OR_NULL], "t?": [NUMBER]}
TABLE = {
    "id": str, "title": str, "columns": [{"key": str, "name": str, "digits?": COUNT, "better?": str, "help?": str}],
    "rows": [{"name": str, "key?": str, "saw?": [str], "note?": str, "cells?": {"*": INTERVAL}, "difference?": {"*": INTERVAL}, "paper?": {"*": NUMBER}}],
    "orders?": [{"metric": str, "above": str, "below": str, "paper": bool, "ours?": bool}], "notes?": [str]}
RESULTS = {"dataset": str, "note?": str, "tables?": [TABLE], "made?": {"commit?": str, "date?": str, "commands?": [str], "wall_seconds?": NUMBER,
                                                                      "seeds?": [COUNT], "episodes?": COUNT, "quick?": bool,
                                                                      "train_on?": str, "model?": str, "small_model?": str}}
CURVE = {"method": str, "seed": COUNT, "step": NUMBER}
TURN = {"user": str, "perceived?": {"*": str}, "truth?": {"*": str}, "context?": {"*": str}, "skills?": [str], "teacher?": [str], "must_say?": [str],
        "must_not_say?": [str], "dropped?": [str], "reply?": str, "template?": str, "violations?": [str], "mood?": NUMBER,
        "rewards?": {"R_E?": NUMBER, "S?": [OR_NULL], "R_A?": NUMBER, "R_t?": NUMBER}}
DIALOGUE = {"method": str, "seed": COUNT, "customer": NAME, "success": bool, "outcome": str, "N?": [OR_NULL], "tse?": NUMBER, "mood?": NUMBER, "last?": str,
            "turns": [TURN]}


# --- reading ------------------------------------------------------------------------------------------------------------------

def parse(text: bytes, at: str) -> Any:
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")
    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:            # UnicodeDecodeError is a ValueError
        raise DataError(f"{at}: not valid JSON ({error}); correct it, or write the folder again with eval.py --paper") from None


def check(value: Any, schema: Any, at: str) -> Any:
    """`value`, if it has the shape of `schema`; raises DataError naming the place where it has not."""
    kind = type(schema) if isinstance(schema, dict | list) else schema
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):                       # true is no number
        raise DataError(f"{at}: {'missing or null' if value is None else repr(value)[:60]} where {KINDS[kind]} is needed")
    if isinstance(schema, list):
        for i, item in enumerate(value):
            check(item, schema[0], f"{at}[{i}]")
    for name, inner in schema.items() if isinstance(schema, dict) else ():
        field = name.removesuffix("?")
        for key in value if field == "*" else [field]:
            if value.get(key) is not None or name == field != "*":
                check(value.get(key), inner, f"{at}, {key}")
    return value


def read_results(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    if not path.is_file():
        wrong = "no results.json in it" if folder.is_dir() else "no such folder"
        raise DataError(f"{folder}: {wrong}; python eval.py --paper writes results/<dataset>, python -m experiments.example an example")
    return check(parse(path.read_bytes(), str(path)), RESULTS, str(path))


def read_lines(path: Path, schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a JSONL file; [] if there is no such file."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    return [check(parse(line, at), schema, at) for n, line in enumerate(lines, 1) if line.strip() for at in [f"{path}, line {n}"]]


# --- tables as the page shows them ------------------------------------------------------------------------------------------------

def figure(x: float | None, digits: int, sign: str = "") -> str:
    """A number with a true minus sign, or a dash; never "-0.00".

    >>> figure(-0.0001, 2), figure(0.25, 1, "+"), figure(None, 2)
    ('0.00', '+0.2', '—')
    """
    return "—" if x is None else format(x, f"{sign}z.{digits}f").replace("-", "−")


def brackets(cell: dict[str, Any], digits: int, sign: str = "") -> str:
    if cell.get("low") is None or cell.get("high") is None:
        return ""
    return f"[{figure(cell['low'], digits, sign)}, {figure(cell['high'], digits, sign)}]"


def t_of(cell: dict[str, Any] | None) -> dict[str, Any]:
    """Student's interval of a cell as one that `brackets` writes; {} without."""
    return dict(zip(("low", "high"), (cell or {}).get("t") or ()))


def side_of_zero(delta: dict[str, Any]) -> int:
    """1 or -1: a difference is surely above or below 0, by its interval and, where it has one, by Student's over the seeds (`t`); 0: undecided."""
    ends = [delta.get("low"), delta.get("high"), *(delta.get("t") or [])]
    if None in ends:
        return 0
    return int(min(ends) > 0) - int(max(ends) < 0)


def known(row: dict[str, Any], key: str, part: str = "cells") -> dict[str, Any] | None:
    """The cell of a row if something was measured there."""
    cell = (row.get(part) or {}).get(key)
    return cell if cell and cell.get("mean") is not None else None


def seeds_of(cell: dict[str, Any]) -> list[float]:
    return [x for x in cell.get("seeds") or [] if x is not None]


def scale(rows: Sequence[dict[str, Any]], key: str) -> tuple[float, float]:
    """(lowest, highest) of a column: its bars share one axis."""
    cells = [c for c in (known(r, key) for r in rows) if c]
    values = [x for c in cells for x in (c["mean"], c.get("low"), c.get("high"), *seeds_of(c)) if x is not None]
    return (min(values), max(values)) if values else (0.0, 0.0)


def view_cell(row: dict[str, Any], column: dict[str, Any], axis: tuple[float, float], seeds: int) -> dict[str, Any]:
    """One cell: its texts, and its bar in per cent of the column's axis."""
    key, digits, cell = column["key"], column.get("digits", 3), known(row, column["key"])
    shown = {"key": key, "has_paper": column["has_paper"], "paper": figure((row.get("paper") or {}).get(key), digits), "mean": None}
    if not cell:
        return shown
    place = lambda x: None if x is None else round(4 + 92 * (x - axis[0]) / ((axis[1] - axis[0]) or 1), 1)
    of_seeds, delta = seeds_of(cell), known(row, key, "difference")
    student = brackets(t_of(delta), digits, "+")
    return shown | {
        "mean": figure(cell["mean"], digits), "interval": brackets(cell, digits), "at": place(cell["mean"]), "low": place(cell.get("low")),
        "high": place(cell.get("high")), "seed_marks": [place(x) for x in of_seeds] if len(of_seeds) > 1 else [],
        "delta": delta and f"{figure(delta['mean'], digits, '+')} {brackets(delta, digits, '+')}", "student": student,
        "sure": delta is not None and side_of_zero(delta) != 0,
        "few": f"{len(of_seeds)} of {seeds} seeds" if 0 < len(of_seeds) < seeds else ""}


def view_order(order: dict[str, Any], table: dict[str, Any]) -> dict[str, str]:
    """One pair that the paper orders, and whether ours agrees, in plain words."""
    rows, names = {r["name"]: r for r in table["rows"]}, {c["key"]: c["name"] for c in table["columns"]}
    pair = (order["above"], order["below"])
    words = lambda above: f"{pair[0]} {'above' if above else 'not above'} {pair[1]}"
    ours = order.get("ours")
    if any(known(rows.get(name, {}), order["metric"]) is None for name in pair):
        here, mark, word = "one of the two was not measured", "—", "not measured"
    elif ours is None:
        here, mark, word = "an interval of the difference contains 0", "?", "undecided"
    else:
        here, mark, word = words(ours), *(("✓", "agrees") if ours == order["paper"] else ("✗", "differs"))
    return {"metric": names.get(order["metric"], order["metric"]), "paper": words(order["paper"]), "ours": here, "mark": mark, "word": word}


def view_table(table: dict[str, Any], seeds: int) -> dict[str, Any]:
    arrows = {"high": ("↑", "higher"), "low": ("↓", "lower")}
    columns = []
    for column in table["columns"]:
        has_paper = any((row.get("paper") or {}).get(column["key"]) is not None for row in table["rows"])
        arrow, better = arrows.get(column.get("better"), ("", ""))
        columns.append(column | {"has_paper": has_paper, "arrow": arrow, "better": better})
    axes = {c["key"]: scale(table["rows"], c["key"]) for c in columns}
    rows = [{"name": r["name"], "note": r.get("note"), "saw": "—" if r.get("saw") is None else ", ".join(r["saw"]) or "nothing",
             "cells": [view_cell(r, c, axes[c["key"]], seeds) for c in columns]} for r in table["rows"]]
    orders = [view_order(o, table) for o in table.get("orders") or []]
    counts = {word: sum(o["word"] == word for o in orders) for word in ("agrees", "differs", "undecided", "not measured")}
    return {"id": table["id"], "title": table["title"], "columns": columns, "rows": rows, "notes": table.get("notes") or [], "orders": orders,
            "tally": ", ".join(f"{word}: {n}" for word, n in counts.items() if n), "helps": [(c["name"], c["help"]) for c in columns if c.get("help")]}


# --- curves and dialogues as the page's script reads them ----------------------------------------------------------------------------

def in_words(rows: Sequence[dict[str, Any]], tables: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their method called as in the tables, in the tables' order; what no table has stays as it is, at the end."""
    names = {r["key"]: r["name"] for t in tables for r in t["rows"] if r.get("key")}                         # a key's first place counts
    place = {key: i for i, key in enumerate(names)}
    return [row | {"method": names.get(row["method"], row["method"])} for row in sorted(rows, key=lambda row: place.get(row["method"], len(place)))]


def pack_curves(rows: Sequence[dict[str, Any]], points: int) -> dict[str, Any]:
    """One line per (method, seed), columns instead of rows; long ones as means of blocks of consecutive steps, at most `points` of them."""
    lines: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["method"], row["seed"]), []).append(row)
    block = max(1, math.ceil(max(map(len, lines.values()), default=0) / points))
    metrics = [k for k in dict.fromkeys(k for r in rows for k in r) if k not in ("method", "seed", "step") and any(type(r.get(k)) in NUMBER for r in rows)]
    packed = []
    for (method, seed), line in lines.items():
        line = sorted(line, key=lambda r: r["step"])
        blocks = [line[i:i + block] for i in range(0, len(line), block)]
        values = {m: [_mean([r.get(m) for r in b]) for b in blocks] for m in metrics}
        packed.append({"method": method, "seed": seed, "steps": [b[-1]["step"] for b in blocks],
                       "values": {m: v for m, v in values.items() if any(x is not None for x in v)}})
    return {"metrics": metrics, "lines": packed, "block": block}


def _mean(values: Sequence[Any]) -> float | None:
    """Four digits of the mean of what is a number: a page needs no more."""
    numbers = [v for v in values if type(v) in NUMBER]
    return float(f"{sum(numbers) / len(numbers):.4g}") if numbers else None


def choose_dialogues(rows: Sequence[dict[str, Any]], limit: int) -> tuple[list[dict[str, Any]], str]:
    """The dialogues put into the page, and a line that says which.  All methods that met a customer in a seed, or none of them, so that they can be compared;
    customers met by the most methods first, then the first seed, then the file's order; never by how a dialogue went.  At least one customer."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["seed"], str(row["customer"])), []).append(row | {"customer": str(row["customer"])})
    kept: list[dict[str, Any]] = []
    for _, group in sorted(groups.items(), key=lambda g: (-len({d["method"] for d in g[1]}), g[0][0])):       # stable
        if kept and len(kept) + len(group) > limit:
            break
        kept += group
    count = lambda dialogues: len({str(d["customer"]) for d in dialogues})
    if len(kept) == len(rows):
        return kept, f"All {len(rows)} dialogues with {count(kept)} customers."
    return kept, (f"{len(kept)} of {len(rows)} dialogues: those with {count(kept)} of {count(rows)} customers, the first of the file, however they went. "
                  f"The {len(rows) - len(kept)} left out stand in dialogues.jsonl; --dialogues N puts more of them here.")


# --- the page -----------------------------------------------------------------------------------------------------------------------

def facts(results: dict[str, Any]) -> list[tuple[str, str]]:
    made = results.get("made") or {}
    seeds, seconds = made.get("seeds") or [], made.get("wall_seconds")
    return [(name, str(value)) for name, value in (
        ("made", made.get("date")), ("commit", made.get("commit") and ", ".join(c[:12] for c in made["commit"].split())),
        ("training seeds", ", ".join(map(str, seeds)) or None),
        ("test dialogues per row and seed", made.get("episodes")),
        ("wall time", None if seconds is None else f"{seconds / 60:.0f} minutes" if seconds >= 600 else f"{seconds:.0f} seconds")) if value is not None]


def embed(path: Path, caption: str) -> dict[str, str]:
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG"):
        raise DataError(f"{path}: not a PNG; draw it again with eval.py --paper, or remove it")
    return {"src": f"data:image/png;base64,{base64.b64encode(content).decode()}", "caption": caption}


def sha256_of(tag: str, page: str) -> str:
    """A page's one <style> or <script>, as a Content-Security-Policy names it: whatever else got in would not run."""
    inside = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL).group(1)
    return f"sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}"


def render(folder: Path, dialogues: int = 400, points: int = 200) -> str:
    """The page of a results folder.

    dialogues  at most so many are put into the page (whole customers, at least one)
    points     at most so many points per curve
    """
    results = read_results(folder)
    made, source = results.get("made") or {}, PAGE.read_text(encoding="utf-8")
    called = lambda rows: in_words(rows, results.get("tables") or [])
    curves = pack_curves(called(read_lines(folder / "curves.jsonl", CURVE)), points)
    kept, note = choose_dialogues(called(read_lines(folder / "dialogues.jsonl", DIALOGUE)), dialogues)
    tables = [view_table(t, len(made.get("seeds") or [])) for t in results.get("tables") or []]
    names = {c["key"]: c["name"] for t in tables for c in t["columns"]}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False, keep_trailing_newline=True)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    return environment.from_string(source).render(
        results={"note": ""} | results, made={"quick": False, "commands": []} | made, facts=facts(results), tables=tables,
        any_paper=any(c["has_paper"] for t in tables for c in t["columns"]), hashes={tag: sha256_of(tag, source) for tag in ("style", "script")},
        figures=[embed(folder / f"{name}.png", caption) for name, caption in FIGURES.items() if (folder / f"{name}.png").is_file()], dialogue_note=note,
        page_data={"curves": curves, "dialogues": kept, "dimensions": DIMENSIONS, "names": names})


def write(folder: str | Path, dialogues: int = 400, points: int = 200) -> Path:
    """<folder>/report.html, whole or not at all."""
    path = Path(folder) / "report.html"
    page = render(Path(folder), dialogues, points).encode("utf-8", "replace")        # "replace": half a character, from someone's log
    part = path.with_name(path.name + ".part")
    part.write_bytes(page)
    os.replace(part, path)
    return path


# --- what eval.py and the demo write into dialogues.jsonl ----------------------------------------------------------------------------

def watched(choose, moods: dict[int, list[float | None]]):
    """The same policy; notes each customer's mood before every turn on the way (rollout does not keep it)."""
    def choosing(states, episodes):
        for e in episodes:
            moods.setdefault(e.number, []).append(e.seen.outcome.mood)
        return choose(states, episodes)
    return choosing


def dialogue_row(gopo, episode, method: str, seed: int, moods: Sequence[float | None] = ()) -> dict[str, Any]:
    """A played dialogue (gopo.Episode) as a line of dialogues.jsonl.  moods: those that `watched` noted of this customer."""
    from measure import completed, speaks
    from tse import tse
    end, live = episode.seen, gopo.dataset.environment is not None
    done = completed(episode, gopo.dataset, speaks(gopo))
    after = [*moods[1:len(episode.steps)], end.outcome.mood] if moods else [None] * len(episode.steps)
    outcome = "end of the log" if not live else "all tasks done" if end.outcome.success else "left" if end.terminated else "cut"
    earned = [s.R_t for s in episode.steps]
    return {"method": method, "seed": seed, "customer": str(episode.number), "success": bool(end.outcome.success), "outcome": outcome, "N": list(done),
            "tse": tse(done, gamma=gopo.cfg.tse_gamma), "mood": moods[0] if moods else None, "last": end.user,
            "turns": [turn_row(gopo, *row) for row in zip(episode.steps, earned, after)]}


def turn_row(gopo, step, reward: float, mood: float | None) -> dict[str, Any]:
    from lm.constraints import compile_constraints, violations
    context, reply = step.request.context, step.replies[0]
    rules = compile_constraints([gopo.dataset.skills[k] for k in step.skills], context, gopo.dataset.must_not_say)
    two = lambda pair: dict(zip(("intent", "emotion"), pair)) if any(pair) else None
    return {"user": step.state.user, "perceived": two(step.perceived), "truth": two((step.seen.labels.intent, step.seen.labels.emotion)), "context": context, "skills": step.skills,
            "teacher": step.teacher, "must_say": rules.must_say, "must_not_say": rules.must_not_say, "dropped": rules.dropped,
            "reply": fill(reply.text, context), "template": reply.text, "violations": violations(reply.text, rules), "mood": mood,
            "rewards": {"R_E": step.R_E, "S": step.scores[0], "R_A": step.R_A[0], "R_t": reward}}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="One self-contained HTML page of a results folder.", allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="a folder written by eval.py --paper, e.g. results/mgshop")
    parser.add_argument("--dialogues", type=int, default=400, help="at most so many dialogues in the page; whole customers (default 400)")
    parser.add_argument("--points", type=int, default=200, help="at most so many points per curve; longer ones become means of blocks (default 200)")
    args = parser.parse_args(argv)
    if min(args.dialogues, args.points) < 1:
        parser.error(f"--dialogues and --points must be at least 1, got {args.dialogues} and {args.points}")
    try:
        path = write(args.folder, args.dialogues, args.points)
    except (DataError, OSError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
