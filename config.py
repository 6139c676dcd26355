"""What both agents learn with, and the names of the algorithms: all that --help says of them.

Nothing here needs torch, which takes two seconds to import: `python train.py --help` and a flag
that is refused need not wait for it.  The flags of the language model are in lm/config.py, those of
a run in start/flags.py, those of each algorithm beside it."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from data import opt
from infra.flags import refuse_below, refuse_not_positive, refuse_other_words

NONE: Mapping[str, Any] = MappingProxyType({})
# name -> where its class is
ALGORITHMS = {
    "gopo": "gopo:Gopo",
    "sft": "baselines.sft:SFT",
    "ppo": "baselines.ppo:PPO",
    "dpo": "baselines.dpo:DPO",
    "memento": "baselines.memento:Memento",
    "imitation": "baselines.imitation:Imitation",
    "cmpo": "systems.cmpo:CMPO",
    "more": "systems.more_train:MORE",
}
# name -> where the class of its own flags is
OPTIONS = {
    "ppo": "baselines.config:PPOConfig",
    "dpo": "baselines.config:DPOConfig",
    "memento": "baselines.config:MementoConfig",
    "imitation": "baselines.config:ImitationConfig",
    "cmpo": "systems.cmpo_config:CMPOConfig",
    "more": "systems.more_config:MoreConfig",
}


# --- the Expert ----------------------------------------------------------------------------------

# Defaults that differ between a simulated shop, where every customer is new, and logs, whose turns
# come back until they are known by heart (GAP-9).  An anchor on logs would be the same turns again.
IN_A_SHOP = {
    "expert_lr": 1e-3, "expert_lr_end": 1e-4, "expert_epochs": 3, "expert_minibatch": 360,
    "expert_anchor": 0.3, "expert_samples": 1}
HISTORY = 3
ON_LOGS = {
    "expert_lr": 5e-4, "expert_lr_end": 5e-5, "expert_epochs": 2, "expert_minibatch": 1000,
    "expert_anchor": 0.0, "expert_samples": 4}


def differing(name: str, help: str) -> Any:
    """A field whose default depends on the dataset."""
    return opt(None, f"{help}; default {IN_A_SHOP[name]:g}, on logs {ON_LOGS[name]:g}")


@dataclass(frozen=True)
class ExpertConfig:
    """What the Expert learns with; every number is ours unless it says otherwise (GAP-9)."""
    expert_warm: int = opt(
        8, "epochs of the Expert's warm start: cross-entropy on the teacher's skills in the "
        "training logs, before any GOPO step; 0 = it begins untrained")
    expert_lr: float | None = differing(
        "expert_lr", "Adam step size of the Expert at its first rollout")
    expert_lr_end: float | None = differing(
        "expert_lr_end", "the same after --expert_decay rollouts, to which it falls linearly")
    alpha: float = opt(0.01, "weight of the entropy term in Eq. 7 at the first rollout, >= 0")
    alpha_end: float = opt(0.002, "the same after --expert_decay rollouts; falls linearly")
    expert_decay: int | None = opt(
        None, "rollouts over which --expert_lr and --alpha fall; default --strategy_steps, or "
        "--steps with template replies.  A run that is resumed for more steps stays at the ends")
    expert_epochs: int | None = differing(
        "expert_epochs", "times that Eq. 7 uses each rollout (GAP-6)")
    expert_minibatch: int | None = differing(
        "expert_minibatch", "turns in an Adam step of the Expert, about")
    expert_clip: float = opt(
        0.2, "Eq. 7 does not push the probability of a pick further than by this share from what "
        "it was in play; 0 = never clipped, no ratio (as printed, with one large minibatch)")
    expert_anchor: float | None = differing(
        "expert_anchor", "weight of the warm start's loss, on as many logged turns, beside Eq. 7: "
        "keeps what the logs taught (with --expert_warm 0 too); 0 = none")
    slips: float = opt(
        0.15, "share of the turns in training in which the skills of a random logged turn are "
        "played: the Expert learns to recover, and nothing of the slip itself; none on logs")
    hide: float = opt(
        0.15, "share of the sentences in training that are hard or impossible to read: sentences "
        "never met are less of a surprise; on logs every sentence loses n-grams (--hide_ngrams)")
    expert_samples: int | None = differing(
        "expert_samples", "replayed logs only: sequences drawn in each state for R^E alone, which "
        "needs no customer (Eq. 6), with --gamma 0")
    blind_critic: bool = opt(
        False, "ablation: the critic is not told the teacher's sequence; the policy never is")
    gae_lambda: float = opt(0.9, "lambda of GAE, in [0, 1]: 0 trusts the critic, 1 the return")
    sentences: int = opt(
        6, "a text is read as at most this many sentences, the last of which takes the rest; "
        "1: as a whole")
    hide_ngrams: float = opt(
        0.5, "mean share of each sentence's n-grams that are hidden while perception and the warm "
        "start learn their labels, and on logs always, in [0, .5]")
    encoder: str | None = opt(
        None, "folder of a Hugging Face sentence encoder, which reads in place of hashed n-grams; "
        "it is not trained")
    history: int | None = opt(
        None, "k of H_t: how many turns before this one the Expert reads; default "
        f"{HISTORY}, in fds 6: there a wish that is said at once decides what is done late")
    width: int = opt(192, "hidden width of the policy and the critic")
    skill_cost: float = opt(0.1, "c of R^E = ESNDCG - c max(0, m - n): the price of a skill beyond "
                                 "the teacher's number (GAP-2); 0 = the paper")

    def __post_init__(self):
        refuse_not_positive(self, "expert_lr", "expert_lr_end")
        refuse_below(self, {
            "expert_warm": 0, "alpha": 0, "alpha_end": 0, "expert_decay": 1, "expert_epochs": 1,
            "expert_minibatch": 1, "expert_clip": 0, "expert_anchor": 0, "expert_samples": 1,
            "sentences": 1, "history": 0, "width": 1, "skill_cost": 0})
        if not 0 <= self.hide_ngrams <= 0.5:
            raise ValueError(f"--hide_ngrams must lie in [0, .5], got {self.hide_ngrams}")
        for name in ("gae_lambda", "hide"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"--{name} must lie in [0, 1], got {value}")
        if not 0 <= self.slips < 1:
            raise ValueError(f"--slips must lie in [0, 1), got {self.slips}: of a slip nothing is "
                             "learned")
        if not self.expert_clip and self.expert_epochs != 1:
            raise ValueError(
                "--expert_clip 0 needs --expert_epochs 1: without a ratio a rollout cannot be used "
                "twice")

    def settled(
        self, live: bool = True, rollouts: int | None = None, usual: Mapping[str, Any] = NONE
    ) -> ExpertConfig:
        """The config with its open defaults filled in.

        live      the dataset is a simulated shop, and not a log that is replayed
        rollouts  that the Expert will learn from before it has settled; None: stays open
        usual     an algorithm's own defaults, before those of the dataset
        """
        filled: dict[str, Any] = {}
        defaults = {"history": HISTORY} | (IN_A_SHOP if live else ON_LOGS) | usual
        for name, value in defaults.items():
            if getattr(self, name) is None:
                filled[name] = value
        if rollouts is not None and self.expert_decay is None:
            filled["expert_decay"] = max(1, rollouts)
        return replace(self, **filled)


# --- rewards -------------------------------------------------------------------------------------

@dataclass(frozen=True)
class GopoConfig:
    """How both agents are rewarded."""
    gamma: float | None = opt(
        None, "discount per turn of Eq. 1, in [0, 1]; default .95 in a live shop, 0 on replayed "
        "logs, where the next state ignores the action (GAP-4)")
    dialogues: int | None = opt(
        None, "dialogues per GOPO step, played in lockstep; default 128 without a language model, "
        "16 with one")
    strategy_dialogues: int | None = opt(
        None, "dialogues per step of the strategy stage, in which no language model speaks; "
        "default 128")
    judge_by: str = opt(
        "chosen", "the skills by which a judge marks replies in training: chosen (those that the "
        "Expert chose) or needed (the teacher's, as in evaluation)")
    reward: str = opt(
        "joint", "what the Expert's advantage is made of, apart from the absorbing end: joint "
        "(Eq. 10), expert (R^E only), cs (R^A only) or end (nothing else)")
    end_weight: float = opt(
        1.0, "weight of the absorbing end: what a success earns for the turns left (GAP-4); "
        "0 = none, as printed")
    cs_reward: str = opt(
        "cs", "what Eq. 9b rewards: cs (R^A, as printed) or joint (R_t, the other reading of "
        "Sec. 3.2, GAP-4)")
    fix_expert: bool = opt(
        False, "ablation: the joint steps leave the Expert as the strategy stage left it, and the "
        "language model learns alone")
    outcome_weight: float = opt(
        0.0, "adds this times the dialogue's TSE to its last reward; 0 = the paper "
        "(the absorbing end already pays for success, GAP-4)")
    tse_gamma: float = opt(
        0.9, "decay of Eq. 11, in (0, 1]; evaluation only, unless --outcome_weight")
    no_expert: bool = opt(
        False, "ablation: no Expert; the Customer Service Agent alone reads H_t, u_t, e_t and "
        "the shop's global rules")

    def __post_init__(self):
        if self.gamma is not None and not 0 <= self.gamma <= 1:
            raise ValueError(f"--gamma must lie in [0, 1], got {self.gamma}")
        if not 0 < self.tse_gamma <= 1:
            raise ValueError(f"--tse_gamma must lie in (0, 1], got {self.tse_gamma}")
        refuse_below(self, {
            "dialogues": 1, "strategy_dialogues": 1, "end_weight": 0, "outcome_weight": 0})
        refuse_other_words(self, {
            "reward": ("joint", "expert", "cs", "end"),
            "cs_reward": ("cs", "joint"),
            "judge_by": ("chosen", "needed"),
        })

    def settled(self, live: bool, speaks: bool) -> GopoConfig:
        """The config with its open defaults filled in.

        live    the dataset is a simulated shop, and not a log that is replayed
        speaks  a language model writes the replies
        """
        gamma = self.gamma
        if gamma is None:
            # GAP-4: on logs the next state ignores the action.
            gamma = 0.95 if live else 0.0
        usual = 16 if speaks else 128
        return replace(
            self,
            gamma=gamma,
            dialogues=self.dialogues or usual,
            strategy_dialogues=self.strategy_dialogues or 128,
        )
