"""Measures a run on held-out customers, or lets you talk to it.

The table shows TSE with I and N, GRE, BLEU, ESNDCG with F1, exact match and length, and violations
(docs/metrics.md explains them).  Every row meets the same customers and decodes in the same way.
Intervals are 95 % percentile bootstraps over dialogues.
GRE and R^A come from the rule judge, which is also the training reward: they show what was
optimised.  TSE comes from the customer's ear, of which the judge knows nothing.  `tse_2nd_ear`
plays the same customers with a separately written ear; a difference above .05 is flagged.
Try it:  python eval.py --run runs/mgshop-gopo-0 --episodes 100 --show 1
         python eval.py --run runs/mgshop-gopo-0 --trials 8    is a customer served each time?
         python eval.py --run runs/mgshop-gopo-0 --chat        you are the customer
         transfer to another store:
         python eval.py --run runs/tmallbrand-a-gopo-0 --dataset tmallbrand-b
         a model of a server as judge (--judge api:MODEL needs --api_base):
         python eval.py --run RUN --judge api:MODEL --api_base http://127.0.0.1:8000/v1
         the paper's tables, see experiments/paper.py:
         python eval.py --paper --dataset mgshop --seeds 5
         those of InteractCS-RL, at the level of strategy, see experiments/budget.py:
         python eval.py --paper --dataset fds
         MORE's study on the simulated world sale, see experiments/more_study.py:
         python eval.py --paper --dataset sale --seeds 5"""
from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from data import DataError, Dataset, Episode, Observation, Step, opt
from gopo import Gopo, load_gopo
from hosted.judge import LLMJudge, judge_for
from infra.api import hosted_model
from infra.client import ApiConfig
from infra.files import refuse_unwritable, write_json
from infra.flags import given, parse, parser_of, refuse_below, refuse_other_words
from infra.locks import reading_from
from infra.runs import read_config, read_rows
from infra.terminal import command, flush, forgive
from judge import Judge
from lm.config import BUILT
from measure import Row, data_of, evaluate_run, hosted_gopo, rows_of, trained_row
from policies import Choose, keyed
from show import (
    print_client,
    print_price,
    print_service,
    print_table,
    print_trials,
    print_unanswered,
    show_dialogue,
    show_turn,
)
from start.of_dataset import OwnMeasures, own_measures

# --- flags --------------------------------------------------------------------------------------

@dataclass(frozen=True)
class MeasureConfig:
    """What is measured, for a run and for the paper's experiments."""
    dataset: str | None = opt(
        None, "test on this dataset, not the one trained on: same skills and labels, as "
        "tmallbrand-b for a run on tmallbrand-a")
    episodes: int | None = opt(
        None, "held-out dialogues per row; default 200, 1000 with --paper --dataset fds")
    data_dir: str | None = opt(
        None, "where corpora lie (default: the one of the training run, or GOPO_DATA)")
    judge: str = opt(
        "rules", "who judges: rules, or api:MODEL, a model of the server at --api_base; it also "
        "fills in G-Eval")
    cs_agent: str | None = opt(
        None, "adds a row in which api:MODEL writes the replies, with the rules in its prompt, and "
        "in the request where the server enforces them (--constraints)")
    expert: str | None = opt(
        None, "adds a row in which api:MODEL picks the skills; with --cs_agent, both parts are "
        "hosted (--paper: by one model)")

    trials: int = opt(
        0, "also serve every customer this many times, with replies drawn as in training, and "
        "print pass^k: the share of customers whom k trials of k serve; --paper: the rows of "
        "Table 1, of the first seed")

    def __post_init__(self):
        refuse_below(self, {"episodes": 1, "trials": 0})
        if self.judge != "rules":
            hosted_model(self.judge, "--judge", "rules")
        for name in ("cs_agent", "expert"):
            model = getattr(self, name)
            if model:
                hosted_model(model, f"--{name}", "nothing")


@dataclass(frozen=True)
class RunConfig:
    """One run directory."""
    run: str | None = opt(None, "a run directory written by train.py")
    seed: int = opt(0, "seed of the simulated customers and of the bootstrap")
    rows: list[str] = field(default_factory=list, metadata={
        "help": "only these rows: untrained warm_start strategy gopo (or what --algo was) "
                "true_perception (the same, but the Expert is given the customer's true intent and "
                "emotion) teacher random untrained_lm_teacher"})
    json: str | None = opt(
        None, "write all metrics to this file: row -> metric -> {mean, low, high}")
    show: int = opt(
        0, "print this many dialogues of the trained agents with states, constraints and reward "
        "parts")
    page: str | None = opt(
        None, "write the rows, the run's curves and some dialogues of each row into this folder, "
        "as a page to read in a browser (report.html)")
    chat: bool = opt(False, "you play the customer in the terminal")
    constraints: str = opt(
        "hard", "of the --cs_agent: hard: its server enforces the rules of each turn, as far as it "
        "can (it is tried once); soft: the prompt asks for them, and no more")

    def __post_init__(self):
        refuse_below(self, {"seed": 0, "show": 0})
        refuse_other_words(self, {"constraints": ("hard", "soft")})


