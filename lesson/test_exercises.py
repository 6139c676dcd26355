"""Checks of exercises.py: `python -m pytest -k exercise`.  What raises NotImplementedError is skipped as not attempted.

Each exercise is checked by hand-computed cases, against something written by others (scikit-learn, torch.distributions, finite
differences) or in another way, and by properties.  The checks themselves are tested on the project's own functions, which must pass, and on
typical mistakes, which must not."""
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sklearn.metrics import dcg_score
from torch.distributions import Categorical

import csagent
import expert
import rewards
import tse as metrics
from lesson import exercises

INF, NAN = float("inf"), float("nan")
patient = settings(max_examples=80, deadline=None, derandomize=True, database=None, report_multiple_bugs=False, phases=[Phase.generate, Phase.shrink])
SAMPLES = {"esndcg": (["a"], ["a", "b"]), "gae": ([1.0], [0.5, 0.0], 0.9, 0.5), "policy_loss": (torch.tensor([[-1.0]]), torch.tensor([1.0]), torch.ones(1, 1)),
           "negative_entropy": (torch.zeros(1, 1, 2), torch.ones(1, 1)), "tse": ((1, 2, 3),)}


def attempt(name):
    """The student's function, or a skip."""
    function = getattr(exercises, name)
    try:
        function(*SAMPLES[name])
    except NotImplementedError:
        pytest.skip("not attempted")
    return function


def same(got, wanted, hint, tolerance=1e-6):
    """Fails with the case, both numbers and what to read."""
    assert got is not None, f"your function returns None: is there a `return`?  {hint}"
    mine, right = np.asarray(got, float), np.asarray(wanted, float)
    assert mine.shape == right.shape, f"you return the shape {mine.shape}, it should be {right.shape}.  {hint}"
    assert np.allclose(mine, right, rtol=tolerance, atol=tolerance), f"you return {mine.tolist()}, it should be {right.tolist()}.  {hint}"


# --- 1: ESNDCG ---------------------------------------------------------------------------------------------------------------------

def esndcg_by_hand(f):
    same(f(["a", "b"], ["a", "b"]), 1.0, "P = T must give 1: DCG(T) / IDCG(T), Eq. 5.")
    same(f(["a", "c", "b"], ["a", "b", "c"]), (7 + 1 / math.log2(3) + 3 / 2) / (7 + 3 / math.log2(3) + 1 / 2),
         "P = [a, c, b], T = [a, b, c].  Rel counts down from n (Eq. 2), the gain is 2^Rel - 1 and the discount log2(i + 1), i from 1 (Eq. 3).")
    same(f(["x", "a"], ["a"]), 1 / math.log2(3), "P = [x, a], T = [a]: a skill the teacher lacks earns 0 but takes up its position (Eq. 3).")
    same(f(["a"], ["a", "b"]), 3 / (3 + 1 / math.log2(3)), "P = [a], T = [a, b]: IDCG is the DCG of all of T (Eq. 4), also where P is shorter.")


def esndcg_edges(f):
    same(f(["a"] * 5, list("abcde")), 31 / rewards.idcg(list("abcde")), "five copies of t_1: only the first is paid (README, GAP-2; 2.003 is the printed formula).")
    same(f(["a", "a", "b"], ["a", "b"]), (3 + 1 / 2) / (3 + 1 / math.log2(3)), "P = [a, a, b]: the repeat earns 0 and b stays at position 3 (README, GAP-2).")
    for predicted, teacher, wanted in [([], [], 1.0), (["a"], [], 0.0), ([], ["a"], 0.0)]:
        same(f(predicted, teacher), wanted, f"P = {predicted}, T = {teacher}: both empty is agreement, one empty is none (docstring; IDCG of nothing is 0, Eq. 4).")


