"""The paper's experiments: trains every method from the same start, measures every row on the same customers, and goes on where it was stopped.

    python eval.py --paper --dataset mgshop --seeds 5                                     Tables 1, 4-7, Figures 1 and 3
    python eval.py --paper --dataset tmallbrand-b --train_on tmallbrand-a --seeds 5       trained in one store, tested in another
    python experiments.py warm_start --dataset mgshop                                     TSE against the size of the warm start
    python experiments.py hacking --dataset mgshop                                        long training: R^A beside TSE, length, diversity

Fairness is in `PAPER`: the methods of a seed take over one pretraining and one warm start with `--base`; of a base train.py takes only the
stages that it would learn in the same way, and says what it leaves.  Single agents have a base of their own, of the same logged replies, as
their prompts differ; the smaller model, and the soft constraints, whose prompt says what the decoder does not enforce, share the strategy.
A job is `train.py` with the flags that stand here; its run directory is in runs/paper-<dataset>/.  Every row is measured by eval.measure,
greedy, on the same customers, and leaves evals/<row>-<seed>.json; tables.py makes the tables of them.  As many jobs run at once as
--workers, a thread each."""
from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from data import DataError
from infra.files import read_json, write_atomic, write_json
from infra.jobs import Task, clocked, order, run_tasks, stop_once, wanted
from infra.runs import alone_in, read_rows, versions
from lm.models import pick_precision

STEPS = 15                                       # joint steps of --paper; train.py's own default is 25
DEV = "_dev"                                     # after a method's name: the same, held-out dev customers
SHOWN = 12                                       # customers of each seed whose dialogues the page shows
PAPER: dict[str, tuple[str, ...]] = {            # name -> flags of train.py; "--base X" names another job of the same seed
    "single": ("--steps", "0", "--no_expert", "True"),                  # the longest first, so that no core waits at the end
    "base": ("--steps", "0"),
    "gopo": ("--base", "base"),
    "ppo": ("--base", "single", "--algo", "ppo", "--ppo_end_bonus", "True"),      # success ends as well for it as for GOPO (GAP-4)
    "sft": ("--base", "single", "--algo", "sft"),
    "memento": ("--base", "base", "--algo", "memento"),
    "imitation": ("--base", "base", "--algo", "imitation"),
    "gopo_tse": ("--base", "base", "--outcome_weight", "1"),
    "gopo_single": ("--base", "single", "--no_expert", "True"),
    "gopo_soft": ("--base", "base", "--constraints", "soft"),           # the strategy of base, an LM of its own: its prompt is another
    "gopo_nano": ("--base", "base", "--model", "SMALL"),                # likewise, the smaller of the two models
}
SIZES = (0, 30, 100, 300, 1000)                  # dialogues that the warm start reads; the last: all that a shop has
LONG = ("--steps", "100", "--eval_every", "10")
JOBS = {
    "paper": PAPER,
    "warm_start": {"base": PAPER["base"], "gopo": PAPER["gopo"]} | {f"warm_{n}": ("--base", "base", "--warm_dialogues", str(n)) for n in SIZES[:-1]},
    "hacking": {"base": PAPER["base"], "long": ("--base", "base", *LONG), "long_judge": ("--base", "base", "--reward", "cs", *LONG)},
}
TWO_EARS = ("gopo", "gopo_tse", "ppo", "memento", "imitation", "teacher", "long", "long_judge", "strategy", "strategy_judge")


@dataclass(frozen=True)
class Settings:
    """What a results folder was made with; a later call must agree, but for the number of seeds."""
    dataset: str
    train_on: str
    seeds: int
    episodes: int
    judge: str = "rules"
    precision: str = "auto"
    steps: int = STEPS
    model: str = "tiny"
    small_model: str = "nano"                    # of Table 4
    cs_agent: str | None = None
    expert: str | None = None
    study: str = "paper"

    @property
    def root(self) -> Path:
        return Path("runs") / f"paper-{self.train_on}"

    @property
    def results(self) -> Path:
        tables = Path("results") / (self.dataset if self.dataset == self.train_on else f"{self.train_on}-to-{self.dataset}")
        return tables if self.study == "paper" else tables / self.study


