"""Dialogues of the budget study that are kept to be read, and to be marked by a hosted judge.

Of each row and seed the first `SHOWN` test customers: `<folder>/dialogues/<row>-<seed>.jsonl`, in
the form of experiments/played.py.  Of a learned row these are the ones with drawn skills, for it is
them that the budget binds.  A turn has the decision and the marks of the process judge; a dialogue
has the price that the row last paid in training, and who the customer was, which no agent is told.
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data import Episode
from experiments.played import dialogue_row
from experiments.reading import DIALOGUE, read_lines
from gopo import Gopo
from infra.files import write_atomic
from rewards import PRINCIPLES, process_credit
from shop.fds_person import Hidden
from shop.genrm import RuleGenRM

SHOWN = 12                                       # customers of each row and seed
WORTH = 2                                        # digits of what a voucher is worth
Played = dict[str, Any]


def path_of(folder: Path, row: str, seed: int) -> Path:
    return folder / "dialogues" / f"{row}-{seed}.jsonl"


def read(folder: Path, row: str, seed: int) -> list[Played]:
    """The dialogues of a row and seed; [] where none were kept."""
    return read_lines(path_of(folder, row, seed), DIALOGUE)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_atomic(path, "".join(lines))


def rows_of(
    gopo: Gopo, played: Sequence[Episode], name: str, seed: int, price: float | None,
    perceives: bool = True, by_rule: bool = True,
) -> list[Played]:
    """Dialogues of the store as lines of dialogues.jsonl.

    price      lambda of the last step of training; None: nothing was learned under a price
    perceives  perception was trained
    by_rule    the process judge by rule reads them; it knows the phrase book's sentences alone
    """
    genrm = RuleGenRM(gopo.dataset.skills) if by_rule else None
    found = []
    for episode in played:
        row = row_of(gopo, episode, name, seed, genrm)
        if price is not None:
            row["price"] = price
        if not perceives:
            for turn in row["turns"]:
                del turn["perceived"]
        found.append(row)
    return found


def row_of(
    gopo: Gopo, episode: Episode, name: str, seed: int, genrm: RuleGenRM | None
) -> Played:
    moods = [step.seen.outcome.mood for step in episode.steps]
    row = dialogue_row(gopo, episode, name, seed, moods)
    for turn in row["turns"]:
        # GOPO's rewards say nothing of this study, and its phrases stand in the book
        for key in ("rewards", "must_say", "must_not_say", "template"):
            del turn[key]
    hidden = getattr(episode.env, "hidden", None)
    if hidden:
        row["customer_is"] = described(hidden)
    if genrm:
        marks = genrm.score([step.judged for step in episode.steps])
        for turn, of_turn in zip(row["turns"], marks):
            turn["process"] = {
                "S": dict(zip(PRINCIPLES, of_turn)), "credit": process_credit(of_turn)}
    return row


def described(hidden: Hidden) -> dict[str, str | int]:
    """What no agent is told of a customer, in words."""
    return {
        "level of cooperation, 1 to 5": hidden.level,
        "demand": hidden.demand,
        "a voucher is worth, in stars": f"{hidden.value:.{WORTH}f}",
        "evidence": hidden.evidence,
    }