def esndcg_like_scikit_learn(f):
    for n, m in itertools.product((1, 2, 4), (1, 2, 3)):
        teacher = list("abcdef"[:n])
        for predicted in itertools.permutations("abcde", m):
            gains = [2 ** (n - teacher.index(s)) - 1 if s in teacher else 0 for s in predicted]
            ideal = dcg_score([[2 ** (n - j) - 1 for j in range(n)] + [0]], [[*range(n, -1, -1)]])        # + [0]: it wants two items at least
            wanted = dcg_score([[*gains, 0]], [[*range(m, -1, -1)]]) / ideal
            same(f(list(predicted), teacher), wanted, f"P = {list(predicted)}, T = {teacher}: scikit-learn's dcg_score disagrees (Eqs. 2-5).")


def esndcg_stays_in_bounds(f):
    @patient
    @given(st.lists(st.sampled_from("abcdef"), max_size=5), st.lists(st.sampled_from("abcdef"), max_size=5, unique=True))
    def holds(predicted, teacher):
        before = list(predicted), list(teacher)
        value = f(predicted, teacher)
        assert -1e-9 <= value <= 1 + 1e-9, f"P = {predicted}, T = {teacher}: {value} lies outside [0, 1]; what is a repeat worth?  (README, GAP-2; Eq. 5)"
        assert (predicted, teacher) == before, "your function changes the lists it is given: the Expert still needs them (Eq. 5 is a pure function)."
    holds()


# --- 2: GAE ------------------------------------------------------------------------------------------------------------------------

numbers = st.floats(-2, 2).map(lambda x: round(x, 3))
dialogues = st.integers(1, 8).flatmap(lambda n: st.tuples(st.lists(numbers, min_size=n, max_size=n), st.lists(numbers, min_size=n + 1, max_size=n + 1)))
shares = st.sampled_from([0.0, 0.3, 0.9, 1.0])


def gae_by_hand(f):
    same(f([1.0, 0.0], [0.5, 0.5, 0.0], 0.9, 0.5), [0.725, -0.5], "the docstring's example: delta_2 = -.5, delta_1 = .95, A_1 = .95 + .9 * .5 * A_2 (Eq. 7's A-hat).")
    same(f([1.0], [0.0, 2.0], 0.5, 0.7), [2.0], "one turn, cut off: 1 + .5 * 2 - 0.  The last entry of values counts (README, limits by design; Eq. 7's A-hat).")
    same(f([], [3.0], 0.9, 0.5), [], "no turn, no advantage (Eq. 7's A-hat).")


def gae_like_the_double_sum(f):
    @patient
    @given(dialogues, shares, shares)
    def holds(dialogue, gamma, lam):
        (r, v), n = dialogue, len(dialogue[0])
        before = list(r), list(v)
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(n)]
        wanted = [sum((gamma * lam) ** k * delta[t + k] for k in range(n - t)) for t in range(n)]
        same(f(r, v, gamma, lam), wanted, "A_t must be sum_k (gamma lam)^k delta_{t+k}: Schulman et al. 2016, Eq. 16 (Eq. 7's A-hat).")
        assert (r, v) == before, "your function changes the lists it is given: return a new one (Eq. 7's A-hat)."
    holds()


def gae_at_both_ends_of_lambda(f):
    @patient
    @given(dialogues, shares)
    def holds(dialogue, gamma):
        r, v = dialogue
        same(f(r, v, gamma, 0.0), [a + gamma * y - x for a, x, y in zip(r, v, v[1:])], "lam = 0 must give delta_t: believe the critic (Eq. 7's A-hat).")
        whole = [sum(gamma ** k * a for k, a in enumerate([*r[t:], v[-1]])) - v[t] for t in range(len(r))]
        same(f(r, v, gamma, 1.0), whole, "lam = 1 must give the discounted return (Eq. 1) minus V_t, the values between cancel (Eq. 7's A-hat).")
    holds()


# --- 3: policy gradient with a group baseline ----------------------------------------------------------------------------------------

LOGP = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]])
DRAWN = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
REWARD = torch.tensor([1.0, 0.0])