# --- training ----------------------------------------------------------------------------------------------------------------------

def training(s: Settings, name: str, seed: int, flags: Sequence[str], data_dir: str | None) -> Task:
    """The task of a training run `name`-`seed`."""
    run, flags = s.root / f"{name}-{seed}", list(flags)
    needs = ()
    if "--base" in flags:
        at = flags.index("--base") + 1
        needs, flags[at] = (f"{flags[at]}-{seed}",), str(s.root / f"{flags[at]}-{seed}")
    argv = ["--dataset", s.train_on, "--seed", str(seed), "--eval_episodes", "0", "--precision", s.precision, "--output_dir", str(run), *flags]
    argv += [x for name, value in (("--steps", s.steps), ("--model", s.model)) if name not in flags for x in (name, str(value))]
    argv = [s.small_model if x == "SMALL" else x for x in argv]
    argv += ["--data_dir", data_dir] if data_dir else []
    return Task(f"{name}-{seed}", train, (run, argv), lambda: complete(run), needs)


def complete(run: Path) -> bool:
    """Whether train.py wrote both agents after the last step: stopped, it writes them earlier, and curves.png always after them."""
    curves, metrics = run / "curves.png", run / "metrics.jsonl"
    if not curves.exists() or curves.stat().st_mtime < metrics.stat().st_mtime:
        return False
    return len(read_rows(metrics)) == read_json(run / "config.json")["run"]["steps"]


def train(run: Path, argv: list[str]) -> int:
    from train import main
    return main(["--resume", str(run)] if (run / "config.json").exists() else argv)


# --- measuring -----------------------------------------------------------------------------------------------------------------------

class Row(NamedTuple):
    """make() -> (agents, who chooses the skills); runs: names of the run directories that it reads."""
    make: Callable[[], tuple[Any, Any]]
    runs: tuple[str, ...]


def rows(s: Settings, seed: int, dataset: Any, judge: Any, api: Any = None) -> dict[str, Row]:
    made = {"paper": paper_rows, "warm_start": warm_rows, "hacking": hacking_rows}[s.study](s, seed, dataset, judge)
    return made | hosted_rows(s, seed, dataset, judge, api)


def loading(dataset: Any, judge: Any) -> tuple[Callable, Callable]:
    """load(run, **stages) -> agents; chosen(run, **stages) -> the row in which those agents choose themselves."""
    from gopo import load_gopo
    load = lambda run, **stages: load_gopo(run, dataset, judge=judge, **stages)

    def chosen(run: Path, **stages: str) -> Row:
        def make():
            agents = load(run, **stages)
            return agents, agents.chooser(greedy=True)
        return Row(make, read_by(run, stages))
    return load, chosen


def read_by(run: Path, stages: Mapping[str, str]) -> tuple[str, ...]:
    """The run of a row, and those whose stages (../other-0/csagent) take the place of its own."""
    return (run.name, *(Path(stage).parts[1] for stage in stages.values() if stage.startswith("../")))


def warm_rows(s: Settings, seed: int, dataset: Any, judge: Any) -> dict[str, Row]:
    _, chosen = loading(dataset, judge)
    at = lambda n: s.root / (f"gopo-{seed}" if n == SIZES[-1] else f"warm_{n}-{seed}")
    return {name: row for n in SIZES for name, row in ((f"before_{n}", chosen(at(n), expert="strategy.safetensors", agent="warm_start")),
                                                       (f"after_{n}", chosen(at(n))))}


def hacking_rows(s: Settings, seed: int, dataset: Any, judge: Any) -> dict[str, Row]:
    _, chosen = loading(dataset, judge)
    at = lambda name: s.root / f"{name}-{seed}"
    before = {"expert": "strategy.safetensors", "agent": "warm_start"}
    return {"strategy": chosen(at("base"), **before), "long": chosen(at("long")), "strategy_judge": chosen(at("long_judge"), **before),
            "long_judge": chosen(at("long_judge"))}


