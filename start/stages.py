"""What happens before the GOPO steps, the same for every method: perception, pretraining, warm start, strategy.

Each stage leaves one file or folder in the run directory, which appears when the stage is complete: a stage that was killed starts again,
a finished one is read back.  `--base` copies them from another run, so that methods are compared from the same start."""
from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from csagent import load_agent
from data import DataError, Dataset
from expert import Expert, ExpertConfig
from gopo import Gopo, algorithm_of, strategy_only
from infra.files import read_json, whole, whole_folder
from infra.processes import barrier, is_main, main_says
from infra.runs import Log, adam_state, load_adam_state, load_into, load_tensors, save_tensors
from lm.config import flat
from measure import training_row
from start.pairs import mixed_pairs, slot_names, vocabulary_texts, warm_pairs

STAGES = ("untrained.safetensors", "strategy.safetensors", "strategy_adam.safetensors", "untrained", "warm_start")        # what `--base` takes over


def replace_folder(folder: Path, make: Callable[[Path], None]) -> None:
    """`make(folder)`, but a half-written folder never bears the name: after a crash it is the old one, the new one, or missing.

    Of several processes the first writes and the others wait."""
    if is_main():
        with whole_folder(folder) as part:
            make(part)
    barrier()


def prepare_expert(run: Path, dataset: Dataset, method: type[Gopo], cfg: ExpertConfig, options: Any, seed: int, device: str) -> Expert:
    """Perception learns u_t and e_t; the policy starts untrained."""
    torch.manual_seed(seed)
    expert = method.new_policy(dataset, cfg, options).to(device)
    path = run / "untrained.safetensors"
    if is_main() and not path.exists():
        accuracy = expert.perception.fit(dataset, seed=seed)
        if accuracy:
            print("perception, accuracy on test utterances: " + ", ".join(f"{k} {v:.2f}" for k, v in accuracy.items()))
        method.prepare_policy(expert, dataset)
        save_tensors(expert.state_dict(), path)
    barrier()
    load_into(expert, load_tensors(path), str(path))
    return expert


def prepare_agent(run: Path, dataset: Dataset, config: dict) -> Any:
    """Pretraining (of a model built here) and warm start: supervised, the same for every method, over before GOPO begins."""
    from csagent import CustomerServiceAgent
    from lm.config import BUILT, configs_of
    from lm.models import load_model, with_adapter
    from start.supervised import dev_loss, supervised
    (lm, cfg, warm), seed = configs_of(config), config["run"]["seed"]
    alone = config["expert"]["history"] if config["gopo"]["no_expert"] else None
    read = dataset.train[:warm.warm_dialogues]

    def pretrain() -> Any:
        model, tokenizer = load_model(lm.model, vocabulary_texts(dataset), slot_names(dataset), seed, lm.quantise, config["precision"], config["device"],
                                      frozen=lm.lora_rank > 0)
        agent = CustomerServiceAgent(with_adapter(model, lm.lora_rank, seed) if lm.lora_rank else model, tokenizer, dataset.skills, dataset.must_not_say,
                                     cfg, lm, config["device"], config["precision"])
        if lm.model in BUILT and warm.pretrain_steps:
            pairs = mixed_pairs(dataset, warm.sft_batch * warm.pretrain_steps, seed, alone)
            supervised(agent, pairs, warm.pretrain_steps, warm, seed=seed, progress="pretraining on talk of mixed quality")
        return agent

    def warm_start(agent: Any) -> Any:
        if warm.warm_steps and read:
            dev = warm_pairs(dataset.dev, alone)[:256] or warm_pairs(read, alone)[:256]
            before = dev_loss(agent, dev, warm)
            result = supervised(agent, warm_pairs(read, alone), warm.warm_steps, warm, seed=seed + 1, dev=dev, progress="warm start on the training replies")
            print(f"warm start: dev loss {before:.3f} -> {result['dev_loss']:.3f} nats per token")
        return agent

    agent = None                                 # what stands on disk is read; what was just made is used as it is
    if not main_says((run / "untrained").exists()):
        agent = pretrain()
        replace_folder(run / "untrained", agent.save)
    if not main_says((run / "warm_start").exists()):
        agent = warm_start(agent or load_agent(run / "untrained", dataset, config))
        replace_folder(run / "warm_start", agent.save)
    agent = agent or load_agent(run / "warm_start", dataset, config)
    agent.freeze_embedding([reply for _, reply in warm_pairs(dataset.train, alone)])
    return agent