def policy_loss_by_hand(f):
    same(f(LOGP, REWARD, DRAWN), 1.0, "no group: -(1 * (-1 - 2) + 0 * -3) over 3 drawn tokens = 1 (Eq. 9b, GAP-6: over drawn tokens, not over L or B).")
    same(f(LOGP, REWARD, DRAWN, None, "sum"), 1.5, 'average "sum": summed over tokens, averaged over the B = 2 replies (Eq. 9b as printed).')
    same(f(LOGP, REWARD, DRAWN, torch.tensor([7, 7])), 0.0, "one group: advantages .5 and -.5, whose sums -3 and -3 cancel (Eq. 9b with the baseline of GAP-6).")
    same(f(torch.tensor([[-1.0], [-4.0]]), REWARD, torch.ones(2, 1), torch.tensor([0, 0])), -0.75,
         "advantages .5 and -.5, logp -1 and -4: -(.5 * -1 - .5 * -4) / 2 = -.75; no division by a standard deviation (Eq. 9b, GAP-6).")


def policy_loss_reads_only_what_was_drawn(f):
    for junk in (5.0, -INF, NAN):
        logp = torch.tensor([[-1.0, -2.0], [-3.0, junk]], requires_grad=True)
        for mask in (DRAWN, DRAWN.bool(), DRAWN.long()):
            loss = f(logp, REWARD, mask, torch.tensor([3, 3]), "batch")
            same(loss.detach(), 0.0, f"a token that was not drawn holds {junk} and reaches the loss: 0 * inf is NaN, fill before you multiply (Eq. 9b).")
            gradient, = torch.autograd.grad(loss, logp)
            same(gradient, [[-1 / 6, -1 / 6], [1 / 6, 0.0]],
                 f"the gradient is -advantage / (number of drawn tokens), and 0 for a token not drawn, here {junk} (Eq. 9b, GAP-6).")


def policy_loss_compares_within_groups(f):
    @patient
    @given(st.lists(st.tuples(st.sampled_from([2, 5, 9]), st.integers(0, 8), st.integers(1, 4)), min_size=1, max_size=7), st.integers(-3, 3), st.sampled_from(["batch", "sum"]))
    def holds(rows, shift, average):
        ids, earned, lengths = map(list, zip(*rows))
        group, reward = torch.tensor(ids), torch.tensor(earned).double() / 8
        mask = torch.arange(4)[None, :] < torch.tensor(lengths)[:, None]
        logp = -torch.linspace(0.1, 3, len(rows) * 4, dtype=torch.float64).view(-1, 4)
        wanted = 0.0
        for i, g in enumerate(ids):
            others = [r / 8 for r, h in zip(earned, ids) if h == g]
            wanted -= (earned[i] / 8 - sum(others) / len(others)) * float(logp[i, :lengths[i]].sum())
        wanted /= sum(lengths) if average == "batch" else len(rows)
        same(f(logp, reward, mask, group, average), wanted, f"groups {ids}, rewards {earned} / 8, lengths {lengths}: each reply against the mean of its own group (README, GAP-6; Eq. 9b).")
        moved = reward + shift * (group == ids[0])
        same(f(logp, moved, mask, group, average), wanted, "rewards of one state raised all alike: the loss must stay; that is what a baseline does (README, GAP-6; Eq. 9b).")
    holds()


# --- 4: negative entropy -----------------------------------------------------------------------------------------------------------

def negative_entropy_by_hand(f):
    one = torch.ones(1, 1)
    same(f(torch.zeros(1, 1, 4), one), -math.log(4), "four equal words: L_d = log(1/4) = -1.386, minus the entropy; +1.386 is the printed sign (README, GAP-1; Eq. 9d).")
    same(f(torch.zeros(1, 1, 4), one, True), math.log(4), "literal=True is Eq. 9d as printed, +entropy (README, GAP-1).")
    same(f(torch.tensor([[[0.0, 0.0, -INF, -INF]]]), one), -math.log(2), "two of four words banned (-inf): p log p = 0 there, L_d = -log 2 (Eq. 9d, docstring).")
    two = torch.tensor([[[0.0, 0.0], [0.0, -INF]], [[9.0, 0.0], [0.0, 0.0]]])
    same(f(two, torch.tensor([[1, 1], [0, 1]])), -2 * math.log(2) / 3, "three drawn tokens of entropy log 2, 0, log 2: their mean; positions with mask 0 do not count (Eq. 9d).")


