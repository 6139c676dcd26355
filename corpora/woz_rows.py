"""Rows of MultiWOZ by its standard measures: those that need no training, and those of runs.

All are of *policy level*: the annotators' state is given, so none may stand beside an end-to-end
figure.  BLEU is against our own references, in which every annotated span is a slot.  People's
replies by other readings than the references show what imitation can reach: `known` is the ceiling
of who may say only what B_t knows.  `six slots at every turn` shows why Inform and Success are no
reward.
A run of train.py on multiwoz leaves woz.json, the numbers of each dialogue, so that two runs can be
compared on the same dialogues.

Try it:  python -m corpora.woz_rows                     the rows that need no training
         python -m corpora.woz_rows --runs RUN OTHER    is RUN above OTHER in Combined?
Exercise: say the six slots only in the turns where the customer asks for one (u_t ends in
"request").  How much of Success is left, and does BLEU rise?"""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from corpora.dialogues import turns_of
from corpora.multiwoz import files_in, load, split_of, unzip
from corpora.multiwoz_database import Database
from corpora.nearest import Nearest
from corpora.woz_score import CONSTANT, STUFFED, Gold, gold
from corpora.woz_tally import (
    MEASURES,
    Interval,
    Tally,
    combined_interval,
    differences,
    measures,
    tally,
    verdict,
)
from data import DataError, Dialogue

FILE = "woz.json"                                # in a run directory
PEOPLE = "people"
STUFFING = "six slots at every turn"
PUBLISHED = "HDNO, published"
# Hall of Fame of github.com/Tomiinek/MultiWOZ_Evaluation: policy optimisation, all 1,000 dialogues.
HDNO = {
    "inform": 93.3, "success": 83.4, "bleu": 17.8, "combined": 106.1, "cbe": 0.84, "words": 103,
    "trigrams": 315, "length": 14.96, "slots": None}
HDNO_DIFFERS = (
    f"{PUBLISHED} (hierarchical RL, arXiv 2006.06814), for orientation: it learned from the 8,438 "
    "training\ndialogues, and its BLEU is against the canonical references of MultiWOZ 2.2, which "
    "are not here")
STUFFING_SAYS = (
    f"{STUFFING}: above people in Inform and Success, which are therefore no reward; "
    "compare\nthe slots that a reply names, repeats counted, with those of people")
DASH = "—"
NO_INTERVAL: Interval = {"low": None, "high": None}


class Test(NamedTuple):
    """What replies to test dialogues are measured by."""
    known: Gold
    database: Database


def test_of(data_dir: Path | str) -> Test:
    """The test split of the MultiWOZ under this folder."""
    folder = files_in(data_dir)
    return Test(gold(unzip(folder / "test.json.zip")), Database(folder / "db"))


def key_of(dialogue: Dialogue) -> str:
    """The id that the measures go by: `SNG0073.json` is sng0073."""
    return dialogue.id.lower().removesuffix(".json")


# --- rows ----------------------------------------------------------------------------------------

def simple_rows(test: Test, ids: Sequence[str]) -> dict[str, Tally]:
    """People, and six slots at every turn, on these dialogues."""
    people = {id: test.known.references[id] for id in ids}
    stuffed = {id: [STUFFED] * len(people[id]) for id in ids}
    return {PEOPLE: tally(people, *test), STUFFING: tally(stuffed, *test)}


def untrained_rows(data_dir: Path) -> dict[str, Tally]:
    """Every row that needs no training, on all test dialogues."""
    test = test_of(data_dir)
    every = load(data_dir, slots="every")
    nearest = Nearest(turns_of(every.train))
    known, retrieved, constant = {}, {}, {}
    for dialogue in load(data_dir).test:
        known[key_of(dialogue)] = [turn.reply or "" for turn in dialogue.turns]
    said = {}
    for dialogue in every.test:
        id = key_of(dialogue)
        said[id] = [turn.reply or "" for turn in dialogue.turns]
        retrieved[id] = [nearest.reply(turn) for turn in dialogue.turns]
        constant[id] = [CONSTANT] * len(dialogue.turns)
    rows = simple_rows(test, list(said))
    others = {
        "people, --woz_slots every": said, "people, --woz_slots known": known,
        "one sentence": constant, "retrieval": retrieved}
    for name, replies in others.items():
        rows[name] = tally(replies, *test)
    return rows


# --- what is printed -----------------------------------------------------------------------------

RICH = f"{'CBE':>5s} {'words':>6s} {'trigrams':>8s} {'length':>6s} {'slots':>5s}"


def lines_of(rows: Mapping[str, Tally]) -> list[str]:
    """The rows and a published one, with a head.  People against people are no BLEU."""
    width = max(26, *map(len, rows))
    head = f"{'':{width}s} Inform Success   BLEU Combined {'95 %':16s} {RICH}"
    lines = [head]
    for name, row in rows.items():
        spread = NO_INTERVAL
        found: dict[str, Any] = dict(measures(row))
        if name.startswith(PEOPLE):
            found |= {"bleu": None, "combined": None}
        else:
            spread = combined_interval(row)
        lines.append(line_of(name.ljust(width), found, spread))
    lines.append(line_of(PUBLISHED.ljust(width), HDNO, NO_INTERVAL))
    return lines


