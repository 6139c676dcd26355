"""MultiWOZ 2.1 (ConvLab-2 form) as replayed logs: a city's tourist office, real people, 7 domains.

multiwoz_turns.py says how u_t, T, B_t and the reply are read, and multiwoz_database.py searches
the database.  Here: the files, and the dataset (Sec. 4, GAP-9).  At most 16 intents occur.
e_t is None: the files label no customer's emotion.  EmoWOZ has those, but the file used here holds
only its labels of the *system*.
Tasks of Eq. 11 (ours, GAP-9): 1 matching = request, select, recommend, nooffer; 2 information =
inform, nobook; 3 guidance = offerbook, offerbooked, book, reqmore.  Greetings serve none.
`conduct=True` (--conduct) puts EmoWOZ 2.0's label of the system's tone in front of T.  EmoWOZ is
CC BY-NC 4.0: not for commerce.

Try it:    GOPO_DATA=data python -m corpora.multiwoz
           prints one dialogue and the skill frequencies; --download fetches all files"""
from __future__ import annotations

import argparse
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

from corpora.dialogues import count_skills, examples, horizon, show_dialogue, turns_of
from corpora.download import fetch
from corpora.multiwoz_database import Database
from corpora.multiwoz_turns import SKILLS, TONES, WORDINGS, dialogue
from data import DataError, Dataset, Dialogue, Skill

CONVLAB2 = (
    "https://raw.githubusercontent.com/thu-coai/ConvLab-2/"
    "b014b81fcb1ff74f54681917eee39c14c87af3e5/data/multiwoz/"
)
CONVLAB3 = (
    "https://raw.githubusercontent.com/ConvLab/ConvLab-3/"
    "2a168fc9843e54a468ddec71e001b7559c36aff4/convlab/policy/vtrace_DPT/supervised_emo_conduct/"
)
# file -> sha256
FILES = {
    "val.json.zip":
        "25ddfd4d0b01304012b54e2d98caa038c91d95295c4b519cc721b9b616f506dc",
    "test.json.zip":
        "438deb6ff5402cef5ff29cc0d5a10db818c1e9142727c1d631e71b563c66a5b4",
    "trainListFile":
        "a3e53af2da24d728f69849bcf4aacd25e72dc12bfa4f38fd40b3a3d40890c594",
    "db/attraction_db.json":
        "ac2486936c373917fd9ed1aa46d0e63f7dc6fae4667c80e62b643ac6051e9848",
    "db/hospital_db.json":
        "6b1c867e54fa1ca92b58036945819168ec4ac981da28a09d9dec0ed9d6185937",
    "db/hotel_db.json":
        "972bbd65beada7c64f0b87322c694fd9173b46cf8e61ca3bbe951717ac1d1662",
    "db/police_db.json":
        "5282b151240e9e31682172c806722ee117da9e7a9fe701b00b77b98ae118bf6f",
    "db/restaurant_db.json":
        "7864b4e36027af0907d6afe9ed962fecd6c6966cd626b8ae9341708a04ea201a",
    "db/taxi_db.json":
        "4305d9410d8674313ea1e227c3f9bfa5f15ff0bb2a4976d9ab8d656aa558ee23",
    "db/train_db.json":
        "4818e735bae20690f6d0d06bb2ae8eec1981c0b680258a970dc01c9073f3fec9",
}
# The ids of the training dialogues; it only checks the training split.
TRAIN_LIST = "trainListFile"
# No checksum of it was published: see `_train`.
TRAIN = "train.json.zip"
CONDUCT = "emowoz_2.0.json"
CONDUCT_SHA256 = "4b41eed144573fcf25d283e7d9f56c5ad79d5ff44e5a2c686678c8765b953a97"
DOWNLOAD = "python -m corpora.multiwoz --download"


# ---------------------------------------------------------------- the dataset

def load(data_dir: Path, conduct: bool = False, slots: str = "known") -> Dataset:
    """MultiWOZ 2.1 from `data_dir`/multiwoz; fetches it if it is not there.

    slots  of WORDINGS: which annotated values become slots of a reply (multiwoz_turns.py)

    Without train.json.zip, train and dev are the validation dialogues (the last 10 % are dev), and
    `note` says so.  That file is tried when the others are fetched and never again by itself: a
    machine without network does not wait for it.
    """
    if slots not in WORDINGS:
        raise DataError(f"--woz_slots must be one of {', '.join(WORDINGS)}, got {slots!r}")
    folder = files_in(data_dir)
    database = Database(folder / "db")
    tones = _tones(folder) if conduct else None

    def read(raws: dict[str, Any]) -> list[Dialogue]:
        every = slots == "every"
        return [dialogue(id, raw, database, tones, every) for id, raw in raws.items()]

    validation = read(unzip(folder / "val.json.zip"))
    test = read(unzip(folder / "test.json.zip"))
    note = "MultiWOZ 2.1 has no labels of the customer's emotion: e_t is empty."
    if (folder / TRAIN).exists():
        train = read(_train(folder))
        dev = validation
    else:
        cut = len(validation) * 9 // 10
        train = validation[:cut]
        dev = validation[cut:]
        note += (
            f" {TRAIN} is not in {folder}: trained on {cut} validation dialogues, not on the 8,434 "
            f"of the training split; with network, GOPO_DATA=<folder> {DOWNLOAD} fetches it.")
    if conduct:
        note += " Conduct labels: EmoWOZ 2.0, CC BY-NC 4.0, not for commercial use."
    return Dataset(
        "multiwoz",
        pool(train, conduct),
        intents=_intents(train),
        emotions=(),
        train=train,
        dev=dev,
        test=test,
        horizon=horizon(train),
        note=note,
    )