def negative_entropy_like_torch_distributions(f):
    logits = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 1]])
    wanted = -Categorical(logits=logits).entropy()[mask.bool()].mean()
    for m in (mask, mask.bool(), mask.float()):
        same(f(logits, m), wanted, "torch.distributions.Categorical(logits).entropy(), averaged over the drawn tokens, disagrees (Eq. 9d).", 1e-9)
    same(f(logits + 1000, mask), wanted, "adding 1000 to all logits changes no probability, but your result: use log_softmax, not log(softmax) (Eq. 9d).", 1e-6)
    same(f(logits, mask, True), -wanted, "literal=True must be the same with the other sign (README, GAP-1; Eq. 9d).", 1e-9)


def negative_entropy_has_a_finite_gradient(f):
    logits = torch.tensor([[[0.3, -0.2, 1.0, -INF], [0.1, -INF, -INF, 0.4]], [[2.0, 0.0, 0.0, 0.0], [-INF, 0.5, -INF, -INF]]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1], [0, 1]])
    value = f(logits, mask)
    assert torch.isfinite(value), f"L_d is {value.item()} where a word is banned: 0 * -inf (README, GAP-1; Eq. 9d, docstring)."
    gradient, = torch.autograd.grad(value, logits)
    assert torch.isfinite(gradient).all(), f"the value is finite, its gradient is not:\n{gradient}\nrepair log p before the product, not the product (Eq. 9d, docstring)."
    assert not gradient[torch.isinf(logits)].any(), "a banned word has p = 0 whatever its logit: its gradient must be 0 (Eq. 9d)."
    for place in torch.isfinite(logits).nonzero().tolist():
        step = torch.zeros_like(logits)
        step[tuple(place)] = 1e-5
        with torch.no_grad():
            slope = (f(logits + step, mask) - f(logits - step, mask)) / 2e-5
        same(gradient[tuple(place)], slope, f"gradient at {place} against finite differences: is p detached?  (Eq. 9d)", 1e-6)


def negative_entropy_stays_in_bounds(f):
    @patient
    @given(st.lists(st.lists(st.sampled_from([-INF, -200.0, -3.0, 0.0, 1.5, 60.0]), min_size=5, max_size=5).filter(lambda row: max(row) > -INF), min_size=1, max_size=4))
    def holds(rows):
        value = float(f(torch.tensor([rows]), torch.ones(1, len(rows))))
        assert -math.log(5) - 1e-5 <= value <= 1e-6, f"logits {rows}: {value} lies outside [-log V, 0] (Eq. 9d; GAP-1 for the sign)."
    holds()


# --- 5: TSE ------------------------------------------------------------------------------------------------------------------------

anything = st.tuples(*[st.one_of(st.none(), st.integers(1, 9))] * 3)


def tse_by_hand(f):
    same(f((1, 2, 3)), 1.0, "no turn waited anywhere: 1 (Eq. 11).")
    same(f((1, 2, 4)), (1 + 1 + 0.9) / 3, "(1, 2, 4): task 3 waited one turn (Eq. 11).")
    same(f((3, 4, 5)), (0.81 + 1 + 1) / 3, "(3, 4, 5): task 1 waited two turns, the turns count from 1 (Eq. 11).")
    same(f((2, 4, 6), (0.5, 0.3, 0.2), 0.5), 0.5, "weights and gamma are arguments: (2, 4, 6), gamma .5: each task waited one turn (Eq. 11).")


