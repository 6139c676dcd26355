"""Eqs. 5-9 of InteractCS-RL by hand, their properties, and what they refuse."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from baselines.ppo_equations import clipped_surrogate
from systems.interactcs import (
    CONTROLLERS,
    LATE,
    Gains,
    Price,
    closed_loop,
    cmpo_objective,
    cmpo_tokens,
    constant_error,
    dialogue_advantages,
    dual_ascent,
    fixed,
    lagrangian,
    low_variance_kl,
    normalise,
    outcome,
    positional_pid,
    printed_pid,
    process_credit,
    turn_rewards,
    turn_weights,
)
from tests.helpers import property_test

# Two dialogues with the same customer: A has two turns and issues a voucher in the second.
A = {"outcome": 0.5, "process": [0.5, 1], "issued": [0, 1]}
B = {"outcome": 1.0, "process": [1], "issued": [0]}
UNIT = st.floats(0, 1)


def near(expected, within=5e-6):
    return pytest.approx(expected, abs=within)


# --- Eq. 6, and the outcome ---------------------------------------------------------------------

def test_process_credit_by_hand():
    # (1 * 1 + 1 * .5 + 1 * 1 + 2 * 0) / 5
    assert process_credit((1, 0.5, 1, 0)) == 0.5
    assert process_credit([mark / 100 for mark in (100, 50, 100, 0)]) == 0.5
    # the last principle counts twice
    assert process_credit((0, 0, 0, 1)) == 0.4
    assert process_credit((1, None, 1, 1)) is None
    assert process_credit((1, 0), (3, 1)) == 0.75


@pytest.mark.parametrize("scores, weights", [
    ((1, 1, 1), (1, 1, 1, 2)),
    ((1, 1, 1, 1, 1), (1, 1, 1, 2)),
    ((1, 1, 0.7, 1), (1, 1, 1, 2)),
    ((1, 1), (1, -1)),
    ((1, 1), (0, 0)),
])
def test_process_credit_refuses(scores, weights):
    with pytest.raises(ValueError):
        process_credit(scores, weights)


def test_outcome_by_hand():
    assert [outcome(S) for S in (1, 2, 3, 4, 5)] == [0, 0.25, 0.5, 0.75, 1]
    # the release gives 0 for a time-out on the scale 1..5: (0 - 1) / 4
    assert outcome(None, timeout=True) == -0.25
    assert outcome(None, valid=False) == -1


@pytest.mark.parametrize("ended", [
    (None,), (0,), (6,), (True,), (2.5,), ("5",), (3, True), (3, False, False), (None, True, False),
])
def test_outcome_refuses(ended):
    with pytest.raises(ValueError):
        outcome(*ended)


# --- Eq. 5 ----------------------------------------------------------------------------------------

def rewards_of(cost: str, lam: float = 0.4) -> list[list[float]]:
    return [turn_rewards(**dialogue, lam=lam, cost=cost) for dialogue in (A, B)]


def test_turn_rewards_by_hand():
    # A: .5 + .5 * .5 = .75 and .5 + .5 * 1 - .4 = .6;  B: 1 + .5 = 1.5
    assert rewards_of("printed") == [near([0.75, 0.6]), near([1.5])]
    # the voucher of turn 2 is charged to turn 1 as well: .75 - .4
    assert rewards_of("to_go") == [near([0.35, 0.6]), near([1.5])]


def test_normalise_by_hand():
    # mean .95, variance (.2^2 + .35^2 + .55^2) / 3 = .155, sd .39370: -.2 / sd, -.35 / sd, .55 / sd
    printed = normalise(rewards_of("printed"), [0, 0])
    assert printed == [near([-0.50800, -0.88900]), near([1.39700])]
    to_go = normalise(rewards_of("to_go"), [0, 0])
    assert to_go == [near([-0.94495, -0.43873]), near([1.38368])]


def test_advantages_of_the_release_by_hand():
    # A: .5 + .5 * .75 - .4 = .475;  B: 1 + .5 = 1.5.  Two numbers are one sd from their mean.
    both = {key: [A[key], B[key]] for key in A}
    found = dialogue_advantages(**both, lam=0.4, groups=[0, 0])
    assert found == [near([-1, -1]), near([1])]


def test_the_price_that_a_group_feels_depends_on_its_spread():
    # lambda .3 against a group's own sd of .1, .2, .4: a voucher costs 3, 1.5 and .75 of them
    felt = []
    for sd in (0.1, 0.2, 0.4):
        priced = normalise([[-sd], [sd]], [0, 0])[1][0] / sd * 0.3
        felt.append(priced)
    assert felt == near([3.0, 1.5, 0.75], 1e-4)


def test_with_one_scale_a_voucher_costs_the_same_in_every_group():
    # the same two ends, ten times further apart in the second group, with a voucher in each
    def advantages(issued):
        rewards = []
        for R_O in (0.0, 0.1, 0.0, 1.0):
            rewards.append(turn_rewards(R_O, [0], [issued], 0.3))
        return normalise(rewards, [0, 0, 1, 1], "batch")

    small, large = (row[0] for row in advantages(0)[1::2])
    assert large == near(10 * small)
    # in the group's own scale both groups look alike
    own = normalise([[0.0], [0.1], [0.0], [1.0]], [0, 0, 1, 1])
    assert own[1] == near(own[3], 1e-4)


DIALOGUE = st.lists(st.tuples(UNIT, st.booleans()), min_size=1, max_size=5)


@property_test
@given(DIALOGUE, UNIT, UNIT)
def test_turn_rewards_have_these_properties(turns, R_O, lam):
    process = [p for p, _ in turns]
    issued = [int(d) for _, d in turns]
    free = turn_rewards(R_O, process, issued, 0.0, "printed")
    assert turn_rewards(R_O, process, issued, 0.0, "to_go") == free
    to_go = turn_rewards(R_O, process, issued, lam)
    # the first turn pays for the whole dialogue, the last for itself
    assert to_go[0] == near(free[0] - lam * sum(issued), 1e-9)
    assert to_go[-1] == turn_rewards(R_O, process, issued, lam, "printed")[-1]


GROUP = st.lists(st.lists(st.floats(-2, 2), min_size=1, max_size=4), min_size=2, max_size=5)


@property_test
@given(GROUP, st.floats(-3, 3), st.sampled_from(["group", "batch", "none"]))
def test_normalised_rewards_are_centred_and_ignore_a_constant(rewards, constant, scale):
    groups = [0] * len(rewards)
    found = np.concatenate(normalise(rewards, groups, scale))
    assert abs(found.sum()) < 1e-6 * max(1, np.abs(found).max()) * len(found)
    values = np.concatenate(rewards)
    if values.std() > 1e-2:
        moved = [list(np.add(row, constant)) for row in rewards]
        assert np.concatenate(normalise(moved, groups, scale)) == near(found, 1e-6)
    same = normalise([[1.0] * len(row) for row in rewards], groups, scale)
    assert not np.concatenate(same).any()


def test_groups_do_not_meet():
    # a group that is better in all does not make the other worse
    alone = normalise([[0.0], [1.0]], [3, 3])
    both = normalise([[0.0], [9.0], [1.0], [7.0]], [3, 4, 3, 4])
    assert both[0] == alone[0]
    assert both[2] == alone[1]


@pytest.mark.parametrize("change, message", [
    ({"process": [1]}, "as many marks as turns"),
    ({"process": [], "issued": []}, "as many marks as turns"),
    ({"lam": -0.1}, "lambda must be >= 0"),
    ({"lam": math.nan}, "lambda must be >= 0"),
    ({"issued": [0, 2]}, "issued is 0 or 1"),
    ({"cost": "free"}, "to_go or printed"),
])
def test_turn_rewards_refuse(change, message):
    with pytest.raises(ValueError, match=message):
        turn_rewards(**(A | {"lam": 0.4} | change))


@pytest.mark.parametrize("rewards, groups, scale, message", [
    ([[1.0]], [0], "group", "has one dialogue"),
    ([[1.0], [2.0], [3.0]], [0, 0, 1], "batch", "group 1 has one dialogue"),
    ([[1.0], []], [0, 0], "group", "every dialogue needs a turn"),
    ([[1.0], [2.0]], [0], "group", "1 groups"),
    ([[1.0], [2.0]], [0, 0], "sd", "group, batch or none"),
])
def test_normalise_refuses(rewards, groups, scale, message):
    with pytest.raises(ValueError, match=message):
        normalise(rewards, groups, scale)


# --- Eqs. 7 and 8 ---------------------------------------------------------------------------------

def prices_of(controller, gains: Gains, seen, start: float = 0.0) -> list[Price]:
    states = [Price.start(start, gains)]
    for rate in seen:
        states.append(controller(states[-1], rate, gains))
    return states[1:]


def test_both_pids_by_hand():
    # target .27, running mean .3 old + .7 new: .669 .7887 .30661 .280983, so
    # e = .399 .5187 .03661 .010983, and I adds them up to .965293.
    # positional, step 2: .25 * .5187 + .005 * .9177 + .25 * (.5187 - .399)
    seen = (0.84, 0.84, 0.10, 0.27)
    found = prices_of(positional_pid, Gains(), seen)
    assert [p.lam for p in found] == near([0.101745, 0.1641885, 0.013924, 0.0075722], 1e-7)
    assert found[-1].integral == near(0.96529)
    assert found[-1].rate == near(0.28098)
    # Eq. 8 adds to the price what the other sets it to, and its last term may be negative
    found = prices_of(printed_pid, Gains(), seen)
    assert [p.lam for p in found] == near([0.101745, 0.2659335, 0.159335, 0.1605005])


def test_dual_ascent_by_hand():
    # .3 * .28 + .7 * .30 = .294;  .2 * (.294 - .27) = .0048
    found = dual_ascent(Price(0.1, 0.0, None, 0.28), 0.30, Gains(dual_gain=0.2))
    assert (found.rate, found.lam) == near((0.294, 0.1048), 1e-12)


def test_eq_8_where_the_error_is_constant():
    # K_P: an integral.  K_I: a double integral, K_I e k (k + 1) / 2.  K_D: nothing.
    k = np.arange(1, 11)
    assert constant_error(printed_pid, k_p=0.5) == near(0.05 * k, 1e-9)
    assert constant_error(printed_pid, k_i=0.2) == near(0.2 * 0.1 * k * (k + 1) / 2, 1e-9)
    assert constant_error(printed_pid, k_d=0.05) == near(0 * k, 1e-9)
    # what the names say: proportional, integral, nothing
    assert constant_error(positional_pid, k_p=0.5) == near([0.05] * 10, 1e-9)
    assert constant_error(positional_pid, k_i=0.2) == near(0.02 * k, 1e-9)
    assert constant_error(positional_pid, k_d=0.05) == near(0 * k, 1e-9)


RATES = st.lists(UNIT, min_size=1, max_size=60)


@property_test
@given(RATES, UNIT, UNIT, UNIT)
def test_the_identity_of_the_erratum(seen, k_p, k_i, k_d):
    gains = Gains(rate_ema=1.0, lambda_max=1e6, k_p=k_p, k_i=k_i, k_d=k_d)
    found = []
    p = Price(1e5, 0.0, None, gains.target)      # so far from 0 that nothing is clipped
    for rate in seen:
        p = printed_pid(p, rate, gains)
        found.append(p.lam - 1e5)
    e = np.array(seen) - gains.target
    integral = e.cumsum()
    expected = k_p * integral + k_i * integral.cumsum() + k_d * (e - e[0])
    assert found == near(expected, 1e-6)


@property_test
@given(RATES, UNIT)
def test_eq_8_with_k_p_alone_is_dual_ascent(seen, gain):
    gains = Gains(k_p=gain, k_i=0, k_d=0, dual_gain=gain)
    printed = [p.lam for p in prices_of(printed_pid, gains, seen)]
    assert printed == [p.lam for p in prices_of(dual_ascent, gains, seen)]


@property_test
@given(RATES, st.sampled_from(sorted(CONTROLLERS)), st.floats(0, 1.25))
def test_a_price_stays_in_its_range_and_survives_a_checkpoint(seen, name, start):
    gains = Gains()
    for p in prices_of(CONTROLLERS[name], gains, seen, start):
        assert 0 <= p.lam <= gains.lambda_max
        assert 0 <= p.rate <= 1
        assert Price.of(p.tensor()) == p
    if name == "pid":
        assert 0 <= p.integral <= gains.lambda_max / gains.k_i


def test_the_integral_does_not_wind_up():
    gains = Gains(rate_ema=1.0)
    # 1,000 steps of e = .5, then e = -.1: the price leaves its maximum at once
    high = prices_of(positional_pid, gains, [gains.target + 0.5] * 1000)
    assert high[-1].lam == gains.lambda_max
    assert high[-1].integral == gains.lambda_max / gains.k_i
    after = positional_pid(high[-1], gains.target - 0.1, gains)
    assert after.lam < gains.lambda_max
    # from the start too cheap to matter: I stays at 0 and owes nothing
    low = prices_of(positional_pid, gains, [0.0] * 1000)
    assert (low[-1].lam, low[-1].integral) == (0, 0)
    assert positional_pid(low[-1], 0.5, gains).lam > 0.05
    # Eq. 8 as printed has no bound
    wound = prices_of(printed_pid, gains, [gains.target + 0.5] * 1000)
    assert wound[-1].integral > 400


def test_the_positional_form_begins_at_its_first_price():
    # lambda_0 stands in I: without it the first step would forget the price of a resumed run
    gains = Gains()
    p = positional_pid(Price.start(0.175, gains), gains.target, gains)
    assert p.lam == near(0.175, 1e-12)
    assert positional_pid(Price.start(0.0, gains), 0.9, Gains(k_i=0)).integral == 0


def test_a_fixed_price_still_sees_the_rate():
    p = fixed(Price.start(0.25, Gains()), 0.9, Gains())
    assert p.lam == 0.25
    assert p.rate == near(0.3 * 0.27 + 0.7 * 0.9)


def test_the_error_alone_as_a_price():
    gains = Gains(rate_ema=1.0)
    rates = (0.67, 0.10, 0.27)
    assert [p.lam for p in prices_of(CONTROLLERS["clip"], gains, rates)] == near([0.4, 0, 0])


@pytest.mark.parametrize("name", sorted(CONTROLLERS))
@pytest.mark.parametrize("seen", [-0.01, 1.01, math.nan])
def test_a_rate_outside_its_range_is_refused(name, seen):
    with pytest.raises(ValueError, match="voucher rate lies in"):
        CONTROLLERS[name](Price.start(0.0, Gains()), seen, Gains())


def spread(controller, gains: Gains) -> float:
    return float(np.std(closed_loop(controller, gains)[0][-LATE:]))


def test_eq_8_cycles_where_the_positional_form_comes_to_rest():
    loop = {"target": 0.3, "rate_ema": 1.0, "k_p": 0.125, "k_i": 0.05, "k_d": 0.0125}
    assert spread(printed_pid, Gains(**loop)) > 0.15
    assert spread(positional_pid, Gains(**loop)) < 0.03
    # a mean over steps does not show the cycle
    rates, prices = closed_loop(printed_pid, Gains(**loop))
    assert abs(np.mean(rates[-LATE:]) - 0.3) < 0.03
    assert min(prices[-LATE:]) == 0
    assert max(prices[-LATE:]) == 1.25


def test_lagrangian_by_hand():
    # .6 - .2 * (.35 - .30)
    assert lagrangian(0.6, 0.35, 0.2, 0.30) == near(0.59)


# --- Eq. 9 ----------------------------------------------------------------------------------------

def objective(ratios, advantages, dialogues, **more) -> tuple[Tensor, Tensor]:
    """J without a reference's pull, and log pi."""
    logp = torch.tensor(ratios).log().requires_grad_()
    zero = torch.zeros(len(ratios))
    more = {"beta": 0.0} | more
    J = cmpo_objective(
        logp, zero, zero, torch.tensor(advantages), torch.tensor(dialogues), **more)
    return J, logp


