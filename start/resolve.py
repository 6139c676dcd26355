"""From flags to a run directory, its config.json and the data.

config.json holds exactly what is used: `settle` fills in every default that depends on the data or
on another flag, so that no null stands where a run uses a number.  It is written once and read
again on resume."""
from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import data
from config import GopoConfig
from data import DataError, Dataset
from gopo import algorithm, algorithm_of, decides, expert_config
from hosted.judge import judge_for
from infra.client import ApiConfig
from infra.devices import picked, refuse_absent, refuse_unsuited
from infra.domain import as_trained
from infra.files import refuse_unwritable, write_json
from infra.flags import recorded
from infra.locks import alone_in, reading_from, refuse_growing
from infra.processes import broadcast, is_main
from infra.runs import last_step, read_config, refuse_occupied, run_directory, versions
from infra.terminal import command
from infra.watch import refuse_missing
from lm.config import BUILT, configs_of
from lm.encoder import encoder_of
from lm.found import located
from lm.precision import pick_precision
from start import own_judge
from start.base import check_base, take_base
from start.flags import PARTS, Configs, RunConfig
from start.laptop import smaller

LARGE = 1 << 30                                  # bytes of weights from which training needs a GPU
DEFAULTS = {
    "lm": {"steps": 25, "eval_every": 10, "save_every": 10},
    "template": {"steps": 60, "eval_every": 10, "save_every": 10},
}


# --- config.json --------------------------------------------------------------------------------

