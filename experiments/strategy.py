"""What strategy alone is worth, without a language model: simple policies, imitation and GOPO.

On the simulated shop the phrase book writes every reply; on logs nothing is said, because the next
state ignores it.  The rows are in strategy_rows.py.  Imitation is cross-entropy on the teacher's
sequences: offline on the logged states (the Expert's warm start, and nothing more), or on-policy on
the states that the Expert itself reaches.  "Without stop" lets the supervised Expert never stop
before the fifth skill: ESNDCG as printed does not charge for that (GAP-2).

Every row and seed is measured on three sets of customers.  What is chosen is chosen by dev; test
customers (seed 0) are those of all our tables; *new* customers belong to an evaluation seed that
was fixed before any was met.
Each row and seed is a file of --out: what was stopped goes on, and several commands may fill one
folder, with other --seeds or --rows.

Try it:  python -m experiments.strategy --dataset mgshop --seeds 0
         python -m experiments.strategy --dataset multiwoz --seeds 0 1 2 --out runs/multiwoz
         python -m experiments.strategy --label_noise 0.6 --rows GOPO imitation
         python -m experiments.strategy --dataset tmallbrand-a --test_on tmallbrand-b"""
from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import data
from data import DataError, Dataset
from experiments.intervals import paired, student
from experiments.label_noise import CALMING, Fault, flawed
from experiments.strategy_rows import CHOOSERS, GOPO, Row, Trainer, rows_for
from expert_learner import labelled_states
from gopo import Gopo
from hosted.judge import judge_for
from infra.domain import in_the_order_of
from infra.files import read_json, write_json
from measure import measure

COMMAND = "python -m experiments.strategy"
SHOWN = (
    *("tse", "success", "turns", "esndcg", "f1", "exact", "length", "vouchers"),
    *("I_1", "I_2", "I_3", "N_1", "N_2", "N_3"),
)
# of these the value of every customer is kept, for intervals over customers
KEPT = ("tse", "success", "esndcg", "f1")
NEW_SEED = 20261130                              # of the customers that nobody met before
Cell = dict[str, Any]                            # what a row and seed gave


# --- the study --------------------------------------------------------------------------------

def study(
    dataset: Dataset, fault: Fault, seeds: Sequence[int], steps: int, episodes: int,
    chosen: Mapping[str, Row], folder: Path, tested: Dataset | None = None,
) -> dict[str, dict[int, Cell]]:
    """row -> seed -> what it gave; what lies in the folder is not made again.

    tested  whose held-out dialogues measure; default those of `dataset`
    """
    tested = tested or dataset
    trainer = Trainer(flawed(dataset, fault), steps)
    found: dict[str, dict[int, Cell]] = {name: {} for name in chosen}
    for seed in seeds:
        for name, row in chosen.items():
            seed_of_row = 0 if row.one_seed else seed
            path = folder / slug(fault.name) / slug(name) / f"{seed_of_row}.json"
            made_with = {"row": name, "fault": fault.name, "steps": steps, "episodes": episodes}
            if not path.exists():
                cell = cell_of(trainer, tested, name, row, seed_of_row, episodes)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, made_with | cell)
            found[name][seed_of_row] = checked(path, made_with)
        trainer.start.cache_clear()              # the next seed starts anew
        say(found)
    return found


def checked(path: Path, made_with: Mapping[str, Any]) -> Cell:
    """A cell, which must have been made as it would be made now."""
    cell = read_json(path)
    for key, value in made_with.items():
        if cell.get(key, value) != value:
            raise DataError(
                f"{path} was made with {key} {cell[key]}, not {value}: take another --out")
    return cell


def slug(name: str) -> str:
    """A name as a file's name.

    >>> slug("GOPO, R^A only")
    'GOPO-R-A-only'
    """
    spelled = re.sub(r"^- ", "without ", re.sub(r"^\+ ", "with ", name))
    return re.sub(r"[^0-9A-Za-z.]+", "-", spelled).strip("-")


def moved(gopo: Gopo, dataset: Dataset) -> Gopo:
    """The same policy before the dialogues of another dataset, or of the same with true labels."""
    return type(gopo)(
        dataset, gopo.expert, None, judge_for(dataset), gopo.cfg, options=gopo.options)


