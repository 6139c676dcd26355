"""What a run has before it, and about how long each stage takes: for the line of progress.

The seconds were taken on two processor cores with the tiny model, and roughly; infra/progress.py
corrects them by what the run itself takes.  A larger model makes its stages longer than planned
here, which is noticed in the first of them."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data import Dataset
from gopo import algorithm_of
from lm.config import BUILT, configs_of
from measure import rows_of

# --- seconds [measured roughly: docs/costs.md] ----------------------------------------------------

READ_TURN = 1e-4                                 # perception: a turn, once
PERCEPTION_ROUNDS = 16
IMITATED_TURN = 3e-4                             # the Expert's warm start: a turn, once
SUPERVISED_REPLY = 0.012                         # pretraining and warm start of the LM: a reply
STRATEGY_DIALOGUE = 0.009
SPOKEN_DIALOGUE = 0.25                           # a joint step: a dialogue with a group of replies
SPOKEN_STATE = 0.05                              # the same: a state
HEARD_DIALOGUE = 0.1                             # the table, written by the LM


def planned(run: Path, config: Mapping[str, Any], dataset: Dataset, done: int) -> dict[str, float]:
    """Stage -> seconds, in the order of the run; stages that are complete are left out.

    done  joint steps that an earlier process did
    """
    cfg, gopo = config["run"], config["gopo"]
    speaks = cfg["replies"] == "lm"
    turns = sum(len(dialogue.turns) for dialogue in dataset.train)
    plan = {}
    if not (run / "untrained.safetensors").exists():
        plan["perception"] = READ_TURN * PERCEPTION_ROUNDS * turns
    if speaks:
        plan |= _of_the_model(run, config)
    alone = gopo["no_expert"]
    if not alone and not (run / "warm_expert.safetensors").exists():
        plan["warm start of the Expert"] = IMITATED_TURN * config["expert"]["expert_warm"] * turns
    if speaks and not alone and not (run / "strategy.safetensors").exists():
        dialogues = cfg["strategy_steps"] * gopo["strategy_dialogues"]
        plan["strategy"] = STRATEGY_DIALOGUE * dialogues
    method, options = algorithm_of(config)
    for stage, groups in method.stages(run, options).items():
        plan[stage] = SPOKEN_STATE * groups
    one = SPOKEN_DIALOGUE if speaks else STRATEGY_DIALOGUE
    plan["joint steps"] = one * gopo["dialogues"] * (cfg["steps"] - done)
    rows = len(rows_of(run, dataset))
    heard = HEARD_DIALOGUE if speaks else STRATEGY_DIALOGUE
    plan["the table"] = heard * rows * cfg["eval_episodes"]
    return {stage: seconds for stage, seconds in plan.items() if seconds > 0}


def _of_the_model(run: Path, config: Mapping[str, Any]) -> dict[str, float]:
    """Pretraining and warm start of the language model."""
    lm, _, warm = configs_of(config)
    step = SUPERVISED_REPLY * warm.settled_for(lm.model).sft_batch
    plan = {}
    if lm.model in BUILT and not (run / "untrained").exists():
        plan["pretraining"] = step * warm.pretrain_steps
    if not (run / "warm_start").exists():
        plan["warm start of the LM"] = step * warm.warm_steps
    return plan