def paper_rows(s: Settings, seed: int, dataset: Any, judge: Any) -> dict[str, Row]:
    """Those of Tables 1 and 4 to 7.  "other" is another seed's agent, trained with another partner."""
    from baselines.prompted import by_prompt
    from policies import by_chance, by_teacher
    at = lambda name, of=seed: s.root / f"{name}-{of}"
    load, chosen = loading(dataset, judge)
    beside = lambda name, stage, of=seed: f"../{name}-{of}/{stage}"      # a stage of another run, from the run directory of this one

    def prompted(run: Path, **stages: str) -> Row:
        def make():
            agents = load(run, **stages)
            untrained = agents if stages.get("agent") == "untrained" else load(at("base"), agent="untrained")
            return agents, by_prompt(untrained.agent, dataset, agents.expert.perception)
        return Row(make, (run.name, at("base").name))

    table = {name: chosen(at(name)) for name in ("sft", "ppo", "memento", "imitation", "gopo", "gopo_tse", "gopo_soft", "gopo_single", "gopo_nano")}
    table |= {
        "untrained_single": chosen(at("single"), expert="untrained.safetensors", agent="untrained"),
        "untrained_dual": prompted(at("base"), expert="untrained.safetensors", agent="untrained"),
        "single_warm": chosen(at("single"), expert="untrained.safetensors", agent="warm_start"),
        "warm_start": chosen(at("base"), expert="untrained.safetensors", agent="warm_start"),
        "strategy": chosen(at("base"), expert="strategy.safetensors", agent="warm_start"),
        "teacher": Row(lambda: (load(at("gopo")), by_teacher), (at("gopo").name,)),
        "random": Row(lambda: (load(at("gopo")), by_chance(list(dataset.skills), seed)), (at("gopo").name,)),
        "cs_warm": chosen(at("gopo"), agent="warm_start"),
        "cs_untrained": chosen(at("gopo"), agent="untrained"),
        "cs_imitation": chosen(at("gopo"), agent=beside("imitation", "csagent")),
        "ex_untrained": chosen(at("gopo"), expert="untrained.safetensors"),
        "ex_imitation": chosen(at("gopo"), expert=beside("imitation", "expert.safetensors")),
        "ex_memento": chosen(at("memento"), agent=beside("gopo", "csagent")),
        "ex_prompted": prompted(at("gopo")),
    }
    if s.seeds > 1:
        other = partner(seed)
        table |= {"cs_other": chosen(at("gopo"), agent=beside("gopo", "csagent", other)),
                  "ex_other": chosen(at("gopo"), expert=beside("gopo", "expert.safetensors", other))}
    return table


def partner(seed: int) -> int:
    """The other seed; the same however many seeds there are."""
    return seed - 1 if seed else 1


def hosted_rows(s: Settings, seed: int, dataset: Any, judge: Any, api: Any) -> dict[str, Row]:
    """Tables 2, 3, 6 and 7 with a server: its model in the place of one agent, and of both."""
    from measure import hosted
    named = lambda place, model: f"api_{place}{re.sub(r'[^0-9A-Za-z_.]', '-', model.removeprefix('api:'))}"       # a part of a file's name
    places = [(named("cs_", s.cs_agent), None, s.cs_agent)] if s.cs_agent else []
    places += [(named("ex_", s.expert), s.expert, None)] if s.expert else []
    places += [(named("", s.expert), s.expert, s.cs_agent)] if s.expert and s.expert == s.cs_agent else []
    return {name: Row(make, (f"gopo-{seed}",)) for name, expert, agent in places
            for make in hosted(s.root / f"gopo-{seed}", dataset, judge, expert, agent, api).values()}


def row_file(s: Settings, row: str, seed: int) -> Path:
    return s.results / "evals" / f"{row}-{seed}.json"