def settle(config: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    """The config with every open default filled in.

    config   "run", "gopo", "lm", "agent" and "warm" are dictionaries of flags; "replies" is decided
    returns  a new dictionary in which null means "none", never "decided later"
    """
    run = dict(config["run"])
    speaks = run["replies"] == "lm"
    method = algorithm(run.get("algo", "gopo"))
    own = method.usual_of_words if decides(config) else method.usual
    usual = DEFAULTS[run["replies"]] | own
    for name, value in usual.items():
        if run[name] is None:
            run[name] = value
    if run["split"] is None and run["dataset"] == "star":
        run["split"] = "dialogue"
    if run["dataset"] == "fds":
        run |= _of_fds(run)
    lm, agent, warm = configs_of(config)
    if config["agent"].get("group") is None:
        agent = replace(agent, group=method.candidates)
    if warm.warm_dialogues is None:
        warm = replace(warm, warm_dialogues=len(dataset.train))
    live = dataset.environment is not None
    gopo = recorded(GopoConfig, config["gopo"]).settled(live, speaks)
    rollouts = run["steps"]
    if speaks and run["strategy_steps"] and not decides(config):
        rollouts = run["strategy_steps"]
    usual = dict(method.usual_of_expert)
    if not gopo.no_expert:
        usual["history"] = dataset.history
    expert = expert_config(config).settled(live, rollouts, usual)
    options = method.settled_options(method.options_of(config), speaks)
    return config | {
        "options": asdict(options) if options else None,
        "run": run,
        "expert": asdict(expert),
        "gopo": asdict(gopo),
        "lm": asdict(lm),
        "agent": asdict(agent),
        "warm": asdict(warm),
    }


def _of_fds(run: Mapping[str, Any]) -> dict[str, Any]:
    """The open settings of the food-delivery store."""
    # the store's book takes a while to read
    from shop.fds import GENEROSITY
    generosity = run.get("warm_generosity")
    if generosity is None:
        generosity = GENEROSITY
    return {"difficulty": run["difficulty"] or "hard", "warm_generosity": generosity}


def new_config(configs: Configs, dataset: Dataset) -> dict[str, Any]:
    """config.json of a new run."""
    device = picked(configs.run.device)
    model = located(configs.lm.model)
    if device == "cpu" and model not in BUILT and configs.run.replies == "lm":
        configs = smaller(configs, configs.given, model)
    cfg = configs.run
    config = {name: asdict(getattr(configs, name)) for name in PARTS}
    config["run"] |= {
        "resume": None,
        "overwrite": False,
        "replies": replies_of(dataset, cfg, configs.gopo),
    }
    config["lm"]["model"] = model
    config["options"] = asdict(configs.options) if configs.options else None
    config["device"] = device
    config["precision"] = cfg.precision
    if cfg.precision == "auto":
        config["precision"] = pick_precision(device)
    config["threads"] = torch.get_num_threads()
    config["versions"] = versions()
    return settle(config, dataset)


def replies_of(dataset: Dataset, cfg: RunConfig, gopo: GopoConfig) -> str:
    """lm or template, as far as the data allows; says what it does not allow."""
    turns = turns_of(dataset)
    if not any(t.skills for t in turns) and not gopo.no_expert:
        raise DataError(
            f"{dataset.name}: no turn has skills, so the Expert has nothing to learn from: label "
            f"them ({command('-m hosted.label', cfg.dataset, '--help')}), or use --no_expert")
    if dataset.environment and dataset.template is None and not gopo.no_expert:
        raise DataError(
            f"{dataset.name} has no phrase book that could speak for an Expert: its customers hear "
            "numbers, and no slots; use one agent without an Expert (--no_expert, --algo sft, ppo)")
    replies = cfg.replies
    if replies == "lm" and not any(t.reply for t in turns):
        print(f"{dataset.name}: no turn has a reply, so there is nothing for a language model to "
              "learn: training the Expert alone")
        replies = "template"
    if replies == "template" and gopo.no_expert:
        raise DataError(
            "without an Expert (--no_expert, --algo sft, ppo) and without a language model nothing "
            "is left to train")
    return replies


def turns_of(dataset: Dataset) -> list[data.Turn]:
    """Every turn of the training split."""
    turns: list[data.Turn] = []
    for dialogue in dataset.train:
        turns += dialogue.turns
    return turns


# --- the run directory --------------------------------------------------------------------------

def resolve(configs: Configs, held: ExitStack) -> tuple[Path, dict, Dataset]:
    """The run directory, its config and the data; no other process may use it while `held` is."""
    if configs.run.resume:
        return resumed(Path(configs.run.resume), configs, held)
    return started(configs, held)


def started(configs: Configs, held: ExitStack) -> tuple[Path, dict, Dataset]:
    """A new run: everything that can be refused is refused before the directory is touched."""
    configs = with_slots(with_rates(configs))
    cfg = configs.run
    if cfg.output_dir:
        refuse_occupied(Path(cfg.output_dir), cfg.overwrite)
    refuse_unwritable("--output_dir", Path(cfg.output_dir or "runs"))
    refuse_absent(cfg.device)
    refuse_unsuited(cfg.device, cfg.precision, configs.lm.quantise, cfg.algo)
    refuse_missing(cfg.report_to)
    if configs.expert.encoder:
        encoder_of(configs.expert.encoder)       # refused now, not after the stages before it
    dataset = data_of(asdict(cfg), cfg.base)
    judge_for(dataset, cfg.judge, configs.api)
    options = algorithm(cfg.algo).options_for(configs.options, dataset, configs.given)
    config = new_config(replace(configs, options=options), dataset)
    refuse_unearned(dataset, config)
    own_judge.refuse_unlearned(dataset, config)
    if config["run"]["replies"] == "lm" and configs.lm.model not in BUILT:
        # imported here: transformers takes seconds, and neither --help nor a strategy needs it
        from start.check import check_model
        print(memory_table(dataset, config))
        check_model(dataset, config)             # refused now, not after the stages before it
    shared: tuple[str, ...] = ()
    with ExitStack() as reading:
        if cfg.base:
            reading.enter_context(reading_from(Path(cfg.base)))
            shared = check_base(Path(cfg.base), config)
            # The base may be of another machine.
            config["precision"] = read_config(Path(cfg.base))["precision"]
        needed = {name: getattr(cfg, name) for name in ("base", "dataset", "data_dir")}
        needed |= {"model": configs.lm.model, "encoder": configs.expert.encoder}
        run = run_directory(held, cfg.output_dir, name_of(configs), cfg.overwrite, needed)
        config["run"]["output_dir"] = str(run)
        write_json(run / "config.json", config)
        if cfg.base:
            take_base(Path(cfg.base), run, shared)
    return run, config, dataset


def with_rates(configs: Configs) -> Configs:
    """The flags with the rates of `sale` filled in: they decide what its customers are."""
    run = configs.run
    if run.dataset != "sale" or run.sale_rates:
        return configs
    rates = "clean" if configs.lm.model in BUILT else "paper"
    return replace(configs, run=replace(run, sale_rates=rates))


def with_slots(configs: Configs) -> Configs:
    """The flags with the slots of `multiwoz` filled in: a model that speaks may say every one."""
    run = configs.run
    if run.dataset != "multiwoz" or run.woz_slots:
        return configs
    slots = "every" if run.replies == "lm" else "known"
    return replace(configs, run=replace(run, woz_slots=slots))


def data_of(run: Mapping[str, Any], trained: str | None) -> Dataset:
    """The data of a run ("run" of its config.json), its labels in the order of `trained`.

    trained  a run directory whose networks are used; one that was stopped early has no order yet
    """
    if run["dataset"].endswith(".jsonl"):
        refuse_growing(Path(run["dataset"]))
    dataset = data.load_used(run)
    if trained and (Path(trained) / "dataset.json").exists():
        dataset = as_trained(dataset, Path(trained))
    return dataset


def trained_by(run: Path, config: Mapping[str, Any]) -> str:
    """Whose order of labels a run has: its own, or its base's before it has begun."""
    if (run / "dataset.json").exists() or not config["run"]["base"]:
        return str(run)
    return config["run"]["base"]


def refuse_unearned(dataset: Dataset, config: dict[str, Any]) -> None:
    """Refuses rewards that are always 0, now and not after the stages that come before them."""
    method, options = algorithm_of(config)
    cfg = recorded(GopoConfig, config["gopo"])
    speaks = config["run"]["replies"] == "lm"
    # what the data lacks comes first: no flag would help
    method.refuse_unsuited(dataset, cfg, speaks)
    method.refuse_options(dataset, options, speaks)
    if speaks:
        method.refuse_words(dataset, configs_of(config)[0], options)
    if cfg.fix_expert:
        refuse_fixed(config["run"], cfg)
    method.refuse_unreachable(dataset, options, recorded(ApiConfig, config.get("api", {})))
    if not speaks or cfg.no_expert or not config["run"]["strategy_steps"]:
        return
    try:
        method.refuse_unsuited(dataset, replace(cfg, dialogues=cfg.strategy_dialogues), False)
    except DataError as error:
        raise DataError(f"{error}, as in the strategy stage: add --strategy_steps 0") from None


def refuse_fixed(run: Mapping[str, Any], cfg: GopoConfig) -> None:
    """--fix_expert needs joint steps in which somebody else learns."""
    algo = run.get("algo", "gopo")
    if algo not in ("gopo", "imitation"):
        raise DataError(f"--algo {algo} does not read --fix_expert: leave it out")
    if cfg.no_expert:
        raise DataError("--no_expert leaves nobody whom --fix_expert could keep as it is")
    if run["replies"] != "lm":
        raise DataError(
            "--fix_expert without a language model leaves nothing to learn: leave it out")


def name_of(configs: Configs) -> str:
    """The default name of the run directory."""
    algo = configs.run.algo
    if algo == "gopo" and configs.gopo.no_expert:
        algo = "alone"
    dataset = configs.run.dataset
    if data.is_function(dataset):
        dataset = dataset.partition(":")[2]      # a folder's name holds no colon on Windows
    return f"{Path(dataset).stem}-{algo}-{configs.run.seed}"


def resumed(run: Path, configs: Configs, held: ExitStack) -> tuple[Path, dict, Dataset]:
    """An earlier run: its own config, except --steps and the flags of the API (servers move).

    Nothing is changed before everything is checked, and before no other process can be there.
    """
    read_config(run, "--resume")                 # or the lock would make a folder
    refuse_unwritable("--resume", run)
    held.enter_context(alone_in(run))
    config = read_config(run)
    expert_config(config)
    changed = {}
    for name, value in asdict(configs.api).items():
        if value != getattr(ApiConfig(), name):
            changed[name] = value
    config["api"] = config.get("api", {}) | changed                  # older runs have none
    if configs.run.steps is not None:
        if configs.run.steps < last_step(run):
            raise DataError(f"--steps {configs.run.steps}: {run} has done {last_step(run)} already")
        config["run"]["steps"] = configs.run.steps
    refuse_missing(config["run"].get("report_to", "none"))
    dataset = data_of(config["run"], trained_by(run, config))
    judge_for(dataset, config["run"].get("judge", "rules"), recorded(ApiConfig, config["api"]))
    refuse_unearned(dataset, config)
    base = config["run"]["base"]
    # The run may have been stopped while it took stages over.
    if base and Path(base).exists():
        with reading_from(Path(base)):
            take_base(Path(base), run, check_base(Path(base), config))
    if configs.run.steps is not None or changed:
        write_json(run / "config.json", config)
    return run, config, dataset


def resolve_together(configs: Configs, held: ExitStack) -> tuple[Path, dict, Dataset]:
    """Of several processes the first resolves and the others read what it wrote; or all stop."""
    found = None
    name = ""
    try:
        if is_main():
            found = resolve(configs, held)
            name = str(found[0])
    finally:
        run = broadcast(name)
    if found:
        return found
    if not run:
        raise SystemExit(2)                      # the first process said why
    sys.stdout = open(os.devnull, "w")           # one process speaks
    config = read_config(Path(run))
    return Path(run), config, data_of(config["run"], trained_by(Path(run), config))


# --- memory -------------------------------------------------------------------------------------

def memory_table(dataset: Dataset, config: dict) -> str:
    """What QLoRA of this model will need and what is free; if too little, what each flag saves."""
    from lm.memory import Setting, estimate, free_memory, load_config, savings, table
    lm, agent, warm = configs_of(config)
    device = config["device"]
    shape = load_config(lm.model)                # refuses what cannot be trained
    turns = turns_of(dataset)
    context = max((len(str(t.context)) for t in turns), default=0)
    reply = max((len(t.reply or "") for t in turns), default=0) // 3
    # Three letters a token; 256 tokens for skills and the template.
    prompt = lm.user_tokens + context // 3 + 256
    setting = Setting(
        shape, lm, agent, warm, config["gopo"]["dialogues"], prompt, config["precision"], device)
    try:
        needed = estimate(setting)
    except DataError as error:
        return f"memory: {error}"
    weights = needed.phases["update"]["weights"]
    if device == "cpu" and config["run"]["device"] == "auto" and weights > LARGE:
        raise DataError(
            f"--model {lm.model}: no GPU found, and on a CPU one step of a model of this size "
            "takes hours; add --device cpu if you mean it")
    free = free_memory(device)
    said = table(needed, free)
    if free is not None and needed.total > free:
        said += "\n" + savings(setting)
    if reply > lm.max_new_tokens and warm.warm_steps > 0:
        said += (f"\nthe longest training reply has about {reply} tokens, more than "
                 f"--max_new_tokens {lm.max_new_tokens}: the warm start needs more than this")
    return said
