"""The rows of MORE's study on `sale`: how the agent of each learns, from starts that rows share.

A start is made once a seed, and kept in the study's folder: the pretrained model, the warm start
with and without reasoning sentences, perception, and what the reasoning stage left.  A row is a
line of ROWS."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from csagent import CustomerServiceAgent
from data import Dataset
from expert import ExpertConfig
from gopo import Gopo, algorithm
from hosted.judge import judge_for
from infra.runs import load_tensors, save_tensors
from lm.config import WarmConfig
from lm.precision import pick_precision
from play import GopoConfig
from start.pairs import mixed_pairs, warm_pairs
from start.stages import new_agent
from start.supervised import supervised
from systems.more_config import MoreConfig
from systems.more_train import MORE

MORE_ROW = "MORE"
HISTORY = ExpertConfig().settled().history
TURNS = 2.7                                      # of a logged call, on average


@dataclass(frozen=True)
class Settings:
    """What all rows of a study have in common, and its cells are made with."""
    model: str = "tiny"
    pretrain_steps: int = 120
    warm_steps: int = 600
    scaffold_steps: int = 60
    steps: int = 100
    contexts: int = 16
    group: int = 8
    watch: int = 5
    states: int = 400
    calls: int = 200


class Row(NamedTuple):
    """How a row learns.

    flags   what differs from MORE's defaults: fields of MoreConfig; "mean lambda" in more_weights
            stands for the mean weights of the row MORE with the same seed
    algo    of gopo.ALGORITHMS
    learns  steps follow the start
    tables  in which the row stands
    """
    flags: Mapping[str, Any] = MappingProxyType({})
    algo: str = "more"
    learns: bool = True
    tables: str = "B"


MEAN = "mean lambda"
NOT_REASONING = {"more_scaffold_steps": 0}
ROWS: dict[str, Row] = {
    "untrained": Row(NOT_REASONING, learns=False, tables="A"),
    "warm start": Row(NOT_REASONING, learns=False, tables="A"),
    "SFT": Row(NOT_REASONING, "sft", tables="A"),
    MORE_ROW: Row(tables="AB"),
    "w/o reasoning": Row(NOT_REASONING),
    "anchor none": Row({"more_anchor": "none"}),
    "equal weights": Row({"more_weights": "equal"}, tables="AB"),
    "fixed at mean lambda": Row({"more_weights": MEAN}),
    "std weights": Row({"more_weights": "std"}, tables="AB"),
    "w/o two stages": Row({"more_merge": True}),
    "anchor printed": Row({"more_anchor": "printed"}),
    "per-candidate weights": Row({"more_weights": "candidate"}),
    "interleaved": Row({"more_interleave": 4}),
    "beta .1": Row({"more_kl": 0.1}),
    "beta .3": Row({"more_kl": 0.3}),
    "scaffold sentences, no scaffold steps": Row(
        {"more_scaffold_steps": 0, "more_scaffold_warm": 0.5}),
    "scaffold alone": Row(learns=False),
    "DPO": Row(NOT_REASONING, "dpo", tables="A"),
    "PPO": Row(NOT_REASONING, "ppo", tables="A"),
}
for _name in ("NAT", "RSN", "FID", "COV", "RUD", "RGE"):
    ROWS[f"only {_name}"] = Row({"more_rewards": _name, "more_weights": "equal"}, tables="A")


class Maker:
    """Makes the agents of rows.

    folder  where starts are kept
    """

    def __init__(self, dataset: Dataset, settings: Settings, folder: Path):
        self.dataset = dataset
        self.settings = settings
        self.folder = folder

    # --- starts ---------------------------------------------------------------------------------

    def kept(self, name: str, seed: int, make: Callable[[], Mapping[str, Tensor]]) -> dict:
        """The tensors of a start; made if they are not there."""
        path = self.folder / f"{name}-{seed}.safetensors"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            save_tensors(make(), path)
        return load_tensors(path)

    def agent(self, seed: int) -> CustomerServiceAgent:
        """Before any training."""
        config = {
            "run": {"seed": seed},
            "precision": pick_precision("cpu"),
            "device": "cpu",
            "lm": {"model": self.settings.model},
            "agent": {"group": self.settings.group},
            "warm": {},
        }
        return new_agent(self.dataset, config)

    def pretrained(self, seed: int) -> CustomerServiceAgent:
        agent, steps = self.agent(seed), self.settings.pretrain_steps
        size = WarmConfig().settled_for(self.settings.model).sft_batch

        def made() -> dict[str, Tensor]:
            pairs = mixed_pairs(self.dataset, size * steps, seed, HISTORY)
            if steps:
                supervised(agent, pairs, steps, seed=seed, progress="pretraining")
            return trained(agent)

        put(agent, self.kept("untrained", seed, made))
        return agent

    def warm(self, seed: int, options: MoreConfig) -> CustomerServiceAgent:
        """After the warm start, with as many sentences of tasks as the options say."""
        agent = self.pretrained(seed)
        method = algorithm("more")

        def made() -> dict[str, Tensor]:
            read = warm_pairs(self.dataset.train, HISTORY)
            further = method.more_pairs(self.dataset, read, options, seed)
            dev = warm_pairs(self.dataset.dev, HISTORY)[:256]
            supervised(agent, read + further, self.settings.warm_steps, seed=seed + 1, dev=dev,
                       progress="warm start")
            return trained(agent)

        share = round(100 * options.warm_share)
        put(agent, self.kept(f"warm-{share}", seed, made))
        return agent

    def perception(self, policy: Any, seed: int) -> None:
        def made() -> dict[str, Tensor]:
            policy.perception.fit(self.dataset, seed=seed, hidden=policy.cfg.hide_ngrams)
            return policy.state_dict()

        policy.load_state_dict(self.kept("perception", seed, made))

    # --- a row ----------------------------------------------------------------------------------

    def options(self, row: Row, lambdas: list[float] | None) -> MoreConfig:
        """lambdas: the mean weights of the row MORE, where the row asks for them."""
        own = dict(row.flags)
        if own.get("more_weights") == MEAN:
            own["more_weights"] = "fixed:" + ",".join(f"{value:.4f}" for value in lambdas)
        common = {
            "more_contexts": self.settings.contexts,
            "more_scaffold_steps": self.settings.scaffold_steps,
            "more_watch": self.settings.watch,
        }
        return MoreConfig(**(common | own))

    def begun(self, name: str, seed: int, lambdas: list[float] | None = None) -> Gopo:
        """The agent of a row before its first step."""
        row = ROWS[name]
        options = self.options(row, lambdas)
        agent = self.pretrained(seed) if name == "untrained" else self.warm(seed, options)
        # Adam's state belongs to the row.
        agent.optimizer.state.clear()
        method = algorithm(row.algo)
        torch.manual_seed(seed)
        policy = method.new_policy(self.dataset, ExpertConfig(), None)
        self.perception(policy, seed)
        dialogues = max(1, round(self.settings.contexts / TURNS))
        cfg = GopoConfig(no_expert=True, dialogues=dialogues)
        own = options
        if row.algo != "more":
            own = method.Options() if method.Options else WarmConfig()
        gopo = method(self.dataset, policy, agent, judge_for(self.dataset), cfg, options=own)
        if isinstance(gopo, MORE):
            self._scaffold(gopo, seed, name)
        return gopo

    def _scaffold(self, more: MORE, seed: int, name: str) -> None:
        """The reasoning stage, made once a seed for rows that begin it alike."""
        options = more.options
        if options.more_scaffold_steps and not options.more_merge and name != "untrained":
            stage = f"scaffold-{options.beta}-{options.more_anchor}"

            def made() -> dict[str, Tensor]:
                folder = self.folder / f"{stage}-{seed}"
                folder.mkdir(parents=True, exist_ok=True)
                more.scaffold(folder, seed)
                return more.trained()

            put(more.agent, self.kept(stage, seed, made))
            more.agent.optimizer.state.clear()
            more.tasks.mixed = {}
        more.grpo.freeze()

    def learn(self, gopo: Gopo, name: str, seed: int) -> list[dict[str, Any]]:
        """The steps of a row; what each told."""
        told = []
        if ROWS[name].learns:
            for number in tqdm(range(1, self.settings.steps + 1), desc=name, mininterval=30):
                told.append(gopo.step(number, seed)[1])
        return told


def trained(agent: CustomerServiceAgent) -> dict[str, Tensor]:
    """The weights that learn, by name."""
    return {name: p for name, p in agent.model.named_parameters() if p.requires_grad}


def put(agent: CustomerServiceAgent, weights: Mapping[str, Tensor]) -> None:
    agent.model.load_state_dict(weights, strict=False)

