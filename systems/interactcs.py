"""InteractCS-RL (arXiv 2602.22697), Eqs. 5-9: service under a budget, as pure functions.

An agent may hand out a voucher; that is the *decision* d_t of turn t.  Vouchers please customers
and cost money.  The *voucher rate* V is the share of dialogues with a voucher.  It shall not exceed
a budget, so each voucher has a price: lambda, in units of reward.  A *controller* sets the price
anew after each training step, from the V that it saw.

    Eq. 5    A_t = Norm(R_O + R_P,t - lambda d_t)                what a turn earned
    Eq. 6    R_P,t = sum_j w_j S_j                               marks of a judge for one turn
    Eq. 7    min over lambda >= 0 of max over pi of J_R - lambda (J_C - budget)
    Eq. 8    lambda <- clip(lambda + K_P e + K_I sum e + K_D (e - e'), 0, lambda_max)
    Eq. 9    J = E[1/n sum_i 1/T_i sum_t min(r A, clip(r) A) - beta KL]

Eq. 8 is wrong as printed.  It adds to lambda what a PID controller would set lambda to.  Then K_P
acts as an integral gain, K_I as a double integral, and K_D as a proportional gain: the names and
the formula do not agree.  `positional_pid` is what the text of the paper describes, and the
default.  `printed_pid` is Eq. 8 to the letter.  The published code has neither: `dual_ascent`.
The controllers are in systems/controllers.py.  Eq. 6 (`process_credit`) is in rewards.py, where the
process judge can import it as well.  More in docs/interactcs.md.  Nothing here knows a shop, a
model, a config.
Try it:  python -m systems.interactcs        Eq. 8 against its own words, in numbers
Exercise: give the controllers of the second table a plant that is twice as slow (SPEED = .075).
Which of them still hold the budget?"""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rewards import PRINCIPLES, WEIGHTS, process_credit
from surrogate import clipped_gain
from systems.controllers import (
    CONTROLLERS,
    Controller,
    Gains,
    Price,
    clipped_error,
    dual_ascent,
    fixed,
    lagrangian,
    positional_pid,
    printed_pid,
)

__all__ = [
    "CONTROLLERS", "PRINCIPLES", "WEIGHTS", "Controller", "Gains", "Price", "clipped_error",
    "cmpo_objective", "cmpo_tokens", "dialogue_advantages", "divided", "dual_ascent", "fixed",
    "lagrangian", "low_variance_kl", "normalise", "outcome", "positional_pid", "printed_pid",
    "process_credit", "turn_rewards", "turn_weights",
]

# B turns, L tokens (or picks) of a turn, T turns of a dialogue

TIMED_OUT = -0.25                                # R_O: the release's 0 on the scale 1..5
INVALID = -1.0                                   # R_O of a format error [ours; see `outcome`]


# --- Eq. 5: what a turn earned ------------------------------------------------------------------

def outcome(satisfaction: int | None, timeout: bool = False, valid: bool = True) -> float:
    """R_O of Eq. 5: how the whole dialogue ended, the same for each of its turns.

    satisfaction  the customer's mark S, 1..5; None if there is none
    timeout       the dialogue was cut at its longest: -.25 [release: 0 on the scale 1..5]
    valid         False: the agent broke the format, -1.  Ours: the release means to give -10 here,
                  and an early return gives 0
    returns       (S - 1) / 4 in [0, 1], or one of the two.  The paper calls R_O normalised; on this
                  scale a price of .25 is worth one star
    raises        ValueError unless exactly one of the three says how it ended

    >>> outcome(4), outcome(None, timeout=True), outcome(None, valid=False)
    (0.75, -0.25, -1.0)
    """
    marked = satisfaction is not None
    if marked + bool(timeout) + (not valid) != 1:
        raise ValueError(
            "a dialogue ends with a mark, or in time, or in a format error: got satisfaction "
            f"{satisfaction}, timeout {timeout}, valid {valid}")
    if timeout:
        return TIMED_OUT
    if not valid:
        return INVALID
    if isinstance(satisfaction, bool) or satisfaction not in (1, 2, 3, 4, 5):
        raise ValueError(f"satisfaction is a whole number from 1 to 5, got {satisfaction!r}")
    return (satisfaction - 1) / 4


