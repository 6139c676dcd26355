"""MORE's equations (arXiv 2606.09293): one policy, several rewards, weights by gradient rank.

MORE draws M replies to a logged state, marks each by n rewards, mixes the marks, and learns by GRPO
(Shao et al. 2024) near a reference that was first trained on facts of the customer's profile:

    R(y) = sum_j lambda_j r_j(y)                                        its Sec. 3.4
    A(y^(i)) = (R_i - mean R) / std R                                   its Eq. 1
    L_GRPO = E[min(rho A, clip(rho, 1 - eps, 1 + eps) A)] - beta D_KL(pi || pi_ref)     its Eq. 2
    lambda_j = 1 - (rank(j) - 1) / n,  rank 1 = the largest ||g_j||     its Sec. 3.4
    g_j = grad L_j,  L_j = -E[r_j(y)]

Two forms of the paper do nothing of what is claimed for them, and `demo` shows both:
  - Its Algorithm 1 freezes pi_ref anew before every update.  With one optimiser step a batch, the
    gradient of D_KL is then exactly 0, whatever beta is.  Ours is frozen once, after the reasoning
    tasks.
  - The same algorithm ranks the gradients of *one candidate*.  Those are r_j(y) grad log pi(y), so
    their order is the order of the rewards themselves: no gradient enters (`owa`).  Ours ranks one
    g_j for each reward, over the batch.
The norm of a batch's g_j is mostly noise where a reward varies much, so ranks of norms are close to
ranks of the rewards' own spread (`spreads`), which cost nothing.  more_norms.py has the norms.

Pure functions of tensors and numbers: no model, no dialogue, no config, nothing that trains.
Try it:  python -m systems.more        the equations on a few numbers, and the forms that do nothing
Exercise: let `anchored` take two inner steps with the printed anchor.  Why does it act now?"""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from surrogate import clipped_gain
from systems.more_config import AVERAGES

# S prompts, M candidates of each, B = S M replies in that order, n rewards, L tokens of a reply

# A group whose rewards differ by less has nothing to teach.
LEAST_STD = 1e-6


# --- Eq. 1 --------------------------------------------------------------------------------------

def group_advantage(reward: Tensor) -> Tensor:
    """A(y^(i)) = (r_i - mean r) / std r over the M candidates of a prompt, MORE's Eq. 1.

    reward   [S, M]; NaN = unscored: left out of mean and std, and its own A is 0
    returns  [S, M], |A| <= sqrt(M - 1).  std is the population's; below 1e-6 A is 0 everywhere
    raises   ValueError unless reward is [S, M] with M >= 2

    >>> group_advantage(torch.tensor([[1., 0., 0., 0.]]))
    tensor([[ 1.7321, -0.5774, -0.5774, -0.5774]])
    """
    if reward.dim() != 2 or reward.shape[1] < 2:
        raise ValueError(
            f"group_advantage wants [prompts, candidates], at least 2 candidates (--group): "
            f"got {tuple(reward.shape)}")
    gain = centred(reward)
    scored = (~reward.isnan()).sum(1, keepdim=True).clamp(min=1)                     # [S, 1]
    std = (gain.square().sum(1, keepdim=True) / scored).sqrt()
    return torch.where(std < LEAST_STD, torch.zeros_like(gain), gain / std)


def centred(reward: Tensor) -> Tensor:
    """Each reward less the mean of its group's scored ones; 0 where it is NaN.  [..., M]"""
    difference = reward - reward.nanmean(-1, keepdim=True)
    return torch.where(difference.isnan(), torch.zeros_like(reward), difference)


# --- Eq. 2 --------------------------------------------------------------------------------------

