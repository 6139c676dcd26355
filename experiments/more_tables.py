"""Tables of MORE's study, and the verdicts on what was to be shown, from the cells of a folder.

    python -m experiments.more_tables results/sale

Nothing is trained.  A difference has two intervals: over seeds and states (or customers), and
Student's over seeds; a verdict needs the first, and says how many seeds it rests on."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data import DataError
from experiments.intervals import paired, student
from experiments.more_rows import MORE_ROW, ROWS
from infra.files import read_json

COMMAND = "python -m experiments.more_tables"
Cell = dict[str, Any]
Cells = Mapping[int, Cell]
Found = Mapping[str, Cells]

OF_STATES = ("NAT", "RSN", "FID", "COV", "RUD", "RGE", "false", "tokens")
OF_CALLS = ("accepted", "reached", "handoff", "false")
SFT_ROW, BARE, EQUAL, MERGED = "SFT", "w/o reasoning", "equal weights", "w/o two stages"


def read_cells(folder: Path) -> dict[str, dict[int, Cell]]:
    """row -> seed -> cell, in the order of ROWS."""
    found: dict[str, dict[int, Cell]] = {}
    for path in sorted(folder.glob("*/*.json")):
        cell = read_json(path)
        found.setdefault(cell["row"], {})[int(path.stem)] = cell
    if not found:
        raise DataError(f"{folder}: no cells there; make some with python -m "
                        "experiments.more_study")
    return {name: found[name] for name in ROWS if name in found}


# --- numbers --------------------------------------------------------------------------------------

def values(cells: Cells, part: str, metric: str, seeds: Sequence[int]) -> np.ndarray:
    """[seeds, states or customers]."""
    return np.array([cells[seed][part][metric] for seed in seeds], float)


def difference(a: Cells, b: Cells, part: str, metric: str) -> dict[str, Any] | None:
    """a - b, paired over the seeds of both: mean, low, high, t (Student's), seeds."""
    seeds = sorted(set(a) & set(b))
    if not seeds:
        return None
    of_a, of_b = values(a, part, metric, seeds), values(b, part, metric, seeds)
    by_seed = (np.nanmean(of_a, 1) - np.nanmean(of_b, 1)).tolist()
    return paired(of_a, of_b) | {"t": student(by_seed), "seeds": len(seeds)}


def mean(cells: Cells, part: str, metric: str) -> float:
    return float(np.nanmean(values(cells, part, metric, sorted(cells))))


def reasoning(cells: Cells, when: str) -> float:
    """RA: before and after the dialogues on 64 fixed dev tasks, or on tasks of a split."""
    found = []
    for cell in cells.values():
        value = cell["RA"][when]
        if isinstance(value, dict):
            value = value["all"]
        found.append(value)
    return float(np.mean(found))


def step_std(series: Sequence[float | None]) -> float | None:
    """How much a series jumps: std of successive differences / sqrt 2, blind to a trend.

    >>> round(step_std([0.1, 0.2, 0.3, 0.4]), 6), round(step_std([0.0, 1.0, 0.0]), 4)
    (0.0, 0.7071)
    """
    known = [value for value in series if value is not None]
    if len(known) < 3:
        return None
    return float(np.std(np.diff(known)) / 2 ** 0.5)


# --- tables ---------------------------------------------------------------------------------------

def table(found: Found, which: str) -> str:
    """Table A or B as text: means over seeds, states and customers."""
    head = ("row", "seeds", *OF_STATES, "RA unseen", "RA seen", *(f"call {x}" for x in OF_CALLS))
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, cells in found.items():
        if which not in ROWS[name].tables or not cells:
            continue
        row = [name, str(len(cells))]
        row += [f"{mean(cells, 'states', metric):.3f}" for metric in OF_STATES]
        row += [f"{reasoning(cells, 'test'):.3f}", f"{reasoning(cells, 'train'):.3f}"]
        row += [f"{mean(cells, 'calls', metric):.3f}" for metric in OF_CALLS]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def stability(found: Found) -> str:
    """Table C: how much RA and RQ jump from look to look, in two stages and merged."""
    lines = ["| row | step-std of RA | step-std of RQ |", "|---|---|---|"]
    for name in (MORE_ROW, MERGED):
        cells = found.get(name, {})
        row = []
        for metric in ("RA", "RQ"):
            stds = [step_std(cell["told"].get(metric, ())) for cell in cells.values()]
            known = [std for std in stds if std is not None]
            said = f"{np.mean(known):.3f}" if known else "-"
            row.append(said)
        if cells:
            lines.append(f"| {name} | {' | '.join(row)} |")
    return "\n".join(lines)


# --- what was to be shown -------------------------------------------------------------------------

class Verdict(dict):
    """A condition: text, the figure, holds (None: the rows are not there yet)."""


def verdicts(found: Found) -> list[Verdict]:
    """The conditions that were fixed before any policy was trained, on the cells at hand."""
    more, sft = found.get(MORE_ROW, {}), found.get(SFT_ROW, {})
    bare, equal = found.get(BARE, {}), found.get(EQUAL, {})
    told = [
        fewer(more, sft),
        higher("RSN, MORE - SFT >= .15", more, sft, "states", "RSN", 0.15, apart=True),
        higher("NAT, MORE - SFT >= 0", more, sft, "states", "NAT", 0.0),
        higher("COV, MORE - SFT >= 0", more, sft, "states", "COV", 0.0),
        higher("conversion, MORE - SFT >= .10", more, sft, "calls", "accepted", 0.1, apart=True),
        higher("RSN, MORE - w/o reasoning > 0", more, bare, "states", "RSN", 0.0, apart=True),
        better_reasoning(more, bare),
        higher("RSN, MORE - equal weights >= 0", more, equal, "states", "RSN", 0.0),
        held(more),
        moves(more),
        as_short(more, sft),
    ]
    return told


def higher(
    text: str, a: Cells, b: Cells, part: str, metric: str, least: float, apart: bool = False
) -> Verdict:
    """apart: the interval must also lie above 0."""
    both = difference(a, b, part, metric)
    if both is None:
        return Verdict(text=text, figure="no cells", holds=None)
    figure = f"{both['mean']:+.3f} [{both['low']:+.3f}, {both['high']:+.3f}]"
    if both["t"]:
        figure += f" t [{both['t'][0]:+.3f}, {both['t'][1]:+.3f}]"
    holds = both["mean"] >= least and (both["low"] > 0 or not apart)
    return Verdict(text=text, figure=f"{figure}, {both['seeds']} seeds", holds=holds)


def fewer(more: Cells, sft: Cells) -> Verdict:
    text = "false numbers of a reply, MORE / SFT <= .6"
    if not more or not sft:
        return Verdict(text=text, figure="no cells", holds=None)
    one, other = mean(more, "states", "false"), mean(sft, "states", "false")
    return Verdict(text=text, figure=f"{one:.3f} / {other:.3f}", holds=one <= 0.6 * other)


def better_reasoning(more: Cells, bare: Cells) -> Verdict:
    text = "RA, MORE - w/o reasoning > 0"
    if not more or not bare:
        return Verdict(text=text, figure="no cells", holds=None)
    gain = reasoning(more, "test") - reasoning(bare, "test")
    return Verdict(text=text, figure=f"{gain:+.3f}", holds=gain > 0)


def held(more: Cells) -> Verdict:
    text = "the anchor: RA after the dialogues >= .9 of RA before"
    if not more:
        return Verdict(text=text, figure="no cells", holds=None)
    before, after = reasoning(more, "before"), reasoning(more, "after")
    figure = f"{after:.3f} / {before:.3f}"
    return Verdict(text=text, figure=figure, holds=after >= 0.9 * before)


def moves(more: Cells) -> Verdict:
    text = "the anchor: kl > 0 from the second step on"
    if not more:
        return Verdict(text=text, figure="no cells", holds=None)
    least = min(min(cell["told"]["kl"][1:]) for cell in more.values())
    return Verdict(text=text, figure=f"least {least:.2g}", holds=least > 0)


def as_short(more: Cells, sft: Cells) -> Verdict:
    text = "tokens of a reply, MORE / SFT <= 1.1"
    if not more or not sft:
        return Verdict(text=text, figure="no cells", holds=None)
    ratio = mean(more, "states", "tokens") / mean(sft, "states", "tokens")
    return Verdict(text=text, figure=f"{ratio:.2f}", holds=ratio <= 1.1)


SAID = {True: "holds", False: "FAILS", None: "open"}


def say(found: Found) -> None:
    """All tables of the cells at hand, and the verdicts."""
    for which in "AB":
        print(f"\nTable {which}, simulated world sale, greedy\n{table(found, which)}")
    print(f"\nTable C\n{stability(found)}\n")
    for verdict in verdicts(found):
        print(f"{SAID[verdict['holds']]:6s} {verdict['text']}: {verdict['figure']}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Tables and verdicts of MORE's study.", allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="of the cells, --out of experiments.more_study")
    args = parser.parse_args(argv)
    try:
        say(read_cells(args.folder))
    except (DataError, OSError) as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
