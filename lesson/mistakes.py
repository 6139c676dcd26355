"""Typical mistakes in the six exercises; test_exercises.py asserts that a check notices each."""
from __future__ import annotations

import math

import torch

import csagent
import expert
import rewards
import tse as metrics

EQUAL = (1 / 3, 1 / 3, 1 / 3)


# --- 1: ESNDCG -----------------------------------------------------------------------------------

def unless_empty(f):
    """f where both lists hold something; two empty lists agree."""
    def esndcg(p, t):
        return f(p, t) if p and t else float(p == t)
    return esndcg


def repeats_paid(p, t):
    return rewards.dcg(p, t) / rewards.idcg(t)


def gain_rel(p, t):
    dcg = sum(rewards.relevance(s, t) / math.log2(i + 2) for i, s in enumerate(p))
    ideal = sum((len(t) - j) / math.log2(j + 2) for j in range(len(t)))
    return dcg / ideal


def ideal_cut(p, t):
    return rewards.esndcg(p, t) * rewards.idcg(t) / rewards.dcg(t[:len(p)], t)


ESNDCG = {
    "repeats paid": unless_empty(repeats_paid),
    "gain Rel": unless_empty(gain_rel),
    "repeats removed": lambda p, t: rewards.esndcg(list(dict.fromkeys(p)), t),
    "ideal cut to the length of P": unless_empty(ideal_cut),
    "last pick first": lambda p, t: rewards.esndcg(p[::-1], t),
    "clipped to 1": unless_empty(lambda p, t: min(1.0, repeats_paid(p, t))),
    "both empty is 0": lambda p, t: rewards.esndcg(p, t) if p or t else 0.0,
}


# --- 2: GAE --------------------------------------------------------------------------------------

def gae_by(step, backwards=True, at_slip=lambda delta, later: (0.0, 0.0)):
    """GAE with another recursion.

    step     (R_t, V_t, V_{t+1}, A_{t+1}, gamma, lam) -> A_t
    at_slip  (delta_t, A_{t+1}) of a slip -> (its A_t, the A that the turn before it takes)
    """
    def gae(r, v, gamma, lam, slips=()):
        out = [0.0] * len(r)
        later = 0.0
        order = range(len(r))
        for t in reversed(order) if backwards else order:
            if slips and slips[t]:
                out[t], later = at_slip(r[t] + gamma * v[t + 1] - v[t], later)
            else:
                out[t] = later = step(r[t], v[t], v[t + 1], later, gamma, lam)
        return out
    return gae


def right_step(r, v, w, later, gamma, lam):
    return r + gamma * w - v + gamma * lam * later


def returns(r, v, *rest):
    return [a + x for a, x in zip(expert.gae(r, v, *rest), v)]


def cleared(r, v, gamma, lam, slips=()):
    """Slips get 0 only after the walk: the turns before them are blamed for what followed."""
    found = expert.gae(r, v, gamma, lam)
    for t, slip in enumerate(slips):
        found[t] *= not slip
    return found


GAE = {
    "no bootstrap at the end": lambda r, v, *rest: expert.gae(r, [*v[:-1], 0.0], *rest),
    "gamma missing in the recursion": gae_by(
        lambda r, v, w, later, gamma, lam: r + gamma * w - v + lam * later
    ),
    "lambda missing": gae_by(
        lambda r, v, w, later, gamma, lam: r + gamma * w - v + gamma * later
    ),
    "gamma missing at V": gae_by(
        lambda r, v, w, later, gamma, lam: r + w - v + gamma * lam * later
    ),
    "forwards": gae_by(right_step, backwards=False),
    "returns, not advantages": returns,
    "slips ignored": lambda r, v, gamma, lam, slips=(): expert.gae(r, v, gamma, lam),
    "slips cleared at the end": cleared,
    "a slip is passed over": gae_by(right_step, at_slip=lambda delta, later: (0.0, later)),
    "a slip keeps its delta": gae_by(right_step, at_slip=lambda delta, later: (delta, 0.0)),
}


# --- 3: policy gradient with a group baseline ----------------------------------------------------

