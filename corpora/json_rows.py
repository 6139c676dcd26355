"""Files of JSON, read strictly: one value a line, or one in a file.

JSON itself keeps the last of two fields with one name, turns 1e999 into infinity, 12.50 into 12.5,
and lets a string hold half of a character ("\\ud83d", an emoji that was cut).  Here a number keeps
its spelling, and the others are refused with file, line and field.  Nothing here knows what a
dialogue is."""
from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data import DataError

SURROGATE = re.compile("[\ud800-\udfff]")        # half of a character
# how JSON spells one; an emoji spelled with two looks the same until it is read
SPELLED = re.compile(r"\\u[dD][89a-fA-F]")
DEEPEST = 100                                    # lists and objects within each other


class Number(str):
    """A number as the file spells it: "12.50" and 12.5 are two texts in a reply."""


class Twice(dict):
    """An object in which a name stood twice; the last value is kept."""
    name = ""


# ---------------------------------------------------------------- lines

def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of the lines that are not blank."""
    if not path.is_file():
        raise DataError(f"--dataset {path}: no such file; give the path of your logs")
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = _decoded(raw, number, f"{path}, line {number}")
            if line.strip():
                yield number, line


def _decoded(raw: bytes, number: int, at: str) -> str:
    # -sig: Windows editors put a mark in front of the first line
    encoding = "utf-8-sig" if number == 1 else "utf-8"
    try:
        line = raw.decode(encoding)
    except UnicodeDecodeError as error:
        wrong = f"byte {error.start + 1} is not UTF-8"
        raise DataError(f"{at}: {wrong}; save the file as UTF-8") from None
    if "\0" in line:
        raise DataError(
            f"{at}: NUL byte; the file is damaged or not UTF-8: save it as UTF-8 again")
    return line


# ---------------------------------------------------------------- values

class _Reader:
    """What json.loads builds with; `suspect`: something that only a look at the whole can name."""

    def __init__(self, text: str):
        brackets = text.count("[") + text.count("{")
        self.suspect = brackets > DEEPEST or SPELLED.search(text) is not None

    def number(self, text: str) -> Number:
        if _is_endless(text):
            self.suspect = True
        return Number(text)

    def object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        self.suspect = True
        twice = Twice(found)
        names = [name for name, _ in pairs]
        twice.name = next(name for name in names if names.count(name) > 1)
        return twice


def _is_endless(number: str) -> bool:
    """Infinity, NaN, or what would become one: 1e999.  A long row of digits is none."""
    if number.lstrip("-").isdigit():
        return False
    return not math.isfinite(float(number))


def parse_row(text: str, at: str) -> Any:
    """The JSON value of a line, its numbers as they are spelled; `at` names the line in messages.

    raises  DataError on what is no JSON, and on what JSON would lose in silence
    """
    reader = _Reader(text)
    try:
        value = json.loads(
            text, object_pairs_hook=reader.object, parse_int=reader.number,
            parse_float=reader.number, parse_constant=reader.number)
        fault = next(_faults(value, ()), None) if reader.suspect else None
    except (ValueError, RecursionError) as error:
        advice = 'write one object a line and quote with "'
        raise DataError(f"{at}: not valid JSON ({error}); {advice}") from None
    if fault:
        raise DataError(f"{at}{fault}")
    return value


Path_ = tuple[str | int, ...]


def _faults(value: Any, path: Path_) -> Iterator[str]:
    """What is wrong in a value, in the order of the file: ", field turns[0].user: ..."."""
    if len(path) > DEEPEST:
        yield f": more than {DEEPEST} lists and objects within each other; write it flat"
        return
    at = _place(path)
    if isinstance(value, Number):
        if _is_endless(value):
            yield f"{at}: {value} is no finite number; write a number, or null if it is not known"
    elif isinstance(value, str):
        if SURROGATE.search(value):
            yield f"{at}: holds half of a character, {value!a:.40}; remove it"
    elif isinstance(value, list):
        for i, inside in enumerate(value):
            yield from _faults(inside, (*path, i))
    elif isinstance(value, dict):
        yield from _faults_of_object(value, path)


def _faults_of_object(value: dict[str, Any], path: Path_) -> Iterator[str]:
    if isinstance(value, Twice):
        yield f"{_place((*path, value.name))}: stands there twice; keep one"
    for name, inside in value.items():
        if SURROGATE.search(name):
            yield f"{_place((*path, name))}: its name holds half of a character; rename it"
        yield from _faults(inside, (*path, name))


def _place(path: Path_) -> str:
    """", field turns[0].user"; in a list of records ", record 1, field id"."""
    text = ""
    if path and isinstance(path[0], int):
        text = f", record {path[0] + 1}"
        path = path[1:]
    if not path:
        return text
    field = ""
    for step in path:
        field += f"[{step}]" if isinstance(step, int) else f".{_shown(step)}"
    return f"{text}, field {field.removeprefix('.')}"


def _shown(name: str) -> str:
    """A name as it is, or with escapes where it could not be printed."""
    return name if name.isprintable() and name else ascii(name)


def dump(value: Any) -> str:
    """JSON on one line, in which a Number is spelled as it was read.

    >>> dump({"price": Number("12.50"), "eta": None})
    '{"price": 12.50, "eta": null}'
    """
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        fields = [f"{dump(name)}: {dump(inside)}" for name, inside in value.items()]
        return f"{{{', '.join(fields)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(dump, value))}]"
    return json.dumps(value, ensure_ascii=False)


# ---------------------------------------------------------------- values that are checked

def kind(value: Any) -> str:
    """What a JSON value is, in words.

    >>> kind({}), kind(None), kind(Number(".5"))
    ('an object', 'missing or null', 'a number')
    """
    names = {
        dict: "an object",
        Twice: "an object",
        list: "a list",
        str: "a string",
        bool: "true or false",
        type(None): "missing or null",
    }
    return names.get(type(value), "a number")


def string(value: Any, at: str) -> str:
    """A string as it is; DataError for anything else, or if it holds what no text may hold."""
    # type(), because a Number is a str as well
    if type(value) is not str:
        raise DataError(f"{at}: {kind(value)} where a string is needed; write it in quotes")
    if "\0" in value:
        raise DataError(f"{at}: holds a NUL; remove it")
    return value


def strings(value: Any, at: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise DataError(
            f'{at}: {kind(value)} where a list of strings is needed; write ["..", ".."]')
    return tuple(string(item, at) for item in value)