def kl_to_reference(logp: Tensor, ref_logp: Tensor, mask: Tensor) -> Tensor:
    """D_KL(pi || pi_ref) by k3 = exp(d) - d - 1 with d = ref_logp - logp, mean over the mask.

    Each term is >= 0, and its mean over tokens drawn from pi is D_KL (Schulman 2020).

    logp      [B, L] nats, of the drawn tokens
    ref_logp  [B, L] nats, of the same tokens; no gradient
    mask      [B, L] 1 where the token counts
    returns   scalar >= 0 nats; equal values, and so -inf in both, count 0
    raises    ValueError on shapes that differ or an empty mask

    >>> one = torch.ones(1, 1)
    >>> round(kl_to_reference(-1.0 * one, -1.5 * one, one).item(), 4)
    0.1065
    """
    if logp.shape != mask.shape or ref_logp.shape != mask.shape or not mask.any():
        shapes = [tuple(x.shape) for x in (logp, ref_logp, mask)]
        raise ValueError(
            f"kl_to_reference wants equal shapes and a mask that is not empty, got {shapes}")
    mask = mask.bool()
    now = logp[mask]
    then = ref_logp[mask].detach()
    # -inf less -inf is NaN, and equal probabilities differ by 0
    d = torch.where(now == then, torch.zeros_like(now), then - now)
    return (d.exp() - d - 1).mean()


def grpo_loss(
    logp: Tensor,
    old_logp: Tensor,
    ref_logp: Tensor | None,
    advantage: Tensor,
    mask: Tensor,
    clip: float,
    beta: float,
    average: str = "token",
) -> Tensor:
    """-L_GRPO of MORE's Eq. 2, to be minimised: the clipped surrogate plus beta D_KL.

    logp       [B, L] nats, now
    old_logp   [B, L] nats, of the policy that sampled; no gradient
    ref_logp   [B, L] nats, of pi_ref; None = no anchor, and then beta must be 0
    advantage  [B] A of each reply, which stands on each of its tokens
    mask       [B, L] 1 where the agent drew the token
    clip       eps > 0
    beta       >= 0, weight of D_KL
    average    "token": over all tokens of the batch, as GOPO does (GAP-6); "reply": within each
               reply first, as printed.  It weighs a token of a long reply less
    returns    scalar
    raises     ValueError on shapes, an empty mask (of one reply, if average is "reply"), beta
               without a reference, another word for average

    >>> one = torch.ones(1, 1)
    >>> ratio = torch.tensor([[1.5]])
    >>> round(grpo_loss(ratio.log(), 0 * one, None, one[0], one, 0.2, 0.0).item(), 4)
    -1.2
    """
    _check_grpo(logp, ref_logp, advantage, beta, average)
    if average == "token":
        loss = -_clipped_mean(logp, old_logp, advantage, mask, clip)
        if ref_logp is None or not beta:
            return loss
        return loss + beta * kl_to_reference(logp, ref_logp, mask)
    each = []
    for i in range(len(logp)):
        one = slice(i, i + 1)
        ref = None if ref_logp is None else ref_logp[one]
        each.append(grpo_loss(
            logp[one], old_logp[one], ref, advantage[one], mask[one], clip, beta))
    return torch.stack(each).mean()