def pool(train: list[Dialogue], conduct: bool) -> dict[str, Skill]:
    """P_skill: the acts, after the tones if there are any."""
    skills = []
    if conduct:
        skills += [Skill(tone, f"the tone of the reply is {tone}") for tone in TONES if tone]
    for id, task, needs, description in SKILLS:
        skills.append(Skill(id, description, needs=needs, task=task))
    found = {}
    for skill in skills:
        shown = examples(skill.id, train)
        found[skill.id] = Skill(
            skill.id, skill.description, shown, needs=skill.needs, task=skill.task)
    return found


def _intents(train: list[Dialogue]) -> tuple[str, ...]:
    found = {turn.intent for turn in turns_of(train) if turn.intent}
    return tuple(sorted(found))


# ---------------------------------------------------------------- files

def files_in(data_dir: Path | str) -> Path:
    """The folder of the files, which are fetched if they are not there."""
    folder = Path(data_dir) / "multiwoz"
    if not all((folder / name).exists() for name in FILES if name != TRAIN_LIST):
        download(folder)
    return folder


def split_of(folder: Path) -> str:
    """The split that is trained on, as far as the files are there: "training" or "validation"."""
    return "training" if (folder / TRAIN).exists() else "validation"


def download(folder: Path) -> None:
    """Fetches every file; the training split as well if it can be had."""
    for name, sha256 in FILES.items():
        fetch(CONVLAB2 + name, sha256, folder / name, f"MultiWOZ 2.1 {name}")
    path = folder / TRAIN
    there = path.exists()
    try:
        fetch(CONVLAB2 + TRAIN, None, path, "MultiWOZ 2.1 training split")
        _train(folder)
    except DataError as error:
        # what somebody put there by hand is not ours to remove
        if not there:
            path.unlink(missing_ok=True)
        print(f"going on without the training split: {error}", file=sys.stderr)


def _tones(folder: Path) -> dict[str, int]:
    path = fetch(CONVLAB3 + CONDUCT, CONDUCT_SHA256, folder / CONDUCT, "EmoWOZ 2.0")
    return json.loads(path.read_text())


def _train(folder: Path) -> dict[str, Any]:
    """The training dialogues.

    Their file has no published checksum.  So it counts only if it parses and its ids are exactly
    those of trainListFile, whose checksum is known.
    """
    raw = unzip(folder / TRAIN)
    path = folder / TRAIN_LIST
    fetch(CONVLAB2 + TRAIN_LIST, FILES[TRAIN_LIST], path, "the list of training dialogues")
    listed = {id.removesuffix(".json") for id in path.read_text().split()}
    found = {id.removesuffix(".json") for id in raw}
    if found != listed:
        raise DataError(
            f"{folder / TRAIN}: holds {len(raw)} dialogues, which are not the {len(listed)} of "
            f"{TRAIN_LIST}; remove the file")
    return raw


def unzip(path: Path) -> dict[str, Any]:
    """The JSON value in a zip that holds one file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(path.name.removesuffix(".zip")))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        reason = f"cannot be read ({error}); remove it and run {DOWNLOAD}"
        raise DataError(f"{path}: {reason}") from None


# ---------------------------------------------------------------- the command

def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="One MultiWOZ dialogue as GOPO sees it, and how often each skill is used.",
        allow_abbrev=False)
    parser.add_argument(
        "--data_dir", type=Path, default=Path(os.environ.get("GOPO_DATA", "data")),
        help="folder that holds multiwoz/")
    parser.add_argument(
        "--number", type=int, default=0, help="which training dialogue to print")
    parser.add_argument(
        "--conduct", action="store_true",
        help="put EmoWOZ's tone in front of T (CC BY-NC 4.0: non-commercial)")
    parser.add_argument(
        "--woz_slots", default="known", choices=WORDINGS,
        help="which annotated values become slots of a reply")
    parser.add_argument(
        "--download", action="store_true",
        help="fetch the files first, the training split as well")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.download:
        download(args.data_dir / "multiwoz")
    data = load(args.data_dir, args.conduct, args.woz_slots)
    print(data.note)
    print(f"{len(data.train)} train, {len(data.dev)} dev, {len(data.test)} test dialogues; "
          f"horizon {data.horizon}\n")
    show_dialogue(data.train[args.number])
    print("skill          used  task")
    for skill, n in count_skills(data.train):
        print(f"{skill:13} {n:5}  {data.skills[skill].task or '-'}")


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(f"error: {error}")