def test_the_objective_by_hand():
    assert objective([1.5], [1.0], [0])[0].item() == near(1.2)
    assert objective([0.5], [-1.0], [0])[0].item() == near(-0.8)
    assert objective([1.0], [1.0], [0])[0].item() == near(1.0)
    # dialogues of one turn and of two: (1.2 + (-.8 + 1) / 2) / 2
    J, logp = objective([1.5, 0.5, 1.0], [1.0, -1.0, 1.0], [7, 2, 2])
    assert J.item() == near(0.65)
    # nothing more to gain where the ratio is clipped
    J.backward()
    assert logp.grad.tolist() == [0, 0, 0.25]


def test_a_ratio_that_moved_the_wrong_way_is_not_clipped():
    J, logp = objective([0.5, 1.5], [1.0, -1.0], [0, 1])
    J.backward()
    assert logp.grad.tolist() == near([0.25, -0.75])


def test_the_pull_to_the_reference_by_hand():
    # d = log 2: 2 - log 2 - 1
    pull = low_variance_kl(torch.zeros(1), torch.tensor([math.log(2)]))
    assert pull.item() == near(0.30685)
    zero = torch.zeros(1)
    J = cmpo_objective(zero, zero, torch.tensor([math.log(2)]), zero, torch.tensor([0]), beta=0.5)
    assert J.item() == near(-0.5 * 0.30685)