def measuring(s: Settings, seed: int, api: Any, data_dir: str | None) -> Task:
    """The task of measuring the rows of a seed that have no file yet; it needs the runs that they read, and for the curves every run."""
    curves, left = curves_file(s, seed), lambda: {name: row for name, row in rows(s, seed, None, None).items() if not row_file(s, name, seed).exists()}
    needs = {run for row in left().values() for run in row.runs} | ({f"{name}-{seed}" for name in JOBS[s.study]} if not curves.exists() else set())
    return Task(f"measure-{seed}", measure_seed, (s, seed, api, data_dir), lambda: curves.exists() and not left(), tuple(sorted(needs)))


def measure_seed(s: Settings, seed: int, api: Any, data_dir: str | None) -> int:
    """Plays the test customers of every row that has no file yet."""
    from hosted.judge import judge_for
    from measure import data_of
    trained = [name for name in JOBS[s.study] if complete(s.root / f"{name}-{seed}")]
    dataset = data_of(s.root / f"{trained[0]}-{seed}", s.dataset, data_dir)
    judge = judge_for(dataset, s.judge, api)
    gather(curves_file(s, seed), curve_rows(s, seed, trained))
    for name, row in rows(s, seed, dataset, judge, api).items():
        if not row_file(s, name, seed).exists():
            measure_row(s, name, seed, *row.make())
    return 0


def curves_file(s: Settings, seed: int) -> Path:
    return s.results / "evals" / f"curves-{seed}.jsonl"


def curve_rows(s: Settings, seed: int, trained: Sequence[str]) -> list[dict]:
    """The training curves of the runs that are there.  Of a row measured earlier the curve stays: its run may be gone, and this one another."""
    files = {"": "metrics.jsonl"} | ({DEV: "evals.jsonl"} if s.study == "hacking" else {})
    earlier, found = read_rows(curves_file(s, seed)), []
    for name in JOBS[s.study]:
        for kind, file in files.items():
            method = name + kind
            kept = [row for row in earlier if row["method"] == method]
            read = (row | {"method": method, "seed": seed} for row in read_rows(s.root / f"{name}-{seed}" / file))
            found += kept if name not in trained or (kept and row_file(s, name, seed).exists()) else read
    return found


def measure_row(s: Settings, row: str, seed: int, agents: Any, choose: Any) -> None:
    """evals/<row>-<seed>.json: every customer's numbers; and the first dialogues, to read."""
    from experiments.report import dialogue_row, watched
    from measure import bleu_statistics, measure
    clock, moods, path = time.perf_counter(), {}, row_file(s, row, seed)
    customers, played = measure(agents, watched(choose, moods), s.episodes, 0, label=row, second_ear=row in TWO_EARS)
    read = [dialogue_row(agents, e, row, seed, moods[e.number]) for e in played[:SHOWN]]
    write_atomic(path.with_suffix(".jsonl"), "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in read))
    write_json(path, {"row": row, "seed": seed, "customers": customers, "bleu": bleu_statistics(played), "seconds": time.perf_counter() - clock,
                      "commit": versions()["commit"], "unanswered": sum(getattr(x, "unanswered", 0) for x in (agents.speaker, choose))})


# --- a study, whole -------------------------------------------------------------------------------------------------------------------

def conduct(s: Settings, workers: int, api: Any, data_dir: str | None, command: str) -> int:
    """Trains what is missing, measures what is missing, and writes the folder; 1 if something failed, which the tables then show as missing."""
    refuse_unsuited(s, data_dir)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop_once)
    os.environ["OMP_NUM_THREADS"] = "1"                                  # of the jobs; several of them share the cores
    with alone_in(s.root):
        return conduct_alone(agree(s), workers, api, data_dir, command)


def conduct_alone(s: Settings, workers: int, api: Any, data_dir: str | None, command: str) -> int:
    tasks = [training(s, name, seed, flags, data_dir) for seed in range(s.seeds) for name, flags in JOBS[s.study].items()]
    tasks = wanted(tasks, [measuring(s, seed, api, data_dir) for seed in range(s.seeds)])
    with clocked(s.results / "calls.json", command) as finished:
        failed = run_tasks(order(tasks), workers, s.results / "logs", finished)
    {"paper": write_paper, "warm_start": write_warm_start, "hacking": write_hacking}[s.study](s)
    return 1 if failed else 0


