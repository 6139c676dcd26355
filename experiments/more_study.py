"""MORE's study on the simulated world `sale`: the rows of Tables A to C, each seed a file.

    python -m experiments.more_study --seeds 0 --rows SFT MORE
    python eval.py --paper --dataset sale --seeds 5          the same, all rows

Every row and seed is measured in three ways, greedy:
  states   logged test turns: the rewards by rule, false numbers and tokens of a reply
  tasks    RA, on test tasks (unseen profiles and cells) and on training tasks
  calls    live test customers: accepted, reached, handoff, false numbers heard; none of it is ever
           a reward
Each row and seed is a file of --out: what was stopped goes on, and several commands may fill one
folder.  Tables and verdicts: experiments/more_tables.py, which is called at the end."""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

import data
from data import DataError, Dataset
from experiments.more_rows import MEAN, MORE_ROW, ROWS, Maker, Settings, trained
from experiments.more_tables import say
from experiments.strategy import checked, slug
from gopo import Gopo
from infra.files import write_json
from infra.runs import save_tensors
from measure import measure
from systems.more_rewards import NAMES, RuleRewards, numbers, plain_number
from systems.more_tasks import accuracy, fixed_tasks
from systems.more_train import MORE

COMMAND = "python -m experiments.more_study"
OUT = Path("results/sale")
TASKS = 300                                      # of each split, for RA
HEARD = ("accepted", "reached", "handoff", "false")
Cell = dict[str, Any]


# --- one row, one seed --------------------------------------------------------------------------

def cell_of(maker: Maker, name: str, seed: int, lambdas: list[float] | None) -> Cell:
    clock = time.process_time()
    gopo = maker.begun(name, seed, lambdas)
    begun = time.process_time()
    reader = reader_of(gopo)
    before = reader.reasoning()
    told = maker.learn(gopo, name, seed)
    seconds = {"start": begun - clock, "steps": time.process_time() - begun}
    cell: Cell = {"cpu": seconds, "RA": {"before": before, "after": reader.reasoning()}}
    cell["states"] = of_states(reader, maker.settings.states)
    cell["RA"] |= {split: of_tasks(reader, split) for split in ("train", "test")}
    cell["calls"] = of_calls(gopo, maker.settings.calls)
    cell["told"] = kept(told)
    save_tensors(trained(gopo.agent), maker.folder / f"row-{slug(name)}-{seed}.safetensors")
    return cell


def reader_of(gopo: Gopo) -> MORE:
    """The same agent with MORE's eyes, to measure by."""
    if isinstance(gopo, MORE):
        return gopo
    cfg = replace(gopo.cfg, gamma=None)
    return MORE(gopo.dataset, gopo.expert, gopo.agent, gopo.judge, cfg)


def of_states(more: MORE, count: int) -> dict[str, Any]:
    """Greedy replies to logged test turns: a number for each state."""
    turns = []
    for dialogue in more.dataset.test:
        turns += [(dialogue, i) for i in range(len(dialogue.turns))]
    contexts = [more.context(*turn) for turn in turns[:count]]
    texts = more.greedy([context.request for context in contexts])
    items = [replace(context.judged, reply=text) for context, text in zip(contexts, texts)]
    facts = [context.facts for context in contexts]
    marks = RuleRewards(NAMES).rate(items, facts)
    found: dict[str, Any] = {name: list(column) for name, column in zip(NAMES, zip(*marks))}
    found["false"] = [false_numbers(text, known.allowed) for text, known in zip(texts, facts)]
    found["tokens"] = [len(more.agent.encode(text)) for text in texts]
    found["texts"] = texts[:20]
    return found


def false_numbers(text: str, allowed: Sequence[str]) -> int:
    """How many numbers of a reply are neither on file nor follow from it."""
    known = {plain_number(value) for value in allowed}
    return sum(number not in known for number in numbers(text))


def of_tasks(more: MORE, split: str) -> dict[str, float]:
    """RA of each key of tasks, and of all."""
    tasks = fixed_tasks(more.dataset, split, TASKS)
    texts = more.greedy([task.request for task in tasks])
    found = {"all": accuracy(tasks, texts)}
    for key in sorted({task.key for task in tasks}):
        mine = [(task, text) for task, text in zip(tasks, texts) if task.key == key]
        found[key] = accuracy(*zip(*mine))
    return found


