"""The checks of exercises.py: each takes a student's function and fails with what to read.

An exercise is checked by cases computed by hand; against something that others wrote (scikit-learn,
torch.distributions) or that is computed in another way (finite differences, the double sum of GAE);
and by properties.  The two exercises on Eq. 7 have theirs in checks_eq7.py.  test_exercises.py runs
them all.
"""
from __future__ import annotations

import itertools
import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import dcg_score
from torch.distributions import Categorical

import rewards
import tse as metrics
from lesson import checking, checks_eq7
from lesson.checking import same

INF = float("inf")
NAN = float("nan")


# --- 1: ESNDCG -----------------------------------------------------------------------------------

def esndcg_by_hand(f):
    same(f(["a", "b"], ["a", "b"]), 1.0, "P = T must give 1: DCG(T) / IDCG(T), Eq. 5.")
    same(
        f(["a", "c", "b"], ["a", "b", "c"]),
        (7 + 1 / math.log2(3) + 3 / 2) / (7 + 3 / math.log2(3) + 1 / 2),
        "P = [a, c, b], T = [a, b, c].  Rel counts down from n (Eq. 2), the gain is 2^Rel - 1 and "
        "the discount log2(i + 1), i from 1 (Eq. 3).",
    )
    same(
        f(["x", "a"], ["a"]),
        1 / math.log2(3),
        "P = [x, a], T = [a]: a skill the teacher lacks earns 0 but takes up its position (Eq. 3).",
    )
    same(
        f(["a"], ["a", "b"]),
        3 / (3 + 1 / math.log2(3)),
        "P = [a], T = [a, b]: IDCG is the DCG of all of T (Eq. 4), also where P is shorter.",
    )


def esndcg_edges(f):
    same(
        f(["a"] * 5, list("abcde")),
        31 / rewards.idcg(list("abcde")),
        "five copies of t_1: only the first earns its gain (README, GAP-2; 2.003 is the printed "
        "formula).",
    )
    same(
        f(["a", "a", "b"], ["a", "b"]),
        (3 + 1 / 2) / (3 + 1 / math.log2(3)),
        "P = [a, a, b]: the repeat earns 0 and b stays at position 3 (README, GAP-2).",
    )
    for predicted, teacher, wanted in [([], [], 1.0), (["a"], [], 0.0), ([], ["a"], 0.0)]:
        same(
            f(predicted, teacher),
            wanted,
            f"P = {predicted}, T = {teacher}: both empty is agreement, one empty is none "
            "(docstring; IDCG of nothing is 0, Eq. 4).",
        )


def esndcg_like_scikit_learn(f):
    for n, m in itertools.product((1, 2, 4), (1, 2, 3)):
        teacher = list("abcdef"[:n])
        # with one item of gain 0 at the end: dcg_score wants at least two items
        ideal_gains = [2 ** (n - j) - 1 for j in range(n)] + [0]
        ideal = dcg_score([ideal_gains], [[*range(n, -1, -1)]])
        for predicted in itertools.permutations("abcde", m):
            gains = [2 ** (n - teacher.index(s)) - 1 if s in teacher else 0 for s in predicted]
            same(
                f(list(predicted), teacher),
                dcg_score([[*gains, 0]], [[*range(m, -1, -1)]]) / ideal,
                f"P = {list(predicted)}, T = {teacher}: scikit-learn's dcg_score disagrees "
                "(Eqs. 2-5).",
            )


def esndcg_stays_in_bounds(f):
    skills = st.sampled_from("abcdef")

    @checking.patient
    @given(st.lists(skills, max_size=5), st.lists(skills, max_size=5, unique=True))
    def holds(predicted, teacher):
        before = list(predicted), list(teacher)
        value = f(predicted, teacher)
        assert -1e-9 <= value <= 1 + 1e-9, (
            f"P = {predicted}, T = {teacher}: {value} lies outside [0, 1]; what is a repeat "
            "worth?  (README, GAP-2; Eq. 5)"
        )
        assert (predicted, teacher) == before, (
            "your function changes the lists it is given: the Expert still needs them (Eq. 5 is a "
            "pure function)."
        )
    holds()


# --- 3: policy gradient with a group baseline ----------------------------------------------------

