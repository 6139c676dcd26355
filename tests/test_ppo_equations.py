"""PPO's equations: the clipped surrogate, the value loss, where rewards stand, and GAE by token."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.ppo_equations import clipped_surrogate, token_gae, token_rewards, value_loss
from expert import gae

T = torch.tensor
INF = float("inf")
NUMBERS = st.floats(-1, 1)
UNIT = st.floats(0, 1)
property_test = settings(max_examples=100, deadline=None)


# --- the losses ---------------------------------------------------------------------------------

def test_clipped_surrogate_by_hand():
    # A = +1: min(1.5, 1.2), min(.5, .8); A = -1: min(-1.5, -1.2), min(-.5, -.8); A = 2, r = 1.1:
    # 2.2; their mean, negated
    ratio = T([[1.5, 0.5, 1.5], [0.5, 1.1, 1.0]])
    adv = T([[1.0, 1.0, -1.0], [-1.0, 2.0, 9.0]])
    mask = T([[1, 1, 1], [1, 1, 0]])
    loss = clipped_surrogate(ratio.log(), torch.zeros(2, 3), adv, mask, 0.2)
    assert loss.item() == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8 + 2.2) / 5)


def test_gradient_is_zero_where_clipped_and_minus_r_times_A_elsewhere():
    ratio = T([[1.5, 0.5, 1.5, 0.5, 1.1]])
    adv = T([[1.0, 1.0, -1.0, -1.0, 2.0]])
    logp = ratio.log().requires_grad_()
    clipped_surrogate(logp, torch.zeros(1, 5), adv, torch.ones(1, 5), 0.2).backward()
    assert logp.grad[0].tolist() == pytest.approx([0.0, -0.5 / 5, 1.5 / 5, 0.0, -2.2 / 5])


pairs_of_logp_and_advantage = st.lists(
    st.tuples(st.floats(-5, 0), st.floats(-3, 3)), min_size=1, max_size=6)


@property_test
@given(pairs_of_logp_and_advantage, st.floats(0.01, 0.9))
def test_a_ratio_of_one_gives_minus_the_mean_advantage(pairs, clip):
    logp, adv = (T([column], dtype=torch.double) for column in zip(*pairs))
    logp.requires_grad_()
    loss = clipped_surrogate(logp, logp.detach(), adv, torch.ones_like(adv), clip)
    loss.backward()
    assert loss.item() == pytest.approx(-float(adv.mean()), abs=1e-12)
    # that of the plain policy gradient
    assert torch.allclose(logp.grad, -adv / adv.numel())


def test_what_the_mask_hides_changes_nothing():
    # -inf at a padded position, where token 0 is banned
    mask = T([[1, 0]])
    logp = T([[-1.0, -INF]], requires_grad=True)
    value = T([[1.0, math.nan]], requires_grad=True)
    policy = clipped_surrogate(logp, T([[-1.0, -INF]]), T([[3.0, math.nan]]), mask, 0.2)
    loss = policy + value_loss(value, T([[3.0, 0.0]]), mask)
    loss.backward()
    assert loss.item() == pytest.approx(-3 + 4)
    assert logp.grad.tolist() == [[-3.0, 0.0]]
    assert value.grad.tolist() == [[-4.0, 0.0]]


def test_targets_have_no_gradient():
    old, adv, target, x = (torch.ones(1, 1, requires_grad=True) for _ in range(4))
    mask = torch.ones(1, 1)
    (clipped_surrogate(x, old, adv, mask, 0.2) + value_loss(x, target, mask)).backward()
    assert old.grad is adv.grad is target.grad is None
    assert x.grad is not None


@pytest.mark.parametrize("shapes", [
    ((2, 3), (2, 3), (2, 3), (3, 2)),
    ((2, 3), (2,), (2, 3), (2, 3)),
])
def test_the_surrogate_refuses_shapes_that_differ(shapes):
    with pytest.raises(ValueError, match="clipped_surrogate wants"):
        clipped_surrogate(*(torch.ones(s) for s in shapes), 0.2)


def test_the_value_loss_refuses_an_empty_mask():
    with pytest.raises(ValueError, match="value_loss wants"):
        value_loss(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, 2))


# --- tokens of a dialogue -----------------------------------------------------------------------

def test_rewards_stand_at_the_last_token_of_a_turn():
    rho, discounts, decays = token_rewards([0.6, 1.8, 0.2], [2, 1, 3], 0.9, 0.7)
    assert rho == [0.0, 0.6, 1.8, 0.0, 0.0, 0.2]
    assert discounts == [1.0, 0.9, 0.9, 1.0, 1.0, 0.9]
    assert decays == [1.0, 0.7, 0.7, 1.0, 1.0, 0.7]


@pytest.mark.parametrize("rewards, lengths", [([1.0], [0]), ([1.0], [1, 2]), ([1.0], [])])
def test_a_turn_without_a_token_is_refused(rewards, lengths):
    with pytest.raises(ValueError, match="token_rewards needs"):
        token_rewards(rewards, lengths, 0.9, 0.7)


def test_gae_across_a_turn_boundary_by_hand():
    """gamma .9 and lambda .5 between the turns alone.

    A_3 = 1.8 - 1 = .8;  A_2 = .6 + .9 * 1 - .5 + .9 * .5 * .8 = 1.36;  A_1 = 0 + .5 - .4 + 1.36
    = 1.46"""
    rewards, *times = token_rewards([0.6, 1.8], [2, 1], 0.9, 0.5)
    found = token_gae(rewards, [0.4, 0.5, 1.0, 0.0], *times)
    assert found == pytest.approx([1.46, 1.36, 0.8])
    # truncated: V of the last token's state goes on
    cut = token_gae(rewards, [0.4, 0.5, 1.0, 1.0], *times)
    assert cut[2] == pytest.approx(0.8 + 0.9)


@property_test
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12), NUMBERS, UNIT, UNIT)
def test_one_discount_for_all_is_the_experts_gae(pairs, last, gamma, lam):
    rewards = [reward for reward, _ in pairs]
    values = [value for _, value in pairs]
    values.append(last)
    n = len(rewards)
    found = token_gae(rewards, values, [gamma] * n, [lam] * n)
    assert found == pytest.approx(gae(rewards, values, gamma, lam), abs=1e-12)


@property_test
@given(st.lists(st.tuples(NUMBERS, NUMBERS, UNIT), min_size=1, max_size=8), NUMBERS)
def test_lambda_one_is_the_discounted_return_less_the_value(steps, last):
    # oracle: the return as a sum over products of discounts
    rewards, values, discounts = zip(*steps)
    n = len(rewards)
    found = token_gae(rewards, [*values, last], discounts, [1.0] * n)
    for i, advantage in enumerate(found):
        ret = sum(math.prod(discounts[i:k]) * rewards[k] for k in range(i, n))
        ret += math.prod(discounts[i:]) * last
        assert advantage == pytest.approx(ret - values[i], abs=1e-9)


@pytest.mark.parametrize("bad", [
    ([1.0], [0.5], [1.0], [1.0]),
    ([1.0], [0.5, 0.0], [], [1.0]),
    ([1.0], [0.5, 0.0], [1.0], []),
])
def test_gae_refuses_lengths_that_do_not_fit(bad):
    with pytest.raises(ValueError, match="token_gae needs"):
        token_gae(*bad)
