"""Two studies more than the paper's tables (those: python eval.py --paper).

    python -m experiments.studies warm_start       TSE against the size of the warm start
    python -m experiments.studies hacking          what long training does to R^A, TSE, length
                                                   and diversity

They train and measure as paper.py does, in the same folder of runs; their jobs are in paper.JOBS
and their rows in rows.py.  What is written is made of the numbers in results/<dataset>/<study>."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from data import DataError
from experiments import figures
from experiments.cells import brackets, t_of, with_brackets
from experiments.evals import Measured, load_evals
from experiments.paper import DEV, conduct, read_all
from experiments.settings import PARTS, SIZES, STEPS, Settings
from infra.files import write_atomic, write_json

COMMAND = "python -m experiments.studies"


def in_brackets(cell: dict[str, Any] | None, sign: str = "") -> str:
    """The mean, its interval and, of a difference over seeds, Student's."""
    if not cell:
        return "—"
    words = with_brackets(cell, 3, sign)
    if cell.get("t"):
        words += f"; t {brackets(t_of(cell), 3, sign)}"
    return words


def markdown(head: str, rows: Sequence[Sequence[str]]) -> str:
    """A table of a head line and the cells of its rows."""
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


# --- the size of the warm start ---------------------------------------------------------------

WARM_HEAD = (
    "| dialogues of the warm start | TSE before the joint steps | after | difference "
    "| after, the Expert fixed | difference |"
)
PARTS_HEAD = f"| joint steps after {PARTS} dialogues | TSE | difference | of |"
# row -> (what it is called, the row that it is compared with, what that is called)
PARTS_OF = {
    f"after_{PARTS}": ("as they are", f"before_{PARTS}", "before"),
    "no_9c": ("without Eq. 9c", f"after_{PARTS}", "as they are"),
    "no_9d": ("without Eq. 9d", f"after_{PARTS}", "as they are"),
    f"fixed_{PARTS}": ("the Expert fixed", f"after_{PARTS}", "as they are"),
    "before_soft": ("soft constraints, before them", f"before_{PARTS}", "hard constraints, before"),
    "after_soft": ("soft constraints", "before_soft", "soft constraints, before them"),
}
WARM_LINES = {f"warm_{size}{DEV}": f"{size} dialogues" for size in SIZES}
WARM_KINDS = (("tse", "TSE"), ("r_cs", "R^A by the teacher's skills"), ("esndcg", "ESNDCG"))


def warm_start_found(measured: Measured) -> list[dict[str, Any]]:
    """The sizes that were measured before and after the joint steps."""
    found = []
    for size in SIZES:
        before, after, fixed = f"before_{size}", f"after_{size}", f"fixed_{size}"
        difference = measured.difference(after, before, "tse")
        if not difference:
            continue
        found.append(
            {
                "dialogues": size,
                "before": measured.cell(before, "tse"),
                "after": measured.cell(after, "tse"),
                "difference": difference,
                "fixed": measured.cell(fixed, "tse"),
                "difference_fixed": measured.difference(fixed, before, "tse"),
            }
        )
    return found


def parts_rows(measured: Measured) -> list[list[str]]:
    """A line for each part that was measured: TSE, and its difference to another row."""
    rows = []
    for row, (name, other, called) in PARTS_OF.items():
        difference = measured.difference(row, other, "tse")
        if difference:
            cell = in_brackets(measured.cell(row, "tse"))
            rows.append([name, cell, in_brackets(difference, "+"), called])
    return rows


def write_warm_start(s: Settings) -> None:
    """TSE before and after the joint steps, for each size and without each part; and along them."""
    measured = Measured(load_evals(s.results))
    found = warm_start_found(measured)
    rows = []
    for size in found:
        rows.append(
            [
                str(size["dialogues"]),
                in_brackets(size["before"]),
                in_brackets(size["after"]),
                in_brackets(size["difference"], "+"),
                in_brackets(size["fixed"]),
                in_brackets(size["difference_fixed"], "+"),
            ]
        )
    text = markdown(WARM_HEAD, rows) + "\n\n" + markdown(PARTS_HEAD, parts_rows(measured))
    write_json(s.results / "warm_start.json", found)
    write_atomic(s.results / "warm_start.md", text + "\n")
    title = f"{s.dataset}: TSE against the size of the warm start"
    figures.sizes(found, s.results / "warm_start.png", title)
    along = read_all((s.results / "evals").glob("curves-*.jsonl"))
    figures.panels(
        [row for row in along if row["method"] in WARM_LINES],
        WARM_LINES,
        WARM_KINDS,
        s.results / "warm_start_along.png",
        f"{s.dataset}: dev customers along the joint steps, by the size of the warm start",
        caption="40 dev customers every 10 steps (most probable skills and tokens)",
    )
    print(f"{text}\nwritten: {s.results}/warm_start.json, .md, .png and _along.png")


