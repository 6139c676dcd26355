"""The flags of the baselines: one field is one flag, and its help says where the number is from.

Nothing here needs torch (config.py says why)."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from data import opt
from infra.flags import refuse_below, refuse_not_positive
from systems.more_config import MoreConfig
from systems.more_rewards import DEFAULT


@dataclass(frozen=True)
class PPOConfig:
    """How PPO learns; every number is ours (GAP-9).

    The step size of the LM is --agent_lr, the discount between turns --gamma."""
    ppo_clip: float = opt(
        0.2, "PPO: eps, how far the ratio may go before the gradient stops, in (0, 1)")
    ppo_epochs: int = opt(
        2, "PPO: optimiser steps on each rollout, each on all of its tokens")
    ppo_lambda: float = opt(
        0.7, "PPO: lambda of GAE from turn to turn, in [0, 1], as the Expert's --gae_lambda; 1 "
        "within a reply, or credit would fade in it")
    ppo_value_lr: float = opt(
        0.2, "PPO: about how far the value head's weights may move V in a step (its bias is set, "
        "not learned): their Adam step size times the LM's width, over which V sums")
    ppo_value_weight: float = opt(
        0.0, "PPO: weight of the value loss in what the LM learns, in [0, 1]; 0: only the head "
        "learns values (at 0.5, before V had a bias, returns of 5 met by V = 0 drove the tiny LM's "
        "R^A from .71 to .48 in five steps, on one seed)")
    ppo_tse: float = opt(
        1.0, "PPO: adds this times the dialogue's TSE to the reward at its last token, live shop "
        "only")
    ppo_end_bonus: bool = opt(
        False, "PPO: when a dialogue ends with all tasks done, adds a discounted 1 for each turn "
        "left to the horizon, as for GOPO's Expert (GAP-4)")

    def __post_init__(self):
        if not 0 < self.ppo_clip < 1:
            raise ValueError(f"--ppo_clip must lie in (0, 1), got {self.ppo_clip}")
        if not self.ppo_epochs >= 1:
            raise ValueError(f"--ppo_epochs must be at least 1, got {self.ppo_epochs}")
        for name in ("ppo_lambda", "ppo_value_weight"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"--{name} must lie in [0, 1], got {value}")
        if not 0 < self.ppo_value_lr < math.inf:
            raise ValueError(f"--ppo_value_lr must be positive, got {self.ppo_value_lr}")
        if not 0 <= self.ppo_tse < math.inf:
            raise ValueError(f"--ppo_tse must be >= 0, got {self.ppo_tse}")


@dataclass(frozen=True)
class DPOConfig:
    """How DPO learns; the paper gives none of these numbers."""
    dpo_beta: float = opt(
        0.1, "DPO: beta, how dear it is to leave the warm start [Rafailov et al.]")
    dpo_contexts: int = opt(
        16, "DPO: logged states in a step, each with --group replies, of which two are the pair")
    dpo_rewards: str = opt(
        ",".join(DEFAULT), "DPO: the rewards whose sum prefers, of NAT RSN FID COV RUD REP RGE "
        "BLEU, with commas in between")

    def __post_init__(self):
        refuse_not_positive(self, "dpo_beta")
        refuse_below(self, {"dpo_contexts": 1})
        self.of_more()

    def of_more(self) -> MoreConfig:
        """What MORE's states, replies and rewards are drawn by."""
        return MoreConfig(
            more_contexts=self.dpo_contexts, more_rewards=self.dpo_rewards, more_weights="equal",
            more_scaffold_steps=0)


@dataclass(frozen=True)
class MementoConfig:
    """How cases are kept and read; numbers are ours where the source is not named (GAP-10)."""
    memento_read: str = opt(
        "q", "which cases are read: cosine (Memento Eq. 13), or q (Eq. 16; by cosine until Q has "
        "learned from --memento_warm turns)")
    memento_credit: str = opt(
        "dialogue", "what a played turn is credited with: dialogue (its customer's success) or "
        "turn (whether its ESNDCG is at least .5, as always on logs)")
    memento_k: int = opt(
        4, "K, cases read a turn [Memento: 4 is best of 0 to 32]; in training one is drawn from "
        "the best 2K")
    memento_bank: int = opt(
        20_000, "cases kept, logged ones at most half of them; when full the oldest played case is "
        "dropped")
    memento_alpha: float = opt(
        0.5, "temperature alpha of Memento Eq. 7, by which a case is drawn in training, > 0")
    memento_warm: int = opt(500, "turns that Q has learned from before it reads, >= 0")
    memento_q_lr: float = opt(2e-4, "Adam step size of Q")
    # Settings of older runs that nobody used, and the only value that still means the same.
    REMOVED: ClassVar = {"memento_near": 16, "memento_width": 64, "memento_batch": 32}

    def __post_init__(self):
        if self.memento_read not in ("cosine", "q"):
            raise ValueError(f"--memento_read is cosine or q, got {self.memento_read!r}")
        if self.memento_credit not in ("dialogue", "turn"):
            raise ValueError(
                f"--memento_credit is dialogue or turn, got {self.memento_credit!r}")
        refuse_below(self, {"memento_k": 1, "memento_bank": 2, "memento_warm": 0})
        # Beyond 2^20 `nearest` could not order cases by age.
        if self.memento_bank > 1_000_000:
            raise ValueError(f"--memento_bank must be at most 1000000, got {self.memento_bank}")
        if not self.memento_alpha > 0 or not self.memento_q_lr > 0:
            raise ValueError(
                "--memento_alpha and --memento_q_lr must be positive, "
                f"got {self.memento_alpha}, {self.memento_q_lr}")


@dataclass(frozen=True)
class ImitationConfig:
    """What is imitated."""
    imitate_successes: bool = opt(
        False, "learn from dialogues that ended in success only")
