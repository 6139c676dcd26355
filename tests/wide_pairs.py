"""Two commands at once, in all pairs: what lives is left alone; what is refused changes nothing.

    python -m tests.wide_pairs               all 25 pairs
    python -m tests.wide_pairs train eval    the pair of eval.py behind a living train.py

The commands are train, resume, overwrite (train --overwrite), eval, and label, which writes the
logs that the run is trained on.  The first is stopped in the middle (SIGSTOP); the second begins,
and must either work or be refused in one line; then the first goes on and must end well."""
from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from tests import forks
from tests.forks import Forked

LOGS = "out.jsonl"
TRAIN = ["--dataset", LOGS, *forks.QUICK, "--steps", "6", "--save_every", "1"]
ARGV = {
    "train": ("train", [*TRAIN, "--output_dir", "run"]),
    "resume": ("train", ["--resume", "run", "--steps", "9"]),
    "overwrite": ("train", [*TRAIN, "--overwrite", "--output_dir", "run"]),
    "eval": ("eval", ["--run", "run", "--episodes", "2", "--json", "found.json"]),
    "label": ("label", ["in.jsonl", "--output", LOGS, "--skills", "logs.skills.json"]),
}
# a process that reads alone stands in the way of nobody who reads
TOGETHER = {("eval", "eval"), ("eval", "label")}
TOGETHER |= {(first, "label") for first in ("train", "resume", "overwrite")}


def prepare(folder: Path, first: str) -> None:
    """Logs, labelled but where labelling is first; and a run, where the first command needs one."""
    forks.write_logs(folder / "logs.jsonl")
    # so many that labelling can be met in the middle
    many = 300 if first == "label" else 24
    forks.write_logs(folder / "in.jsonl", many, labelled=False)
    if first == "label":
        shutil.copy(folder / "logs.jsonl", folder / LOGS)
        train(folder)
        (folder / LOGS).unlink()
        return
    name, argv = ARGV["label"]
    assert forks.run(name, argv, folder).status == 0
    if first != "train":
        train(folder)


def train(folder: Path) -> None:
    name, argv = ARGV["train"]
    done = forks.run(name, argv, folder)
    assert done.status == 0, done.err


def begun(first: str, folder: Path) -> bool:
    """Whether the first command is in the middle of its work."""
    if first == "label":
        return (folder / LOGS).exists() and (folder / LOGS).stat().st_size > 0
    if first == "eval":
        return locked(folder)
    steps = sorted((folder / "run" / "checkpoint").glob("step-??????"))
    new = "step-000007" if first == "resume" else "step-000001"
    if first == "overwrite":
        return locked(folder) and len(steps) == 1
    return new in [path.name for path in steps]


def locked(folder: Path) -> bool:
    """Whether a process holds the run's lock, asked without taking it."""
    inode = (folder / "run" / "lock").stat().st_ino
    return f":{inode} " in Path("/proc/locks").read_text()


def pair(first: str, second: str, folder: Path) -> str:
    """What went wrong; "" if nothing did."""
    prepare(folder, first)
    living = Forked(*ARGV[first], folder)
    living.files = keep(living, folder)
    while living.living and not begun(first, folder):
        time.sleep(0.001)
    if not living.living:
        return f"{first} ended before it could be met"
    os.kill(living.id, signal.SIGSTOP)
    before = forks.digests(folder, ("lock",))
    done = forks.run(*ARGV[second], folder)
    after = forks.digests(folder, ("lock",))
    os.kill(living.id, signal.SIGCONT)
    ended = living.wait()
    if not done.clean or not ended.clean or ended.status:
        return f"{second}: {done.status} {done.err[-300:]}; {first}: {ended.status} {ended.err}"
    if (first, second) in TOGETHER:
        return "" if done.status == 0 else f"refused: {done.err}"
    if done.status != 2:
        return f"not refused: {done.out[-300:]}"
    return "" if before == after else "refused, but something was changed"


def keep(living: Forked, folder: Path) -> list[Path]:
    """Its output under names of its own: the second command writes its output beside it."""
    files = []
    for path in living.files:
        while not path.exists():
            time.sleep(0.001)
        files.append(path.rename(folder / f".first{path.name}"))
    return files


def conduct(pairs: list[tuple[str, str]]) -> int:
    """How many pairs went wrong."""
    failures = 0
    for first, second in pairs:
        with tempfile.TemporaryDirectory() as folder:
            said = pair(first, second, Path(folder))
        failures += bool(said)
        print(f"{first}, then {second}: {said or 'as it should be'}", flush=True)
    print(f"{len(pairs)} pairs, {failures} went wrong")
    return failures


if __name__ == "__main__":
    words = sys.argv[1:]
    every = list(product(ARGV, ARGV))
    chosen = [tuple(words)] if words else every
    sys.exit(min(1, conduct(chosen)))
