"""`--base`: methods are compared from the same start.  Finished stages are copied from another run.

A base must share the data, the seed and the state of the Expert.  Its language model or its
strategy is taken only if it was learned in the same way, and for as long; what is left is said."""
from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data import DataError
from gopo import algorithm_of, decides, expert_config
from infra.files import whole, whole_folder
from infra.runs import read_config
from lm.config import flat

UNTRAINED = "untrained.safetensors"
STRATEGY = ("strategy.safetensors", "strategy_adam.safetensors", "strategy_evals.jsonl")
WARM = "warm_expert.safetensors"
STAGES = (UNTRAINED, WARM, *STRATEGY, "untrained", "warm_start")
# Part of config.json -> settings that must be equal, or the base is refused.
SAME = {
    "run": ("dataset", "seed", "replies", "conduct", "split", "difficulty", "warm_generosity",
            "sale_rates", "woz_slots"),
    "gopo": ("no_expert",),
    "expert": ("width", "history", "sentences", "hide_ngrams", "encoder"),
}
# Stage of the language model -> settings that must be equal, or the stage is left.
SAME_LM = {
    "untrained": (
        "model", "quantise", "lora_rank", "pretrain_steps", "sft_lr", "sft_batch", "user_tokens",
        "constraints"),
    "warm_start": ("warm_steps", "warm_dialogues", "prompt_gradient", "dev_pairs"),
}
# Settings of "gopo" that the strategy stage does not read.
JOINT_ONLY = ("dialogues", "cs_reward", "fix_expert")
# A stage builds on the ones before it.
FOLLOWING = {"untrained": ("untrained", "warm_start"), "warm_start": ("warm_start",)}


def check_base(base: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Refuses a base that is no common start; returns the stages that `config` can take from it."""
    theirs = read_config(base, "--base")
    expert_config(theirs)
    for part, key in _settings():
        ours = config[part].get(key)             # an older run, resumed, lacks it as well
        other = theirs[part].get(key, _before(key, ours))
        if other != ours:
            raise DataError(
                f"--base {base} was trained with --{key} {other}, this run has {ours}")
    left = _other_policy(theirs, config) + _other_words(base, theirs, config)
    return tuple(name for name in STAGES if name not in left)


def _before(key: str, ours: Any) -> Any:
    """What an older run, made when there was no such flag, was trained with."""
    # replies had slots of B_t alone; other datasets have None
    return "known" if key == "woz_slots" and ours else ours


def _settings() -> Iterator[tuple[str, str]]:
    for part, keys in SAME.items():
        for key in keys:
            yield part, key


def _other_policy(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Stages of the Expert that the base learned in another way."""
    left = []
    if algorithm_of(theirs)[0].policy is not algorithm_of(ours)[0].policy:
        left += [UNTRAINED, WARM]
    elif theirs["expert"]["expert_warm"] != ours["expert"]["expert_warm"]:
        left.append(WARM)
    if _learner(theirs) != _learner(ours):
        left += STRATEGY
    if left:
        print(f"--base: another Expert, or one that learns otherwise: not taken: {', '.join(left)}")
    return left


def _learner(config: Mapping[str, Any]) -> tuple:
    """All that decides what the strategy stage learns."""
    run = config["run"]
    rewards = {name: value for name, value in config["gopo"].items() if name not in JOINT_ONLY}
    algo = run.get("algo", "gopo")
    return algo, run["strategy_steps"], rewards, config["expert"], config.get("options")


def _other_words(base: Path, theirs: Mapping, ours: Mapping) -> list[str]:
    """Stages of the language model that the base learned in another way."""
    other, own = flat(theirs), flat(ours)
    left = []
    if decides(theirs) != decides(ours):
        left += FOLLOWING["untrained"]
        print(f"--base {base}: one of both begins its replies with a decision: not taken from it: "
              f"{', '.join(left)}")
    for stage, keys in SAME_LM.items():
        differ = [key for key in keys if other.get(key, own[key]) != own[key]]
        if differ:
            left += FOLLOWING[stage]
            print(f"--base {base} has another --{differ[0]}: not taken from it: "
                  f"{', '.join(FOLLOWING[stage])}")
    if _read_besides(theirs) != _read_besides(ours) and "warm_start" not in left:
        left += FOLLOWING["warm_start"]
        print(f"--base {base} read something else besides the logs: not taken from it: warm_start")
    return left


def _read_besides(config: Mapping[str, Any]) -> Any:
    """What the warm start reads besides the logs."""
    method, options = algorithm_of(dict(config))
    return method.warm_key(options)


def take_base(base: Path, run: Path, stages: Sequence[str]) -> None:
    """Copies those stages of `base` that `run` does not have yet; none is ever there by half."""
    for name in stages:
        if (run / name).exists() or not (base / name).exists():
            continue
        if (base / name).is_dir():
            with whole_folder(run / name) as part:
                shutil.copytree(base / name, part, dirs_exist_ok=True)
        else:
            with whole(run / name) as part:
                shutil.copy2(base / name, part)