def turn_rewards(
    outcome: float,
    process: Sequence[float],
    issued: Sequence[int],
    lam: float,
    cost: str = "to_go",
    weight: float = 0.5,
) -> list[float]:
    """The bracket of Eq. 5, R_O + weight R_P,t - lambda cost_t, for each turn of one dialogue.

    outcome  R_O
    process  [T] R_P,t
    issued   [T] d_t: 1 in the turn that issued a voucher, else 0
    lam      lambda >= 0
    cost     "printed": cost_t = d_t, so only the turn that issues pays.  "to_go": cost_t is the sum
             of d_t' over t' >= t, so the turns that led to a voucher pay as well.  Ours, and the
             default: as printed, an agent earns by offering a voucher and pays nothing unless it
             keeps its word
    weight   of R_P; .5 is the release's 2 on its scale 1..5
    returns  [T]
    raises   ValueError on other lengths, T = 0, lam < 0, or an issued that is not 0 or 1

    >>> turn_rewards(0.5, [0, 0], [0, 1], 0.25), turn_rewards(0.5, [0, 0], [0, 1], 0.25, "printed")
    ([0.25, 0.25], [0.5, 0.25])
    """
    _check_turns(process, issued, lam)
    if cost not in ("to_go", "printed"):
        raise ValueError(f"cost is to_go or printed, got {cost!r}")
    charged = list(issued)
    if cost == "to_go":
        charged = [sum(issued[t:]) for t in range(len(issued))]
    return [outcome + weight * p - lam * c for p, c in zip(process, charged)]


def _check_turns(process: Sequence[float], issued: Sequence[int], lam: float) -> None:
    if len(process) != len(issued) or not len(issued):
        raise ValueError(
            f"a dialogue has as many marks as turns, and a turn: got {len(process)} marks, "
            f"{len(issued)} turns")
    if not lam >= 0:
        raise ValueError(f"the price lambda must be >= 0, got {lam}")
    if any(d not in (0, 1) for d in issued):
        raise ValueError(f"issued is 0 or 1 in each turn, got {list(issued)}")


def normalise(
    rewards: Sequence[Sequence[float]], groups: Sequence[int], scale: str = "group"
) -> list[list[float]]:
    """Norm of Eq. 5: A_t = (r_t - mean) / (sd + 1e-6), over all turns of a group's dialogues.

    A *group* is the dialogues that the same customer had with the same agent.  The paper does not
    say over what it normalises; the group is our reading of its GRPO.

    rewards  of each dialogue, one a turn
    groups   of each dialogue
    scale    what divides the rewards after their group's mean was taken off.  "group": the group's
             own standard deviation, so a voucher costs lambda / sd there, another price in each
             group.  "batch": one number for all, so the price stays lambda.  "none": nothing
    returns  the shape of `rewards`; where all rewards of a group are equal, zeros
    raises   ValueError on a group of one dialogue, which has nothing to be compared with

    >>> normalise([[0.0], [1.0, 2.0]], [7, 7], "none")
    [[-1.0], [0.0, 1.0]]
    """
    _check_groups(rewards, groups)
    if scale not in ("group", "batch", "none"):
        raise ValueError(f"scale is group, batch or none, got {scale!r}")
    centred: list[list[float]] = [[] for _ in rewards]
    for group in dict.fromkeys(groups):
        rows = [i for i, other in enumerate(groups) if other == group]
        values = np.concatenate([np.asarray(rewards[i], float) for i in rows])
        divisor = 1.0
        if scale == "group":
            divisor = values.std() + 1e-6
        for i in rows:
            centred[i] = [float((r - values.mean()) / divisor) for r in rewards[i]]
    if scale != "batch":
        return centred
    divisor = float(np.concatenate(centred).std()) + 1e-6
    return [divided(row, divisor) for row in centred]


def divided(row: Sequence[float], divisor: float) -> list[float]:
    return [a / divisor for a in row]


def _check_groups(rewards: Sequence[Sequence[float]], groups: Sequence[int]) -> None:
    if len(rewards) != len(groups) or not all(map(len, rewards)):
        raise ValueError(
            f"{len(rewards)} dialogues with {len(groups)} groups; every dialogue needs a turn")
    for group in dict.fromkeys(groups):
        if list(groups).count(group) < 2:
            raise ValueError(f"group {group} has one dialogue: there is nothing to compare it with")


def dialogue_advantages(
    outcome: Sequence[float],
    process: Sequence[Sequence[float]],
    issued: Sequence[Sequence[int]],
    lam: float,
    groups: Sequence[int],
    weight: float = 0.5,
) -> list[list[float]]:
    """The advantage of the published code: one number a dialogue, as in GRPO.

    A = (R - mean) / (sd + 1e-6) over the dialogues of a group, R = R_O + weight mean_t R_P,t -
    lambda (1 if a voucher was issued).  The paper's turns do not occur in it.

    outcome  [n] R_O; process, issued  [n][T]; the rest as in `turn_rewards` and `normalise`
    returns  [n][T], the same number for each turn of a dialogue

    >>> found = dialogue_advantages([0.5, 1.0], [[0.5, 1.0], [1.0]], [[0, 1], [0]], 0.4, [0, 0])
    >>> [[round(a, 3) for a in row] for row in found]
    [[-1.0, -1.0], [1.0]]
    """
    totals = []
    for R_O, marks, d in zip(outcome, process, issued):
        _check_turns(marks, d, lam)
        totals.append([R_O + weight * sum(marks) / len(marks) - lam * max(d)])
    found = normalise(totals, groups)
    return [row * len(d) for row, d in zip(found, issued)]


