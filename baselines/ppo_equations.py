"""PPO's equations (Schulman et al. 2017): the clipped surrogate, values, and GAE token by token.

    L_clip = -mean_i min(r_i A_i, clip(r_i, 1 - eps, 1 + eps) A_i)      their Eq. 7, minimised
    L_V = mean_i (V_i - A_i^old - V_i^old)^2
    delta_i = rho_i + d_i V_{i+1} - V_i
    A_i = delta_i + d_i lambda_i A_{i+1}

Pure functions of tensors and numbers: no model, no dialogue, no config.  That time passes only at
the end of a reply (d_i, lambda_i), and where rewards stand (rho_i), is ours (GAP-9): see
baselines/ppo.py, which learns by them.
Try it:  python -m baselines.ppo_equations        a dialogue of two turns, to follow by hand"""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from surrogate import clipped_gain

# B replies, L tokens of a reply, T tokens of a dialogue


def clipped_surrogate(
    logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """L_clip = -mean min(r A, clip(r, 1 - eps, 1 + eps) A): Schulman et al. 2017, Eq. 7, minimised.

    logp       [B, L] nats, now; values where mask is 0 are ignored
    old_logp   [B, L] nats, of the policy that sampled; no gradient.  r = exp(logp - old_logp)
    advantage  [B, L] no gradient
    mask       [B, L] 1 where the agent drew the token
    clip       eps > 0.  A token that has gone further than eps the way its advantage points has
               gradient 0
    returns    scalar, mean over the mask
    raises     ValueError on shapes that differ or an empty mask

    >>> ratio, one = torch.tensor([[1.5]]), torch.ones(1, 1)
    >>> clipped_surrogate(ratio.log(), torch.zeros(1, 1), one, one, 0.2).item()
    -1.2000000476837158
    """
    mask = _checked("clipped_surrogate", mask, logp, old_logp, advantage)
    log_ratio = logp[mask] - old_logp[mask].detach()                                 # [N]
    return -clipped_gain(log_ratio, advantage[mask], clip).mean()


def value_loss(value: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L_V = mean (V - target)^2 over the mask.

    value    [B, L] V of the state each token was drawn in
    target   [B, L] A + V of the policy that sampled (the lambda-return); no gradient
    returns  scalar >= 0; raises ValueError on shapes that differ or an empty mask

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

    delta_i = r_i + d_i V_{i+1} - V_i        A_i = delta_i + d_i lambda_i A_{i+1}

    rewards    [T], from `token_rewards`
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
        follows = values[i + 1] + decays[i] * later
        later = rewards[i] + discounts[i] * follows - values[i]
        advantages[i] = later
    return advantages


def token_rewards(
    rewards: Sequence[float], lengths: Sequence[int], gamma: float, lam: float
) -> tuple[list[float], list[float], list[float]]:
    """Rewards, discounts and lambdas of the tokens of a dialogue.

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
        rho += [0.0] * (length - 1) + [reward]
        discounts += [1.0] * (length - 1) + [gamma]
        decays += [1.0] * (length - 1) + [lam]
    return rho, discounts, decays


def _checked(name: str, mask: Tensor, *others: Tensor) -> Tensor:
    if any(x.shape != mask.shape for x in others) or not mask.any():
        shapes = [tuple(x.shape) for x in (*others, mask)]
        raise ValueError(f"{name} wants equal shapes and a mask that is not empty, got {shapes}")
    return mask.bool()


# --- by hand ------------------------------------------------------------------------------------

def demo() -> None:
    rewards, discounts, decays = token_rewards([0.6, 0.8 + 1.0], [2, 2], 0.9, 0.5)
    values = [0.5, 0.5, 1.0, 1.0, 0.0]
    found = token_gae(rewards, values, discounts, decays)
    print("two replies of two tokens, R^A .6 and .8, TSE 1 at the end, gamma .9")
    print(f"  rho = {rewards}")
    print(f"  d   = {discounts}")
    print(f"  V   = {values}  (terminated)")
    rounded = [round(a, 4) for a in found]
    print(f"GAE, lambda .5 between turns: {rounded}")
    print("  by hand: A_4 = 1.8 - 1 = .8;  A_3 = 1 - 1 + A_4 = .8;  "
          "A_2 = .6 + .9 - .5 + .9 * .5 A_3 = 1.36;  A_1 = 0 + .5 - .5 + A_2 = 1.36")
    print("clipped surrogate, eps .2: min(r A, clip(r) A)")
    for ratio, advantage in ((1.0, 1.0), (1.5, 1.0), (0.5, 1.0), (1.5, -1.0), (0.5, -1.0)):
        _show_surrogate(ratio, advantage)


def _show_surrogate(ratio: float, advantage: float) -> None:
    logp = torch.tensor([[math.log(ratio)]], requires_grad=True)
    one = torch.ones(1, 1)
    loss = clipped_surrogate(logp, torch.zeros(1, 1), torch.tensor([[advantage]]), one, 0.2)
    loss.backward()
    gradient = -logp.grad.item() or 0.0
    note = "" if gradient else "  (clipped: nothing more to gain)"
    print(f"  r = {ratio}, A = {advantage:+.0f}: {-loss.item():+.1f}, "
          f"gradient {gradient:+.1f}{note}")


if __name__ == "__main__":
    demo()
