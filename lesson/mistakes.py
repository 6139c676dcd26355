"""Typical mistakes in the five exercises; test_exercises.py asserts that a check notices each."""
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

def gae_by(step, backwards=True):
    """GAE with another recursion: step(R_t, V_t, V_{t+1}, A_{t+1}, gamma, lam)."""
    def gae(r, v, gamma, lam):
        out = [0.0] * len(r)
        later = 0.0
        order = range(len(r))
        for t in reversed(order) if backwards else order:
            later = step(r[t], v[t], v[t + 1], later, gamma, lam)
            out[t] = later
        return out
    return gae


def right_step(r, v, w, later, gamma, lam):
    return r + gamma * w - v + gamma * lam * later


def returns(r, v, gamma, lam):
    return [a + x for a, x in zip(expert.gae(r, v, gamma, lam), v)]


GAE = {
    "no bootstrap at the end": lambda r, v, gamma, lam: expert.gae(r, [*v[:-1], 0.0], gamma, lam),
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

MISTAKES = {
    "esndcg": ESNDCG,
    "gae": GAE,
    "policy_loss": POLICY_LOSS,
    "negative_entropy": NEGATIVE_ENTROPY,
    "tse": TSE,
}