def loss_by(centre=None, clean=True, tokens=torch.sum):
    """Eq. 9b with another baseline, with padding left as it is, or with another token count."""
    centre = centre or (lambda r, g: r - csagent.group_mean(r, g))

    def policy_loss(logp, reward, mask, group=None, average="batch"):
        adv = reward if group is None else centre(reward, group)
        kept = logp.masked_fill(~mask.bool(), 0) if clean else logp * mask
        count = tokens(mask) if average == "batch" else len(logp)
        return -(adv[:, None] * kept).sum() / count
    return policy_loss


def standardised(r, g):
    """A standard deviation per group, as GRPO has it."""
    spread = torch.stack([r[g == i].std(unbiased=False) for i in g])
    return (r - csagent.group_mean(r, g)) / (spread + 1e-6)


def mask_forgotten(logp, reward, mask, *rest):
    return csagent.policy_loss(logp, reward, torch.ones_like(mask), *rest)


def average_ignored(logp, reward, mask, group=None, average="batch"):
    return csagent.policy_loss(logp, reward, mask, group)


POLICY_LOSS = {
    "sign": lambda *a: -csagent.policy_loss(*a),
    "no baseline": loss_by(centre=lambda r, g: r),
    "mean of the batch": loss_by(centre=lambda r, g: r - r.mean()),
    "divided by a standard deviation": loss_by(centre=standardised),
    "0 * -inf": loss_by(clean=False),
    "mean over padding": loss_by(tokens=torch.numel),
    "mask forgotten": mask_forgotten,
    "average ignored": average_ignored,
}


# --- 4: negative entropy -------------------------------------------------------------------------

def entropy_by(product):
    """Eq. 9d with another product p log p."""
    def negative_entropy(logits, mask, literal=False):
        value = product(logits).sum(-1)[mask.bool()].mean()
        return -value if literal else value
    return negative_entropy


def other_sign(logits, mask, literal=False):
    return -csagent.negative_entropy(logits, mask, literal)


def nan_to_num(x):
    return torch.nan_to_num(x.softmax(-1) * x.log_softmax(-1))


def where(x):
    return torch.where(x.isinf(), 0.0, x.softmax(-1) * x.log_softmax(-1))


def as_it_stands(x):
    return x.softmax(-1) * x.log_softmax(-1)


def small_number(x):
    return x.softmax(-1) * (x.softmax(-1) + 1e-4).log()


def detached(x):
    return x.softmax(-1).detach() * x.log_softmax(-1).masked_fill(x.isinf(), 0)


def every_position(logits, mask, literal=False):
    return csagent.negative_entropy(logits, torch.ones_like(mask), literal)


NEGATIVE_ENTROPY = {
    "sign": other_sign,
    "nan_to_num on the product": entropy_by(nan_to_num),
    "where on the product": entropy_by(where),
    "p log p as it stands": entropy_by(as_it_stands),
    "a small number under the logarithm": entropy_by(small_number),
    "p detached": entropy_by(detached),
    "mask forgotten": every_position,
    "literal ignored": lambda logits, mask, literal=False: csagent.negative_entropy(logits, mask),
}


# --- 5: TSE --------------------------------------------------------------------------------------

def latest(before):
    return max([n for n in before if n is not None], default=0)


def task_before(before):
    return (before[-1] or 0) if before else 0


def last_written(before):
    done = [n for n in before if n is not None]
    return done[-1] if done else 0


def tse_by(least=0, anchor=latest, never=None):
    """Eq. 11 with another least wait, another anchor, or a turn for tasks never done."""
    def tse(turns, weights=EQUAL, gamma=0.9):
        turns = [never if n is None else n for n in turns]
        total = 0.0
        for i, (n, w) in enumerate(zip(turns, weights)):
            if n is not None:
                total += w * gamma ** max(least, n - anchor(turns[:i]) - 1)
        return total
    return tse


as_printed = tse_by(least=-9)


def from_0(turns, *rest):
    return metrics.tse(tuple(n and n + 1 for n in turns), *rest)


def stops_early(turns, *rest):
    done = [n if None not in turns[:i] else None for i, n in enumerate(turns)]
    return metrics.tse(tuple(done), *rest)