def test_the_estimate_of_the_divergence_is_unbiased():
    # exact, over two outcomes: sum_a p(a) k3(a) = KL(p || q)
    p, q = torch.tensor([0.8, 0.2]), torch.tensor([0.3, 0.7])
    mean = (p * low_variance_kl(p.log(), q.log())).sum()
    assert mean.item() == near((p * (p / q).log()).sum().item())


@property_test
@given(st.lists(st.tuples(st.floats(-0.5, 0.5), st.floats(-2, 2), st.integers(0, 3)), min_size=1))
def test_the_objective_is_a_mean_of_means(turns):
    moved, advantages, dialogues = zip(*turns)
    total = 0.0
    for dialogue in set(dialogues):
        rows = [i for i, other in enumerate(dialogues) if other == dialogue]
        gained = []
        for i in rows:
            r = math.exp(moved[i])
            A = advantages[i]
            gained.append(min(r * A, min(max(r, 0.8), 1.2) * A))
        total += sum(gained) / len(gained)
    ratios = [math.exp(x) for x in moved]
    found = objective(ratios, list(advantages), list(dialogues))[0]
    assert found.item() == near(total / len(set(dialogues)), 1e-4)
    assert turn_weights(torch.tensor(dialogues)).sum().item() == near(1)


def test_it_is_ppo_s_loss_where_all_dialogues_have_one_turn():
    torch.manual_seed(0)
    logp, old, advantage = torch.randn(3, 6)
    ppo = clipped_surrogate(logp[None], old[None], advantage[None], torch.ones(1, 6), 0.2)
    ours = cmpo_objective(logp, old, logp, advantage, torch.arange(6))
    assert ours.item() == near(-ppo.item(), 1e-5)