def tse_where_the_printed_one_breaks(f):
    same(f((1, 1, 1)), 1.0, "(1, 1, 1): the printed exponent is -1; nobody waits a negative time, max(0, ...) (README, GAP-3; Eq. 11).")
    same(f((2, None, None)), 0.3, "(2, None, None): a task never done adds 0 (README, GAP-3; Eq. 11).")
    same(f((3, None, 4)), (0.81 + 1) / 3, "(3, None, 4): task 3 is measured from turn 3, the task that was done; a task never done does not move the anchor (README, GAP-3; Eq. 11).")
    same(f((None, None, 3)), 0.81 / 3, "(None, None, 3): no earlier task was done, the anchor is 0 (README, GAP-3; Eq. 11).")
    same(f((5, 1, 4)), (0.9 ** 4 + 1 + 1) / 3, "(5, 1, 4): the anchor of task 3 is turn 5, the *latest* of the earlier ones, not the last written (README, GAP-3; Eq. 11).")
    same(f((None, None, None)), 0.0, "nothing done: 0 (Eq. 11).")


def tse_counts_the_turns_waited(f):
    @patient
    @given(anything, st.sampled_from([0.5, 0.9, 1.0]))
    def holds(turns, gamma):
        weights = (0.5, 0.3, 0.2)
        wanted = sum(w * math.prod(gamma for t in range(1, n) if all(t > m for m in turns[:i] if m is not None))        # one gamma per turn waited
                     for i, (n, w) in enumerate(zip(turns, weights)) if n is not None)
        same(f(turns, weights, gamma), wanted, f"turns {turns}, gamma {gamma}: one gamma for each turn before N_i and after all earlier tasks (README, GAP-3; Eq. 11).")
        if None not in turns and turns[0] < turns[1] < turns[2]:
            same(f(turns, weights, gamma), metrics.tse_printed(turns, weights, gamma), f"turns {turns} are in order: Eq. 11 as printed must hold.")
    holds()


def tse_pays_for_finishing(f):
    @patient
    @given(anything, st.integers(0, 2), st.integers(1, 9))
    def holds(turns, i, n):
        assert -1e-9 <= f(turns) <= 1 + 1e-9, f"turns {turns}: {f(turns)} lies outside [0, 1] (README, GAP-3; Eq. 11)."
        done = (*turns[:i], n, *turns[i + 1:])
        assert turns[i] is not None or f(done) >= f(turns) - 1e-9, f"finishing task {i + 1} lowers TSE: {turns} -> {done} (README, GAP-3; Eq. 11)."
    holds()


# --- the five ----------------------------------------------------------------------------------------------------------------------

CHECKS = {
    "esndcg": (esndcg_by_hand, esndcg_edges, esndcg_like_scikit_learn, esndcg_stays_in_bounds),
    "gae": (gae_by_hand, gae_like_the_double_sum, gae_at_both_ends_of_lambda),
    "policy_loss": (policy_loss_by_hand, policy_loss_reads_only_what_was_drawn, policy_loss_compares_within_groups),
    "negative_entropy": (negative_entropy_by_hand, negative_entropy_like_torch_distributions, negative_entropy_has_a_finite_gradient, negative_entropy_stays_in_bounds),
    "tse": (tse_by_hand, tse_where_the_printed_one_breaks, tse_counts_the_turns_waited, tse_pays_for_finishing),
}


def checks(name):
    return pytest.mark.parametrize("check", CHECKS[name], ids=lambda check: check.__name__.removeprefix(f"{name}_"))


@checks("esndcg")
def test_exercise_1_esndcg(check):
    check(attempt("esndcg"))


@checks("gae")
def test_exercise_2_gae(check):
    check(attempt("gae"))


@checks("policy_loss")
def test_exercise_3_policy_loss(check):
    check(attempt("policy_loss"))


@checks("negative_entropy")
def test_exercise_4_negative_entropy(check):
    check(attempt("negative_entropy"))


@checks("tse")
def test_exercise_5_tse(check):
    check(attempt("tse"))


# --- are the checks any good?  Never skipped ---------------------------------------------------------------------------------------

OURS = {"esndcg": rewards.esndcg, "gae": expert.gae, "policy_loss": csagent.policy_loss, "negative_entropy": csagent.negative_entropy, "tse": metrics.tse}