LOGP = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]])
DRAWN = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
REWARD = torch.tensor([1.0, 0.0])


def policy_loss_by_hand(f):
    same(
        f(LOGP, REWARD, DRAWN),
        1.0,
        "no group: -(1 * (-1 - 2) + 0 * -3) over 3 drawn tokens = 1 (Eq. 9b, GAP-6: over drawn "
        "tokens, not over L or B).",
    )
    same(
        f(LOGP, REWARD, DRAWN, None, "sum"),
        1.5,
        'average "sum": summed over tokens, averaged over the B = 2 replies (Eq. 9b as printed).',
    )
    same(
        f(LOGP, REWARD, DRAWN, torch.tensor([7, 7])),
        0.0,
        "one group: advantages .5 and -.5, whose sums -3 and -3 cancel (Eq. 9b with the baseline "
        "of GAP-6).",
    )
    same(
        f(torch.tensor([[-1.0], [-4.0]]), REWARD, torch.ones(2, 1), torch.tensor([0, 0])),
        -0.75,
        "advantages .5 and -.5, logp -1 and -4: -(.5 * -1 - .5 * -4) / 2 = -.75; no division by a "
        "standard deviation (Eq. 9b, GAP-6).",
    )


def policy_loss_reads_only_what_was_drawn(f):
    masks = (DRAWN, DRAWN.bool(), DRAWN.long())
    for junk, mask in itertools.product((5.0, -INF, NAN), masks):
        logp = torch.tensor([[-1.0, -2.0], [-3.0, junk]], requires_grad=True)
        loss = f(logp, REWARD, mask, torch.tensor([3, 3]), "batch")
        same(
            loss.detach(),
            0.0,
            f"a token that was not drawn holds {junk} and reaches the loss: 0 * inf is NaN, fill "
            "before you multiply (Eq. 9b).",
        )
        gradient, = torch.autograd.grad(loss, logp)
        same(
            gradient,
            [[-1 / 6, -1 / 6], [1 / 6, 0.0]],
            "the gradient is -advantage / (number of drawn tokens), and 0 for a token not drawn, "
            f"here {junk} (Eq. 9b, GAP-6).",
        )


def policy_loss_compares_within_groups(f):
    # (state, reward in eighths, number of tokens) of each reply
    reply = st.tuples(st.sampled_from([2, 5, 9]), st.integers(0, 8), st.integers(1, 4))
    averages = st.sampled_from(["batch", "sum"])

    @checking.patient
    @given(st.lists(reply, min_size=1, max_size=7), st.integers(-3, 3), averages)
    def holds(rows, shift, average):
        ids, earned, lengths = map(list, zip(*rows))
        group = torch.tensor(ids)
        reward = torch.tensor(earned).double() / 8
        mask = torch.arange(4)[None, :] < torch.tensor(lengths)[:, None]
        logp = -torch.linspace(0.1, 3, len(rows) * 4, dtype=torch.float64).view(-1, 4)
        wanted = 0.0
        for i, g in enumerate(ids):
            others = [r / 8 for r, h in zip(earned, ids) if h == g]
            advantage = earned[i] / 8 - sum(others) / len(others)
            wanted -= advantage * float(logp[i, :lengths[i]].sum())
        wanted /= sum(lengths) if average == "batch" else len(rows)
        same(
            f(logp, reward, mask, group, average),
            wanted,
            f"groups {ids}, rewards {earned} / 8, lengths {lengths}: each reply against the mean "
            "of its own group (README, GAP-6; Eq. 9b).",
        )
        moved = reward + shift * (group == ids[0])
        same(
            f(logp, moved, mask, group, average),
            wanted,
            "all rewards of one state raised alike: the loss must stay; that is what a baseline "
            "does (README, GAP-6; Eq. 9b).",
        )
    holds()


# --- 4: negative entropy -------------------------------------------------------------------------

