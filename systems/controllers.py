"""The price of a voucher: Eqs. 7 and 8 of InteractCS-RL (arXiv 2602.22697), four controllers.

A *controller* reads V, the share of a step's dialogues with a voucher, and sets lambda, the price
of a voucher, so that V comes to rest at a target.  interactcs.py says what the price is for and
where Eq. 8 goes wrong, and hands on all names of this file.

    positional_pid   lambda = what a PID controller says: the default, ours
    printed_pid      lambda += what a PID controller says: Eq. 8 to the letter
    dual_ascent      lambda += gain (V - target): the published code
    clipped_error    lambda = V - target, clipped: a comment in the published code
    fixed            lambda stays

Pure functions of plain numbers, from a state to a state.
Try it:  python -m systems.interactcs        all of them on a simulated policy"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gains:
    """What a controller is set to.

    target      the V that it aims at, in [0, 1]
    rate_ema    share of the newest V in the running mean, in (0, 1]; the release has .7
    lambda_max  the highest price; 1.25 is the release's 5 on its scale 1..5
    k_p, k_i, k_d  of the positional PID and of Eq. 8 [ours: the paper gives none]
    dual_gain   of dual ascent; .05 is the release's .2 on its scale
    """
    target: float = 0.27
    rate_ema: float = 0.7
    lambda_max: float = 1.25
    k_p: float = 0.25
    k_i: float = 0.005
    k_d: float = 0.25
    dual_gain: float = 0.05


@dataclass(frozen=True)
class Price:
    """A controller's state.

    lam       lambda
    integral  I, the sum of errors
    previous  e', the error of the step before; None before the first
    rate      the running mean of V
    """
    lam: float
    integral: float
    previous: float | None
    rate: float

    @classmethod
    def start(cls, lam: float, gains: Gains) -> Price:
        """Before the first step.  V is taken to be right; I is what makes lambda its first value.
        """
        integral = lam / gains.k_i if gains.k_i else 0.0
        return cls(lam, integral, None, gains.target)

    def tensor(self) -> Tensor:
        """[4], for a checkpoint.

        >>> Price.of(Price(0.1, 2.0, None, 0.3).tensor()) == Price(0.1, 2.0, None, 0.3)
        True
        """
        previous = math.nan if self.previous is None else self.previous
        return torch.tensor([self.lam, self.integral, previous, self.rate], dtype=torch.float64)

    @classmethod
    def of(cls, tensor: Tensor) -> Price:
        lam, integral, previous, rate = tensor.tolist()
        known = None if math.isnan(previous) else previous
        return cls(lam, integral, known, rate)


Controller = Callable[[Price, float, Gains], Price]


def _seen(p: Price, seen: float, gains: Gains) -> tuple[Price, float]:
    """The running mean of V with this step's in it, and the error e_k = J_C,k - budget (Eq. 8)."""
    if not 0 <= seen <= 1:
        raise ValueError(f"the voucher rate lies in [0, 1], got {seen}")
    rate = (1 - gains.rate_ema) * p.rate + gains.rate_ema * seen
    return replace(p, rate=rate), rate - gains.target


def _change(p: Price, e: float) -> float:
    """e_k - e_k-1; 0 in the first step, which has no step before it."""
    return 0.0 if p.previous is None else e - p.previous


def _clipped(lam: float, gains: Gains) -> float:
    return min(max(lam, 0.0), gains.lambda_max)


def positional_pid(p: Price, seen: float, gains: Gains) -> Price:
    """lambda = clip(K_P e + K_I I + K_D max(0, e - e'), 0, lambda_max): Eq. 8 as its text has it.

    This is the PID-Lagrangian of Stooke et al. 2020 (arXiv 2007.03964).  It *sets* lambda where
    Eq. 8 adds to it.  I = clip(I + e, 0, lambda_max / K_I), so that I alone never asks for more
    than lambda_max or less than 0 (anti-windup).  The last term only ever raises the price.

    p        the state before
    seen     V of this step's dialogues, in [0, 1]
    returns  the state after
    raises   ValueError if `seen` lies outside [0, 1]

    >>> p = positional_pid(Price.start(0.0, Gains()), 0.84, Gains())
    >>> round(p.lam, 6), round(p.rate, 3)
    (0.101745, 0.669)
    """
    p, e = _seen(p, seen, gains)
    integral = 0.0
    if gains.k_i:
        integral = min(max(p.integral + e, 0.0), gains.lambda_max / gains.k_i)
    lam = gains.k_p * e + gains.k_i * integral + gains.k_d * max(0.0, _change(p, e))
    return Price(_clipped(lam, gains), integral, e, p.rate)


def printed_pid(p: Price, seen: float, gains: Gains) -> Price:
    """lambda_k+1 = clip(lambda_k + K_P e_k + K_I sum e + K_D (e_k - e_k-1), 0, lambda_max): Eq. 8.

    Erratum: unclipped this is lambda_0 + K_P sum e + K_I sum sum e + K_D (e_k - e_0).  With K_P
    alone it is `dual_ascent`.  Arguments and errors as in `positional_pid`.

    >>> gains = Gains(rate_ema=1.0, k_p=0.5, k_i=0.0, k_d=0.0)
    >>> first = printed_pid(Price.start(0.0, gains), 0.37, gains)
    >>> round(first.lam, 3), round(printed_pid(first, 0.37, gains).lam, 3)
    (0.05, 0.1)
    """
    p, e = _seen(p, seen, gains)
    integral = p.integral + e if gains.k_i else 0.0
    lam = p.lam + gains.k_p * e + gains.k_i * integral + gains.k_d * _change(p, e)
    return Price(_clipped(lam, gains), integral, e, p.rate)


def dual_ascent(p: Price, seen: float, gains: Gains) -> Price:
    """lambda <- clip(lambda + gain e, 0, lambda_max): what the published code does.

    One step up the gradient of Eq. 7 in lambda, and so a purely integral controller.

    >>> p = dual_ascent(Price(0.0, 0.0, None, 0.28), 0.30, Gains(dual_gain=0.2))
    >>> round(p.rate, 3), round(p.lam, 4)
    (0.294, 0.0048)
    """
    p, e = _seen(p, seen, gains)
    return Price(_clipped(p.lam + gains.dual_gain * e, gains), p.integral, e, p.rate)


def clipped_error(p: Price, seen: float, gains: Gains) -> Price:
    """lambda = clip(e, 0, lambda_max): a line that the published code has as a comment.

    Our reading of the paper's row "without PID".  A proportional controller alone rests where
    e = lambda, and so above its target.
    """
    p, e = _seen(p, seen, gains)
    return Price(_clipped(e, gains), p.integral, e, p.rate)


def fixed(p: Price, seen: float, gains: Gains) -> Price:
    """lambda stays what it is; V is still kept in the running mean."""
    p, e = _seen(p, seen, gains)
    return replace(p, previous=e)


CONTROLLERS: dict[str, Controller] = {
    "pid": positional_pid,
    "printed": printed_pid,
    "dual": dual_ascent,
    "clip": clipped_error,
    "fixed": fixed,
    "off": fixed,
}


def lagrangian(j_reward: float, j_cost: float, lam: float, budget: float) -> float:
    """J_R - lambda (J_C - budget), Eq. 7: for logs; what the dialogues of a step earned in all.

    >>> lagrangian(0.5, 0.5, 0.25, 0.25)
    0.4375
    """
    return j_reward - lam * (j_cost - budget)
