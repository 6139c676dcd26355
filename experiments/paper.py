"""The paper's experiments: every method trained from the same start, every row measured alike.

    python eval.py --paper --dataset mgshop --seeds 5         Tables 1, 4-7, Figures 1 and 3
    python eval.py --paper --dataset tmallbrand-b --train_on tmallbrand-a --seeds 5
                                                              another store than in training
    python -m experiments.studies warm_start                  two studies more, see studies.py

The call goes on where it was stopped.  Fairness is in `PAPER`: with `--base` the methods of a seed
take over one pretraining and one warm start; of a base train.py takes only the stages that it would
learn in the same way, and says what it leaves.  Single agents have a base of their own, of the same
logged replies, because their prompts differ.  The smaller model, and the soft constraints, whose
prompt says what the decoder does not enforce, share the strategy.

A job is `train.py` with the flags that stand here; its run directory is in runs/paper-<dataset>/.
Every row (rows.py) is measured greedily, on the same customers, and leaves evals/<row>-<seed>.json;
tables.py makes the tables of them.  As many jobs run at once as --workers, a thread each."""
from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import data
from data import DataError
from experiments import tables, trials
from experiments.played import dialogue_row, watched
from experiments.rows import TWO_EARS, AnySpec, Maker, grouped, rows, runs_read
from experiments.settings import FIXED, PARTS, SIZES, STEPS, Settings, agree
from gopo import Gopo
from hosted.judge import judge_for
from infra.client import ApiConfig
from infra.domain import refuse_strange
from infra.files import read_json, write_atomic, write_json
from infra.jobs import Task, clocked, order, run_tasks, stop_once, wanted
from infra.locks import alone_in
from infra.runs import read_rows, versions
from measure import bleu_statistics, data_of, measure, serve_again
from policies import Choose

__all__ = ["JOBS", "PAPER", "STEPS", "Settings", "conduct"]

# after a method's name: the same method, met by held-out dev customers
DEV = "_dev"
# customers of each seed whose dialogues the page shows
SHOWN = 12

# name -> flags of train.py; "--base X" names another job of the same seed, SMALL the smaller model
PAPER: dict[str, tuple[str, ...]] = {
    # the longest first, so that no core waits at the end
    "single": ("--steps", "0", "--no_expert", "True"),
    "base": ("--steps", "0"),
    "gopo": ("--base", "base"),
    # success ends a dialogue as well for PPO as for GOPO (GAP-4)
    "ppo": ("--base", "single", "--algo", "ppo", "--ppo_end_bonus", "True"),
    "sft": ("--base", "single", "--algo", "sft"),
    "memento": ("--base", "base", "--algo", "memento"),
    "imitation": ("--base", "base", "--algo", "imitation"),
    "gopo_tse": ("--base", "base", "--outcome_weight", "1"),
    "gopo_single": ("--base", "single", "--no_expert", "True"),
    # these two have the strategy of base, but an LM of their own:
    # of another prompt, and of another model
    "gopo_soft": ("--base", "base", "--constraints", "soft"),
    "gopo_nano": ("--base", "base", "--model", "SMALL"),
}


def warm_start_jobs() -> dict[str, tuple[str, ...]]:
    """Joint steps after warm starts of several sizes, with the Expert learning and fixed."""
    along = ("--steps", "40", "--eval_every", "10")
    jobs = {"base": PAPER["base"]}
    for size in SIZES:
        read = ("--warm_dialogues", str(size)) if size != SIZES[-1] else ()
        jobs[f"warm_{size}"] = ("--base", "base", *read, *along)
        if size in FIXED:
            # the same warm start, made once
            start = ("--base", f"warm_{size}", *read)
            jobs[f"fixed_{size}"] = (*start, "--fix_expert", "True", *along)
    read = ("--warm_dialogues", str(PARTS))
    start = ("--base", f"warm_{PARTS}", *read)
    jobs["no_9c"] = (*start, "--lambda_s", "0", *along)
    jobs["no_9d"] = (*start, "--lambda_d", "0", *along)
    jobs["warm_soft"] = ("--base", "base", "--constraints", "soft", *read, *along)
    return jobs


LONG = ("--steps", "100", "--eval_every", "10")
HACKING = {
    "long": ("--base", "base", *LONG),
    "long_judge": ("--base", "base", "--reward", "cs", *LONG),
}
JOBS = {
    "paper": PAPER,
    "warm_start": warm_start_jobs(),
    "hacking": {"base": PAPER["base"], **HACKING},
}


# --- training ---------------------------------------------------------------------------------