def cell_of(
    trainer: Trainer, dataset: Dataset, name: str, row: Row, seed: int, episodes: int
) -> Cell:
    """One row, one seed: trained, and measured on held-out dialogues of `dataset`."""
    gopo, seconds = trainer.begun(row, seed)
    clock = time.process_time()
    trainer.learn(gopo, row, seed, name)
    cell: Cell = {"cpu": seconds + time.process_time() - clock}
    gopo = moved(gopo, dataset)
    choose = CHOOSERS[row.chooser](gopo, seed)
    sets = {"dev": ("dev", 0), "test": ("test", 0)}
    if dataset.environment:
        sets["new"] = ("test", NEW_SEED)
    for label, (split, customers) in sets.items():
        said = f"{name}, seed {seed}, {label}"
        cell[label] = numbers_of(gopo, choose, episodes, customers, split, said)
    return cell


def numbers_of(
    gopo: Gopo, choose: Any, episodes: int, seed: int, split: str, label: str
) -> dict[str, Any]:
    """Means of all metrics; of some also the value of every customer."""
    numbers, _ = measure(gopo, choose, episodes, seed, split, label, forms=())
    found: dict[str, Any] = {"of_each": {}}
    for metric in SHOWN:
        of_each = [n.get(metric) for n in numbers]
        values = [value for value in of_each if value is not None]
        found[metric] = float(np.mean(values)) if values else None
        if metric in KEPT:
            found["of_each"][metric] = of_each
    return found


# --- the table --------------------------------------------------------------------------------

def cell_text(values: Sequence[float]) -> str:
    """A mean, with its standard deviation over seeds if there is more than one."""
    if len(values) < 2:
        return f"{np.mean(values):.3f}"
    return f"{np.mean(values):.3f}±{np.std(values, ddof=1):.3f}"


def line(name: str, cells: Mapping[int, Cell]) -> str:
    """What a row gave on test customers, TSE on dev and new ones, and its CPU seconds."""
    said = []
    for metric in SHOWN[:8]:
        values = [cell["test"][metric] for cell in cells.values()]
        if values[0] is not None:
            said.append(f"{metric} {cell_text(values)}")
    for label in ("dev", "new"):
        values = [cell[label]["tse"] for cell in cells.values() if label in cell]
        if values and values[0] is not None:
            said.append(f"tse({label}) {cell_text(values)}")
    cpu = np.mean([cell["cpu"] for cell in cells.values()])
    return f"{name:52s} " + "  ".join(said) + f"  ({len(cells)} seeds, {cpu:.0f} CPU s)"


def difference(
    a: Mapping[int, Cell], b: Mapping[int, Cell], metric: str, label: str
) -> tuple[dict, list[float] | None] | None:
    """a - b, paired over the seeds and customers of both: two intervals (intervals.py)."""
    seeds = sorted(set(a) & set(b))
    if not seeds or any(label not in cells[seeds[0]] for cells in (a, b)):
        return None
    of_a = np.array([a[seed][label]["of_each"][metric] for seed in seeds], float)
    of_b = np.array([b[seed][label]["of_each"][metric] for seed in seeds], float)
    if np.isnan(of_a).all():
        return None
    # nan: a logged dialogue in which nothing can be measured, such as one without a turn
    each_seed = np.nanmean(of_a, 1) - np.nanmean(of_b, 1)
    return paired(of_a, of_b), student(each_seed.tolist())


def say(found: Mapping[str, Mapping[int, Cell]]) -> None:
    """The table until now, and the differences from GOPO."""
    for name, cells in found.items():
        if cells:
            tqdm.write(line(name, cells))
    if GOPO in found:
        say_differences(found)


def say_differences(found: Mapping[str, Mapping[int, Cell]]) -> None:
    tqdm.write(f"\n{GOPO} less each row: [95 % over seeds and customers] t [over seeds]")
    for name, cells in found.items():
        said = []
        for label in ("test", "new"):
            for metric in ("tse", "success"):
                text = difference_text(found[GOPO], cells, metric, label)
                if text:
                    said.append(f"{metric}({label}) {text}")
        if name != GOPO and said:
            tqdm.write(f"{name:52s} " + "  ".join(said))