def gae_wrongly(r, v, gamma, lam, step=lambda r, v, w, later, gamma, lam: r + gamma * w - v + gamma * lam * later, backwards=True):
    out, later = [0.0] * len(r), 0.0
    for t in reversed(range(len(r))) if backwards else range(len(r)):
        out[t] = later = step(r[t], v[t], v[t + 1], later, gamma, lam)
    return out


def loss_wrongly(logp, reward, mask, group=None, average="batch", centre=lambda r, g: r - csagent.group_mean(r, g), clean=True, tokens=torch.sum):
    adv = reward if group is None else centre(reward, group)
    kept = logp.masked_fill(~mask.bool(), 0) if clean else logp * mask
    return -(adv[:, None] * kept).sum() / (tokens(mask) if average == "batch" else len(logp))


def entropy_wrongly(logits, mask, literal=False, product=lambda logits: torch.nan_to_num(logits.softmax(-1) * logits.log_softmax(-1)), drawn=True):
    value = product(logits).sum(-1)
    value = value[mask.bool()].mean() if drawn else value.mean()
    return -value if literal else value


def tse_wrongly(turns, weights=(1 / 3, 1 / 3, 1 / 3), gamma=0.9, least=0, anchor=lambda before: max([n for n in before if n is not None], default=0), never=None):
    turns = [never if n is None else n for n in turns]
    return sum(w * gamma ** max(least, n - anchor(turns[:i]) - 1) for i, (n, w) in enumerate(zip(turns, weights)) if n is not None)


def standardised(r, g):
    """A standard deviation per group, as GRPO has it."""
    spread = torch.stack([r[g == i].std(unbiased=False) for i in g])
    return (r - csagent.group_mean(r, g)) / (spread + 1e-6)


MISTAKES = {
    "esndcg": {
        "repeats paid": lambda p, t: rewards.dcg(p, t) / rewards.idcg(t) if p and t else float(p == t),
        "gain Rel": lambda p, t: sum(rewards.relevance(s, t) / math.log2(i + 2) for i, s in enumerate(p)) / sum((len(t) - j) / math.log2(j + 2) for j in range(len(t))) if p and t else float(p == t),
        "repeats removed": lambda p, t: rewards.esndcg(list(dict.fromkeys(p)), t),
        "ideal cut to the length of P": lambda p, t: rewards.esndcg(p, t) * rewards.idcg(t) / rewards.dcg(t[:len(p)], t) if p and t else float(p == t),
        "last pick first": lambda p, t: rewards.esndcg(p[::-1], t),
        "clipped to 1": lambda p, t: min(1.0, rewards.dcg(p, t) / rewards.idcg(t)) if p and t else float(p == t),
        "both empty is 0": lambda p, t: rewards.esndcg(p, t) if p or t else 0.0,
    },
    "gae": {
        "no bootstrap at the end": lambda r, v, gamma, lam: expert.gae(r, [*v[:-1], 0.0], gamma, lam),
        "gamma missing in the recursion": partial(gae_wrongly, step=lambda r, v, w, later, gamma, lam: r + gamma * w - v + lam * later),
        "lambda missing": partial(gae_wrongly, step=lambda r, v, w, later, gamma, lam: r + gamma * w - v + gamma * later),
        "gamma missing at V": partial(gae_wrongly, step=lambda r, v, w, later, gamma, lam: r + w - v + gamma * lam * later),
        "forwards": partial(gae_wrongly, backwards=False),
        "returns, not advantages": lambda r, v, gamma, lam: [a + x for a, x in zip(expert.gae(r, v, gamma, lam), v)],
    },
    "policy_loss": {
        "sign": lambda *a: -csagent.policy_loss(*a),
        "no baseline": partial(loss_wrongly, centre=lambda r, g: r),
        "mean of the batch": partial(loss_wrongly, centre=lambda r, g: r - r.mean()),
        "divided by a standard deviation": partial(loss_wrongly, centre=standardised),
        "0 * -inf": partial(loss_wrongly, clean=False),
        "mean over padding": partial(loss_wrongly, tokens=torch.numel),
        "mask forgotten": lambda logp, reward, mask, *a: csagent.policy_loss(logp, reward, torch.ones_like(mask), *a),
        "average ignored": lambda logp, reward, mask, group=None, average="batch": csagent.policy_loss(logp, reward, mask, group),
    },
    "negative_entropy": {
        "sign": lambda logits, mask, literal=False: -csagent.negative_entropy(logits, mask, literal),
        "nan_to_num on the product": entropy_wrongly,
        "where on the product": partial(entropy_wrongly, product=lambda x: torch.where(x.isinf(), 0.0, x.softmax(-1) * x.log_softmax(-1))),
        "p log p as it stands": partial(entropy_wrongly, product=lambda x: x.softmax(-1) * x.log_softmax(-1)),
        "a small number under the logarithm": partial(entropy_wrongly, product=lambda x: x.softmax(-1) * (x.softmax(-1) + 1e-4).log()),
        "p detached": partial(entropy_wrongly, product=lambda x: x.softmax(-1).detach() * x.log_softmax(-1).masked_fill(x.isinf(), 0)),
        "mask forgotten": lambda logits, mask, literal=False: csagent.negative_entropy(logits, torch.ones_like(mask), literal),
        "literal ignored": lambda logits, mask, literal=False: csagent.negative_entropy(logits, mask),
    },
    "tse": {
        "as printed": partial(tse_wrongly, least=-9),
        "turns from 0": lambda turns, *a: metrics.tse(tuple(n and n + 1 for n in turns), *a),
        "never done is turn 12": partial(tse_wrongly, never=12),
        "the anchor is the task before": partial(tse_wrongly, anchor=lambda before: (before[-1] or 0) if before else 0),
        "the anchor is the last one written": partial(tse_wrongly, anchor=lambda before: next((n for n in reversed(before) if n is not None), 0)),
        "anchor always 0": partial(tse_wrongly, anchor=lambda before: 0),
        "stops at the first task never done": lambda turns, *a: metrics.tse(tuple(n if None not in turns[:i] else None for i, n in enumerate(turns)), *a),
        "clipped to 1": lambda turns, *a: min(1.0, tse_wrongly(turns, *a, least=-9)),
    },
}