@dataclass(frozen=True)
class PaperConfig:
    """All of the paper's experiments."""
    paper: bool = opt(
        False, "the paper's experiments: trains every method, measures every row, writes "
        "results/<dataset>; goes on where it was stopped")
    train_on: str | None = opt(
        None, "--paper: train on this dataset and test on --dataset; default the same")
    seeds: int = opt(5, "--paper: training seeds 0, 1, ...")
    quick: bool = opt(False, "--paper: one seed, 100 customers")
    difficulty: str | None = opt(
        None, "--paper --dataset fds: hard (default) or easy, the mix of its customers")
    api: list[str] = field(default_factory=list, metadata={
        "help": "--paper --dataset fds: also a row of each of these models of the --api_base "
                "server, which decide on a voucher and then write, alone"})
    steps: int | None = opt(
        None, "--paper: joint steps of every method; default 15, with which five seeds take two "
        "and a third hours on 2 cores; with fds steps of CMPO, default 600")
    workers: int | None = opt(
        None, "--paper: jobs at a time, one thread each; default 2, or 1 with a large model")
    model: str = opt("tiny", "--paper: the language model of all methods, as in train.py")
    small_model: str = opt("nano", "--paper: the smaller model of Table 4")

    def __post_init__(self):
        refuse_below(self, {"seeds": 1, "steps": 1, "workers": 1})


def parse_flags(
    argv: Sequence[str] | None,
) -> tuple[MeasureConfig, RunConfig, PaperConfig, ApiConfig]:
    """The flags.  A run directory and --paper exclude each other, and so do their flags."""
    argv = sys.argv[1:] if argv is None else list(argv)
    description = __doc__.split("\n\n")[0]
    parser = parser_of([MeasureConfig, RunConfig, PaperConfig, ApiConfig], description)
    measured, one, paper, api = parse(parser, argv)
    if measured.episodes is None:
        measured = replace(measured, episodes=usual_episodes(measured, paper))
    if paper.paper == bool(one.run):
        parser.error(
            "name a run directory written by train.py, e.g. --run runs/mgshop-gopo-0; "
            "or --paper, for all of the paper's experiments")
    if paper.paper:
        foreign = given(RunConfig, argv)
        refusal = "belongs to --run; --paper goes without it"
    else:
        foreign = given(PaperConfig, argv)
        refusal = "belongs to --paper"
    if foreign:
        parser.error(f"{foreign} {refusal}")
    if one.page and one.chat:
        parser.error("--page shows measured rows, and --chat measures none: leave one out")
    if one.chat and (measured.cs_agent or measured.expert or one.rows):
        parser.error(
            "--chat talks to the run's own agents: leave out --cs_agent, --expert and --rows")
    return measured, one, paper, api


def usual_episodes(measured: MeasureConfig, paper: PaperConfig) -> int:
    """How many dialogues a row has, where nobody said it."""
    # criteria of the budget study are measured on a thousand
    return 1000 if paper.paper and measured.dataset == "fds" else 200


# --- to talk ------------------------------------------------------------------------------------

class You:
    """The person at the terminal as an environment.

    If the dataset has a public catalogue, B_t follows what you say.
    """

    def __init__(self, dataset: Dataset):
        self.context_of = dataset.context
        self.said: list[str] = []
        # of the dialogue: the last one is shown before you answer
        self.steps: list[Step] = []

    def reset(self) -> Observation:
        return self._listen()

    def step(self, reply: str) -> Observation:
        show_turn(self.steps[-1], len(self.steps), rewarded=False)
        return self._listen()

    def _listen(self) -> Observation:
        try:
            text = input("\nyou (empty line ends): ").strip()
        except EOFError:
            text = ""
        self.said.append(text)
        context = self.context_of(self.said) if self.context_of else {}
        return Observation(text, context, terminated=not text)


def chat(gopo: Gopo) -> None:
    """You play the customer.

    Every turn shows what the two agents perceived, chose, had to say and earned.
    """
    print(f"You are the customer of {gopo.dataset.name}.")
    if gopo.dataset.name == "mgshop":
        print("Try: I am looking for a quiet kettle, at most 40 euros.")
    you = You(gopo.dataset)
    episode = Episode(0, you, you.reset(), you.steps)
    gopo.play([episode], gopo.chooser(greedy=True), temperature=0.0, draws=keyed(0))


# --- commands -----------------------------------------------------------------------------------