def training(
    s: Settings, name: str, seed: int, flags: Sequence[str], data_dir: str | None
) -> Task:
    """The task of a training run `name`-`seed`."""
    run = s.run(name, seed)
    flags = [s.small_model if flag == "SMALL" else flag for flag in flags]
    needs = ()
    if "--base" in flags:
        at = flags.index("--base") + 1
        base = s.run(flags[at], seed)
        needs = (base.name,)
        flags[at] = str(base)
    argv = [*common_flags(s, seed, run), *flags]
    for flag, value in (("--steps", s.steps), ("--model", s.model)):
        if flag not in flags:
            argv += [flag, str(value)]
    if data_dir:
        argv += ["--data_dir", data_dir]
    return Task(run.name, train, (run, argv), lambda: complete(run), needs)


def common_flags(s: Settings, seed: int, run: Path) -> list[str]:
    return [
        *("--dataset", s.train_on),
        *("--seed", str(seed)),
        *("--eval_episodes", "0"),
        *("--precision", s.precision),
        *("--output_dir", str(run)),
    ]


def complete(run: Path) -> bool:
    """Whether train.py wrote both agents after the last step.

    When it is stopped it writes them earlier; it always writes curves.png after them."""
    curves = run / "curves.png"
    metrics = run / "metrics.jsonl"
    if not curves.exists() or curves.stat().st_mtime < metrics.stat().st_mtime:
        return False
    return len(read_rows(metrics)) == read_json(run / "config.json")["run"]["steps"]


def train(run: Path, argv: list[str]) -> int:
    # imported in the job's own process: importing train.py sets environment variables
    from train import main
    if (run / "config.json").exists():
        argv = ["--resume", str(run)]
    return main(argv)


# --- measuring --------------------------------------------------------------------------------

def rows_left(s: Settings, seed: int) -> dict[str, AnySpec]:
    """The rows of a seed that lack a file, of numbers or of trials."""
    specs = rows(s)
    return {name: spec for name, spec in specs.items()
            if not s.row_file(name, seed).exists() or trials_left(s, name, seed)}


def trials_left(s: Settings, row: str, seed: int) -> bool:
    """Whether the trials of a row were asked for and are not measured yet."""
    wanted = s.trials and seed == trials.SEED and row in trials.TRIED
    return bool(wanted) and not s.trials_file(row, seed).exists()


def measuring(s: Settings, seed: int, api: ApiConfig | None, data_dir: str | None) -> Task:
    """The task of measuring the rows of a seed that lack a file.

    It needs the runs that these rows read, and every run for the curves."""
    curves = s.curves_file(seed)
    needs = set()
    for spec in rows_left(s, seed).values():
        needs |= runs_read(spec, seed)
    if not curves.exists():
        needs |= {f"{name}-{seed}" for name in JOBS[s.study]}

    def done() -> bool:
        return curves.exists() and not rows_left(s, seed)

    arguments = (s, seed, api, data_dir)
    return Task(f"measure-{seed}", measure_seed, arguments, done, tuple(sorted(needs)))


def measure_seed(s: Settings, seed: int, api: ApiConfig | None, data_dir: str | None) -> int:
    """Plays the test customers of every row that lacks a file."""
    trained = [name for name in JOBS[s.study] if complete(s.run(name, seed))]
    dataset = data_of(s.run(trained[0], seed), s.dataset, data_dir)
    judge = judge_for(dataset, s.judge, api)
    gather(s.curves_file(seed), curve_rows(s, seed, trained))
    maker = Maker(s, seed, dataset, judge, api)
    for group in grouped(rows_left(s, seed)):
        measure_group(s, seed, maker, group)
    return 0


def measure_group(s: Settings, seed: int, maker: Maker, group: dict[str, AnySpec]) -> None:
    """Rows with the same weights.  These are freed at the end: two large models would not fit."""
    for name, agents, choose in maker.group(group):
        if not s.row_file(name, seed).exists():
            measure_row(s, name, seed, agents, choose)
        if trials_left(s, name, seed):
            measure_trials(s, name, seed, agents, choose)


def measure_row(s: Settings, row: str, seed: int, agents: Gopo, choose: Choose) -> None:
    """evals/<row>-<seed>.json: every customer's numbers; and the first dialogues, to be read."""
    clock = time.perf_counter()
    path = s.row_file(row, seed)
    moods: dict[int, list[float | None]] = {}
    customers, played = measure(
        agents, watched(choose, moods), s.episodes, 0, label=row, second_ear=row in TWO_EARS
    )
    read = [dialogue_row(agents, e, row, seed, moods[e.number]) for e in played[:SHOWN]]
    gather(path.with_suffix(".jsonl"), read)
    found = {
        "row": row,
        "seed": seed,
        "customers": customers,
        "bleu": bleu_statistics(played),
        "seconds": time.perf_counter() - clock,
        "commit": versions()["commit"],
        "unanswered": sum(getattr(host, "unanswered", 0) for host in (agents.speaker, choose)),
    }
    write_json(path, found)