def prepare_strategy(run: Path, gopo: Gopo, steps: int, seed: int) -> None:
    """GOPO of the Expert alone, where dialogues are cheap; rows go to strategy.jsonl.  Its Adam goes on into the joint steps."""
    path, adam = run / "strategy.safetensors", run / "strategy_adam.safetensors"
    if main_says(path.exists()):
        load_into(gopo.expert, load_tensors(path), str(path))
        load_adam_state(gopo.learner.optimiser, load_tensors(adam))
        return
    alone, log = strategy_only(gopo), Log(run / "strategy.jsonl")
    with tqdm(range(1, steps + 1), desc="strategy: the Expert alone", unit="step") as bar:
        for step in bar:
            played, learned = alone.step(step, seed, stage=1)
            row = training_row(step, alone, played, learned)
            log.write(row)
            bar.set_postfix(R_E=f"{row['r_expert']:.2f}" if row["r_expert"] is not None else "—", refresh=False)
    if is_main():
        save_tensors(adam_state(gopo.learner.optimiser), adam)   # before the other, for `path` marks the stage as complete
        save_tensors(gopo.expert.state_dict(), path)
    barrier()


SAME = {"run": ("dataset", "seed", "replies", "conduct", "split"), "gopo": ("no_expert",), "expert": ("width", "history")}
SAME_LM = {"untrained": ("model", "quantise", "lora_rank", "pretrain_steps", "sft_lr", "sft_batch", "user_tokens", "constraints"),
           "warm_start": ("warm_steps", "warm_dialogues")}                       # and all of the stage before


def check_base(base: Path, config: dict) -> tuple[str, ...]:
    """Refuses a base that is no common start; returns which of its stages are one: a language model or a strategy only if learned in the same way, for
    as long."""
    theirs = read_json(base / "config.json")
    differs = lambda part, key: theirs[part].get(key, config[part][key]) != config[part][key]      # an older run lacks a flag that did not exist
    theirs_lm, ours_lm = flat(theirs), flat(config)
    for part, key in ((part, key) for part, keys in SAME.items() for key in keys if differs(part, key)):
        raise DataError(f"--base {base} was trained with --{key} {theirs[part][key]}, this run has {config[part][key]}")
    learner = lambda c: (c["run"].get("algo", "gopo"), c["run"]["strategy_steps"], c["gopo"], c["expert"], c.get("options"))
    left = [] if algorithm_of(theirs)[0].policy is algorithm_of(config)[0].policy else ["untrained.safetensors"]
    left += [] if learner(theirs) == learner(config) else ["strategy.safetensors", "strategy_adam.safetensors"]
    for stages, keys in ((("untrained", "warm_start"), SAME_LM["untrained"]), (("warm_start",), SAME_LM["warm_start"])):
        if other := [key for key in keys if theirs_lm.get(key, ours_lm[key]) != ours_lm[key]]:
            left += stages
            print(f"--base {base} has another --{other[0]}: not taken from it: {', '.join(stages)}")
    return tuple(name for name in STAGES if name not in left)


def take_base(base: Path, run: Path, stages: Sequence[str]) -> None:
    """Copies those stages of `base` that `run` does not have yet; none is ever there by half."""
    for name in (n for n in stages if (base / n).exists() and not (run / n).exists()):
        if (base / name).is_dir():
            with whole_folder(run / name) as part:
                shutil.copytree(base / name, part, dirs_exist_ok=True)
        else:
            with whole(run / name) as part:
                shutil.copy2(base / name, part)
