"""The clipped gain of Schulman et al. 2017 (their Eq. 7), which four learners share.

Eq. 7 of the Expert sums it over the picks of a turn (expert.py), PPO averages it over tokens
(baselines/ppo_equations.py), and so does MORE (systems/more.py); CMPO averages over the turns of a
dialogue (systems/interactcs.py).
Only how they add it up differs, so this file holds what is the same."""
from __future__ import annotations

import torch
from torch import Tensor


def clipped_gain(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(r A, clip(r, 1 - eps, 1 + eps) A) for each element, r = exp(log_ratio); to be maximised.

    log_ratio  any shape, nats: log pi now - log pi of the policy that sampled
    advantage  the same shape; no gradient flows through it
    clip       eps > 0.  What has gone further than eps the way its advantage points has gradient 0
    returns    the same shape

    >>> clipped_gain(torch.tensor([1.5, 0.5]).log(), torch.tensor([1.0, -1.0]), 0.2).tolist()
    [1.2000000476837158, -0.800000011920929]
    """
    ratio = log_ratio.exp()
    A = advantage.detach()
    return torch.minimum(ratio * A, ratio.clamp(1 - clip, 1 + clip) * A)