def test_turn_weights_of_several_processes():
    # this process holds two of eight dialogues
    assert turn_weights(torch.tensor([5, 6, 6]), 8).tolist() == [1 / 8, 1 / 16, 1 / 16]


# Two turns of one dialogue, of two tokens and of one; what is masked may hold anything.
MASK = torch.tensor([[1, 1], [1, 0]])


def tokens(ratios, advantages, **more):
    logp = torch.tensor(ratios).log().requires_grad_()
    zero = torch.zeros_like(MASK, dtype=torch.float)
    more = {"beta": 0.0} | more
    J = cmpo_tokens(
        logp, zero, zero, torch.tensor(advantages), torch.tensor([0, 0]), MASK, **more)
    return J, logp


def test_tokens_by_hand():
    # turn 1: min(1.5, 1.2) + 1 = 2.2;  turn 2: max(.5, .8) * -1 = -.8;  their mean is .7
    J, logp = tokens([[1.5, 1.0], [0.5, 0.0]], [1.0, -1.0])
    assert J.item() == near(0.7)
    J.backward()
    # clipped, free, clipped, and the customer's own words
    assert logp.grad.tolist() == [[0, 0.5], [0, 0]]


def test_the_gradient_over_tokens_is_that_of_whole_turns_at_first():
    torch.manual_seed(0)
    logp = torch.randn(2, 2).requires_grad_()
    advantage, dialogue = torch.tensor([2.0, -1.0]), torch.tensor([0, 1])
    by_token = cmpo_tokens(logp, logp, logp, advantage, dialogue, MASK)
    turns = (logp * MASK).sum(-1)
    by_turn = cmpo_objective(turns, turns, turns, advantage, dialogue)
    wanted, = torch.autograd.grad(by_turn, logp)
    found, = torch.autograd.grad(by_token, logp)
    assert found.flatten().tolist() == near(wanted.flatten().tolist())


