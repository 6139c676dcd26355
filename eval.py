"""Measures a run on held-out customers: TSE with I and N, GRE, BLEU, ESNDCG with F1, exact match and length, violations; or lets you talk to it.

Every row meets the same customers and decodes the same way: the most probable skills, and the most probable tokens (temperature 0).
Intervals are 95 % percentile bootstraps over dialogues.  GRE and R^A come from the rule judge, which is also the training reward: they
show what was optimised.  Every row is judged by what the turn needed, the teacher's skills, not by the skills that it chose itself: who
chooses nothing would otherwise have nothing to get wrong.  TSE comes from the customer's ear, which the judge knows nothing of;
`tse_2nd_ear` plays the same customers with a separately written ear, and a difference above .05 is flagged.
Try it:  python eval.py --run runs/mgshop-gopo-0 --episodes 100 --show 1
         python eval.py --run runs/mgshop-gopo-0 --chat        you are the customer
         python eval.py --run runs/tmallbrand-a-gopo-0 --dataset tmallbrand-b        transfer to another store
         python eval.py --paper --dataset mgshop --seeds 5        the paper's tables: see experiments.py
         python eval.py --run runs/mgshop-gopo-0 --judge api:MODEL --api_base http://127.0.0.1:8000/v1        an LLM judges, G-Eval too"""
from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

import data
from data import DataError, Dataset, opt
from gopo import Episode, Gopo, Step, judge_for, load_gopo, request_of
from hosted.judge import LLMJudge, hosted_model
from infra.client import ApiConfig
from infra.files import read_json, write_json
from judge import Judged
from lm.models import BUILT
from measure import data_of, evaluate_run, hosted, methods, print_table, show_turn

# --- metrics ------------------------------------------------------------------------------------------------------------------


# --- the rows of a run ----------------------------------------------------------------------------------------------------------


# --- to read, to talk -------------------------------------------------------------------------------------------------------------


class You:
    """The person at the terminal as an environment; B_t follows what you say, if the dataset has a public catalogue."""

    def __init__(self, dataset: Dataset):
        self.context_of, self.said = dataset.context, []

    def reset(self) -> data.Observation:
        return self.step("")

    def step(self, reply: str) -> data.Observation:
        try:
            text = input("\nyou (empty line ends): ").strip()
        except EOFError:
            text = ""
        self.said.append(text)
        context = self.context_of(self.said) if self.context_of else {}
        return data.Observation(text, context, terminated=not text)


def chat(gopo: Gopo) -> None:
    """You play the customer; every turn shows what the two agents perceived, chose, had to say and earned."""
    print(f"You are the customer of {gopo.dataset.name}.", "Try: I am looking for a quiet kettle, at most 40 euros." * (gopo.dataset.name == "mgshop"))
    you = You(gopo.dataset)
    episode = Episode(0, you, you.reset())
    choose = gopo.chooser(greedy=True)
    while not episode.over:
        state = episode.state()
        perceived = gopo.expert.perception.perceive([state.user])[0]
        skills = choose([state], [episode])[0]
        request = request_of(state, skills, episode.seen.context, perceived, gopo.alone)
        reply = gopo.speaker.generate([request], 1, 0.0, torch.Generator().manual_seed(len(episode.steps)))[0]
        asked, before = tuple(gopo.dataset.skills[k] for k in skills), tuple(s.replies[0].text for s in episode.steps)
        item = Judged(state.user, request.context, asked, reply[0].text, before, history=state.history)
        episode.steps.append(Step(state, request, perceived, (None, None), skills, None, reply, gopo.judge.score([item]), item))
        show_turn(gopo, len(episode.steps), episode.steps[-1], None)
        episode.seen = you.step(reply[0].text)


