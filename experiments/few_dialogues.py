"""What a model that has learned English makes of few logged dialogues: smollm2 with 30 and 100.

For every number of dialogues and seed two runs of train.py are made: GOPO, whose rows are the
untrained pair, its warm start, GOPO and GOPO with the teacher's skills; and SFT, a single agent
that reads the same dialogues.  Runs of --train_on are measured on --dataset as well, if that is
another store.

Everything is a file of --out, and a call that was stopped is given again: a finished run is not
trained again, one that was stopped goes on, and a cell (row, dialogues, seed) that lies in cells/
is not measured again.  Several calls may share the work by other --seeds or --sizes.

Try it:  python -m experiments.few_dialogues --seeds 0 1 2
         python -m experiments.few_dialogues --train_on tmallbrand-a --dataset tmallbrand-b
                --sizes 30 --seeds 0 1 --rows warm_start gopo"""
from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data import DataError
from experiments.cells import figure, with_brackets
from experiments.intervals import student
from hosted.judge import judge_for
from infra.files import read_json, write_json
from infra.terminal import forgive
from measure import data_of, evaluate_run

SIZES = (30, 100)
# Row of the table -> (the run's algorithm, the row of that run).
ROWS = {
    "untrained": ("gopo", "untrained"),
    "untrained_single": ("sft", "untrained"),
    "warm_start": ("gopo", "warm_start"),
    "gopo": ("gopo", "gopo"),
    "teacher": ("gopo", "teacher"),
    "sft": ("sft", "sft"),
}
SHOWN = ("tse", "success", "r_cs", "bleu", "reply_words", "violations")


class Study(NamedTuple):
    """What is asked for on the command line."""
    out: Path
    model: str
    train_on: str
    dataset: str
    episodes: int
    rest: tuple[str, ...]                        # further flags of train.py


def train(study: Study, algo: str, size: int, seed: int) -> Path:
    """The finished run; trained, or gone on with, if it is not there."""
    run = study.out / f"{algo}-{size}-{seed}"
    if (run / "expert.safetensors").exists():
        return run
    if (run / "config.json").exists():
        flags = ["--resume", str(run)]
    else:
        flags = [
            "--dataset", study.train_on, "--algo", algo, "--model", study.model,
            "--warm_dialogues", str(size), "--seed", str(seed), "--eval_episodes", "0",
            "--output_dir", str(run), *study.rest,
        ]
    call([sys.executable, "train.py", *flags])
    if not (run / "expert.safetensors").exists():
        raise DataError(f"{run}: training was stopped; give the same command again")
    return run


def call(command: Sequence[str]) -> None:
    """Runs a command; DataError if it fails."""
    if subprocess.run(command, check=False).returncode:
        raise DataError(f"failed: {' '.join(command)}")


def cell(study: Study, row: str, size: int, seed: int) -> dict:
    """What one row of one run gave: metric -> mean, low, high over customers."""
    path = study.out / "cells" / study.dataset / f"{row}-{size}-{seed}.json"
    made_with = {"episodes": study.episodes, "train_on": study.train_on, "model": study.model}
    if path.exists():
        kept = read_json(path)
        for name, value in made_with.items():
            if kept[name] != value:
                raise DataError(
                    f"{path} was made with {name} {kept[name]}, not {value}: take another --out")
        return kept["row"]
    algo, name = ROWS[row]
    run = train(study, algo, size, seed)
    other = study.dataset if study.dataset != study.train_on else None
    dataset = data_of(run, other, None)
    found = evaluate_run(run, dataset, study.episodes, 0, judge_for(dataset), only=[name])[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, made_with | {"row": found})
    return found


def table(found: dict[tuple[str, int], dict[int, dict]]) -> str:
    """(row, dialogues) -> seed -> cell, as lines: TSE of each seed with its interval over
    customers, Student's interval over seeds, and the means of the rest."""
    lines = ["| row | dialogues | TSE of each seed | over seeds | " + " | ".join(SHOWN[1:]) + " |"]
    lines.append("|---" * (len(SHOWN) + 3) + "|")
    for (row, size), seeds in found.items():
        of_each = [with_brackets(c["tse"], 3) for c in seeds.values()]
        cells = [row, str(size), "; ".join(of_each), over_seeds(seeds)]
        for name in SHOWN[1:]:
            values = [c[name]["mean"] for c in seeds.values() if c.get(name)]
            known = [value for value in values if value is not None]
            mean = sum(known) / len(known) if known else None
            cells.append(figure(mean, 3))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def over_seeds(seeds: dict[int, dict]) -> str:
    """Mean TSE with Student's interval over the seeds; one seed has none."""
    values = [c["tse"]["mean"] for c in seeds.values()]
    mean = sum(values) / len(values)
    ends = student(values)
    if ends is None:
        return figure(mean, 3)
    return f"{figure(mean, 3)} [{figure(ends[0], 3)}, {figure(ends[1], 3)}]"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], allow_abbrev=False,
        epilog="other flags are train.py's and go on to it")
    parser.add_argument("--out", type=Path, help="default runs/few-<model>-<train_on>")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--train_on", default="mgshop")
    parser.add_argument("--dataset", help="default --train_on")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--episodes", type=int, default=50, help="test customers")
    forgive()
    args, rest = parser.parse_known_args(argv)
    out = args.out or Path("runs") / f"few-{Path(args.model).stem}-{args.train_on}"
    dataset = args.dataset or args.train_on
    study = Study(out, args.model, args.train_on, dataset, args.episodes, tuple(rest))
    found: dict[tuple[str, int], dict[int, dict]] = {}
    try:
        for seed in args.seeds:
            for size in args.sizes:
                for row in args.rows:
                    found.setdefault((row, size), {})[seed] = cell(study, row, size, seed)
                    print(f"\n{table(found)}\n", flush=True)
    except (DataError, OSError) as error:
        print(f"experiments.few_dialogues: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