def negative_entropy_by_hand(f):
    one = torch.ones(1, 1)
    equal = torch.zeros(1, 1, 4)
    same(
        f(equal, one),
        -math.log(4),
        "four equal words: L_d = log(1/4) = -1.386, minus the entropy; +1.386 is the printed sign "
        "(README, GAP-1; Eq. 9d).",
    )
    printed = "literal=True is Eq. 9d as printed, +entropy (README, GAP-1)."
    same(f(equal, one, True), math.log(4), printed)
    same(
        f(torch.tensor([[[0.0, 0.0, -INF, -INF]]]), one),
        -math.log(2),
        "two of four words banned (-inf): p log p = 0 there, L_d = -log 2 (Eq. 9d, docstring).",
    )
    two = torch.tensor([[[0.0, 0.0], [0.0, -INF]], [[9.0, 0.0], [0.0, 0.0]]])
    same(
        f(two, torch.tensor([[1, 1], [0, 1]])),
        -2 * math.log(2) / 3,
        "three drawn tokens of entropy log 2, 0, log 2: their mean; positions with mask 0 do not "
        "count (Eq. 9d).",
    )


def negative_entropy_like_torch_distributions(f):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 7, generator=generator, dtype=torch.float64) * 3
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 1]])
    wanted = -Categorical(logits=logits).entropy()[mask.bool()].mean()
    for m in (mask, mask.bool(), mask.float()):
        same(
            f(logits, m),
            wanted,
            "torch.distributions.Categorical(logits).entropy(), averaged over the drawn tokens, "
            "disagrees (Eq. 9d).",
            1e-9,
        )
    same(
        f(logits + 1000, mask),
        wanted,
        "adding 1000 to all logits changes no probability, but your result: use log_softmax, not "
        "log(softmax) (Eq. 9d).",
        1e-6,
    )
    same(
        f(logits, mask, True),
        -wanted,
        "literal=True must be the same with the other sign (README, GAP-1; Eq. 9d).",
        1e-9,
    )


def negative_entropy_has_a_finite_gradient(f):
    rows = [
        [[0.3, -0.2, 1.0, -INF], [0.1, -INF, -INF, 0.4]],
        [[2.0, 0.0, 0.0, 0.0], [-INF, 0.5, -INF, -INF]],
    ]
    logits = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1], [0, 1]])
    value = f(logits, mask)
    assert torch.isfinite(value), (
        f"L_d is {value.item()} where a word is banned: 0 * -inf (README, GAP-1; Eq. 9d)."
    )
    gradient, = torch.autograd.grad(value, logits)
    assert torch.isfinite(gradient).all(), (
        f"the value is finite, its gradient is not:\n{gradient}\nrepair log p before the product, "
        "not the product (Eq. 9d, docstring)."
    )
    assert not gradient[torch.isinf(logits)].any(), (
        "a banned word has p = 0 whatever its logit: its gradient must be 0 (Eq. 9d)."
    )
    for place in torch.isfinite(logits).nonzero().tolist():
        step = torch.zeros_like(logits)
        step[tuple(place)] = 1e-5
        with torch.no_grad():
            slope = (f(logits + step, mask) - f(logits - step, mask)) / 2e-5
        same(
            gradient[tuple(place)],
            slope,
            f"gradient at {place} against finite differences: is p detached?  (Eq. 9d)",
            1e-6,
        )


def negative_entropy_stays_in_bounds(f):
    logit = st.sampled_from([-INF, -200.0, -3.0, 0.0, 1.5, 60.0])
    row = st.lists(logit, min_size=5, max_size=5).filter(lambda logits: max(logits) > -INF)

    @checking.patient
    @given(st.lists(row, min_size=1, max_size=4))
    def holds(rows):
        value = float(f(torch.tensor([rows]), torch.ones(1, len(rows))))
        assert -math.log(5) - 1e-5 <= value <= 1e-6, (
            f"logits {rows}: {value} lies outside [-log V, 0] (Eq. 9d; GAP-1 for the sign)."
        )
    holds()


# --- 5: TSE --------------------------------------------------------------------------------------

anything = st.tuples(*[st.one_of(st.none(), st.integers(1, 9))] * 3)