def run_paper(measured: MeasureConfig, paper: PaperConfig, api: ApiConfig) -> int:
    """All of the paper's experiments."""
    # Imports training, which is slow and which only --paper needs.
    from experiments.paper import STEPS, Settings, conduct
    hosted = measured.cs_agent or measured.expert or measured.judge != "rules"
    if hosted and not api.api_base:
        raise DataError(
            "--judge api:, --cs_agent and --expert need --api_base, the address of the server, "
            "e.g. http://127.0.0.1:8000/v1")
    name = measured.dataset or "mgshop"
    if measured.trials and name in ("fds", "sale"):
        raise DataError(
            f"--trials: the tables of {name} have none; leave it out, or give it with --run RUN")
    if name == "fds":
        return run_budget(measured, paper, api)
    if paper.api:
        raise DataError(
            f"--api: rows of hosted models that decide belong to fds; with {name} use --cs_agent "
            "and --expert")
    if paper.difficulty:
        raise DataError(f"--difficulty chooses the customers of fds; {name} has one mix")
    if name == "sale":
        return run_sale(measured, paper)
    seeds = paper.seeds
    episodes = measured.episodes
    if paper.quick:
        seeds = 1
        episodes = min(episodes, 100)
    settings = Settings(
        dataset=name,
        train_on=paper.train_on or name,
        seeds=seeds,
        episodes=episodes,
        judge=measured.judge,
        steps=paper.steps or STEPS,
        model=paper.model,
        small_model=paper.small_model,
        cs_agent=measured.cs_agent,
        expert=measured.expert,
        trials=measured.trials,
    )
    workers = paper.workers
    if not workers:
        workers = 2 if paper.model in BUILT else 1
    said = command("eval.py", *sys.argv[1:])
    return conduct(settings, workers, api, measured.data_dir, said)


def run_budget(measured: MeasureConfig, paper: PaperConfig, api: ApiConfig) -> int:
    """The rows of InteractCS-RL in the food-delivery store, at the level of strategy."""
    from experiments.budget import STEPS, Study, conduct, models_of
    foreign = {
        "train_on": paper.train_on, "cs_agent": measured.cs_agent, "expert": measured.expert,
        "model": paper.model != PaperConfig.model,
        "small_model": paper.small_model != PaperConfig.small_model}
    for name, asked in foreign.items():
        if asked:
            raise DataError(
                f"--{name}: --paper --dataset fds compares strategies, whose replies the phrase "
                "book writes; leave it out (a hosted model as agent: --api MODEL)")
    seeds = 1 if paper.quick else paper.seeds
    episodes = measured.episodes
    if paper.quick:
        episodes = min(episodes, 100)
    # a quick look is in nobody's way
    folder = "results/fds-quick" if paper.quick else "results/fds"
    study = Study(
        Path(folder), paper.difficulty or "hard", seeds, paper.steps or STEPS, episodes,
        models=models_of(paper.api), api=api)
    said = command("eval.py", *sys.argv[1:])
    return conduct(study, paper.workers or 2, said, measured.judge)


def run_sale(measured: MeasureConfig, paper: PaperConfig) -> int:
    """MORE's study; its rows are single agents, judged by rules."""
    from experiments.more_rows import ROWS, Settings
    from experiments.more_study import OUT, conduct
    hosted = measured.cs_agent or measured.expert or measured.judge != "rules"
    if hosted or paper.train_on:
        raise DataError(
            "--paper --dataset sale has rows of its own (docs/more.md): leave out --train_on, "
            "--judge, --cs_agent and --expert")
    calls, seeds = measured.episodes, paper.seeds
    if paper.quick:
        calls, seeds = min(calls, 100), 1
    settings = Settings(model=paper.model, calls=calls)
    if paper.steps:
        settings = replace(settings, steps=paper.steps)
    return conduct(settings, range(seeds), list(ROWS), OUT)


def check(
    measured: MeasureConfig, one: RunConfig, api: ApiConfig, config: dict, dataset: Dataset,
    rows: Sequence[str],
) -> None:
    """Refuses what this run cannot show."""
    if measured.trials and dataset.environment is None:
        raise DataError(
            f"--trials: {dataset.name} is replayed logs, where no customer can be served; "
            "leave it out")
    if measured.trials and (measured.cs_agent or measured.expert):
        raise DataError(
            "--trials: the answers of a hosted model are kept, so that every trial would be the "
            "same; leave out --cs_agent and --expert")
    if (measured.cs_agent or measured.expert) and not api.api_base:
        raise DataError(
            "--cs_agent and --expert need --api_base, the address of the server, "
            "e.g. http://127.0.0.1:8000/v1")
    if measured.expert and config["gopo"]["no_expert"]:
        raise DataError(
            f"--expert: {one.run} was trained with --no_expert, its agent follows no skills")
    if unknown := set(one.rows) - set(rows):
        raise DataError(f"--rows {' '.join(sorted(unknown))}: this run has {' '.join(rows)}")


