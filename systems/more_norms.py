"""How strongly each reward of MORE pulls: the gradients g_j of its Sec. 3.4, norms and angles.

    g_j = grad L_j,  L_j = -E[r_j(y)]
    ghat_j = -(1 / S M) sum_i (r_j(y_i) - mean of its group) grad log pi(y_i)

The estimate is centred, which lowers its variance.  It is not divided by the group's standard
deviation as Eq. 1 is: that would remove what is to be ranked.
Two ways to the same inner products <ghat_j, ghat_k>: n backward passes over all parameters, or
the output matrix alone in closed form, without a backward pass.  Norms, ranks and angles follow.
One backward pass for each *reply* and a matrix of B x B products gives them as well; it pays only
for more rewards than replies, and stands in the tests.
A batch's norm is mostly noise where a reward varies much.  "signal" is the norm without it.

Try it:  python -m systems.more_norms        two rewards of a bandit whose gradients are known
Exercise: give the demo 10 times the prompts.  Which of the two kinds of norm moves, and why?"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from systems.more import centred, check_rewards, rank_weights, spreads
from systems.more_config import NORMS

# S prompts, M candidates of each, B = S M replies in that order, n rewards, L tokens of a reply,
# N tokens of all replies, V vocabulary, D width of the output matrix, P parameters



def reward_gradients(
    logp: Tensor, mask: Tensor, rewards: Tensor, params: Sequence[Tensor], parts: int = 1
) -> Tensor:
    """Inner products of the estimates of g_j, by `parts` x n backward passes over one graph.

    logp     [B, L] nats of the drawn tokens, with its graph (it is kept)
    mask     [B, L] 1 where the agent drew the token
    rewards  [n, S, M] with S M = B; NaN = unscored, adds nothing
    params   the parameters, each requiring a gradient
    parts    1, or 2: the first and the second half of the prompts apart, which "signal" needs
    returns  [parts, n, parts, n]: <g of part a and reward j, g of part b and reward k>; the parts
             of one reward sum to ghat_j
    raises   ValueError on shapes, or more parts than prompts
    """
    weights = reward_weights(rewards, parts)
    _refuse_other_count(logp, rewards)
    return inner_products(backward_rows(weights, logp, mask, params), parts)


def backward_rows(
    weights: Tensor, logp: Tensor, mask: Tensor, params: Sequence[Tensor]
) -> Tensor:
    """Gradients of sum_i w_i log pi(y_i), one backward pass for each row of weights.

    weights  [k, B]; a row of zeros costs no pass
    logp     [B, L] with its graph, which is kept
    returns  [k, P]; those of several micro-batches add up
    """
    log_pi = torch.where(mask.bool(), logp, torch.zeros_like(logp)).sum(1)           # [B]
    return torch.stack([_gradient(row, log_pi, params) for row in weights])


def _gradient(weights: Tensor, log_pi: Tensor, params: Sequence[Tensor]) -> Tensor:
    """[P] flat."""
    if not weights.any():
        return log_pi.new_zeros(sum(p.numel() for p in params))
    found = torch.autograd.grad(
        (weights * log_pi).sum(), params, retain_graph=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def head_gradients(
    logits: Tensor, hidden: Tensor, ids: Tensor, mask: Tensor, rewards: Tensor, parts: int = 1
) -> Tensor:
    """`reward_gradients` of the output matrix W alone, in closed form: no backward pass.

    logits = hidden W^T, so grad_W log p(id) = (onehot(id) - p) hidden^T for each token.  Where W is
    tied to the input embedding, this is the output's share of its gradient.

    logits   [B, L, V] that the tokens were drawn from; -inf = banned
    hidden   [B, L, D] the logits were made of
    ids      [B, L] drawn tokens
    mask     [B, L] 1 where the agent drew the token
    rewards  [n, S, M] with S M = B
    returns  [parts, n, parts, n], as `reward_gradients`; needs parts x n matrices of V D numbers
    """
    weights = reward_weights(rewards, parts)
    _refuse_other_count(ids, rewards)
    return inner_products(head_rows(weights, logits, hidden, ids, mask), parts)


def head_rows(
    weights: Tensor, logits: Tensor, hidden: Tensor, ids: Tensor, mask: Tensor
) -> Tensor:
    """`backward_rows` of the output matrix alone, without a backward pass.

    weights  [k, B]
    returns  [k, V D]; those of several micro-batches add up
    """
    keep = mask.bool()
    error = -logits.detach()[keep].softmax(-1)                                       # [N, V]
    error[torch.arange(len(error)), ids[keep]] += 1
    states = hidden.detach()[keep]                                                   # [N, D]
    reply = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)[keep]  # [N]
    rows = []
    for row in weights.to(hidden.dtype):
        rows.append((error.T @ (row[reply, None] * states)).flatten())               # [V D]
    return torch.stack(rows)


def reward_weights(rewards: Tensor, parts: int = 1) -> Tensor:
    """w of ghat_j = grad sum_i w_ij log pi(y_i), 0 outside the part's prompts.

    rewards  [n, S, M]; NaN = unscored
    returns  [parts n, B], part by part
    raises   ValueError on shapes, or more parts than prompts
    """
    check_rewards("a gradient", rewards)
    n, S, M = rewards.shape
    if not 1 <= parts <= S:
        raise ValueError(f"parts is between 1 and the {S} prompts, got {parts}")
    weights = -centred(rewards) / (S * M)
    part_of = torch.arange(S, device=rewards.device) * parts // S                    # [S]
    rows = []
    for part in range(parts):
        inside = (part_of == part)[:, None].to(weights.dtype)
        rows.append((weights * inside).reshape(n, S * M))
    return torch.cat(rows)


def _refuse_other_count(replies: Tensor, rewards: Tensor) -> None:
    S, M = rewards.shape[1:]
    if S * M != len(replies):
        raise ValueError(f"{len(replies)} replies, but rewards for {S} x {M}")


def inner_products(rows: Tensor, parts: int) -> Tensor:
    """<g, g'> of gradients [parts n, P], part by part: [parts, n, parts, n]."""
    n = len(rows) // parts
    return (rows @ rows.T).reshape(parts, n, parts, n)