def test_the_five_exercises_are_there_and_explained():
    assert [f.__name__ for f in exercises.EXERCISES] == list(CHECKS) == list(SAMPLES)
    for number, function in enumerate(exercises.EXERCISES, 1):
        for word in (f"Exercise {number}, ", "Eq", "returns", "By hand", "Hint:", "Plug in:", f"from exercises import {function.__name__}", "See:     python "):
            assert word in function.__doc__, f"{function.__name__}: {word!r}"
        assert function.__code__.co_varnames[:function.__code__.co_argcount] == OURS[function.__name__].__code__.co_varnames[:function.__code__.co_argcount]


@pytest.mark.parametrize("name", CHECKS)
def test_exercise_not_begun_is_skipped(monkeypatch, name):
    def not_begun(*_, **__):
        raise NotImplementedError
    monkeypatch.setattr(exercises, name, not_begun)
    with pytest.raises(pytest.skip.Exception, match="not attempted"):
        attempt(name)


@pytest.mark.parametrize("name", CHECKS)
def test_exercise_solved_passes(monkeypatch, name):
    monkeypatch.setattr(exercises, name, OURS[name])
    for check in CHECKS[name]:
        check(attempt(name))


@pytest.mark.parametrize(("name", "mistake"), [(n, m) for n in MISTAKES for m in MISTAKES[n]])
def test_exercise_done_wrong_fails_and_says_what_to_read(monkeypatch, name, mistake):
    monkeypatch.setattr(exercises, name, MISTAKES[name][mistake])
    monkeypatch.setitem(globals(), "patient", settings(patient, phases=[Phase.generate]))       # a student gets the simplest case; here it would only cost time
    messages = []
    for check in CHECKS[name]:
        try:
            check(attempt(name))
        except AssertionError as error:
            messages.append(str(error))
    assert messages, "no check notices"
    assert all("Eq. " in m or "Eqs. " in m or "README" in m for m in messages), messages
