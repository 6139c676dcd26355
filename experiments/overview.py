"""README's first picture: how well held-out customers are served while GOPO trains.

The curve is one run of train.py: TSE of dev customers during the strategy stage (the phrase book
speaks) and then during the joint steps (the language model speaks).  Three lines stand for who does
not learn by GOPO: the teacher, imitation of the logged skills, and random skills, all with the
phrase book, on the same customers.
Try it:  python -m experiments.overview                 trains a run first
         python -m experiments.overview --run RUN       draws a run that is there"""
from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import data
from data import DataError
from experiments.figures import COLOURS, canvas
from experiments.strategy_rows import fresh
from gopo import Gopo
from infra.curves import as_text
from infra.files import read_json, whole, write_json
from infra.runs import read_rows
from measure import evaluate
from policies import Choose, by_chance, by_policy, by_teacher
from start.stages import DEV

COMMAND = "python -m experiments.overview"
PICTURE = Path("docs/results")
Curve = tuple[list[int], list[float]]            # steps, TSE


# --- numbers ------------------------------------------------------------------------------------

def curve(rows: Sequence[dict[str, Any]]) -> Curve:
    """TSE of the looks at held-out customers."""
    steps = [row["step"] for row in rows]
    return steps, [row["tse"] for row in rows]


def dev_tse(gopo: Gopo, choose: Choose, name: str) -> float:
    """TSE of the customers that train.py looks at."""
    row, _ = evaluate(gopo, choose, DEV, 0, split="dev", label=name, with_bleu=False, forms=())
    return row["tse"]["mean"]


def references(dataset: data.Dataset, seed: int) -> dict[str, float]:
    """TSE of those who do not learn by GOPO; imitation takes half a minute to train."""
    gopo = fresh(dataset, seed)
    imitation = by_policy(gopo.expert, greedy=True)
    return {
        "teacher": dev_tse(gopo, by_teacher, "teacher"),
        "imitation of the logs": dev_tse(gopo, imitation, "imitation"),
        "random skills": dev_tse(gopo, by_chance(list(dataset.skills), seed), "random"),
    }


def numbers_of(run: Path) -> dict[str, Any]:
    """What the picture shows, from a finished run."""
    config = read_json(run / "config.json")["run"]
    strategy, joint = run / "strategy_evals.jsonl", run / "evals.jsonl"
    if not strategy.exists():
        raise DataError(
            f"{strategy}: not found; the picture needs a run of train.py with a strategy stage "
            "(--algo gopo, with a language model), made by this version")
    dataset = data.load_used(config)
    if dataset.environment is None:
        raise DataError(f"--run {run}: {dataset.name} is replayed; the picture needs a live shop")
    return {
        "dataset": dataset.name,
        "seed": config["seed"],
        "customers": DEV,
        "strategy": curve(read_rows(strategy)),
        "joint": curve(read_rows(joint)),
        "references": references(dataset, config["seed"]),
    }


# --- the picture --------------------------------------------------------------------------------

def draw(found: dict[str, Any], path: Path) -> None:
    """Two panels with one scale: the strategy stage, and the joint steps."""
    picture, axes = canvas(1, 2, (9.5, 4.2), sharey=True)
    panels = (
        (axes[0][0], found["strategy"], "strategy stage: the phrase book speaks"),
        (axes[0][1], found["joint"], "joint steps: the language model speaks"),
    )
    for axis, (steps, values), title in panels:
        axis.plot(steps, values, "o-", color=COLOURS[0], markersize=4, label="GOPO")
        draw_references(axis, found["references"])
        axis.set(title=title, xlabel="GOPO step", ylim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("TSE of held-out customers")
    axes[0][1].legend(loc="lower right", fontsize=9)
    picture.suptitle(
        f"{found['dataset']} (simulated), {found['customers']} dev customers, "
        f"one training seed ({found['seed']})", fontsize=10)
    as_text(picture)
    with whole(path) as part:
        picture.savefig(part, dpi=120, format="png")


def draw_references(axis: Any, values: dict[str, float]) -> None:
    for (name, value), dash, colour in zip(values.items(), ("--", "-.", ":"), COLOURS[1:]):
        axis.axhline(value, linestyle=dash, color=colour, label=f"{name} {value:.2f}")


# --- the command --------------------------------------------------------------------------------

def train(dataset: str, run: Path) -> None:
    """The run of the picture, by train.py; one that was stopped goes on."""
    flags = ["--dataset", dataset, "--eval_every", "5", "--output_dir", str(run)]
    if (run / "config.json").exists():
        flags = ["--resume", str(run)]
    subprocess.run([sys.executable, "train.py", *flags], check=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Draws README's first picture.", allow_abbrev=False)
    parser.add_argument("--run", type=Path, help="a finished run of train.py (default: train one)")
    parser.add_argument("--dataset", default="mgshop", help="what to train on (default mgshop)")
    args = parser.parse_args(argv)
    run = args.run or Path("runs") / f"overview-{args.dataset}"
    try:
        if not args.run:
            train(args.dataset, run)
        found = numbers_of(run)
        path = PICTURE / f"overview_{found['dataset']}.png"
        write_json(path.with_suffix(".json"), found)
        draw(found, path)
    except (DataError, OSError, subprocess.CalledProcessError) as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return 2
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