# --- Eq. 9: the objective -------------------------------------------------------------------------

def turn_weights(dialogue: Tensor, dialogues: float | None = None) -> Tensor:
    """1 / (n T_i) for each turn, Eq. 9: every dialogue counts the same, however long it was.

    dialogue   [B] which dialogue each turn belongs to
    dialogues  n; default: as many as occur here (of several processes, give the number of all)

    >>> turn_weights(torch.tensor([3, 8, 8])).tolist()
    [0.5, 0.25, 0.25]
    """
    _, which, turns = dialogue.unique(return_inverse=True, return_counts=True)
    return 1.0 / (turns[which] * (dialogues or len(turns)))


def low_variance_kl(logp: Tensor, reference: Tensor) -> Tensor:
    """exp(d) - d - 1, d = log pi_ref - log pi: an estimate of KL(pi || pi_ref), >= 0.

    From what was sampled alone; unbiased (Schulman 2020, "k3") [release: low_var_kl].

    >>> low_variance_kl(torch.zeros(1), torch.tensor([2.0]).log()).item()
    0.3068528175354004
    """
    d = reference.detach() - logp
    return d.exp() - d - 1


def cmpo_objective(
    logp: Tensor,
    old: Tensor,
    reference: Tensor,
    advantage: Tensor,
    dialogue: Tensor,
    clip: float = 0.2,
    beta: float = 0.005,
) -> Tensor:
    """J of Eq. 9, to be *maximised*: a mean over dialogues of the mean over their turns.

        1/n sum_i 1/T_i sum_t [min(r A, clip(r, 1 - eps, 1 + eps) A) - beta KL]

    logp       [B] log pi(a_t|s_t) of a whole turn, words and decision, nats
    old        [B] the same by the policy that played; r = exp(logp - old); no gradient
    reference  [B] the same by the frozen warm start; no gradient
    advantage  [B] A_t (`normalise`); no gradient
    dialogue   [B] which dialogue each turn belongs to
    clip       eps in (0, 1) [release: .2; the paper gives none]
    beta       >= 0 [release: .005]
    returns    scalar
    raises     ValueError on shapes that differ, no turn, a clip or a beta that is none
    """
    _check_objective(logp, (old, reference), advantage, dialogue, clip, beta)
    gained = clipped_gain(logp - old.detach(), advantage, clip)                        # [B]
    turns = gained - beta * low_variance_kl(logp, reference)
    return (turn_weights(dialogue) * turns).sum()


def cmpo_tokens(
    logp: Tensor,
    old: Tensor,
    reference: Tensor,
    advantage: Tensor,
    dialogue: Tensor,
    mask: Tensor,
    clip: float = 0.2,
    beta: float = 0.005,
) -> Tensor:
    """Eq. 9 with a ratio for each token: A_t is given to every token of turn t.

    A turn of forty tokens multiplies forty ratios; their product leaves 1 -+ eps after one step.
    So published code takes the ratio token by token.  The terms of a turn are summed: where no
    ratio has moved yet, the gradient is that of `cmpo_objective`.

    logp, old, reference  [B, L] of each token, nats; anything where mask is 0
    mask                  [B, L] 1 where the agent drew the token.  The customer's words, padding
                          and what a constraint inserted are in no term
    the rest, and errors  as in `cmpo_objective`; a turn without a token raises
    """
    _check_objective(logp[:, 0], (old[:, 0], reference[:, 0]), advantage, dialogue, clip, beta)
    if not logp.shape == old.shape == reference.shape == mask.shape or not mask.any(-1).all():
        raise ValueError(
            "logp, old, reference and mask must be [B, L] each, with a token in every turn: got "
            f"{tuple(logp.shape)}, {tuple(old.shape)}, {tuple(reference.shape)}, "
            f"{tuple(mask.shape)}")
    drawn = mask.bool()
    row = torch.arange(len(logp), device=logp.device)[:, None].expand_as(logp)[drawn]  # [N]
    now = logp[drawn]
    gained = clipped_gain(now - old[drawn].detach(), advantage[row], clip)
    tokens = gained - beta * low_variance_kl(now, reference[drawn])
    return (turn_weights(dialogue)[row] * tokens).sum()