def measure_trials(s: Settings, row: str, seed: int, agents: Gopo, choose: Choose) -> None:
    """trials/<row>-<seed>.json: the numbers of each trial, of each customer."""
    def chosen(gopo: Gopo, number: int) -> Choose:
        return choose

    found = serve_again(agents, chosen, s.episodes, 0, s.trials, row)
    path = s.trials_file(row, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"row": row, "seed": seed, "trials": found})


def curve_rows(s: Settings, seed: int, trained: Sequence[str]) -> list[dict]:
    """The training curves of the runs that are there.

    Of a row that was measured earlier the curve stays: its run may be gone, or be another now."""
    files = {"": "metrics.jsonl"}
    if s.study != "paper":
        files[DEV] = "evals.jsonl"
    earlier = read_rows(s.curves_file(seed))
    found = []
    for name in JOBS[s.study]:
        for kind, file in files.items():
            method = name + kind
            kept = [row for row in earlier if row["method"] == method]
            measured = s.row_file(name, seed).exists()
            if name not in trained or (kept and measured):
                found += kept
                continue
            for row in read_rows(s.run(name, seed) / file):
                found.append(row | {"method": method, "seed": seed})
    return found


# --- a study, whole ---------------------------------------------------------------------------

def conduct(
    s: Settings,
    workers: int,
    api: ApiConfig | None,
    data_dir: str | None,
    command: str,
    write: Callable[[Settings], None] | None = None,
) -> int:
    """Trains what is missing, measures what is missing, and writes the folder.

    write    makes tables and pictures of the numbers; by default `write_paper`
    returns  1 if something failed, which the tables then show as missing
    """
    refuse_unsuited(s, data_dir)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop_once)
    # one thread for each job, because several of them share the cores
    os.environ["OMP_NUM_THREADS"] = "1"
    with alone_in(s.root):
        s = agree(s)
        failed = run_all(s, workers, api, data_dir, command)
        (write or write_paper)(s)
    return 1 if failed else 0


def run_all(
    s: Settings, workers: int, api: ApiConfig | None, data_dir: str | None, command: str
) -> list[str]:
    """The names of the tasks that failed."""
    trainings = []
    for seed in range(s.seeds):
        for name, flags in JOBS[s.study].items():
            trainings.append(training(s, name, seed, flags, data_dir))
    measurings = [measuring(s, seed, api, data_dir) for seed in range(s.seeds)]
    tasks = order(wanted(trainings, measurings))
    with clocked(s.results / "calls.json", command) as finished:
        return run_tasks(tasks, workers, s.results / "logs", finished)


def refuse_unsuited(s: Settings, data_dir: str | None) -> None:
    """What could not be measured in the end is refused before anything is trained."""
    folder = data_dir or os.environ.get("GOPO_DATA", "data")
    trained = data.load(s.train_on, folder)
    tested = data.load(s.dataset, folder)
    for dataset in (trained, tested):
        if dataset.environment is None:
            raise DataError(
                f"{dataset.name} is replayed logs: these experiments need a shop that answers "
                "(mgshop, tmallbrand-a, tmallbrand-b); for logs see train.py, eval.py --run and "
                "python -m experiments.strategy"
            )
    refuse_strange(tested, trained, trained.name)


# --- what the folder holds --------------------------------------------------------------------

def gather(path: Path, found: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in found]
    write_atomic(path, "".join(lines))


def read_all(paths: Iterable[Path]) -> Iterable[dict]:
    for path in sorted(paths):
        yield from read_rows(path)


def write_paper(s: Settings) -> None:
    """curves.jsonl, dialogues.jsonl, and what tables.py makes of the numbers."""
    evals = s.results / "evals"
    curves = set(evals.glob("curves-*.jsonl"))
    dialogues = set(evals.glob("*-*.jsonl")) - curves
    gather(s.results / "curves.jsonl", read_all(curves))
    gather(s.results / "dialogues.jsonl", read_all(dialogues))
    page = tables.write(s.results, s.dataset, how_made(s))
    print(f"written: {page}, and tables.md, tables.csv and the figures in the same folder")


def how_made(s: Settings) -> dict[str, Any]:
    """What results.json says about how it was made."""
    calls = read_json(s.results / "calls.json")["calls"]
    commands = [call["command"] for call in calls]
    # the commits of what measured, not of what writes
    commits = set()
    for path in (s.results / "evals").glob("*.json"):
        commits.add(read_json(path).get("commit") or "")
    made = {
        "commit": " ".join(sorted(commits)).strip() or None,
        "date": time.strftime("%Y-%m-%d"),
        "commands": list(dict.fromkeys(commands)),
        "wall_seconds": sum(call["seconds"] for call in calls),
        "seeds": list(range(s.seeds)),
        "episodes": s.episodes,
        "train_on": s.train_on,
        "model": s.model,
        "small_model": s.small_model,
    }
    if s.judge != "rules":
        made["judge"] = s.judge
    return made