# --- long training ----------------------------------------------------------------------------

HACKING_METRICS = (
    "tse",
    "tse_2nd_ear",
    "r_cs",
    "gre",
    "esndcg",
    "turns",
    "reply_words",
    "distinct_2",
    "repeated",
    "vouchers",
)
HACKING_NAMES = {
    "strategy": "GOPO before the joint steps",
    "long": "GOPO, 100 joint steps",
    "strategy_judge": "Expert paid R^A only, before the joint steps",
    "long_judge": "Expert paid R^A only, 100 joint steps",
}
# (before, after) the joint steps
HACKING_PAIRS = (("strategy", "long"), ("strategy_judge", "long_judge"))
HACKING_LINES = {
    "long": "GOPO: training dialogues, R^A as paid (by the skills chosen)",
    "long" + DEV: "GOPO: dev customers, R^A by the teacher's skills",
    "long_judge": "Expert paid R^A only: training dialogues, R^A as paid",
    "long_judge" + DEV: "Expert paid R^A only: dev customers, R^A by the teacher's skills",
}
HACKING_CAPTION = (
    "Training dialogues (sampled) and 40 dev customers every 10 steps "
    "(most probable skills and tokens)"
)


def hacking_rows(measured: Measured) -> list[list[str]]:
    """A line a row, then a line a difference over the joint steps."""
    lines = []
    for row, name in HACKING_NAMES.items():
        cells = [in_brackets(measured.cell(row, metric)) for metric in HACKING_METRICS]
        lines.append([name, *cells])
    for before, after in HACKING_PAIRS:
        changes = [measured.difference(after, before, metric) for metric in HACKING_METRICS]
        words = [in_brackets(change, "+") for change in changes]
        lines.append([f"{HACKING_NAMES[after]} − before", *words])
    return lines


def write_hacking(s: Settings) -> None:
    """What the judge pays and what the customer gets along long runs.

    The picture shows both in training and on dev customers; the table shows them before and after
    the runs, with both ears."""
    along = read_all((s.results / "evals").glob("curves-*.jsonl"))
    figures.panels(
        [row for row in along if row["method"] in HACKING_LINES],
        HACKING_LINES,
        figures.SIGNS,
        s.results / "hacking.png",
        f"{s.dataset}: what long training does",
        caption=HACKING_CAPTION,
    )
    rows = hacking_rows(Measured(load_evals(s.results)))
    text = markdown("| | " + " | ".join(HACKING_METRICS) + " |", rows)
    write_atomic(s.results / "hacking.md", text + "\n")
    print(f"{text}\nwritten: {s.results}/hacking.md and .png")


# --- the command ------------------------------------------------------------------------------

WRITERS = {"warm_start": write_warm_start, "hacking": write_hacking}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Two studies more than the paper's tables (those: python eval.py --paper).",
        allow_abbrev=False,
    )

    def number(flag: str, default: int, help: str) -> None:
        parser.add_argument(flag, type=int, default=default, help=f"{help} (default {default})")

    parser.add_argument(
        "study",
        choices=list(WRITERS),
        help="warm_start: TSE against the size of the warm start; "
        "hacking: what long training does",
    )
    parser.add_argument(
        "--dataset", default="mgshop", help="mgshop, tmallbrand-a, ... (default mgshop)"
    )
    number("--seeds", 2, "training seeds 0, 1, ...")
    number("--episodes", 200, "test customers per row and seed")
    number(
        "--steps", STEPS, "those of --paper in the same runs folder; both studies have their own"
    )
    number("--workers", 2, "jobs at a time, one thread each")
    parser.add_argument("--data_dir", help="where corpora lie (default data, or GOPO_DATA)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments()
    args = parser.parse_args(argv)
    if min(args.seeds, args.episodes, args.steps, args.workers) < 1:
        parser.error("--seeds, --episodes, --steps and --workers must be at least 1")
    s = Settings(
        args.dataset,
        args.dataset,
        args.seeds,
        args.episodes,
        steps=args.steps,
        study=args.study,
    )
    command = f"{COMMAND} {' '.join(sys.argv[1:])}"
    try:
        return conduct(s, args.workers, None, args.data_dir, command, WRITERS[args.study])
    except (DataError, OSError) as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