TSE = {
    "as printed": as_printed,
    "turns from 0": from_0,
    "never done is turn 12": tse_by(never=12),
    "the anchor is the task before": tse_by(anchor=task_before),
    "the anchor is the last one written": tse_by(anchor=last_written),
    "anchor always 0": tse_by(anchor=lambda before: 0),
    "stops at the first task never done": stops_early,
    "clipped to 1": lambda turns, *rest: min(1.0, as_printed(turns, *rest)),
}


# --- 6: the clipped loss -------------------------------------------------------------------------

def ratio_of(logp, old):
    return (logp - old.detach()).exp()


def both_sides(ratio, A, clip):
    return torch.minimum(ratio * A, ratio.clamp(1 - clip, 1 + clip) * A)


def clamp_alone(ratio, A, clip):
    return ratio.clamp(1 - clip, 1 + clip) * A


def greater(ratio, A, clip):
    return torch.maximum(ratio * A, ratio.clamp(1 - clip, 1 + clip) * A)


def clipped_advantage(ratio, A, clip):
    return ratio * A.clamp(-clip, clip)


def around_zero(ratio, A, clip):
    return torch.minimum(ratio * A, ratio.clamp(-clip, clip) * A)


def from_above(ratio, A, clip):
    return torch.minimum(ratio, torch.full_like(ratio, 1 + clip)) * A


def clipped_by(ratio=ratio_of, gained=both_sides, advantage=torch.detach, bonus=1, over="sum"):
    """Eq. 7 clipped, with another ratio, bound, treatment of the advantage, entropy or sum."""
    def clipped_loss(logp, old, A, H, alpha, clip):
        each = gained(ratio(logp, old), advantage(A), clip)
        per_turn = each.mean(-1) if over == "mean" else each.sum(-1)
        return -per_turn.mean() - bonus * alpha * H.sum(-1).mean()
    return clipped_loss


def of_whole_turns(logp, old):
    return (logp.sum(-1) - old.detach().sum(-1)).exp()[:, None].expand_as(logp)


def entropy_of_picks(logp, old, A, H, alpha, clip):
    return expert.clipped_loss(logp, old, A, H / H.shape[-1], alpha, clip)


def clip_on_a_difference(logp, old, A, H, alpha, clip):
    return clipped_by(ratio=torch.sub)(logp, old.detach(), A, H, alpha, clip)


CLIPPED_LOSS = {
    "no ratio": lambda logp, old, A, H, alpha, clip: expert.expert_loss(logp, A, H, alpha),
    "ratio never clipped": clipped_by(gained=lambda ratio, A, clip: ratio * A),
    "clamp without the minimum": clipped_by(gained=clamp_alone),
    "clamped from above only": clipped_by(gained=from_above),
    "the maximum": clipped_by(gained=greater),
    "the clamp around 0": clipped_by(gained=around_zero),
    "the advantage clipped": clipped_by(gained=clipped_advantage),
    "old over new": clipped_by(ratio=lambda logp, old: (old.detach() - logp).exp()),
    "no exp": clip_on_a_difference,
    "one ratio per turn": clipped_by(ratio=of_whole_turns),
    "gradient through old": clipped_by(ratio=lambda logp, old: (logp - old).exp()),
    "ratio detached": clipped_by(ratio=lambda logp, old: (logp - old).exp().detach()),
    "gradient through the advantage": clipped_by(advantage=torch.clone),
    "sign": lambda logp, old, A, *rest: expert.clipped_loss(logp, old, -A, *rest),
    "sign of the entropy": clipped_by(bonus=-1),
    "entropy forgotten": clipped_by(bonus=0),
    "mean over picks": clipped_by(over="mean"),
    "mean entropy of picks": entropy_of_picks,
    "sum over turns": lambda logp, *rest: len(logp) * expert.clipped_loss(logp, *rest),
}

MISTAKES = {
    "esndcg": ESNDCG,
    "gae": GAE,
    "policy_loss": POLICY_LOSS,
    "negative_entropy": NEGATIVE_ENTROPY,
    "tse": TSE,
    "clipped_loss": CLIPPED_LOSS,
}