def difference_text(
    a: Mapping[int, Cell], b: Mapping[int, Cell], metric: str, label: str
) -> str:
    """`difference` with its two intervals; empty if there is none."""
    both = difference(a, b, metric, label)
    if both is None:
        return ""
    drawn, by_t = both
    text = f"{drawn['mean']:+.3f} [{drawn['low']:+.3f}, {drawn['high']:+.3f}]"
    return text + (f" t [{by_t[0]:+.3f}, {by_t[1]:+.3f}]" if by_t else "")


# --- the command ------------------------------------------------------------------------------

def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Simple policies, imitation and GOPO over skills, without a language model.",
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--dataset", default="mgshop",
           help="mgshop, multiwoz, star, or the path of your logs (default mgshop)")
    option("--split",
           help="star only: dialogue, or task (the test tasks are none of the training ones)")
    option("--test_on",
           help="another dataset with the same skills and labels, whose dialogues measure: "
           "--dataset tmallbrand-a --test_on tmallbrand-b is transfer to another store")
    option("--encoder",
           help="folder of a sentence encoder that reads in place of n-grams, in every row")
    option("--data_dir", default=os.environ.get("GOPO_DATA", "data"),
           help="where corpora lie (default data, or GOPO_DATA)")
    option("--seeds", type=int, nargs="+", default=[0], help="training seeds (default 0)")
    option("--steps", type=int, default=60,
           help="GOPO steps, and steps of on-policy imitation and of Memento (default 60)")
    option("--episodes", type=int, default=200,
           help="held-out dialogues per row, seed and set of customers (default 200)")
    option("--rows", nargs="*", default=(),
           help="only rows whose name has one of these words; by default all but the ablations")
    option("--ablations", action="store_true", help="the ablations, and GOPO")
    option("--label_noise", type=float, default=0.0,
           help="probability with which the labels that are learned from are wrong (default 0)")
    option("--noise_skills", nargs="+", default=list(CALMING),
           help=f"the skills that are affected (default {' '.join(CALMING)})")
    option("--noise_kind", default="omit",
           help="omit: they are left out; confuse: the first is written as the second")
    option("--out", type=Path, default=Path("runs/strategy"),
           help="folder with a file for each row and seed (default runs/strategy)")
    return parser


def chosen_rows(dataset: Dataset, args: argparse.Namespace) -> dict[str, Row]:
    chosen = {}
    for name, row in rows_for(dataset).items():
        wanted = row.ablation == args.ablations or name == GOPO
        if args.rows:
            wanted = any(word in name for word in args.rows)
        if wanted:
            chosen[name] = row
            if args.encoder:
                chosen[name] = row._replace(flags={**row.flags, "encoder": args.encoder})
    if not chosen:
        raise DataError(f"--rows {' '.join(args.rows)}: no row of {dataset.name} has such a name")
    return chosen


def execute(args: argparse.Namespace) -> None:
    fault = Fault(args.label_noise, tuple(args.noise_skills), args.noise_kind)
    dataset = data.load(args.dataset, args.data_dir, split=args.split)
    if not labelled_states(dataset.train):
        raise DataError(
            f"{dataset.name}: no turn has skills, so there is no strategy to compare")
    print(dataset.note)
    print(f"{args.episodes} dialogues of each set, seeds {args.seeds}, {fault.name}; "
          "mean±std over seeds")
    tested = None
    name = args.dataset + (args.split or "")
    if args.test_on:
        tested = data.load(args.test_on, args.data_dir)
        tested = in_the_order_of(dataset, tested, dataset.name)
        name += f" on {args.test_on}"
    if args.encoder:
        name += " encoder"
    chosen = chosen_rows(dataset, args)
    folder = args.out / slug(name)
    study(dataset, fault, args.seeds, args.steps, args.episodes, chosen, folder, tested)


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments()
    args = parser.parse_args(argv)
    if min(args.steps, args.episodes) < 1 or min(args.seeds) < 0:
        parser.error("--steps and --episodes must be at least 1, --seeds at least 0")
    try:
        execute(args)
    except (ValueError, OSError) as error:       # DataError is a ValueError
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