def hosted_rows(
    run: Path, dataset: Dataset, judge: Judge, measured: MeasureConfig, api: ApiConfig,
    constraints: str,
) -> dict[str, Callable[[], tuple[Gopo, Choose]]]:
    """The row in which hosted models take part, if one was asked for."""
    expert, cs_agent = measured.expert, measured.cs_agent
    if not expert and not cs_agent:
        return {}
    name = f"{expert or 'gopo'} + {cs_agent or 'gopo'}"
    return {name: partial(hosted_gopo, run, dataset, judge, expert, cs_agent, api, constraints)}


def measure_run(measured: MeasureConfig, one: RunConfig, api: ApiConfig) -> None:
    """One run directory: its rows as a table, or a talk with it."""
    run = Path(one.run)
    config = read_config(run, "--run")
    refuse_files(one)
    with reading_from(run):
        dataset = data_of(run, measured.dataset, measured.data_dir)
        judge = judge_for(dataset, measured.judge, api)
        check(measured, one, api, config, dataset, list(rows_of(run, dataset)))
        if one.chat:
            talked = load_gopo(run, dataset, judge=judge)
        else:
            read = page_of(run, config, judge, one)
            own = own_measures(run, dataset, measured.data_dir)
            table, shown = measured_rows(
                run, config, dataset, judge, measured, one, api, own, read)
    if one.chat:
        chat(talked)
        return
    lost = None
    try:
        # before anything is printed, which may fail as well
        if one.json:
            write_json(Path(one.json), table)
            own.write(Path(one.json).with_suffix(".woz.json"))
    except OSError as error:
        lost = error
    live = dataset.environment is not None
    total = measured.episodes if live else min(measured.episodes, len(dataset.test))
    print(f"{shown}\n{dataset.name}: {total} test dialogues, seed {one.seed}")
    rewarded = measured.judge == config["run"].get("judge", "rules")
    print_table(table, live, judge, rewarded)
    print_trials(table, measured.trials)
    print_service(table)
    print_price(read_rows(run / "metrics.jsonl"))
    own.tell()
    if isinstance(judge, LLMJudge):
        print("judge: ", end="")
        print_client(judge.client)
    if one.page:
        said = command("eval.py", *sys.argv[1:])
        print(f"written: {read.write(Path(one.page), table, said, total)}; open it in a browser")
    if lost:
        raise lost
    if one.json:
        print(f"written: {one.json}")


def refuse_files(one: RunConfig) -> None:
    """DataError for what could not be written at the end."""
    if one.json:
        refuse_unwritable("--json", Path(one.json), file=True)
    if one.page:
        refuse_unwritable("--page", Path(one.page))


def page_of(run: Path, config: dict, judge: Judge, one: RunConfig) -> Any:
    """An `experiments.run_page.RunPage`, where a page is asked for or dialogues are to be judged.

    Otherwise None: the page's imports are slow."""
    if not one.page and not isinstance(judge, LLMJudge):
        return None
    from experiments.run_page import RunPage
    return RunPage(run, config, judge)


def measured_rows(
    run: Path, config: dict, dataset: Dataset, judge: Judge, measured: MeasureConfig,
    one: RunConfig, api: ApiConfig, own: OwnMeasures, read: Any = None,
) -> tuple[dict[str, Row], str]:
    """The table, and the dialogues that `--show` asks for, as text.

    own   takes note of each row, for what the dataset measures itself
    read  of `page_of`: keeps dialogues for the page, and has them judged
    """
    more = hosted_rows(run, dataset, judge, measured, api, one.constraints)
    trained = trained_row(config)
    text = io.StringIO()

    def look(name: str, gopo: Gopo, choose: Choose, played: list[Episode]) -> None:
        own.keep(name, gopo, played)
        if read:
            read.keep(name, gopo, played)
        if name == trained or name in more:
            with contextlib.redirect_stdout(text):
                for episode in played[:one.show]:
                    show_dialogue(gopo, episode)
                print_unanswered(gopo.speaker, choose)

    table = evaluate_run(
        run, dataset, measured.episodes, one.seed, judge, one.rows, more, look, measured.trials)
    if read:
        read.fill_in(table)
    return table, text.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    forgive()
    measured, one, paper, api = parse_flags(argv)
    try:
        if paper.paper:
            return run_paper(measured, paper, api)
        measure_run(measured, one, api)
        flush()
    except (DataError, OSError) as error:
        print(f"eval.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        message = "\nstopped"
        if paper.paper:
            message += "; the same command goes on"
        print(message, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
