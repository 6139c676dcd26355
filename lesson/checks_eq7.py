"""The checks of the two exercises on Eq. 7: 2, the advantage, and 6, the clipped loss."""
from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

import expert
from lesson import checking
from lesson.checking import same

# --- 2: GAE --------------------------------------------------------------------------------------

A_HAT = "(Eq. 7's A-hat)."
numbers = st.floats(-2, 2).map(lambda x: round(x, 3))
shares = st.sampled_from([0.0, 0.3, 0.9, 1.0])


@st.composite
def dialogues(draw):
    """(rewards, values) of 1 to 8 turns."""
    n = draw(st.integers(1, 8))
    r = draw(st.lists(numbers, min_size=n, max_size=n))
    v = draw(st.lists(numbers, min_size=n + 1, max_size=n + 1))
    return r, v


def gae_by_hand(f):
    same(
        f([1.0, 0.0], [0.5, 0.5, 0.0], 0.9, 0.5),
        [0.725, -0.5],
        "the docstring's example: delta_2 = -.5, delta_1 = .95, A_1 = .95 + .9 * .5 * A_2 " + A_HAT,
    )
    same(
        f([1.0], [0.0, 2.0], 0.5, 0.7),
        [2.0],
        "one turn, cut off: 1 + .5 * 2 - 0.  The last entry of values counts (README, limits by "
        "design; Eq. 7's A-hat).",
    )
    same(f([], [3.0], 0.9, 0.5), [], "no turn, no advantage " + A_HAT)


def gae_like_the_double_sum(f):
    @checking.patient
    @given(dialogues(), shares, shares)
    def holds(dialogue, gamma, lam):
        r, v = dialogue
        n = len(r)
        before = list(r), list(v)
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(n)]
        wanted = []
        for t in range(n):
            wanted.append(sum((gamma * lam) ** k * delta[t + k] for k in range(n - t)))
        same(
            f(r, v, gamma, lam),
            wanted,
            "A_t must be sum_k (gamma lam)^k delta_{t+k}: Schulman et al. 2016, Eq. 16 " + A_HAT,
        )
        unchanged = (r, v) == before
        assert unchanged, "your function changes the lists it is given: return a new one " + A_HAT
    holds()


def gae_at_both_ends_of_lambda(f):
    @checking.patient
    @given(dialogues(), shares)
    def holds(dialogue, gamma):
        r, v = dialogue
        same(
            f(r, v, gamma, 0.0),
            [a + gamma * y - x for a, x, y in zip(r, v, v[1:])],
            "lam = 0 must give delta_t: believe the critic " + A_HAT,
        )
        whole = []
        for t in range(len(r)):
            to_come = [*r[t:], v[-1]]
            whole.append(sum(gamma ** k * a for k, a in enumerate(to_come)) - v[t])
        same(
            f(r, v, gamma, 1.0),
            whole,
            "lam = 1 must give the discounted return (Eq. 1) minus V_t, the values between cancel "
            + A_HAT,
        )
    holds()


def gae_stops_at_slips(f):
    slipped = "(slips of the docstring; Eq. 7's A-hat)."
    same(
        f([1.0, 0.0], [0.5, 0.5, 0.0], 0.9, 0.5, [False, True]),
        [0.95, 0.0],
        "turn 2 was a slip: A_2 = 0 and A_1 = delta_1 = 1 + .9 * .5 - .5 " + slipped,
    )

    @checking.patient
    @given(dialogues(), shares, shares, st.lists(st.booleans(), min_size=8, max_size=8))
    def holds(dialogue, gamma, lam, any_turns):
        r, v = dialogue
        slips = any_turns[:len(r)]
        wanted = []
        for t in range(len(r)):
            end = slips.index(True, t) if True in slips[t:] else len(r)
            # of a slip there is nothing to sum
            part = [r[k] + gamma * v[k + 1] - v[k] for k in range(t, end)]
            wanted.append(sum((gamma * lam) ** k * delta for k, delta in enumerate(part)))
        same(
            f(r, v, gamma, lam, slips),
            wanted,
            f"slips {slips}: the sum of the deltas ends before the next slip, and a slip has "
            "A = 0 " + slipped,
        )
    holds()


GAE = (gae_by_hand, gae_like_the_double_sum, gae_at_both_ends_of_lambda, gae_stops_at_slips)


# --- 6: the clipped loss -------------------------------------------------------------------------

CLIPPED = "(Eq. 7 clipped; README, GAP-6)."


def column(*values):
    """[B, 1]: turns of one pick."""
    return torch.tensor(values, dtype=torch.float64)[:, None]