def line_of(name: str, found: Mapping[str, Any], spread: Interval) -> str:
    """One row: percentages with one digit, then how rich the language is."""
    cells = []
    for measure, width in zip(MEASURES, (6, 7, 6, 8)):
        cells.append(f"{shown(found[measure]):>{width}s}")
    interval = ""
    if spread["low"] is not None:
        interval = f"[{spread['low']:.1f}, {spread['high']:.1f}]"
    rich = (f"{found['cbe']:5.2f} {found['words']:6d} {found['trigrams']:8d} "
            f"{found['length']:6.1f} {shown(found['slots']):>5s}")
    return f"{name} {' '.join(cells)} {interval:16s} {rich}"


def shown(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f}"


def headed(trained_on: str, dialogues: int) -> str:
    return (f"MultiWOZ by its standard measures: policy level, gold state, trained on "
            f"{trained_on}; {dialogues} test dialogues")


def table(rows: Mapping[str, Tally], trained_on: str) -> str:
    """The table with its heading and its notes."""
    dialogues = len(next(iter(rows.values())))
    lines = [headed(trained_on, dialogues), *lines_of(rows), STUFFING_SAYS, HDNO_DIFFERS]
    return "\n".join(lines)


# --- runs ----------------------------------------------------------------------------------------

class Saved(NamedTuple):
    """woz.json: what a run left, or `eval.py --json` beside its file."""
    name: str                                    # the row of the trained agents
    trained_on: str
    rows: dict[str, Tally]


def read_saved(path: Path) -> Saved:
    """What a run directory, or a file, holds.

    raises  DataError that names the path
    """
    file = path / FILE if path.is_dir() else path
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        saved = Saved(kept["row"], kept["trained_on"], kept["rows"])
    except FileNotFoundError:
        raise DataError(
            f"--runs {path}: {file} not found; train.py --dataset multiwoz writes it, where a "
            "language model speaks and --eval_episodes is not 0") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"--runs {path}: {file} cannot be read ({error!r})") from None
    if saved.name not in saved.rows:
        raise DataError(f"--runs {path}: {file} has no row {saved.name!r}")
    return saved


def compared(paths: Sequence[Path], row: str | None = None) -> str:
    """The trained agents of the first run against those of each other, dialogue by dialogue.

    row     compare this row of all runs, and not that of the trained agents
    raises  DataError for fewer than two runs, or a row that one of them lacks
    """
    if len(paths) < 2:
        raise DataError("--runs compares: name two run directories, or more")
    all_saved = [read_saved(path) for path in paths]
    chosen = []
    for path, saved in zip(paths, all_saved):
        name = row or saved.name
        if name not in saved.rows:
            raise DataError(f"--row {name}: {path} has {', '.join(saved.rows)}")
        chosen.append((f"{name} of {path}", saved.rows[name]))
    lines = [f"{name}: trained on {saved.trained_on}; {len(found)} test dialogues"
             for (name, found), saved in zip(chosen, all_saved)]
    if len({saved.trained_on for saved in all_saved}) > 1:
        lines.append("not trained on the same dialogues: a difference may be theirs")
    first, ours = chosen[0]
    for name, theirs in chosen[1:]:
        lines += ["", f"{first} - {name}", *_difference_lines(ours, theirs)]
    return "\n".join(lines)


def _difference_lines(ours: Tally, theirs: Tally) -> list[str]:
    both = len(ours.keys() & theirs.keys())
    lines = []
    for measure, found in differences(ours, theirs).items():
        lines.append(f"  {measure:9s} {_signed(found):24s} {verdict(found)}")
    lines.append(f"  paired bootstrap over {both} dialogues; another training seed may differ")
    return lines


def _signed(found: Interval) -> str:
    said = f"{found['mean']:+6.1f}"
    if found["low"] is None:
        return said
    return f"{said} [{found['low']:+.1f}, {found['high']:+.1f}]"


# --- the command ---------------------------------------------------------------------------------

def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="MultiWOZ's rows that need no training, or runs compared.", allow_abbrev=False)
    parser.add_argument(
        "--data_dir", type=Path, default=Path(os.environ.get("GOPO_DATA", "data")),
        help="folder that holds multiwoz/")
    parser.add_argument(
        "--runs", type=Path, nargs="+", help="run directories, or files of eval.py --json: the "
        "first is compared with each other")
    parser.add_argument(
        "--row", help="with --runs: this row of each; default that of the trained agents")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.runs:
        print(compared(args.runs, args.row))
        return
    if args.row:
        raise DataError("--row belongs to --runs")
    rows = untrained_rows(args.data_dir)
    split = split_of(files_in(args.data_dir))
    print(table(rows, f"nothing (retrieval: from the {split} split)"))


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(f"error: {error}")
