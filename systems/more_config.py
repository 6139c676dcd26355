"""The flags of `--algo more`: one field is one flag, and its help says where the number is from.

[paper] arXiv 2606.09293; [GRPO] Shao et al. 2024, where the paper is silent; [ours] where both are.
M, the replies to a state, is --group (8 here), and the step size is --agent_lr."""
from __future__ import annotations

import math
from dataclasses import dataclass

from data import opt
from infra.flags import refuse_below, refuse_not_positive, refuse_other_words
from systems.more_rewards import DEFAULT, RuleRewards

WEIGHTS = ("rank", "equal", "std", "candidate")
FIXED = "fixed:"
AVERAGES = ("token", "reply")
NORMS = ("norm", "signal")
WORDS = {
    "more_norms": NORMS,
    "more_norm_params": ("all", "head"),
    "more_anchor": ("scaffold", "printed", "none"),
    "more_average": AVERAGES,
}


@dataclass(frozen=True)
class MoreConfig:
    """How MORE learns from several rewards, near a model that was trained on reasoning tasks."""
    more_contexts: int = opt(16, "MORE: logged states in a step, each with --group replies [ours]")
    more_rewards: str = opt(
        ",".join(DEFAULT), "MORE: the rewards, of NAT RSN FID COV RUD REP RGE BLEU, with commas in "
        "between [paper: these]")
    more_weights: str = opt(
        "rank", "MORE: lambda: rank (of the gradients, Sec. 3.4), std (of the rewards' spread; "
        "costs nothing), equal, candidate (Algorithm 1 as printed), or fixed:1,.5,... [paper: "
        "rank]")
    more_norms: str = opt(
        "norm", "MORE: what is ranked: norm (of the batch's gradient [paper]) or signal (without "
        "its noise, from two halves of the batch)")
    more_norm_params: str = opt(
        "all", "MORE: gradients of all that is trained, by one backward pass a reward, or of the "
        "head, the output matrix alone, in closed form")
    more_norm_decay: float = opt(
        0.9, "MORE: share of the old in the running mean of the norms, in [0, 1) [ours]")
    more_anchor: str = opt(
        "scaffold", "MORE: pi_ref: scaffold (the model after the reasoning tasks, frozen once), "
        "printed (frozen anew before every step, which does nothing) or none")
    more_kl: float = opt(0.04, "MORE: beta of Eq. 2, the weight of the anchor [GRPO]")
    more_clip: float = opt(0.2, "MORE: eps of Eq. 2, in (0, 1) [GRPO]")
    more_inner: int = opt(1, "MORE: optimiser steps on each step's replies [ours]")
    more_average: str = opt(
        "token", "MORE: Eq. 2 averages over the batch's tokens, or within each reply first "
        "[paper: reply]")
    more_scaffold_steps: int = opt(
        60, "MORE: steps of GRPO on reasoning tasks before the dialogues; 0 = without reasoning")
    more_scaffold_warm: float | None = opt(
        None, "MORE: share of the reasoning tasks' sentences among what the warm start reads, in "
        "[0, 1); default .5, and 0 without reasoning [ours: a small model learns to copy from "
        "sentences, not by RL]")
    more_tasks: int = opt(
        16, "MORE: reasoning tasks in a batch of them, each with --group sentences [ours]")
    more_scaffold_format: float = opt(
        0.1, "MORE: what a sentence in the form of an answer earns beside 1 for the right value "
        "[ours]")
    more_mac: float = opt(0.5, "MORE: weight of tasks that copy from the profile [paper]")
    more_pnr: float = opt(0.5, "MORE: weight of tasks that compute from it [paper]")
    more_merge: bool = opt(
        False, "MORE: without two stages: each step learns from --more_contexts states and "
        "--more_merge_tasks tasks at once, in one sum")
    more_merge_tasks: int = opt(
        10, "MORE: tasks in a merged step: with the default steps about as many in all as in two "
        "stages")
    more_interleave: int = opt(
        0, "MORE: a batch of tasks after every so many steps, lest reasoning fade; 0 = none")
    more_watch: int = opt(
        10, "MORE: steps between looks at 64 fixed tasks and 64 fixed states, greedy")

    def __post_init__(self):
        refuse_other_words(self, WORDS)
        refuse_not_positive(self, "more_clip")
        refuse_below(self, {
            "more_contexts": 1, "more_norm_decay": 0, "more_kl": 0, "more_inner": 1,
            "more_scaffold_steps": 0, "more_scaffold_warm": 0, "more_tasks": 1,
            "more_scaffold_format": 0, "more_mac": 0, "more_pnr": 0, "more_merge_tasks": 1,
            "more_interleave": 0, "more_watch": 1})
        RuleRewards(self.names)
        for name in ("more_norm_decay", "more_scaffold_warm", "more_clip"):
            value = getattr(self, name)
            if value is not None and value >= 1:
                raise ValueError(f"--{name} must be below 1, got {value}")
        if not 0 < self.more_mac + self.more_pnr < math.inf:
            raise ValueError("--more_mac and --more_pnr are both 0: no task would teach anything")
        if self.more_norms == "signal" and self.more_contexts < 2:
            raise ValueError("--more_norms signal compares two halves: --more_contexts 2 or more")
        if self.more_merge and self.more_interleave:
            raise ValueError("--more_merge has tasks in every step: leave --more_interleave out")
        self._refuse_weights()

    def _refuse_weights(self) -> None:
        kind = self.more_weights
        if kind in WEIGHTS:
            return
        if not kind.startswith(FIXED):
            raise ValueError(
                f"--more_weights must be one of {', '.join(WEIGHTS)}, or {FIXED}w1,w2,...; "
                f"got {kind!r}")
        try:
            weights = self.fixed
        except ValueError:
            weights = []
        sound = all(0 <= weight < math.inf for weight in weights)
        if len(weights) != len(self.names) or not sound or not any(weights):
            raise ValueError(
                f"--more_weights {kind}: give one number >= 0 for each of "
                f"{', '.join(self.names)}, not all 0")

    # --- what follows from the flags ------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The rewards, in order."""
        return tuple(self.more_rewards.split(","))

    @property
    def fixed(self) -> list[float]:
        """The weights of `fixed:w1,w2,...`."""
        return [float(word) for word in self.more_weights.removeprefix(FIXED).split(",")]

    @property
    def adapts(self) -> bool:
        """Whether lambda follows a running mean of how strongly each reward pulls."""
        return self.more_weights in ("rank", "std")

    @property
    def reasons(self) -> bool:
        """Whether reasoning tasks take part at all."""
        staged = self.more_scaffold_steps > 0 or self.more_interleave > 0
        return self.more_merge or staged or bool(self.more_scaffold_warm)

    @property
    def warm_share(self) -> float:
        """Share of tasks among what the warm start reads."""
        if self.more_scaffold_warm is None:
            return 0.5 if self.reasons else 0.0
        return self.more_scaffold_warm

    @property
    def beta(self) -> float:
        """The weight of D_KL."""
        return 0.0 if self.more_anchor == "none" else self.more_kl
