"""What a budget costs, and who holds it: InteractCS-RL's rows in the food-delivery store.

    python eval.py --paper --dataset fds                        all rows, hard customers, 5 seeds
    python eval.py --paper --dataset fds --difficulty easy
    python -m experiments.budget --rows cmpo gopo --seeds 2     some rows
    python -m experiments.budget --tables                       what is there; nothing is trained
    python -m experiments.budget --api MODEL --api_base URL     also a row of a hosted model
    python -m experiments.budget --tables --judge api:MODEL --api_base URL     Comm and Logic

Strategy alone is learned and the phrase book speaks.  The rows and the paper's figures are in
budget_rows.py, the seven criteria, which were fixed before any of this was run, in
budget_criteria.py.  Each row and seed is a file, `<out>/<difficulty>/cells/<row>-<seed>.json`: what
was stopped goes on.  A row of seed s is what `train.py --dataset fds --replies template --seed s`
with the row's flags learns; the rows of a seed share perception and warm start.
All rows meet the same test customers, whose sentences, dishes, merchants and profiles training
never met, with the most probable skills (greedy) and with drawn ones (sampled).  Nothing of the
store or of the recipe is chosen by them."""
from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import data
from data import DataError, Dataset, Episode
from experiments import budget_forms, budget_page, budget_report
from experiments.budget_dialogues import SHOWN, path_of, rows_of, write_lines
from experiments.budget_hosted import hosted_service
from experiments.budget_measure import measured, meet
from experiments.budget_rows import (
    FIXED,
    HOSTED_ROW,
    ROWS,
    choosers,
    flags_of,
    hosted,
    row_name,
    row_of,
    trained,
)
from experiments.strategy import checked
from experiments.strategy_rows import Row as Learner
from experiments.strategy_rows import Trainer
from gopo import Gopo
from hosted.judge import hosted_model
from hosted.service import ServiceJudge
from infra.client import ApiConfig, Client
from infra.files import read_json, write_json
from infra.flags import FlagParser, parse, parser_of
from infra.garbage import long_lived
from infra.jobs import Task, clocked, run_tasks, stop_once
from infra.locks import alone_in
from infra.runs import load_tensors, save_tensors
from infra.terminal import command
from measure import training_row
from shop.fds_person import DIFFICULTIES
from show import print_unanswered

COMMAND = "python -m experiments.budget"
STEPS = 600                                      # of CMPO, train.py's default
CUSTOMERS = 1000                                 # on which criteria 1 and 2 are measured
KEPT = ("voucher_rate", "lambda", "satisfaction", "process", "dead_groups", "kl")
NO_SERVER = "{} needs --api_base, the address of its server, e.g. http://127.0.0.1:8000/v1"
LATE = 100                                       # steps over which a controller's price is averaged
Cell = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """What is run, and where its files lie."""
    out: Path
    difficulty: str = "hard"
    seeds: int = 5
    steps: int = STEPS
    episodes: int = CUSTOMERS
    rows: tuple[str, ...] = tuple(ROWS)
    # of --api: each gives a row; and how their server is reached
    models: tuple[str, ...] = ()
    api: ApiConfig = field(default_factory=ApiConfig)

    @property
    def all_rows(self) -> tuple[str, ...]:
        return (*self.rows, *map(row_name, self.models))

    def model(self, row: str) -> str:
        """The model behind the row of a hosted one."""
        return next(model for model in self.models if row_name(model) == row)

    @property
    def folder(self) -> Path:
        return self.out / self.difficulty

    def cell(self, row: str, seed: int) -> Path:
        return self.folder / "cells" / f"{row}-{seed}.json"

    def start(self, seed: int) -> Path:
        return self.folder / "starts" / f"{seed}.safetensors"

    def seeds_of(self, row: str) -> range:
        many = self.seeds if trained(row) else 1
        return range(many)

    def steps_of(self, row: str) -> int:
        if not trained(row):
            return 0
        own = row_of(row).steps
        return self.steps if own is None else min(own, self.steps)

    @property
    def priced(self) -> Path:
        """The cell that gives row cmpo_fixed its price: of hard customers, also on easy ones."""
        return replace(self, difficulty="hard").cell("cmpo", 0)

    def made_with(self, row: str) -> Cell:
        """What a cell must have been made with to be one of this study."""
        price = None
        if row == FIXED:
            price = resting_price(self.priced)
        return {
            "row": row,
            "difficulty": self.difficulty,
            "flags": flags_of(row, price),
            "steps": self.steps_of(row),
            "episodes": self.episodes,
        }

    def found(self) -> dict[str, dict[int, Cell]]:
        """row -> seed -> cell, of the cells that are there."""
        cells: dict[str, dict[int, Cell]] = {}
        folder = self.folder / "cells"
        hosted_ones = [p.name.removesuffix("-0.json") for p in folder.glob(f"{HOSTED_ROW}*-0.json")]
        for row in (*ROWS, *sorted(hosted_ones)):
            there = [seed for seed in self.seeds_of(row) if self.cell(row, seed).exists()]
            if row == FIXED and not self.priced.exists():
                there = []
            read = {seed: checked(self.cell(row, seed), self.made_with(row)) for seed in there}
            if read:
                cells[row] = read
        return cells


