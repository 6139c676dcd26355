"""`kill -9` at random moments: what is resumed ends as what was never broken.

    python -m tests.wide_kills                   20 kills each of training and of labelling
    python -m tests.wide_kills train 100 7       a hundred kills of training, seed 7

A short run with a small language model, and labelling by rules.  Each is killed at a random moment,
its command is given again (`--resume` once there is a run), and what it leaves is compared with
what an unbroken one left, byte by byte."""
from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests import forks
from tests.forks import Done, Forked

# times, the version of the code, pictures and where it lies
LEAVE = ("timing.jsonl", "config.json", "curves.png", "lock")
TRAIN = ["--dataset", "logs.jsonl", *forks.LM, "--output_dir", "run"]
LABEL = ["big.jsonl", "--output", "out.jsonl", "--skills", "logs.skills.json"]


def train(folder: Path) -> Forked:
    """The training, begun or gone on with."""
    argv = TRAIN
    if (folder / "run" / "config.json").exists():
        argv = ["--resume", "run"]
    return Forked("train", argv, folder)


def label(folder: Path) -> Forked:
    return Forked("label", LABEL, folder)


def prepare(folder: Path) -> None:
    forks.write_logs(folder / "logs.jsonl")
    forks.write_logs(folder / "big.jsonl", 1500, labelled=False)


def left(folder: Path) -> dict[str, str]:
    """What a command has left, for comparing."""
    return forks.digests(folder, LEAVE)


class Broken(NamedTuple):
    killed: bool                                 # in time: it had not ended by itself
    lived: float                                 # seconds of the first try
    done: Done                                   # how the second try ended


def broken(start: Callable[[Path], Forked], folder: Path, moment: float) -> Broken:
    """A command, killed at this moment and given again."""
    first = start(folder)
    begun = time.monotonic()
    while first.living and time.monotonic() < begun + moment:
        time.sleep(0.002)
    killed = first.living
    if killed:
        first.kill()
    lived = time.monotonic() - begun
    first.wait()
    return Broken(killed, lived, start(folder).wait(300))


def conduct(start: Callable[[Path], Forked], kills: int, seed: int) -> int:
    """How many of so many killed commands ended otherwise than the unbroken one.

    A command that ends before its moment does not count as killed, and says how long the next
    has to live at most: on a busy machine the unbroken one may have taken longer than all others.
    """
    rng = random.Random(seed)
    failures = tries = killed = 0
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        whole.mkdir()
        prepare(whole)
        begun = time.monotonic()
        done = start(whole).wait(300)
        took = time.monotonic() - begun
        assert done.status == 0, done.err
        wanted = left(whole)
        while killed < kills:
            folder = Path(name) / f"broken-{tries}"
            folder.mkdir()
            prepare(folder)
            moment = rng.uniform(0, took)
            tried = broken(start, folder, moment)
            tries += 1
            killed += tried.killed
            if not tried.killed:
                took = tried.lived
            found, done = left(folder), tried.done
            differ = sorted(key for key in wanted | found if wanted.get(key) != found.get(key))
            if not done.clean or done.status or differ:
                failures += 1
                print(f"{start.__name__} killed after {moment:.2f} s: status {done.status}, "
                      f"other files: {', '.join(differ)}\n{done.err[-500:]}", flush=True)
            shutil.rmtree(folder)
    print(f"{start.__name__}: {killed} killed in {tries} tries, {failures} ended otherwise",
          flush=True)
    return failures


if __name__ == "__main__":
    words = sys.argv[1:]
    numbers = [int(word) for word in words if word.isdigit()]
    count, seed = (numbers + [20, 0][len(numbers):])[:2]
    asked = {"train", "label"} & set(words) or {"train", "label"}
    chosen = [start for start in (train, label) if start.__name__ in asked]
    failed = sum(conduct(start, count, seed) for start in chosen)
    sys.exit(min(1, failed))
