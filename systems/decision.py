"""The two-way decision d_t of a turn, where an agent chooses a sequence of skills.

A sequence may take the voucher at any of its picks, or pass it by at each.  So d_t is no single
pick; its probability follows from those of the picks.  CMPO needs it for two terms of its loss.
Shapes: B turns, S positions of a sequence, K skills."""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def decision_log_odds(log_p: Tensor, mask: Tensor, skill: int) -> tuple[Tensor, Tensor]:
    """(log p(voucher), log p(chat)) of each turn, nats, [B] each: the two-way decision d_t.

    A sequence may take the voucher at any of its picks.  Given its other picks it passes all of
    them by with probability prod_i (1 - q_i), q_i the probability of the voucher at pick i.

    log_p  [B, S, K + 1] of every skill and the stop at each pick; -inf where barred
    mask   [B, S] True where a pick was made
    skill  number of the voucher; it must be possible at the first pick
    """
    q = log_p[..., skill].masked_fill(~mask, -math.inf)                                # [B, S]
    barred = F.one_hot(torch.tensor(skill), log_p.shape[-1]).bool().to(log_p.device)
    passed = log_p.masked_fill(barred, -math.inf).logsumexp(-1).masked_fill(~mask, 0.0)
    survived = passed.cumsum(-1)
    return (q + survived - passed).logsumexp(-1), survived[:, -1]


def uniform_anchor(log_voucher: Tensor, log_chat: Tensor) -> Tensor:
    """KL(uniform || pi(d)) = -log 2 - (log p + log(1 - p)) / 2, nats, >= 0; 0 where p = 1/2.

    Its gradient in the log-odds of p is p - 1/2: unlike that of an entropy it does not vanish
    where p is near 0 or 1.

    >>> uniform_anchor(torch.tensor(0.5).log(), torch.tensor(0.5).log()).item()
    0.0
    """
    return -0.5 * (log_voucher + log_chat) - math.log(2)


def given_no(log_p: Tensor, skills: Sequence[int]) -> Tensor:
    """log p of each pick given that it is none of `skills`: [..., K + 1] -> [..., K + 1 - n].

    >>> given_no(torch.tensor([0.5, 0.25, 0.25]).log(), [0]).exp()
    tensor([0.5000, 0.5000])
    """
    kept = [i for i in range(log_p.shape[-1]) if i not in skills]
    return log_p[..., kept].log_softmax(-1)


def exact_kl(log_p: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """KL(pi || pi_ref) of each turn, [B] nats: exact at every pick, given the picks before it.

    The two-way decision is part of every pick, and so its divergence is exact as well.  An estimate
    from what was drawn (interactcs.low_variance_kl) hardly pulls back from V = 0, for it is large
    only where nothing is drawn.

    log_p, reference  [B, S, K + 1], -inf in the same places
    """
    apart = log_p.clamp(min=-1e9) - reference.clamp(min=-1e9)
    return ((log_p.exp() * apart).sum(-1) * mask).sum(-1)