def resting_price(path: Path) -> float:
    """The mean price over the last steps of a cell's training, to the third digit."""
    prices = [step["lambda"] for step in read_json(path)["curve"]][-LATE:]
    return round(sum(prices) / len(prices), 3)


# --- one cell -------------------------------------------------------------------------------------

def load(study: Study) -> Dataset:
    return data.load("fds", difficulty=study.difficulty)


def start_of(study: Study, seed: int) -> int:
    """Perception and warm start of a seed, on disk: every row that learns begins there."""
    torch.set_num_threads(1)
    trainer = Trainer(load(study), 1)
    gopo, _ = trainer.begun(Learner("cmpo"), seed)
    study.start(seed).parent.mkdir(parents=True, exist_ok=True)
    save_tensors(gopo.expert.state_dict(), study.start(seed))
    return 0


def cell_of(study: Study, row: str, seed: int) -> int:
    """A row and a seed: trained, measured, written."""
    torch.set_num_threads(1)
    dataset = load(study)
    made_with = study.made_with(row)
    clock = time.process_time()
    gopo = begun(study, dataset, made_with, seed)
    with long_lived():
        curve = learn(gopo, made_with["steps"], seed)
        cpu = time.process_time() - clock
        choose = choosers(row, gopo, study.episodes)
        keep = Kept(study, gopo, row, seed, last_price(curve), tuple(choose)[-1])
        looks = measured(
            gopo, choose, study.episodes, study.difficulty, trained(row), keep, not hosted(row))
    if hosted(row):
        looks["unanswered"] = gopo.speaker.unanswered
        print_unanswered(gopo.speaker)
    path = study.cell(row, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, made_with | {"seed": seed, "cpu": cpu, "curve": curve} | looks)
    return 0


@dataclass(frozen=True)
class Kept:
    """Called with a look's dialogues, writes the first of them where they are to be read.

    look  whose dialogues are kept: drawn skills, of a row that draws them
    """
    study: Study
    gopo: Gopo
    row: str
    seed: int
    price: float | None
    look: str

    def __call__(self, look: str, played: Sequence[Episode]) -> None:
        if look == self.look:
            rows = rows_of(
                self.gopo, played[:SHOWN], self.row, self.seed, self.price, trained(self.row),
                not hosted(self.row))
            write_lines(path_of(self.study.folder, self.row, self.seed), rows)


def last_price(curve: Sequence[Mapping[str, float | None]]) -> float | None:
    """lambda of the last step; None where nothing was learned under a price."""
    return curve[-1]["lambda"] if curve else None


def read_planners(study: Study, found: Mapping[str, Any]) -> None:
    """Plays a few dialogues of the rows that learn nothing, where none were kept: seconds.

    Of a row that learned none can be made up later: its weights are not kept."""
    for row in found:
        if trained(row) or hosted(row) or path_of(study.folder, row, 0).exists():
            continue
        made_with = study.made_with(row)
        gopo = begun(study, load(study), made_with, 0)
        choose = choosers(row, gopo, study.episodes)["greedy"]
        _, played = meet(gopo, choose, min(SHOWN, study.episodes), label=row)
        Kept(study, gopo, row, 0, None, "greedy")("greedy", played)


def begun(study: Study, dataset: Dataset, made_with: Cell, seed: int) -> Gopo:
    """The agents of a row before their first step."""
    if hosted(made_with["row"]):
        return hosted_service(dataset, Client(study.model(made_with["row"]), study.api))
    row = ROWS[made_with["row"]]
    # as train.py settles it
    flags = made_with["flags"] | {"expert_decay": max(1, made_with["steps"])}
    learner = Learner(row.algo or "gopo", flags, learns=True)
    gopo = Trainer(dataset, study.steps).untrained(learner, seed)
    if row.algo:
        gopo.expert.load_state_dict(load_tensors(study.start(seed)))
    return gopo


def learn(gopo: Gopo, steps: int, seed: int) -> list[dict[str, float | None]]:
    """The steps of a row's algorithm, as train.py makes them; of each step some columns."""
    curve = []
    for number in range(1, steps + 1):
        played, row = gopo.step(number, seed)
        if "voucher_rate" not in row:
            row = training_row(number, gopo, played, row)
        curve.append({"step": number} | {key: row.get(key) for key in KEPT})
        if number % 50 == 0:
            print(f"step {number}: V {row['voucher_rate']:.3f}, lambda {row.get('lambda')}, "
                  f"satisfaction {row['satisfaction']:.2f}", flush=True)
    return curve


# --- all cells ------------------------------------------------------------------------------------

