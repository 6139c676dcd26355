"""The equations of PPO on tokens: the clipped surrogate, the value loss, GAE, where rewards stand.

    L_clip = -mean_i min(r_i A_i, clip(r_i, 1 - eps, 1 + eps) A_i)     Schulman et al. 2017, Eq. 7
    A_i = delta_i + d_i lambda_i A_{i+1}                               Schulman et al. 2016, GAE
    delta_i = rho_i + d_i V_{i+1} - V_i
    L_V = mean_i (V_i - A_i^old - V_i^old)^2

A discount d_i and a lambda_i for each token are ours: time passes between turns, and not within a
reply (GAP-9).  Pure functions: no model, no config.  Who uses them is in ppo.py.
Try it:  python -m baselines.ppo"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# B replies, L tokens of a reply, T tokens of a dialogue


def clipped_surrogate(
    logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """L_clip = -mean min(r A, clip(r, 1 - eps, 1 + eps) A), r = exp(logp - old_logp).

    Schulman et al. 2017, Eq. 7, with its sign turned: it is minimised.

    logp       [B, L] nats, now; values where mask is 0 are ignored
    old_logp   [B, L] nats, of the policy that sampled; no gradient
    advantage  [B, L] no gradient
    mask       [B, L] 1 where the agent drew the token
    clip       eps > 0.  The gradient is 0 at a token whose ratio has gone further than eps in the
               direction of its advantage
    returns    scalar, mean over the mask
    raises     ValueError on shapes that differ or an empty mask

    >>> one = torch.ones(1, 1)
    >>> clipped_surrogate((1.5 * one).log(), 0 * one, one, one, 0.2).item()
    -1.2000000476837158
    """
    mask = _checked("clipped_surrogate", mask, logp, old_logp, advantage)
    ratio = (logp[mask] - old_logp[mask].detach()).exp()                         # [N]
    adv = advantage[mask].detach()                                               # [N]
    return -torch.minimum(ratio * adv, ratio.clamp(1 - clip, 1 + clip) * adv).mean()


def value_loss(value: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L_V = mean (V - target)^2 over the mask.

    value    [B, L] V of the state each token was drawn in
    target   [B, L] A + V of the policy that sampled (the lambda-return); no gradient
    returns  scalar >= 0
    raises   ValueError on shapes that differ or an empty mask

    >>> value, target = torch.tensor([[1., 9.]]), torch.tensor([[3., 0.]])
    >>> value_loss(value, target, torch.tensor([[1, 0]])).item()
    4.0
    """
    mask = _checked("value_loss", mask, value, target)
    return (value[mask] - target[mask].detach()).square().mean()


def token_gae(
    rewards: Sequence[float],
    values: Sequence[float],
    discounts: Sequence[float],
    decays: Sequence[float],
) -> list[float]:
    """`expert.gae` with a discount d_i and a lambda_i for each step.

    delta_i = r_i + d_i V_{i+1} - V_i;   A_i = delta_i + d_i lambda_i A_{i+1}

    rewards    [T], `token_rewards`
    values     [T + 1]; the last is 0 if the dialogue terminated
    discounts  [T], each in [0, 1]
    decays     [T], lambda_i in [0, 1]
    raises     ValueError if the lengths do not fit

    >>> token_gae([0., 1.], [.5, .5, 0.], [1., .9], [.5, 1.])
    [0.25, 0.5]
    """
    if not len(values) - 1 == len(rewards) == len(discounts) == len(decays):
        lengths = [len(x) for x in (rewards, values, discounts, decays)]
        raise ValueError(
            "token_gae needs T rewards, T + 1 values, T discounts and T lambdas: "
            f"got {lengths}")
    advantages = [0.0] * len(rewards)
    later = 0.0
    for i in reversed(range(len(rewards))):
        later = rewards[i] + discounts[i] * (values[i + 1] + decays[i] * later) - values[i]
        advantages[i] = later
    return advantages


def token_rewards(
    rewards: Sequence[float], lengths: Sequence[int], gamma: float, lam: float
) -> tuple[list[float], list[float], list[float]]:
    """Rewards, discounts and lambdas of a dialogue's tokens.

    A turn's reward stands at its last token, and time passes only there.

    rewards  one a turn
    lengths  drawn tokens of each turn's reply, >= 1
    returns  rho, d and lambda, each as long as all turns together
    raises   ValueError for a turn without a token

    >>> token_rewards([1., .5], [2, 1], .9, .7)
    ([0.0, 1.0, 0.5], [1.0, 0.9, 0.9], [1.0, 0.7, 0.7])
    """
    if len(rewards) != len(lengths) or min(lengths, default=0) < 1:
        raise ValueError(
            "token_rewards needs a reward and at least one token for each turn: "
            f"got {len(rewards)} rewards, lengths {list(lengths)}")
    rho: list[float] = []
    discounts: list[float] = []
    decays: list[float] = []
    for reward, length in zip(rewards, lengths):
        within = length - 1
        rho += [0.0] * within + [reward]
        discounts += [1.0] * within + [gamma]
        decays += [1.0] * within + [lam]
    return rho, discounts, decays


def _checked(name: str, mask: Tensor, *others: Tensor) -> Tensor:
    """The mask as booleans; ValueError if a shape differs from it or nothing is in it."""
    if any(x.shape != mask.shape for x in others) or not mask.any():
        shapes = [tuple(x.shape) for x in (*others, mask)]
        raise ValueError(f"{name} wants equal shapes and a mask that is not empty, got {shapes}")
    return mask.bool()
