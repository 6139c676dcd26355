"""A cell of a table in words: its number, its brackets, and on which side of zero it lies.

A cell holds `mean`, `low`, `high`, the value of each of the `seeds`, and for a difference also `t`,
Student's interval over the seeds.  Tables, page, figures and studies write cells with these."""
from __future__ import annotations

from typing import Any


def figure(x: float | None, digits: int, sign: str = "") -> str:
    """A number with a true minus sign, or a dash; never "-0.00".

    >>> figure(-0.0001, 2), figure(0.25, 1, "+"), figure(None, 2)
    ('0.00', '+0.2', '—')
    """
    if x is None:
        return "—"
    return format(x, f"{sign}z.{digits}f").replace("-", "−")


def brackets(cell: dict[str, Any], digits: int, sign: str = "") -> str:
    """The interval of a cell, or nothing.

    >>> brackets({"low": 0.5, "high": 0.75}, 2)
    '[0.50, 0.75]'
    """
    if cell.get("low") is None or cell.get("high") is None:
        return ""
    return f"[{figure(cell['low'], digits, sign)}, {figure(cell['high'], digits, sign)}]"


def with_brackets(cell: dict[str, Any], digits: int, sign: str = "") -> str:
    """Mean and interval, as in a table's first columns."""
    return f"{figure(cell['mean'], digits, sign)} {brackets(cell, digits, sign)}"


def t_of(cell: dict[str, Any] | None) -> dict[str, Any]:
    """Student's interval of a cell as one that `brackets` writes; {} if there is none."""
    ends = (cell or {}).get("t") or ()
    return dict(zip(("low", "high"), ends))


def side_of_zero(delta: dict[str, Any]) -> int:
    """1 or -1 if a difference is surely above or below 0; 0 if that is undecided.

    Its interval decides and, where it has one, also Student's over the seeds (`t`)."""
    ends = [delta.get("low"), delta.get("high"), *(delta.get("t") or [])]
    if None in ends:
        return 0
    return int(min(ends) > 0) - int(max(ends) < 0)


def known(row: dict[str, Any], key: str, part: str = "cells") -> dict[str, Any] | None:
    """The cell of a row if something was measured there; part: "cells" or "difference"."""
    cell = (row.get(part) or {}).get(key)
    return cell if cell and cell.get("mean") is not None else None


def seeds_of(cell: dict[str, Any]) -> list[float]:
    """The values of the seeds that have one."""
    return [x for x in cell.get("seeds") or [] if x is not None]