def tasks_of(study: Study) -> list[Task]:
    """A start for each seed, and every cell, in the order of the rows."""
    tasks: dict[str, Task] = {}
    for row in study.all_rows:
        for seed in study.seeds_of(row):
            needs = []
            if trained(row):
                begin = f"start-{seed}"
                path = study.start(seed)
                tasks.setdefault(begin, Task(begin, start_of, (study, seed), path.exists))
                needs.append(begin)
            if row == FIXED and not study.priced.exists():
                needs.append("cmpo-0")
            name = f"{row}-{seed}"
            done = study.cell(row, seed).exists
            tasks[name] = Task(name, cell_of, (study, row, seed), done, tuple(needs))
    return list(tasks.values())


def refuse(study: Study) -> None:
    """DataError for what could only fail later."""
    if study.models and not study.api.api_base:
        raise DataError(NO_SERVER.format(f"--api {study.models[0]}"))
    if len(set(study.all_rows)) < len(study.all_rows):
        raise DataError(f"--api {' '.join(study.models)}: the same model twice; name it once")
    unpriced = FIXED in study.rows and not study.priced.exists()
    if unpriced and (study.difficulty != "hard" or "cmpo" not in study.rows):
        raise DataError(
            f"{FIXED} takes its price from {study.priced}: run the row cmpo with --difficulty hard "
            "first, or leave the row out with --rows")
    study.found()


def conduct(study: Study, workers: int, said: str, judge: str = "rules") -> int:
    """Makes what is missing and writes the tables; 1 if something failed.

    judge  rules; or api:MODEL, which fills in the forms of the dialogues that are kept
    """
    refuse(study)
    judge_of(study, judge)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop_once)
    os.environ["OMP_NUM_THREADS"] = "1"
    study.folder.mkdir(parents=True, exist_ok=True)
    with alone_in(study.folder):
        with clocked(study.folder / "calls.json", said) as finished:
            failed = run_tasks(tasks_of(study), workers, study.folder / "logs", finished)
        write(study, judge)
    return 1 if failed else 0


def judge_of(study: Study, judge: str) -> ServiceJudge | None:
    """Who fills in Comm, Logic and Compensation; None: nobody."""
    if judge == "rules":
        return None
    model = hosted_model(judge, "--judge", "rules")
    if not study.api.api_base:
        raise DataError(NO_SERVER.format(f"--judge {judge}"))
    return ServiceJudge(Client(model, study.api))


def write(study: Study, judge: str = "rules") -> None:
    """Tables, criteria, figures and the page, of the cells that are there; the first printed."""
    found = study.found()
    if not found:
        raise DataError(f"{study.folder}: holds no row yet; leave out --tables, or name its --out")
    read_planners(study, found)
    asked = judge_of(study, judge)
    if asked:
        budget_forms.fill_in(study.folder, found, asked)
        print(asked.client.report())
    print(budget_report.write(study.folder, study.difficulty, study.seeds, found))
    print(f"{budget_page.write(study.folder, study.difficulty, study.seeds, found)}: open it in a "
          "browser")


# --- the command ----------------------------------------------------------------------------------

def arguments() -> FlagParser:
    parser = parser_of(
        [ApiConfig], "CMPO and what it is compared with, in the food-delivery store.")
    parser.prog = COMMAND
    option = parser.add_argument
    option("--difficulty", choices=DIFFICULTIES, default="hard", help="the mix of customers")
    option("--seeds", type=int, default=5, help="training seeds 0, 1, ... (default 5)")
    option("--rows", nargs="+", choices=list(ROWS), metavar="ROW", default=list(ROWS),
           help=f"only these rows: {' '.join(ROWS)}")
    option("--steps", type=int, default=STEPS,
           help=f"steps of CMPO, and at most as many of the others (default {STEPS})")
    option("--episodes", type=int, default=CUSTOMERS,
           help=f"test customers of every row (default {CUSTOMERS})")
    option("--workers", type=int, default=1, help="jobs at a time, one thread each (default 1)")
    option("--out", type=Path, default=Path("results/fds"),
           help="folder of the cells and tables (default results/fds)")
    option("--api", nargs="+", metavar="MODEL", default=[],
           help="also a row of each of these models of the --api_base server, which serve alone")
    option("--judge", default="rules", metavar="api:MODEL",
           help="a model of the server marks Comm, Logic and Compensation of the dialogues that "
           "are kept to be read (default: rules, which leave these columns empty)")
    option("--tables", action="store_true",
           help="write the tables of what is there, and train nothing")
    return parser


def models_of(names: Sequence[str]) -> tuple[str, ...]:
    """The models of --api, which may be written as api:MODEL.

    >>> models_of(["api:org/model", "gpt-4.1"])
    ('org/model', 'gpt-4.1')
    """
    return tuple(name.removeprefix("api:") for name in names)


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments()
    api, args = parse(parser, argv)
    for name in ("seeds", "steps", "episodes", "workers"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    # in the order in which rows are run, not in that of the flag
    rows = tuple(row for row in ROWS if row in args.rows)
    study = Study(
        args.out, args.difficulty, args.seeds, args.steps, args.episodes, rows,
        models_of(args.api), api)
    try:
        if args.tables:
            write(study, args.judge)
            return 0
        said = command("-m experiments.budget", *sys.argv[1:])
        return conduct(study, args.workers, said, args.judge)
    except (DataError, OSError) as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