def of_calls(gopo: Gopo, count: int) -> dict[str, list[float]]:
    """Live test customers: a number for each."""
    _, played = measure(gopo, gopo.chooser(greedy=True), count, 0, "test", "calls", forms=())
    found: dict[str, list[float]] = {name: [] for name in (*HEARD, "turns")}
    for episode in played:
        caller = episode.env
        found["accepted"].append(float(caller.ending == "accepted"))
        found["reached"].append(float(caller.reached))
        found["handoff"].append(float(caller.ending == "handoff"))
        found["false"].append(float(caller.wrong))
        found["turns"].append(float(len(episode.steps)))
    return found


def kept(told: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """The columns that tables need, a number a step."""
    names = []
    for name in told[0] if told else ():
        if name.startswith(("lambda_", "norm_", "std_")) or name in ("kl", "RA", "RQ", "reward"):
            names.append(name)
    found = {}
    for name in names:
        found[name] = [row[name] for row in told]
    return found


# --- the study ----------------------------------------------------------------------------------

def study(
    dataset: Dataset, settings: Settings, seeds: Sequence[int], rows: Sequence[str], out: Path
) -> dict[str, dict[int, Cell]]:
    """row -> seed -> what it gave; what lies in the folder is not made again."""
    maker = Maker(dataset, settings, out / "starts")
    found: dict[str, dict[int, Cell]] = {name: {} for name in rows}
    for seed in seeds:
        for name in rows:
            found[name][seed] = cell_in(maker, out, name, seed)
            say(found)
    return found


def cell_in(maker: Maker, out: Path, name: str, seed: int) -> Cell:
    """A cell of the folder; made if it is not there."""
    path = out / slug(name) / f"{seed}.json"
    made_with = {"row": name, "settings": asdict(maker.settings)}
    if not path.exists():
        lambdas = None
        if ROWS[name].flags.get("more_weights") == MEAN:
            lambdas = mean_lambdas(cell_in(maker, out, MORE_ROW, seed))
        cell = cell_of(maker, name, seed, lambdas)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, made_with | cell)
    return checked(path, made_with)


def mean_lambdas(cell: Cell) -> list[float]:
    """The weights of a run, averaged over its steps."""
    rows = [values for name, values in cell["told"].items() if name.startswith("lambda_")]
    return np.mean(rows, 1).tolist()


# --- the command --------------------------------------------------------------------------------

def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="The rows of MORE's study on the simulated world sale.",
        allow_abbrev=False)
    option = parser.add_argument
    option("--seeds", type=int, nargs="+", default=[0], help="training seeds (default 0)")
    option("--rows", nargs="+", default=list(ROWS), metavar="ROW",
           help=f"of: {', '.join(ROWS)} (default all)")
    option("--out", type=Path, default=OUT, help=f"folder of the cells (default {OUT})")
    for field in fields(Settings):
        option(f"--{field.name}", type=type(field.default), default=field.default,
               help=f"of every row (default {field.default})")
    return parser


def conduct(settings: Settings, seeds: Sequence[int], rows: Sequence[str], out: Path) -> int:
    """The study, with its tables; also of eval.py --paper."""
    if unknown := [name for name in rows if name not in ROWS]:
        raise DataError(f"--rows {unknown[0]}: no such row; there are {', '.join(ROWS)}")
    dataset = data.load("sale")
    print(f"{dataset.note}\n{settings}, seeds {list(seeds)}")
    study(dataset, settings, seeds, rows, out)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments()
    args = parser.parse_args(argv)
    values = {field.name: getattr(args, field.name) for field in fields(Settings)}
    numbers_given = [value for value in values.values() if isinstance(value, int)]
    if min(numbers_given) < 0 or min(args.seeds) < 0 or args.calls < 1 or args.states < 1:
        parser.error("numbers must not be negative, and --calls and --states at least 1")
    try:
        return conduct(Settings(**values), args.seeds, args.rows, args.out)
    except (ValueError, OSError) as error:       # DataError is a ValueError
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
