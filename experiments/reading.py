"""The files of a results folder: what each of them holds, and how it is read and checked.

    results.json      the tables, with intervals and the paper's figures
    curves.jsonl      one line a method, seed and training step
    dialogues.jsonl   one line a dialogue that is kept to be read
    evals/*.json      one file a row and seed: the numbers of every customer
    trials/*.json     one file a row: the same, each customer served several times (trials.py)

A file that does not have the shape written here is refused, with the place that is wrong."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data import DataError

# --- the shapes -------------------------------------------------------------------------------

# A schema is a kind, a list of one schema, or an object whose fields have schemas.
# In an object, a field with "?" may be missing or null, and "*" stands for every field.
NUMBER = (int, float)
COUNT = (int,)
OR_NULL = (int, float, type(None))
NAME = (str, int)
KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    NUMBER: "a number",
    COUNT: "a whole number",
    OR_NULL: "a number or null",
    NAME: "a string or a whole number",
}

INTERVAL = {"mean?": NUMBER, "low?": NUMBER, "high?": NUMBER, "seeds?": [OR_NULL], "t?": [NUMBER]}
COLUMN = {"key": str, "name": str, "digits?": COUNT, "better?": str, "help?": str}
ROW = {
    "name": str,
    "key?": str,
    "saw?": [str],
    "note?": str,
    "cells?": {"*": INTERVAL},
    "difference?": {"*": INTERVAL},
    "paper?": {"*": NUMBER},
}
ORDER = {"metric": str, "above": str, "below": str, "paper": bool, "ours?": bool}
TABLE = {
    "id": str,
    "title": str,
    "columns": [COLUMN],
    "rows": [ROW],
    "orders?": [ORDER],
    "notes?": [str],
}
MADE = {
    "commit?": str,
    "date?": str,
    "commands?": [str],
    "wall_seconds?": NUMBER,
    "seeds?": [COUNT],
    "episodes?": COUNT,
    "quick?": bool,
    "train_on?": str,
    "model?": str,
    "small_model?": str,
}
FINDING = {"question": str, "answer": str, "verdict?": str}
RESULTS = {
    "dataset": str,
    "note?": str,
    "paper?": str,                               # what is reproduced
    "reference?": str,                           # the row that the others are compared with
    "findings?": [FINDING],
    "tables?": [TABLE],
    "reliability?": TABLE,
    "trials?": TABLE,
    "made?": MADE,
}

CURVE = {"method": str, "seed": COUNT, "step": NUMBER}
REWARDS = {"R_E?": NUMBER, "S?": [OR_NULL], "R_A?": NUMBER, "R_t?": NUMBER}
PROCESS = {"S": {"*": NUMBER}, "credit": NUMBER}
TURN = {
    "user": str,
    "perceived?": {"*": str},
    "truth?": {"*": str},
    "context?": {"*": str},
    "skills?": [str],
    "teacher?": [str],
    "must_say?": [str],
    "must_not_say?": [str],
    "dropped?": [str],
    "reply?": str,
    "template?": str,
    "violations?": [str],
    "mood?": NUMBER,
    "rewards?": REWARDS,
    # of shops whose agents take a decision: chat or voucher; S_j and R_P of Eq. 6 (interactcs.md)
    "decision?": str,
    "process?": PROCESS,
}
# lambda of the last training step, 0 where none was charged; the customer as the shop knows it
CHARGED = {"price?": NUMBER, "customer_is?": {"*": NAME}}
DIALOGUE = {
    "method": str,
    "seed": COUNT,
    "customer": NAME,
    "success": bool,
    "outcome": str,
    "N?": [OR_NULL],
    "tse?": NUMBER,
    "mood?": NUMBER,
    "satisfaction?": NUMBER,
    "last?": str,
    "turns": [TURN],
    **CHARGED,
}
EVAL = {
    "row": str,
    "seed": COUNT,
    "customers": [{"*": OR_NULL}],
    "bleu?": [[COUNT]],
    "seconds?": NUMBER,
}

# Rows that had another name when older archives were made.
RENAMED = {"told": "true_perception"}


def present_name(row: str) -> str:
    """What a row is called today.

    >>> present_name("told"), present_name("gopo")
    ('true_perception', 'gopo')
    """
    return RENAMED.get(row, row)


# --- reading ----------------------------------------------------------------------------------

def parse(text: bytes, at: str) -> Any:
    """JSON, without the NaN and Infinity that Python would accept."""
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        # UnicodeDecodeError is a ValueError
        raise DataError(
            f"{at}: not valid JSON ({error}); correct it, "
            "or write the folder again with eval.py --paper"
        ) from None


def check(value: Any, schema: Any, at: str) -> Any:
    """`value`, if it has the shape of `schema`; raises DataError with the place that is wrong."""
    check_kind(value, schema, at)
    if isinstance(schema, list):
        for i, item in enumerate(value):
            check(item, schema[0], f"{at}[{i}]")
    if isinstance(schema, dict):
        check_fields(value, schema, at)
    return value


def check_kind(value: Any, schema: Any, at: str) -> None:
    kind = type(schema) if isinstance(schema, dict | list) else schema
    # Python counts True as an int; here it is no number
    bool_for_number = isinstance(value, bool) and kind is not bool
    if isinstance(value, kind) and not bool_for_number:
        return
    found = "missing or null" if value is None else repr(value)[:60]
    raise DataError(f"{at}: {found} where {KINDS[kind]} is needed")


def check_fields(value: dict[str, Any], schema: dict[str, Any], at: str) -> None:
    for name, inner in schema.items():
        field = name.removesuffix("?")
        required = name == field != "*"
        keys = value if field == "*" else [field]
        for key in keys:
            if required or value.get(key) is not None:
                check(value.get(key), inner, f"{at}, {key}")


def read_results(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    if not path.is_file():
        wrong = "no results.json in it" if folder.is_dir() else "no such folder"
        raise DataError(
            f"{folder}: {wrong}; python eval.py --paper writes results/<dataset>, "
            "python -m experiments.example an example"
        )
    return check(parse(path.read_bytes(), str(path)), RESULTS, str(path))


def read_lines(path: Path, schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of curves.jsonl or dialogues.jsonl; [] if there is no such file."""
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        at = f"{path}, line {number}"
        row = check(parse(line, at), schema, at)
        row["method"] = present_name(row["method"])
        rows.append(row)
    return rows