def _clipped_mean(
    logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """The clipped gain of each drawn token, averaged over the mask."""
    if old_logp.shape != logp.shape or mask.shape != logp.shape or not mask.any():
        shapes = [tuple(x.shape) for x in (logp, old_logp, mask)]
        raise ValueError(
            f"grpo_loss wants equal shapes and a mask that is not empty, got {shapes}")
    keep = mask.bool()
    log_ratio = logp[keep] - old_logp[keep].detach()                                 # [N]
    return clipped_gain(log_ratio, advantage[:, None].expand_as(logp)[keep], clip).mean()


def _check_grpo(
    logp: Tensor, ref_logp: Tensor | None, advantage: Tensor, beta: float, average: str
) -> None:
    if logp.dim() != 2 or advantage.shape != logp.shape[:1]:
        raise ValueError(
            f"grpo_loss wants logp [B, L] and one advantage a reply, [B]: got "
            f"{tuple(logp.shape)} and {tuple(advantage.shape)}")
    if beta < 0 or (beta and ref_logp is None):
        raise ValueError(
            f"beta = {beta}: it must be >= 0, and 0 where there is no reference (ref_logp None)")
    if average not in AVERAGES:
        raise ValueError(f"average is one of {', '.join(AVERAGES)}, got {average!r}")


# --- Sec. 3.4: several rewards ------------------------------------------------------------------

def rank_weights(norms: Sequence[float]) -> list[float]:
    """lambda_j = 1 - (rank(j) - 1) / n, the largest norm first: MORE's Sec. 3.4.

    Ties share their mean rank.  A norm of 0 or NaN (the reward varies within no group, or was not
    scored) gets lambda 0 and does not count in n: it would take a rank from the others.

    norms    >= 0, one a reward
    returns  as many floats in [0, 1]; all 0 if nothing has a gradient
    raises   ValueError for a negative or infinite norm

    >>> rank_weights([.3, .1, .2, .05])
    [1.0, 0.5, 0.75, 0.25]
    """
    for norm in norms:
        if norm < 0 or math.isinf(norm):
            raise ValueError(f"a norm is a number >= 0, got {norm} in {list(norms)}")
    ranked = [norm for norm in norms if norm > 0]            # NaN > 0 is false as well
    return [_rank_weight(norm, ranked) for norm in norms]


def _rank_weight(norm: float, ranked: list[float]) -> float:
    if not norm > 0:
        return 0.0
    larger = sum(other > norm for other in ranked)
    equal = ranked.count(norm)
    rank = larger + (equal + 1) / 2
    return 1 - (rank - 1) / len(ranked)


def mix(rewards: Tensor, weights: Sequence[float]) -> Tensor:
    """R(y) = sum_j lambda_j r_j(y), MORE's Sec. 3.4.

    rewards  [n, S, M], each in [0, 1]; NaN = unscored
    weights  n floats >= 0
    returns  [S, M]; NaN where a reward of weight > 0 is NaN
    raises   ValueError unless there is one weight for each reward

    >>> mix(torch.tensor([[[1., 0.]], [[0., .5]]]), [1.0, .5])
    tensor([[1.0000, 0.2500]])
    """
    check_rewards("mix", rewards)
    if len(weights) != len(rewards) or min(weights) < 0:
        raise ValueError(
            f"mix wants one weight >= 0 for each of {len(rewards)} rewards: got {list(weights)}")
    total = torch.zeros_like(rewards[0])
    for weight, reward in zip(weights, rewards):
        # 0 NaN would be NaN
        total = total + weight * reward if weight else total
    return total


def owa(rewards: Tensor) -> Tensor:
    """Algorithm 1 as printed: R of a candidate by weights that rank its own rewards.

    ||grad|| of a one-sample estimate is |r_j| ||grad log pi(y)||, so lambda_j^(i) ranks the values
    r_j(y) themselves.  What is left is an ordered weighted average, sum_k (1 - (k - 1)/n) r_(k),
    r_(1) the largest: no policy enters, and swapping two rewards changes nothing.

    rewards  [n, S, M] in [0, 1]
    returns  [S, M]; NaN where any reward is NaN

    >>> round(owa(torch.tensor([.2, .9, .5])[:, None, None]).item(), 4)
    1.3
    """
    check_rewards("owa", rewards)
    ordered = rewards.sort(0, descending=True).values
    n = len(rewards)
    return mix(ordered, [1 - k / n for k in range(n)])


def spreads(rewards: Tensor) -> list[float]:
    """The mean over prompts of each reward's standard deviation within the group.

    The free stand-in for `gradient_norms`: ranks of the two mostly agree.

    rewards  [n, S, M]; NaN is left out
    returns  n floats >= 0

    >>> spreads(torch.tensor([[[1., 0.], [1., 1.]], [[.4, .4], [.4, .4]]]))
    [0.25, 0.0]
    """
    check_rewards("spreads", rewards)
    scored = (~rewards.isnan()).sum(2).clamp(min=1)                                  # [n, S]
    std = (centred(rewards).square().sum(2) / scored).sqrt()
    kept = torch.where(std < LEAST_STD, torch.zeros_like(std), std)
    return kept.mean(1).tolist()


def check_rewards(name: str, rewards: Tensor) -> None:
    if rewards.dim() != 3 or not len(rewards):
        raise ValueError(
            f"{name} wants [rewards, prompts, candidates], got {tuple(rewards.shape)}")


# --- both printed forms, tried ------------------------------------------------------------------

def anchored(beta: float, anchor: str, inner: int = 1, steps: int = 3, seed: int = 0) -> Tensor:
    """The weights of a small policy after some GRPO steps under an anchor.

    The policy draws 5 tokens of 6, each by a linear softmax of the one before.  Its reward is the
    share of token 3.

    beta     weight of D_KL
    anchor   "printed": frozen anew before every batch; "fixed": frozen once, at the start
    inner    optimiser steps a batch
    returns  [6, 6]
    """
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(6, 6, generator=draw).requires_grad_()
    optimiser = torch.optim.Adam([weights], lr=0.05)
    reference = weights.detach().clone()
    for _ in range(steps):
        if anchor == "printed":
            reference = weights.detach().clone()
        ids = _sample(weights.detach(), 16, draw)
        reward = (ids[:, 1:] == 3).float().mean(1).reshape(4, 4)
        advantage = group_advantage(reward).flatten()
        old = _log_probabilities(weights.detach(), ids)
        ref = _log_probabilities(reference, ids)
        for _ in range(inner):
            logp = _log_probabilities(weights, ids)
            loss = grpo_loss(logp, old, ref, advantage, torch.ones_like(logp), 0.2, beta)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return weights.detach()


def _sample(weights: Tensor, replies: int, draw: torch.Generator) -> Tensor:
    """[replies, 6] token ids; the first is 0 and given."""
    ids = [torch.zeros(replies, dtype=torch.long)]
    for _ in range(5):
        p = weights[ids[-1]].softmax(-1)
        ids.append(torch.multinomial(p, 1, generator=draw)[:, 0])
    return torch.stack(ids, 1)


def _log_probabilities(weights: Tensor, ids: Tensor) -> Tensor:
    """log pi of the drawn tokens, [replies, 5]."""
    found = weights[ids[:, :-1]].log_softmax(-1)
    return found.gather(-1, ids[:, 1:, None])[..., 0]


def demo() -> None:
    marks = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    rounded = [round(a, 4) for a in group_advantage(marks)[0].tolist()]
    print(f"Eq. 1      rewards {marks[0].tolist()}: A = {rounded}")
    one = torch.ones(1, 1)
    for ratio, advantage in ((1.5, 1.0), (0.5, -1.0)):
        loss = grpo_loss(
            torch.tensor([[math.log(ratio)]]), 0 * one, None, advantage * one[0], one, 0.2, 0.0)
        print(f"Eq. 2      rho = {ratio}, A = {advantage:+.0f}, eps = .2: loss {loss.item():+.1f}")
    kl = kl_to_reference(-1.0 * one, -1.5 * one, one)
    print(f"           log pi -1, log pi_ref -1.5: k3 = e^-.5 + .5 - 1 = {kl.item():.4f} nats")
    norms = [0.3, 0.1, 0.2, 0.05]
    print(f"Sec. 3.4   ||g|| = {norms}: lambda = {rank_weights(norms)}")

    print("\nWeights for each candidate, as printed: an ordered average, and no gradient enters.")
    for values in ((0.2, 0.9, 0.5), (0.9, 0.5, 0.2)):
        R = owa(torch.tensor(values)[:, None, None]).item()
        print(f"  r = {values}: R = .9 + 2/3 .5 + 1/3 .2 = {R:.4f}")

    print("\nThe anchor as printed: weights after 3 steps, against beta = 0.")
    free = anchored(0.0, "fixed")
    for anchor, inner in (("printed", 1), ("fixed", 1), ("printed", 2)):
        without = anchored(0.0, "fixed", inner) if inner > 1 else free
        moved = (anchored(10.0, anchor, inner) - without).abs().max().item()
        print(f"  beta = 10, {anchor} anchor, inner steps {inner}: largest difference {moved:.2g}")


if __name__ == "__main__":
    demo()