def gradient_norms(gram: Tensor, kind: str = "norm") -> list[float]:
    """||g_j|| of each reward, from the inner products of `reward_gradients`.

    norm    ||ghat_j|| of the whole batch, as the paper; on average its square is the squared norm
            of E[ghat_j] plus the variance of ghat_j, and the variance is usually the larger part
    signal  sqrt(max(0, 4 <ghat_j of half 1, ghat_j of half 2>)): the two halves are independent, so
            the product estimates the squared norm of E[ghat_j] without that variance

    gram     [parts, n, parts, n]; two parts for "signal"
    returns  n floats >= 0
    raises   ValueError for another kind, or "signal" without halves

    >>> gradient_norms(torch.tensor([[9., 0.], [0., 4.]]).reshape(1, 2, 1, 2))
    [3.0, 2.0]
    """
    if kind not in NORMS:
        raise ValueError(f"--more_norms is one of {', '.join(NORMS)}, got {kind!r}")
    if kind == "signal" and len(gram) != 2:
        raise ValueError(f"--more_norms signal needs two halves of the prompts, got {len(gram)}")
    if kind == "signal":
        squared = 4 * gram[0, :, 1, :].diagonal()
    else:
        squared = gram.sum((0, 2)).diagonal()
    return squared.clamp(min=0).sqrt().tolist()


def cosines(gram: Tensor) -> Tensor:
    """cos(ghat_j, ghat_k) over the whole batch: below 0 where two rewards pull apart.

    gram     [parts, n, parts, n]
    returns  [n, n] in [-1, 1]; 0 where a gradient is 0

    >>> cosines(torch.tensor([[4., -2.], [-2., 1.]]).reshape(1, 2, 1, 2))
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    whole = gram.sum((0, 2))                                                         # [n, n]
    norms = whole.diagonal().clamp(min=0).sqrt()
    product = norms[:, None] * norms[None, :]
    return torch.where(product > 0, whole / product, torch.zeros_like(whole)).clamp(-1, 1)


# --- by hand ------------------------------------------------------------------------------------

def bandit(draw: torch.Generator, prompts: int, parts: int = 1) -> tuple[Tensor, Tensor]:
    """Rewards [2, prompts, 8] of a bandit with two arms, and their inner products.

    Reward 0 is .52 for arm 1 and .48 for arm 0.  Reward 1 is a fair coin, whatever is drawn.  With
    p = sigmoid(theta) = 1/2, g_0 = -(.52 - .48) p (1 - p) = -.01, and g_1 = 0.  Centring by the
    mean of 8 candidates makes E[ghat] 7/8 of both: -.00875 and 0.
    """
    theta = torch.zeros(1, requires_grad=True)
    arms = torch.randint(2, (prompts, 8), generator=draw)
    coin = torch.randint(2, (prompts, 8), generator=draw)
    rewards = torch.stack([0.48 + 0.04 * arms, coin.float()])
    signs = 2 * arms.reshape(-1, 1) - 1
    logp = torch.nn.functional.logsigmoid(signs * theta)
    return rewards, reward_gradients(logp, torch.ones_like(logp), rewards, [theta], parts)


def demo() -> None:
    draw = torch.Generator().manual_seed(0)
    print("arm 1 earns .52 and arm 0 .48; the second reward is a coin: true norms .00875 and 0")
    for batch in range(1, 6):
        rewards, gram = bandit(draw, prompts=8, parts=2)
        norm = gradient_norms(gram)
        signal = gradient_norms(gram, "signal")
        std = spreads(rewards)
        print(f"  batch {batch}: norm {norm[0]:.4f} {norm[1]:.4f}, lambda {rank_weights(norm)}; "
              f"signal {signal[0]:.4f} {signal[1]:.4f}; std {std[0]:.2f} {std[1]:.2f}")


if __name__ == "__main__":
    demo()