@dataclass(frozen=True)
class EvalConfig:
    """What is measured."""
    run: str | None = opt(None, "a run directory written by train.py")
    dataset: str | None = opt(None, "test on this dataset, not the one trained on: same skills and labels, as tmallbrand-b for a run on tmallbrand-a")
    paper: bool = opt(False, "the paper's experiments: trains every method, measures every row, writes results/<dataset>; goes on where it was stopped")
    train_on: str | None = opt(None, "--paper: train on this dataset and test on --dataset; default the same")
    seeds: int = opt(5, "--paper: training seeds 0, 1, ...")
    quick: bool = opt(False, "--paper: one seed, 100 customers")
    steps: int | None = opt(None, "--paper: joint steps of every method; default 15, with which five seeds take two and a third hours on 2 cores")
    workers: int | None = opt(None, "--paper: jobs at a time, one thread each; default 2, or 1 with a large model")
    model: str = opt("tiny", "--paper: the language model of all methods, as in train.py")
    small_model: str = opt("nano", "--paper: the smaller model of Table 4")
    episodes: int = opt(200, "held-out dialogues per row")
    seed: int = opt(0, "seed of the simulated customers and of the bootstrap")
    rows: list[str] = field(default_factory=list, metadata={"help": "only these rows: untrained warm_start strategy gopo (or what --algo was) "
                                                                                 "told (the same, but the Expert knows u_t and e_t of the simulated customer) "
                                                                                 "teacher random untrained_lm_teacher"})
    json: str | None = opt(None, "write all metrics to this file: row -> metric -> {mean, low, high}")
    show: int = opt(0, "print so many dialogues of the trained agents with states, constraints and reward parts")
    chat: bool = opt(False, "you play the customer in the terminal")
    data_dir: str | None = opt(None, "where corpora lie (default: the one of the training run, or GOPO_DATA)")
    judge: str = opt("rules", "who judges: rules, or api:MODEL, a model of the server at --api_base; it also fills in G-Eval")
    cs_agent: str | None = opt(None, "adds a row in which api:MODEL writes the replies, the SOP in its prompt as soft constraints")
    expert: str | None = opt(None, "adds a row in which api:MODEL picks the skills; with --cs_agent, both parts are hosted (--paper: by one model)")

    def __post_init__(self):
        if self.paper == bool(self.run):
            raise ValueError("name a run directory written by train.py, e.g. --run runs/mgshop-gopo-0; or --paper, for all of the paper's experiments")
        if self.paper and (self.chat or self.rows or self.json or self.show or self.seed):
            raise ValueError("--paper goes without --chat, --rows, --json, --show and --seed")
        if not self.paper and (self.train_on or self.steps or self.workers or self.quick):
            raise ValueError("--train_on, --steps, --workers and --quick belong to --paper")
        for name, least in (("episodes", 1), ("show", 0), ("seed", 0), ("seeds", 1), ("steps", 1), ("workers", 1)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"--{name} must be at least {least}, got {getattr(self, name)}")
        for flag, name in (("--cs_agent", self.cs_agent), ("--expert", self.expert), ("--judge", self.judge if self.judge != "rules" else None)):
            if name:
                hosted_model(name, flag, "rules" if flag == "--judge" else "nothing")
        if self.chat and (self.cs_agent or self.expert or self.rows):
            raise ValueError("--chat talks to the run's own agents: leave out --cs_agent, --expert and --rows")


def run_paper(cfg: EvalConfig, api: ApiConfig) -> int:
    from experiments.paper import STEPS, Settings, conduct
    if (cfg.cs_agent or cfg.expert or cfg.judge != "rules") and not api.api_base:
        raise DataError("--judge api:, --cs_agent and --expert need --api_base, the address of the server, e.g. http://127.0.0.1:8000/v1")
    name = cfg.dataset or "mgshop"
    settings = Settings(name, cfg.train_on or name, 1 if cfg.quick else cfg.seeds, min(cfg.episodes, 100) if cfg.quick else cfg.episodes, cfg.judge, "auto",
                        cfg.steps or STEPS, cfg.model, cfg.small_model, cfg.cs_agent, cfg.expert)
    return conduct(settings, cfg.workers or (2 if cfg.model in BUILT else 1), api, cfg.data_dir, f"python eval.py {' '.join(sys.argv[1:])}")


def execute(cfg: EvalConfig, api: ApiConfig) -> None:
    config, run = read_json(Path(cfg.run) / "config.json"), Path(cfg.run)
    dataset = data_of(run, cfg.dataset, cfg.data_dir)
    judge = judge_for(dataset, cfg.judge, api)
    if (cfg.cs_agent or cfg.expert) and not api.api_base:
        raise DataError("--cs_agent and --expert need --api_base, the address of the server, e.g. http://127.0.0.1:8000/v1")
    if cfg.expert and config["gopo"]["no_expert"]:
        raise DataError(f"--expert: {run} was trained with --no_expert, its agent follows no skills")
    if unknown := set(cfg.rows) - set(methods(run, dataset, judge)):
        raise DataError(f"--rows {' '.join(sorted(unknown))}: this run has {' '.join(methods(run, dataset, judge))}")
    if cfg.chat:
        return chat(load_gopo(run, dataset, judge=judge))
    table = evaluate_run(run, dataset, cfg.episodes, cfg.seed, judge, cfg.show, cfg.rows, hosted(run, dataset, judge, cfg.expert, cfg.cs_agent, api))
    total = cfg.episodes if dataset.environment else min(cfg.episodes, len(dataset.test))
    print(f"\n{dataset.name}: {total} test dialogues, seed {cfg.seed}")
    print_table(table, dataset.environment is not None, judge, cfg.judge == config["run"].get("judge", "rules"))
    if isinstance(judge, LLMJudge):
        print(f"judge: {judge.client.report()}")
    if cfg.json:
        write_json(Path(cfg.json), table)
        print(f"written: {cfg.json}")


def main(argv: Sequence[str] | None = None) -> int:
    from transformers import HfArgumentParser
    parser = HfArgumentParser([EvalConfig, ApiConfig], allow_abbrev=False, description=__doc__.split("\n\n")[0])
    try:
        configs = parser.parse_args_into_dataclasses(argv)
    except ValueError as error:
        parser.error(str(error))
    try:
        if configs[0].paper:
            return run_paper(*configs)
        execute(*configs)
    except (DataError, OSError) as error:
        print(f"eval.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped" + "; the same command goes on" * configs[0].paper, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