def _check_objective(
    logp: Tensor,
    others: Sequence[Tensor],
    advantage: Tensor,
    dialogue: Tensor,
    clip: float,
    beta: float,
) -> None:
    shapes = [tuple(x.shape) for x in (logp, *others, advantage, dialogue)]
    if len(set(shapes)) > 1 or logp.dim() != 1 or not len(logp):
        raise ValueError(f"Eq. 9 needs a number for each of B >= 1 turns, got shapes {shapes}")
    if not 0 < clip < 1:
        raise ValueError(f"clip must lie in (0, 1), got {clip}")
    if not beta >= 0:
        raise ValueError(f"beta must be >= 0, got {beta}")


# --- the erratum of Eq. 8, in numbers ------------------------------------------------------------

# A policy that answers to a price with a lag: V <- V + SPEED (f(lambda) - V).
SPEED = 0.15
FIRST_V = 0.85
TARGET = 0.30
DIALOGUES = 64                                   # in a step; V is counted, so it is noisy
LONG = 400                                       # steps
LATE = 200                                       # of these the last


def wanted_rate(lam: float) -> float:
    """f(lambda): the V at which the simulated policy rests at this price."""
    return 0.9 / (1 + math.exp((lam - 0.22) / 0.06))


def closed_loop(controller: Controller, gains: Gains, seed: int = 0) -> tuple[list, list]:
    """V and lambda of each of `LONG` steps, with the controller in the loop."""
    rng = np.random.default_rng(seed)
    p = Price.start(0.0, gains)
    V, rates, prices = FIRST_V, [], []
    for _ in range(LONG):
        p = controller(p, float(rng.binomial(DIALOGUES, V)) / DIALOGUES, gains)
        V += SPEED * (wanted_rate(p.lam) - V)
        rates.append(V)
        prices.append(p.lam)
    return rates, prices


def constant_error(controller: Controller, e: float = 0.1, steps: int = 10, **gains) -> list[float]:
    """lambda of each step while the error stays the same."""
    k = {"k_p": 0.0, "k_i": 0.0, "k_d": 0.0} | gains
    settings = Gains(target=TARGET, rate_ema=1.0, lambda_max=100.0, **k)
    p = Price.start(0.0, settings)
    found = []
    for _ in range(steps):
        p = controller(p, TARGET + e, settings)
        found.append(p.lam)
    return found


def main() -> None:
    print("Eq. 8 where the error stays e = .1: lambda in steps 1 to 10")
    for name, value in (("k_p", 0.5), ("k_i", 0.2), ("k_d", 0.05)):
        for said, controller in (("as printed", printed_pid), ("positional", positional_pid)):
            row = " ".join(f"{lam:.2f}" for lam in constant_error(controller, **{name: value}))
            print(f"  {name} = {value:<4}  {said}  {row}")
    print("As printed K_P integrates, K_I integrates twice, and K_D is a constant, here 0.\n")
    print(f"A simulated policy that starts at V = {FIRST_V}; target {TARGET}, {LONG} steps, "
          f"{DIALOGUES} dialogues a step")
    print("controller                     lowest V   last 200: mean    sd   lambda, lowest-highest")
    one = {"target": TARGET, "rate_ema": 1.0}
    _show_loop("dual ascent .05", dual_ascent, Gains(**one))
    _show_loop("Eq. 8, .05 0 0", printed_pid, Gains(k_p=0.05, k_i=0, k_d=0, **one))
    _show_loop("dual ascent .2", dual_ascent, Gains(dual_gain=0.2, **one))
    _show_loop("Eq. 8, .05 .005 0", printed_pid, Gains(k_p=0.05, k_i=0.005, k_d=0, **one))
    _show_loop("Eq. 8, .5 .2 .05", printed_pid, Gains(k_p=0.5, k_i=0.2, k_d=0.05, **one))
    _show_loop("Eq. 8, .125 .05 .0125", printed_pid, Gains(k_p=0.125, k_i=0.05, k_d=0.0125, **one))
    _show_loop("positional .25 .05 .05", positional_pid, Gains(k_i=0.05, k_d=0.05, **one))
    _show_loop("positional .25 .005 .25", positional_pid, Gains(**one))
    print("The first two are one controller.  A mean near the target hides a limit cycle: read sd.")


def _show_loop(said: str, controller: Controller, gains: Gains) -> None:
    rates, prices = closed_loop(controller, gains)
    late, asked = np.array(rates[-LATE:]), prices[-LATE:]
    print(f"  {said:27s} {min(rates):9.3f} {late.mean():16.3f} {late.std():6.3f}"
          f"   {min(asked):.2f}-{max(asked):.2f}")


if __name__ == "__main__":
    main()