def tse_by_hand(f):
    same(f((1, 2, 3)), 1.0, "no turn waited anywhere: 1 (Eq. 11).")
    same(f((1, 2, 4)), (1 + 1 + 0.9) / 3, "(1, 2, 4): task 3 waited one turn (Eq. 11).")
    same(
        f((3, 4, 5)),
        (0.81 + 1 + 1) / 3,
        "(3, 4, 5): task 1 waited two turns, the turns count from 1 (Eq. 11).",
    )
    same(
        f((2, 4, 6), (0.5, 0.3, 0.2), 0.5),
        0.5,
        "weights and gamma are arguments: (2, 4, 6), gamma .5: each task waited one turn (Eq. 11).",
    )


def tse_where_the_printed_one_breaks(f):
    same(
        f((1, 1, 1)),
        1.0,
        "(1, 1, 1): the printed exponent is -1; nobody waits a negative time, max(0, ...) (README, "
        "GAP-3; Eq. 11).",
    )
    never = "(2, None, None): a task never done adds 0 (README, GAP-3; Eq. 11)."
    same(f((2, None, None)), 0.3, never)
    same(
        f((3, None, 4)),
        (0.81 + 1) / 3,
        "(3, None, 4): task 3 is measured from turn 3, the task that was done; a task never done "
        "does not move the anchor (README, GAP-3; Eq. 11).",
    )
    same(
        f((None, None, 3)),
        0.81 / 3,
        "(None, None, 3): no earlier task was done, the anchor is 0 (README, GAP-3; Eq. 11).",
    )
    same(
        f((5, 1, 4)),
        (0.9 ** 4 + 1 + 1) / 3,
        "(5, 1, 4): the anchor of task 3 is turn 5, the *latest* of the earlier ones, not the last "
        "written (README, GAP-3; Eq. 11).",
    )
    same(f((None, None, None)), 0.0, "nothing done: 0 (Eq. 11).")


def tse_counts_the_turns_waited(f):
    weights = (0.5, 0.3, 0.2)

    @checking.patient
    @given(anything, st.sampled_from([0.5, 0.9, 1.0]))
    def holds(turns, gamma):
        wanted = 0.0
        for i, n in enumerate(turns):
            if n is not None:
                wanted += weights[i] * gamma ** waited(n, turns[:i])
        same(
            f(turns, weights, gamma),
            wanted,
            f"turns {turns}, gamma {gamma}: one gamma for each turn before N_i and after all "
            "earlier tasks (README, GAP-3; Eq. 11).",
        )
        if None not in turns and turns[0] < turns[1] < turns[2]:
            same(
                f(turns, weights, gamma),
                metrics.tse_printed(turns, weights, gamma),
                f"turns {turns} are in order: Eq. 11 as printed must hold.",
            )
    holds()


def waited(n, earlier):
    """Number of turns before turn n and after all earlier tasks, counted one by one."""
    last = max([m for m in earlier if m is not None], default=0)
    return sum(t > last for t in range(1, n))


def tse_pays_for_finishing(f):
    @checking.patient
    @given(anything, st.integers(0, 2), st.integers(1, 9))
    def holds(turns, i, n):
        assert -1e-9 <= f(turns) <= 1 + 1e-9, (
            f"turns {turns}: {f(turns)} lies outside [0, 1] (README, GAP-3; Eq. 11)."
        )
        done = (*turns[:i], n, *turns[i + 1:])
        assert turns[i] is not None or f(done) >= f(turns) - 1e-9, (
            f"finishing task {i + 1} lowers TSE: {turns} -> {done} (README, GAP-3; Eq. 11)."
        )
    holds()


# --- the six -------------------------------------------------------------------------------------

CHECKS = {
    "esndcg": (esndcg_by_hand, esndcg_edges, esndcg_like_scikit_learn, esndcg_stays_in_bounds),
    "gae": checks_eq7.GAE,
    "policy_loss": (
        policy_loss_by_hand,
        policy_loss_reads_only_what_was_drawn,
        policy_loss_compares_within_groups,
    ),
    "negative_entropy": (
        negative_entropy_by_hand,
        negative_entropy_like_torch_distributions,
        negative_entropy_has_a_finite_gradient,
        negative_entropy_stays_in_bounds,
    ),
    "tse": (
        tse_by_hand,
        tse_where_the_printed_one_breaks,
        tse_counts_the_turns_waited,
        tse_pays_for_finishing,
    ),
    "clipped_loss": checks_eq7.CLIPPED_LOSS,
}