def test_what_is_masked_is_in_no_term():
    bad = torch.tensor([[0.1, 0.2], [0.3, -math.inf]])
    good = torch.tensor([[0.1, 0.2], [0.3, 0.0]])
    advantage, dialogue = torch.tensor([1.0, 1.0]), torch.tensor([0, 0])
    found = cmpo_tokens(bad, bad, bad, advantage, dialogue, MASK)
    assert found == cmpo_tokens(good, good, good, advantage, dialogue, MASK)


@pytest.mark.parametrize("change", [
    {"old": torch.zeros(3)},
    {"advantage": torch.zeros(2, 1)},
    {"dialogue": torch.zeros(1)},
    {"clip": 0.0},
    {"clip": 1.0},
    {"beta": -0.1},
    {"logp": torch.zeros(0), "old": torch.zeros(0), "reference": torch.zeros(0),
     "advantage": torch.zeros(0), "dialogue": torch.zeros(0)},
])
def test_the_objective_refuses(change):
    names = ("logp", "old", "reference", "advantage", "dialogue")
    given_to = dict.fromkeys(names, torch.zeros(2))
    with pytest.raises(ValueError):
        cmpo_objective(**(given_to | change))


def test_a_turn_without_a_token_is_refused():
    zero = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="a token in every turn"):
        cmpo_tokens(zero, zero, zero, zero[0], zero[0], torch.tensor([[1, 1], [0, 0]]))
