"""The flags of `--algo cmpo`: one field is one flag, and its help says where the number is from.

[paper] arXiv 2602.22697, [release] its published code, [ours] everything that neither gives."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from data import opt
from infra.api import hosted_model
from infra.flags import refuse_below, refuse_not_positive, refuse_other_words

WORDS = {
    "control": ("pid", "printed", "dual", "clip", "fixed", "off"),     # systems/controllers.py
    "cost": ("to_go", "printed"),
    "credit": ("turn", "dialogue"),
    "scale": ("batch", "group", "none"),
    "ratio": ("turn", "token"),
    "kl_spares": ("vouchers", "nothing"),
    "customer_noise": ("paired", "own"),
}

# Defaults that differ: the phrase book speaks, a language model does.  The pull was chosen on dev
# customers for the one (docs/interactcs.md), and is the release's for the other.
WITH_SKILLS = {"kl": 0.2, "kl_spares": "vouchers", "lr_end": 0.0}
WITH_WORDS = {"kl": 0.005, "kl_spares": "nothing", "lr_end": 0.2}
NO_CRITIC = "CMPO compares the copies of a customer and has no critic; leave it out"
REWARDED = (
    "CMPO's rewards are those of its Eq. 5; use --process_weight, --session_weight and --cost")
# Flags of GOPO that nothing in CMPO reads -> what to do instead.
UNREAD = {
    "dialogues": "use --customers and --copies, whose product it is",
    "strategy_dialogues": "use --customers and --copies, whose product it is",
    "gamma": "the rewards of its Eq. 5 are not discounted; leave it out",
    "judge_by": REWARDED,
    "reward": REWARDED,
    "end_weight": REWARDED,
    "cs_reward": REWARDED,
    "fix_expert": "its Expert decides about money in every step; leave it out",
    "outcome_weight": REWARDED,
    "skill_cost": REWARDED,
    "expert_lr_end": "use --lr_end, the share of --expert_lr at the end",
    "alpha": "use --decision_anchor, which keeps the decision open",
    "alpha_end": "use --decision_anchor, which falls to a fifth",
    "expert_epochs": "use --cmpo_epochs",
    "expert_minibatch": "a step's dialogues are one batch; use --customers and --copies",
    "expert_clip": "use --cmpo_clip",
    "expert_anchor": "use --kl, the pull to the warm start",
    "expert_samples": "use --copies",
    "slips": "it plays no slips, whose rewards are nobody's merit; leave it out",
    "blind_critic": NO_CRITIC,
    "gae_lambda": NO_CRITIC,
}

# What alarms say.
DYING = 0.02                                     # V below which there is little left to learn from
NO_VOUCHER = ("V has been below .02 for 10 steps while a voucher has a price: there is no voucher "
              "left to learn from; lower --k_i or --dual_gain, raise --decision_anchor")
AT_MOST = "the price has been at --lambda_max for 10 steps, and V is still too high"
WOUND_UP = "the integral has been at its limit for 10 steps: --lambda_max is too low for the budget"


@dataclass(frozen=True)
class CMPOConfig:
    """How CMPO learns to serve under a budget."""
    budget: float = opt(
        0.30, "CMPO: the share of dialogues that may cost a voucher, in [0, 1] [paper]")
    budget_margin: float = opt(
        0.03, "CMPO: training aims at --budget less this [release: .27 for .30]")
    control: str = opt(
        "pid", "CMPO: what sets the price lambda: pid (positional, ours), printed (Eq. 8 to the "
        "letter), dual (the release), clip (lambda = the error), fixed (--lambda0) or off (0)")
    lambda0: float = opt(
        0.0, "CMPO: the price of a voucher in the first step, in units of R_O: .25 is one star "
        "[release: 0]")
    lambda_max: float = opt(
        1.25, "CMPO: the highest price [release: 5 on the scale 1..5]")
    k_p: float = opt(0.25, "CMPO: K_P of Eq. 8 [ours]")
    k_i: float = opt(
        0.005, "CMPO: K_I of Eq. 8 [ours]: small, for V answers to a price some 40 steps late")
    k_d: float = opt(0.25, "CMPO: K_D of Eq. 8 [ours]")
    dual_gain: float = opt(
        0.05, "CMPO: the gain of --control dual [release: .2 on the scale 1..5]")
    rate_ema: float = opt(
        0.7, "CMPO: share of the newest V in the running mean that a controller sees [release]")
    cost: str = opt(
        "to_go", "CMPO: which turns pay for a voucher: to_go (its turn and those before it, ours) "
        "or printed (its turn alone, Eq. 5)")
    credit: str = opt(
        "turn", "CMPO: turn (Eq. 5) or dialogue (the release: one number for all turns, GRPO)")
    scale: str = opt(
        "batch", "CMPO: what rewards are divided by, after the mean of their group was taken off: "
        "batch (one number: the price stays lambda; ours), group (its own spread; our reading of "
        "the paper) or none")
    session_weight: float = opt(
        1.0, "CMPO: weight of R_O, the customer's mark, in Eq. 5 [paper: 1]; 0 with --control off: "
        "its row without outcome and cost")
    process_weight: float = opt(
        0.5, "CMPO: weight of the process credit of Eq. 6 [release: 2 on the scale 1..5]")
    genrm: str = opt(
        "rules", "CMPO: who marks single turns for Eq. 6: rules, none, or api:MODEL, a model of "
        "the server at --api_base")
    customer: str = opt(
        "rules", "CMPO: who the customers are in training: rules, or api:MODEL, a model that plays "
        "those of fds; tables are always played with rules")
    customers: int = opt(
        16, "CMPO: customers in a step; each has --copies dialogues [paper: 32]")
    copies: int = opt(
        4, "CMPO: dialogues with each customer, which form a group [paper: 4]")
    customer_noise: str = opt(
        "paired", "CMPO: the luck of a customer's copies: paired (the same in all, so that they "
        "differ in what the agent drew; ours) or own")
    control_copies: int = opt(
        1, "CMPO: copies in a group that may offer no voucher, so that every group shows what it "
        "would have been without; they do not count for V [ours; 0: the paper]")
    decision_anchor: float = opt(
        0.05, "CMPO: weight of KL(uniform || pi(d_t)), which keeps the decision, and its proposal, "
        "open at V near 0 or 1; falls to a fifth [ours; 0: the paper]")
    kl: float | None = opt(
        None, "CMPO: beta of Eq. 9, the pull back to the warm start; default .2 [ours], where a "
        "language model decides .005 [release]")
    kl_spares: str | None = opt(
        None, "CMPO: what the pull leaves free: vouchers, so that it holds how the agent serves, "
        "not whom it gives one (ours), or nothing (the paper, and where a language model decides)")
    cmpo_clip: float = opt(
        0.2, "CMPO: eps of Eq. 9 [release]; without effect at --cmpo_epochs 1, where every ratio "
        "is 1")
    cmpo_epochs: int = opt(
        1, "CMPO: Adam steps on each step's dialogues [release: one batch is one mini-batch]")
    ratio: str = opt(
        "turn", "CMPO: the ratio of Eq. 9: of a whole turn (paper) or of each pick (token, as "
        "published code has it)")
    lr_end: float | None = opt(
        None, "CMPO: the step size falls to this share of --expert_lr, by a cosine after a warm-up "
        "of a tenth [paper]; default 0 [ours], where a language model decides .2")

    def __post_init__(self):
        said = {name: words for name, words in WORDS.items() if getattr(self, name) is not None}
        refuse_other_words(self, said)
        if self.genrm not in ("rules", "none"):
            hosted_model(self.genrm, "--genrm", "rules, none")
        if self.customer != "rules":
            hosted_model(self.customer, "--customer", "rules")
            if self.genrm == "rules":
                raise ValueError(
                    "--customer api:MODEL speaks freely, and --genrm rules reads the phrase book "
                    "alone: add --genrm api:MODEL, or none")
        refuse_not_positive(self, "lambda_max", "rate_ema", "cmpo_clip")
        refuse_below(self, {
            "lambda0": 0, "k_p": 0, "k_i": 0, "k_d": 0, "dual_gain": 0, "session_weight": 0,
            "process_weight": 0, "customers": 1, "copies": 2, "control_copies": 0,
            "decision_anchor": 0, "kl": 0, "cmpo_epochs": 1})
        for name in ("budget", "budget_margin", "rate_ema", "lr_end"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"--{name} must lie in [0, 1], got {value}")
        if self.cmpo_clip >= 1:
            raise ValueError(f"--cmpo_clip must lie in (0, 1), got {self.cmpo_clip}")
        if self.lambda0 > self.lambda_max:
            raise ValueError(
                f"--lambda0 {self.lambda0} is above --lambda_max {self.lambda_max}")
        if self.control_copies >= self.copies:
            raise ValueError(
                f"--control_copies {self.control_copies} must be fewer than --copies "
                f"{self.copies}: V is counted in the others")
        if self.control == "off" and self.lambda0:
            raise ValueError("--control off has no price: leave --lambda0 out, or take fixed")

    def settled(self, speaks: bool) -> CMPOConfig:
        """The config with its open defaults filled in; `speaks`: a language model decides."""
        usual = WITH_WORDS if speaks else WITH_SKILLS
        opened = {name: usual[name] for name in usual if getattr(self, name) is None}
        return replace(self, **opened)

    @property
    def gains(self) -> Any:
        """What the controller is set to: its `Gains`."""
        # imported here: the flags alone need no torch
        from systems.controllers import Gains
        return Gains(
            target=max(0.0, self.budget - self.budget_margin),
            rate_ema=self.rate_ema,
            lambda_max=self.lambda_max,
            k_p=self.k_p,
            k_i=self.k_i,
            k_d=self.k_d,
            dual_gain=self.dual_gain,
        )