def clipped_loss_by_hand(f):
    logp = column(-1, -3)
    same(
        f(logp, logp - math.log(2), column(1, -2), column(0.4, 0.6), 0.1, 0.2),
        1.35,
        "the docstring's example: -(1.2 * 1 + 2 * -2) / 2 - .1 * (.4 + .6) / 2 " + CLIPPED,
    )
    one = column(-1)
    why = {
        (2, 1): "it has risen too far already, the clamp bounds its gain",
        (2, -1): "it rose although it was bad; the minimum takes rho A, unbounded",
        (0.5, 1): "it fell although it was good; the minimum takes rho A",
        (0.5, -1): "it has fallen too far already, the clamp bounds what is gained",
    }
    for (ratio, A), gained in {(2, 1): 1.2, (2, -1): -2, (0.5, 1): 0.5, (0.5, -1): -0.8}.items():
        same(
            f(one, one - math.log(ratio), column(A), column(0), 0.0, 0.2),
            -gained,
            f"one pick, rho = {ratio}, A = {A}, clip = .2: {why[ratio, A]} {CLIPPED}",
        )
    two = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]])
    A = torch.tensor([[1.0, 3.0], [-2.0, 0.0]])
    H = torch.tensor([[0.5, 1.5], [2.0, 0.0]])
    same(
        f(two, two, A, H, 0.5, 0.2),
        -2.0,
        "rho = 1 everywhere: -(4 - 2) / 2 - .5 * (2 + 2) / 2; summed over the picks of a turn, "
        "averaged over turns " + CLIPPED,
    )


def of_a_rollout(seed=0):
    """(logp, old, advantage, entropy) of 6 turns of at most 5 picks; rho from .5 to 2."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.arange(5) < torch.tensor([5, 1, 3, 2, 5, 4])[:, None]
    uniform = torch.rand(4, 6, 5, generator=generator, dtype=torch.float64)
    logp = -3 * uniform[0] - 0.01
    old = logp - math.log(2) * (2 * uniform[1] - 1)
    columns = (logp, old, 4 * uniform[2] - 2, 2 * uniform[3])
    return [(x * made).requires_grad_() for x in columns]


def gradients(loss, inputs):
    """Of the loss for each input; 0 where it does not depend on it."""
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs)]


def clipped_loss_is_eq_7_at_first(f):
    logp, _, A, H = of_a_rollout()
    printed = gradients(expert.expert_loss(logp, A, H, 0.3), (logp, H))
    mine = gradients(f(logp, logp.detach().clone(), A, H, 0.3, 0.2), (logp, H))
    same(
        mine[0],
        printed[0],
        "logp = old, rho = 1: the gradient for logp must be that of Eq. 7 as printed, -A / B "
        + CLIPPED,
    )
    same(
        mine[1],
        printed[1],
        "the gradient for the entropy must be -alpha / B: minimising the loss raises it (Eq. 7).",
    )


def clipped_loss_sends_no_gradient_where_it_should_not(f):
    inputs = of_a_rollout(1)
    logp, old, A, H = inputs
    found = gradients(f(logp, old, A, H, 0.3, 0.2), inputs)
    for gradient, name in ((found[1], "old"), (found[2], "advantage")):
        assert not gradient.any(), (
            f"a gradient flows through `{name}`: detach it, only the policy learns {CLIPPED}"
        )
    ratio = (logp - old).exp().detach()
    done = ((A > 0) & (ratio > 1.2)) | ((A < 0) & (ratio < 0.8))
    assert not found[0][done].any(), (
        "a pick that has already moved by more than `clip` where its advantage wants it still has "
        f"a gradient {CLIPPED}"
    )
    same(
        found[0][~done],
        (-A * ratio / len(logp))[~done].detach(),
        "a pick that may still move, or moved the wrong way, has the gradient -rho A / B; without "
        "the minimum it would have none and could never come back " + CLIPPED,
    )


def clipped_loss_like_a_sum_by_cases(f):
    # (log p, log p_old, A, H) of a pick, in eighths
    eighths = st.integers(-16, 16)
    pick = st.tuples(st.integers(-16, -1), st.integers(-16, -1), eighths, st.integers(0, 16))
    turns = st.lists(st.lists(pick, min_size=2, max_size=2), min_size=1, max_size=4)

    @checking.patient
    @given(turns, st.sampled_from([0.0, 0.5]), st.sampled_from([0.1, 0.2, 0.5]))
    def holds(rows, alpha, clip):
        wanted = 0.0
        for row in rows:
            for logp, old, A, H in row:
                ratio = math.exp((logp - old) / 8)
                bound = min(ratio, 1 + clip) if A > 0 else max(ratio, 1 - clip)
                wanted -= (bound * A / 8 + alpha * H / 8) / len(rows)
        columns = torch.tensor(rows).double().unbind(-1)
        same(
            f(*(x / 8 for x in columns), alpha, clip),
            wanted,
            f"(logp, old, A, H) of each pick, in eighths: {rows}, alpha {alpha}, clip {clip}: a "
            "good pick earns at most (1 + clip) A, a bad one costs at least (1 - clip) |A| "
            + CLIPPED,
        )
    holds()


CLIPPED_LOSS = (
    clipped_loss_by_hand,
    clipped_loss_is_eq_7_at_first,
    clipped_loss_sends_no_gradient_where_it_should_not,
    clipped_loss_like_a_sum_by_cases,
)