def refuse_unsuited(s: Settings, data_dir: str | None) -> None:
    """What could not be measured in the end is refused before anything is trained."""
    import data
    from measure import refuse_other_labels
    trained, tested = (data.load(name, data_dir or os.environ.get("GOPO_DATA", "data")) for name in (s.train_on, s.dataset))
    for dataset in (trained, tested):
        if dataset.environment is None:
            raise DataError(f"{dataset.name} is replayed logs: these experiments need a shop that answers (mgshop, tmallbrand-a, tmallbrand-b); "
                            "for logs see train.py, eval.py --run and baselines.py")
    refuse_other_labels(trained, tested)


TRAINED_WITH = ("train_on", "steps", "model", "small_model")             # settings of the runs; the others are of what is measured


def agree(s: Settings) -> Settings:
    """The settings of an earlier call for these results and these runs, which must be these, with as many seeds as either asked for."""
    for folder, names in ((s.results, [n for n in asdict(s) if n not in ("seeds", "precision", "cs_agent", "expert")]), (s.root, TRAINED_WITH)):
        earlier = asdict(s) | (read_json(folder / "settings.json") if (folder / "settings.json").exists() else {})
        if changed := [name for name in names if earlier[name] != getattr(s, name)]:
            raise DataError(f"{folder} was begun with --{changed[0]} {earlier[changed[0]]}, now {getattr(s, changed[0])}: "
                            "use the same, or move the folder away")
        s = replace(s, precision=earlier["precision"], seeds=max(s.seeds, earlier["seeds"]) if folder == s.results else s.seeds)
    if s.precision == "auto":                                            # asked once: on a busy machine the probe may answer differently
        s = replace(s, precision=pick_precision())
    for folder in (s.results, s.root):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "settings.json", asdict(s))
    return s


def write_paper(s: Settings) -> None:
    """curves.jsonl, dialogues.jsonl, and what tables.py makes of the numbers."""
    from experiments import tables
    evals, calls = s.results / "evals", read_json(s.results / "calls.json")
    gather(s.results / "curves.jsonl", (row for path in sorted(evals.glob("curves-*.jsonl")) for row in read_rows(path)))
    gather(s.results / "dialogues.jsonl", (row for path in sorted(evals.glob("*-*.jsonl")) if not path.name.startswith("curves-") for row in read_rows(path)))
    commits = sorted({read_json(path).get("commit") or "" for path in evals.glob("*.json")})         # of what measured, not of what writes
    made = {"commit": " ".join(commits).strip() or None, "date": time.strftime("%Y-%m-%d"),
            "commands": list(dict.fromkeys(c["command"] for c in calls["calls"])),
            "wall_seconds": sum(c["seconds"] for c in calls["calls"]), "seeds": list(range(s.seeds)), "episodes": s.episodes, "train_on": s.train_on,
            "model": s.model, "small_model": s.small_model}
    made |= {"judge": s.judge} if s.judge != "rules" else {}
    print(f"written: {tables.write(s.results, s.dataset, made)}, and tables.md, tables.csv and the figures beside it")


def gather(path: Path, found: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))


def in_brackets(cell: dict[str, Any] | None, sign: str = "") -> str:
    """The mean, its interval and, of a difference over seeds, Student's."""
    from experiments.report import brackets, figure, t_of
    if not cell:
        return "—"
    return f"{figure(cell['mean'], 3, sign)} {brackets(cell, 3, sign)}" + (f"; t {brackets(t_of(cell), 3, sign)}" if cell.get("t") else "")


