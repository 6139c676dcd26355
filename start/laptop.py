"""A loaded model on a CPU: defaults with which a run ends within the hour, and how long it takes.

`train.py`'s defaults suit the model that is built here, or a GPU.  A model of 135 M parameters
costs a CPU a hundred times as much, so it plays less, and reads fewer dialogues, of which it needs
fewer.  `smaller` sets that, in whatever was not given as a flag; `expected` times a few passes of
the model and adds up what the stages will take.  The times are told and decide nothing."""
from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from data import DataError
from lm.config import BUILT
from start.pairs import Pair

if TYPE_CHECKING:
    from csagent import CustomerServiceAgent

# Part of the configs -> flag -> its default here.
SMALLER: Mapping[str, Mapping[str, Any]] = {
    "run": {"steps": 10, "eval_every": 5, "dev_episodes": 8, "eval_episodes": 16},
    "gopo": {"dialogues": 4},
    "lm": {"max_new_tokens": 64},
    "agent": {"group": 2, "micro_batch": 4},
    "warm": {
        "warm_steps": 40, "warm_dialogues": 100, "sft_batch": 8, "sft_lr": 5e-4, "dev_pairs": 24},
}
# The weights as they are, if they fit: NF4 has to be unpacked at each pass, and saves no time.
# Prompts are then read without a gradient: they are long, and replies have some twenty tokens.
AS_SAVED = {"quantise": "none", "gradient_checkpointing": False, "prompt_gradient": False}
LARGE = 1 << 30                                  # bytes of weights in fp32 that are left in 4 bits
TIMED = 4                                        # states that are timed
TURNS = 6                                        # of a dialogue, about


def smaller(configs: Any, given: Collection[str], model: str) -> Any:
    """The configs of train.py with these defaults, where no flag was given.

    given  names of flags that were
    model  a name or folder that transformers loads
    """
    changes = {part: dict(flags) for part, flags in SMALLER.items()}
    if not {"quantise", "gradient_checkpointing"} & set(given) and is_small(model):
        changes["lm"] |= AS_SAVED
    said = []
    for part, flags in changes.items():
        new = {name: value for name, value in flags.items() if name not in given}
        said += [f"--{name} {value}" for name, value in new.items()]
        configs = replace(configs, **{part: replace(getattr(configs, part), **new)})
    print(f"a loaded model on a CPU; where you give no other: {' '.join(said)}")
    return configs


def is_small(model: str) -> bool:
    """Whether its weights fit as they are; False for one that will be refused later anyway."""
    from lm.memory import count_weights, load_config
    try:
        shape = load_config(model)
        weights = count_weights(type(shape), shape.to_json_string(use_diff=False), 0, False, 4)
    except DataError:
        return False
    return weights.stored <= LARGE


# --- how long it will take ----------------------------------------------------------------------

class Seconds(NamedTuple):
    """What the model takes here, of one state."""
    learn: float                                 # forwards and backwards, a reply
    read: float                                  # forwards, a reply
    speak: float                                 # a greedy reply
    sample: float                                # a group of replies


def timed(agent: CustomerServiceAgent, pairs: Sequence[Pair]) -> Seconds:
    """Measured on a few states of the training split; nothing is learned, nothing drawn is kept."""
    from lm.config import WarmConfig
    from start.supervised import backward, dev_loss, encoded
    few = pairs[:TIMED]
    warm = WarmConfig(sft_batch=TIMED).settled_for(agent.lm.model)
    prepared = agent.prepare([request for request, _ in few])
    chance = torch.Generator().manual_seed(0)
    tasks: list[Callable[[], Any]] = [
        lambda: backward(agent, encoded(agent, few), warm),
        lambda: dev_loss(agent, few, warm),
        lambda: agent.speak(prepared, temperature=0.0),
        lambda: agent.speak(prepared, agent.cfg.group, generator=chance),
    ]
    found = []
    for task in tasks:
        clock = time.perf_counter()
        task()
        found.append((time.perf_counter() - clock) / len(few))
    agent.optimizer.zero_grad(set_to_none=True)
    return Seconds(*found)


def expected(s: Seconds, config: Mapping[str, Any], turns: float) -> dict[str, float]:
    """Stage -> seconds, of what the language model does in it.

    turns  of a dialogue
    """
    from start.supervised import LOOKS
    run, warm, agent = config["run"], config["warm"], config["agent"]
    states = config["gopo"]["dialogues"] * turns
    looks = -(-run["steps"] // run["eval_every"])
    # Two rows of the table are heard by a second ear, which plays them again.
    plays = 4 if config["gopo"]["no_expert"] else 10
    return {
        "warm start": warm["warm_steps"] * warm["sft_batch"] * s.learn
        + (1 + LOOKS) * warm["dev_pairs"] * s.read,
        "joint steps": run["steps"] * states * (s.sample + agent["group"] * s.learn),
        "dev customers": looks * run["dev_episodes"] * turns * s.speak,
        "table": plays * run["eval_episodes"] * turns * s.speak,
    }


def tell_duration(agent: CustomerServiceAgent, pairs: Sequence[Pair],
                  config: Mapping[str, Any]) -> None:
    """Prints how long a run with a loaded model on a CPU will take on this machine.

    pairs  of the training split
    """
    if agent.lm.model in BUILT or agent.device.type != "cpu" or len(pairs) < TIMED:
        return
    parts = expected(timed(agent, pairs), config, TURNS)
    said = [f"{name} {seconds / 60:.0f}" for name, seconds in parts.items()]
    total = sum(parts.values()) / 60
    print(f"the language model will take about {total:.0f} minutes on this machine "
          f"({', '.join(said)})", flush=True)