def write_warm_start(s: Settings) -> None:
    """TSE of the strategy and the warm-started LM, and after the joint steps, for each size of the warm start."""
    from experiments import figures, tables
    measured, found = tables.Measured(tables.load_evals(s.results)), []
    for n in SIZES:
        before, after = f"before_{n}", f"after_{n}"
        if difference := measured.difference(after, before, "tse"):
            found.append({"dialogues": n, "before": measured.cell(before, "tse"), "after": measured.cell(after, "tse"), "difference": difference})
    write_json(s.results / "warm_start.json", found)
    lines = [f"| {r['dialogues']} | {in_brackets(r['before'])} | {in_brackets(r['after'])} | {in_brackets(r['difference'], '+')} |" for r in found]
    head = ["| dialogues of the warm start | TSE before the joint steps | after | difference |", "|---|---|---|---|"]
    write_atomic(s.results / "warm_start.md", "\n".join(head + lines) + "\n")
    figures.sizes(found, s.results / "warm_start.png", f"{s.dataset}: TSE against the size of the warm start")
    print("\n".join(head + lines) + f"\nwritten: {s.results}/warm_start.json, .md and .png")


def write_hacking(s: Settings) -> None:
    """What the judge pays and what the customer gets along long runs, in training and on dev customers; before and after them, with both ears."""
    from experiments import figures, tables
    along = [row for path in sorted((s.results / "evals").glob("curves-*.jsonl")) for row in read_rows(path)]
    names = {"strategy": "GOPO before the joint steps", "long": "GOPO, 100 joint steps", "strategy_judge": "Expert paid R^A only, before the joint steps",
             "long_judge": "Expert paid R^A only, 100 joint steps"}
    lines = {"long": "GOPO: training dialogues, R^A as paid (by the skills chosen)", "long" + DEV: "GOPO: dev customers, R^A by the teacher's skills",
             "long_judge": "Expert paid R^A only: training dialogues, R^A as paid",
             "long_judge" + DEV: "Expert paid R^A only: dev customers, R^A by the teacher's skills"}
    figures.panels([row for row in along if row["method"] in lines], lines, figures.SIGNS, s.results / "hacking.png", f"{s.dataset}: what long training does",
                   caption="Training dialogues (sampled) and 40 dev customers every 10 steps (most probable skills and tokens)")
    measured, kinds = tables.Measured(tables.load_evals(s.results)), ("tse", "tse_2nd_ear", "r_cs", "gre", "esndcg", "turns", "reply_words", "distinct_2",
                                                                      "repeated", "vouchers")
    table = [f"| {name} | " + " | ".join(in_brackets(measured.cell(row, kind)) for kind in kinds) + " |" for row, name in names.items()]
    table += [f"| {names[after]} − before | " + " | ".join(in_brackets(measured.difference(after, before, kind), "+") for kind in kinds) + " |"
              for before, after in (("strategy", "long"), ("strategy_judge", "long_judge"))]
    head = ["| | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    write_atomic(s.results / "hacking.md", "\n".join(head + table) + "\n")
    print("\n".join(head + table) + f"\nwritten: {s.results}/hacking.md and .png")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Studies beside the paper's tables (those: python eval.py --paper).", allow_abbrev=False)
    parser.add_argument("study", choices=[name for name in JOBS if name != "paper"],
                        help="warm_start: TSE against the size of the warm start; hacking: what long training does")
    parser.add_argument("--dataset", default="mgshop", help="mgshop, tmallbrand-a, ... (default mgshop)")
    parser.add_argument("--seeds", type=int, default=2, help="training seeds 0, 1, ... (default 2)")
    parser.add_argument("--episodes", type=int, default=200, help="test customers per row and seed (default 200)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"joint steps of warm_start; those of --paper in the same runs folder (default {STEPS})")
    parser.add_argument("--workers", type=int, default=2, help="jobs at a time, one thread each (default 2)")
    parser.add_argument("--data_dir", help="where corpora lie (default data, or GOPO_DATA)")
    args = parser.parse_args(argv)
    if min(args.seeds, args.episodes, args.steps, args.workers) < 1:
        parser.error("--seeds, --episodes, --steps and --workers must be at least 1")
    s = Settings(args.dataset, args.dataset, args.seeds, args.episodes, steps=args.steps, study=args.study)
    try:
        return conduct(s, args.workers, None, args.data_dir, f"python experiments.py {' '.join(sys.argv[1:])}")
    except (DataError, OSError) as error:
        print(f"experiments.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
