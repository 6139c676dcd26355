"""MORE's equations: Eqs. 1-2, rank weights, norms of gradients, and the printed forms that do
nothing."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor as T

from systems.more import (
    anchored,
    group_advantage,
    grpo_loss,
    kl_to_reference,
    mix,
    owa,
    rank_weights,
    spreads,
)
from systems.more_norms import bandit, cosines, gradient_norms, head_gradients, reward_gradients

INF, NAN = float("inf"), float("nan")
ONE = torch.ones(1, 1)
property_test = settings(max_examples=60, deadline=None)
marks = st.lists(st.integers(0, 100).map(lambda x: x / 100), min_size=2, max_size=8)


# --- Eq. 1 --------------------------------------------------------------------------------------

def test_group_advantage_by_hand():
    # mean .25, std sqrt(.75 .25) = .4330: .75 / .4330 = 1.7321, -.25 / .4330 = -.5774
    # equal marks teach nothing; the NaN is left out: mean .5, std .5
    found = group_advantage(T([[1, 0, 0, 0], [.5, .5, .5, .5], [1, NAN, 0, NAN]]))
    third = 1 / math.sqrt(3)
    wanted = T([[3 * third, -third, -third, -third], [0, 0, 0, 0], [1, 0, -1, 0]])
    assert torch.allclose(found, wanted, atol=1e-4)


def test_a_group_with_one_scored_candidate_or_none_teaches_nothing():
    found = group_advantage(T([[NAN, .3, NAN], [NAN, NAN, NAN]]))
    assert found.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_spread_of_rounding_teaches_nothing():
    assert not group_advantage(T([[.3, .1 + .2, .3]], dtype=torch.double)).any()


@property_test
@given(marks, st.floats(.5, 5), st.floats(-3, 3))
def test_advantages_have_no_scale_and_are_bounded(reward, scale, shift):
    reward = T([reward], dtype=torch.double)
    A = group_advantage(reward)
    assert torch.allclose(group_advantage(scale * reward + shift), A, atol=1e-6)
    assert A.abs().max() <= math.sqrt(reward.shape[1] - 1) + 1e-9
    assert abs(A.sum()) < 1e-6


# --- Eq. 2 --------------------------------------------------------------------------------------

def test_kl_by_hand():
    # d = -1.5 + 1 = -.5: e^-.5 + .5 - 1 = .1065; the second token is hidden, the third banned
    logp, ref = T([[-1.0, 5.0, -INF]]), T([[-1.5, 0.0, -INF]])
    assert kl_to_reference(logp, ref, T([[1, 0, 0]])).item() == pytest.approx(.1065, abs=1e-4)
    assert kl_to_reference(logp, ref, T([[1, 0, 1]])).item() == pytest.approx(.0533, abs=1e-4)


@pytest.mark.parametrize("h", [-.7, -.1, 0.0, .2, 1.0])
def test_the_gradient_of_the_kl_term_is_1_less_e_to_the_minus_h(h):
    logp = T([[h - 1.0]], dtype=torch.double, requires_grad=True)
    kl_to_reference(logp, T([[-1.0]], dtype=torch.double), ONE).backward()
    assert logp.grad.item() == pytest.approx(1 - math.exp(-h), abs=1e-9)


def test_at_the_reference_value_and_gradient_are_exactly_0_even_where_banned():
    logp = T([[-1.3, -INF]], requires_grad=True)
    kl = kl_to_reference(logp, logp.detach(), torch.ones(1, 2))
    kl.backward()
    assert kl.item() == 0
    assert logp.grad.tolist() == [[0, 0]]


@property_test
@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=4, max_size=4))
def test_its_mean_under_the_policy_is_the_kl_divergence(logits):
    ours, theirs = (T(column, dtype=torch.double) for column in zip(*logits))
    logp, ref = ours.log_softmax(0), theirs.log_softmax(0)
    each = []
    for token in range(4):
        each.append(kl_to_reference(logp[None, token:token + 1], ref[None, token:token + 1], ONE))
    exact = (logp.exp() * (logp - ref)).sum()
    assert (logp.exp() * torch.stack(each)).sum().item() == pytest.approx(exact.item(), abs=1e-9)
    assert min(each) >= 0


def loss_of(ratio, advantage, ref=None, beta=0.0):
    return grpo_loss(T([[ratio]]).log(), 0 * ONE, ref, T([advantage]), ONE, .2, beta).item()


def test_grpo_loss_by_hand():
    # A = +1: min(1.5, 1.2); A = -1: min(-.5, -.8), whose sign is easily got wrong
    assert loss_of(1.5, 1.0) == pytest.approx(-1.2)
    assert loss_of(.5, -1.0) == pytest.approx(.8)
    # A = 0: what is left is beta k3 = .04 x .1065
    loss = grpo_loss(-ONE, -ONE, -1.5 * ONE, T([0.0]), ONE, .2, .04)
    assert loss.item() == pytest.approx(.00426, abs=1e-5)


def test_the_printed_average_is_over_replies():
    # reply 1: one token, A = 2; reply 2: three tokens, A = -1; every ratio is 1
    logp, mask = torch.zeros(2, 3), T([[1, 0, 0], [1, 1, 1]])
    arguments = logp, logp, None, T([2.0, -1.0]), mask, .2, 0.0
    assert grpo_loss(*arguments).item() == pytest.approx(-(2 - 3) / 4)
    assert grpo_loss(*arguments, average="reply").item() == pytest.approx(-(2 - 1) / 2)


def test_the_reference_and_the_sampling_policy_get_no_gradient():
    logp, old, ref = (torch.full((1, 2), x, requires_grad=True) for x in (-1.0, -1.2, -1.5))
    grpo_loss(logp, old, ref, T([1.0]), torch.ones(1, 2), .2, .04).backward()
    assert logp.grad.all()
    assert old.grad is None
    assert ref.grad is None


# --- Sec. 3.4: weights --------------------------------------------------------------------------

@pytest.mark.parametrize("norms, weights", [
    ((.3, .1, .2, .05), (1, .5, .75, .25)),
    ((.2, .2, .1), (5 / 6, 5 / 6, 1 / 3)),       # ranks 1.5, 1.5, 3 of 3
    ((.3, 0, .1), (1, 0, .5)),                   # two count: ranks 1, -, 2
    ((.3, NAN, .1), (1, 0, .5)),
    ((0, 0), (0, 0)),
    ((7,), (1,)),
    ((), ()),
])
def test_rank_weights_by_hand(norms, weights):
    assert rank_weights(norms) == pytest.approx(list(weights))


@property_test
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.sampled_from([.25, 8.0]),
       st.randoms(use_true_random=False))
def test_rank_weights_have_no_scale_and_follow_their_rewards(norms, scale, rng):
    weights = rank_weights(norms)
    assert rank_weights([scale * norm for norm in norms]) == weights
    order = list(range(len(norms)))
    rng.shuffle(order)
    moved = rank_weights([norms[i] for i in order])
    assert moved == [weights[i] for i in order]
    # whatever the ties, n weights sum to (n + 1) / 2 over the rewards that count
    n = sum(norm > 0 for norm in norms)
    assert sum(weights) == pytest.approx((n + 1) / 2 * (n > 0))


def test_mix_by_hand_and_an_unscored_reward_of_weight_0():
    rewards = T([[[1.0, 0.0]], [[.5, 1.0]], [[NAN, NAN]]])
    assert mix(rewards, [1, .5, 0]).tolist() == [[1.25, .5]]
    assert mix(rewards, [1, .5, .1]).isnan().all()


def test_spreads_by_hand():
    # reward 1: std .5 in the first group (1, 0), 0 in the second; reward 2: the NaN is left out
    rewards = T([[[1.0, 0.0, .5], [1, 1, 1]], [[.2, .6, NAN], [.2, .6, NAN]]])
    first = math.sqrt((.25 + .25 + 0) / 3)
    assert spreads(rewards) == pytest.approx([first / 2, .2])


# --- the printed weights: a rank within one candidate -------------------------------------------

def test_owa_by_hand_is_blind_to_which_reward_is_which():
    # .9 + 2/3 .5 + 1/3 .2 = 1.3
    for values in ([.2, .9, .5], [.5, .2, .9], [.9, .5, .2]):
        assert owa(T(values)[:, None, None]).item() == pytest.approx(1.3)


@property_test
@given(st.integers(0, 10**6))
def test_a_candidates_gradients_rank_as_its_rewards_do_whatever_the_policy(seed):
    """||r_j grad log pi(y)|| = r_j ||grad log pi(y)||: lambda_j^(i) sees no gradient."""
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(6, 6, generator=draw, dtype=torch.double).requires_grad_()
    sentence = torch.randint(6, (5,), generator=draw)
    rewards = torch.rand(4, generator=draw, dtype=torch.double)
    logp = weights[sentence[:-1]].log_softmax(-1).gather(-1, sentence[1:, None]).sum()
    norms = []
    for reward in rewards:
        found, = torch.autograd.grad(reward * logp, weights, retain_graph=True)
        norms.append(found.norm().item())
    assert rank_weights(norms) == rank_weights(rewards.tolist())
    weighted = sum(w * r for w, r in zip(rank_weights(norms), rewards.tolist()))
    assert owa(rewards[:, None, None]).item() == pytest.approx(weighted)


# --- the printed anchor: frozen anew before every update ----------------------------------------

def test_the_printed_anchor_is_inert():
    free = anchored(beta=0, anchor="fixed")
    assert torch.equal(anchored(beta=10, anchor="printed"), free)
    assert not torch.equal(anchored(beta=10, anchor="fixed"), free)


def test_with_two_inner_steps_the_printed_anchor_acts_within_the_batch():
    free = anchored(beta=0, anchor="fixed", inner=2)
    assert not torch.equal(anchored(beta=10, anchor="printed", inner=2), free)


# --- gradients ----------------------------------------------------------------------------------

S, M, L, V, D = 4, 3, 5, 7, 6


class Batch:
    """12 replies of a two-layer softmax policy, and three rewards."""

    def __init__(self, seed=0):
        draw = torch.Generator().manual_seed(seed)
        self.inner = torch.randn(D, D, generator=draw, dtype=torch.double).requires_grad_()
        self.head = torch.randn(V, D, generator=draw, dtype=torch.double).requires_grad_()
        states = torch.randn(S * M, L, D, generator=draw, dtype=torch.double)
        self.hidden = (states @ self.inner).tanh()
        self.logits = self.hidden @ self.head.T
        self.ids = torch.randint(V, (S * M, L), generator=draw)
        self.mask = torch.rand(S * M, L, generator=draw) < .7
        self.rewards = torch.rand(3, S, M, generator=draw, dtype=torch.double)
        self.logp = self.logits.log_softmax(-1).gather(-1, self.ids[..., None])[..., 0]

    def gram(self, params, parts=1):
        return reward_gradients(self.logp, self.mask, self.rewards, params, parts)


def test_the_gram_matrix_of_the_replies_gives_the_same_norms():
    """||ghat_j||^2 = a_j^T G a_j, G the inner products of grad log pi(y_i): S M backward passes."""
    batch = Batch()
    params = [batch.inner, batch.head]
    rows = []
    for logp, mask in zip(batch.logp, batch.mask):
        found = torch.autograd.grad((logp * mask).sum(), params, retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in found]))
    G = torch.stack(rows) @ torch.stack(rows).T
    a = (batch.rewards - batch.rewards.mean(-1, keepdim=True)).reshape(3, -1) / (S * M)
    wanted = (a @ G @ a.T).diagonal().sqrt()
    assert gradient_norms(batch.gram(params)) == pytest.approx(wanted.tolist(), rel=1e-9)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_closed_form_is_autograd_of_the_output_matrix(parts):
    batch = Batch(1)
    batch.logits = batch.logits.detach()
    batch.ids[batch.ids == 6] = 5
    batch.logits[..., 6] = -INF                  # token 6 is banned: p = 0, no gradient
    allowed = torch.arange(V) != 6
    logits = batch.hidden.detach() @ batch.head.T
    logits = torch.where(allowed, logits, T(-INF, dtype=torch.double))
    batch.logp = logits.log_softmax(-1).gather(-1, batch.ids[..., None])[..., 0]
    closed = head_gradients(
        batch.logits, batch.hidden, batch.ids, batch.mask, batch.rewards, parts)
    assert torch.allclose(closed, batch.gram([batch.head], parts), rtol=1e-6)


def test_two_halves_sum_to_the_whole():
    batch = Batch(2)
    params = [batch.inner, batch.head]
    assert torch.allclose(batch.gram(params, 2).sum((0, 2)), batch.gram(params)[0, :, 0])


def test_an_unscored_reply_and_a_constant_reward_add_no_gradient():
    batch = Batch(3)
    batch.rewards[1] = .5
    batch.rewards[2] = NAN
    norms = gradient_norms(batch.gram([batch.inner]))
    assert norms[0] > 0
    assert norms[1:] == [0, 0]
    assert rank_weights(norms) == [1, 0, 0]


def test_angles_by_hand():
    # a reward and its opposite pull apart; a third is constant
    batch = Batch(4)
    batch.rewards[1] = 1 - batch.rewards[0]
    batch.rewards[2] = .5
    found = cosines(batch.gram([batch.inner]))
    assert torch.allclose(found, T([[1.0, -1, 0], [-1, 1, 0], [0, 0, 0]], dtype=torch.double))


def test_signal_estimates_the_squared_norm_and_the_batchs_own_norm_exceeds_it():
    """The bandit of more_norms: E[ghat] = 7/8 (-.01, 0), so squares 7.66e-5 and 0."""
    draw = torch.Generator().manual_seed(0)
    truth = T([(.01 * 7 / 8) ** 2, 0])
    products = []
    squares = []
    for _ in range(500):
        _, gram = bandit(draw, prompts=4, parts=2)
        products.append(4 * gram[0, :, 1, :].diagonal())
        squares.append(gram.sum((0, 2)).diagonal())
    products, squares = torch.stack(products), torch.stack(squares)
    error = 3 * products.std(0) / math.sqrt(len(products))
    assert ((products.mean(0) - truth).abs() < error).all()
    # the coin has no gradient, and by its own norm the larger of both
    assert squares.mean(0)[1] > squares.mean(0)[0] > truth[0]


def test_signal_by_hand_is_never_below_0():
    # each half alone estimates twice its part: 2 g_1 and 2 g_2, so 4 <g_1, g_2> = 4 x 9
    gram = torch.zeros(2, 2, 2, 2)
    gram[0, 0, 1, 0] = 9
    gram[0, 1, 1, 1] = -1
    assert gradient_norms(gram, "signal") == [6, 0]


# --- refusals -----------------------------------------------------------------------------------

ROWS = torch.zeros(2, 3)


@pytest.mark.parametrize("call, said", [
    (lambda: group_advantage(torch.zeros(3)), "candidates"),
    (lambda: group_advantage(torch.zeros(3, 1)), "--group"),
    (lambda: kl_to_reference(ROWS, torch.zeros(3, 2), ROWS + 1), "equal shapes"),
    (lambda: kl_to_reference(ROWS, ROWS, ROWS), "not empty"),
    (lambda: grpo_loss(ROWS, ROWS, None, T([1.0, 0]), ROWS + 1, .2, .04), "reference"),
    (lambda: grpo_loss(ROWS, ROWS, ROWS, T([1.0, 0]), ROWS + 1, .2, -1), "beta = -1"),
    (lambda: grpo_loss(ROWS, ROWS, None, T([1.0]), ROWS + 1, .2, 0), "one advantage"),
    (lambda: grpo_loss(ROWS, ROWS, None, T([1.0, 0]), ROWS + 1, .2, 0, "word"), "token, reply"),
    (lambda: rank_weights([.1, -.1]), "got -0.1"),
    (lambda: rank_weights([INF]), "got inf"),
    (lambda: mix(torch.zeros(2, 1, 3), [1.0]), "one weight"),
    (lambda: owa(torch.zeros(2, 3)), "candidates"),
    (lambda: reward_gradients(ROWS, ROWS, torch.zeros(1, 3, 3), [ROWS]), "2 replies"),
    (lambda: reward_gradients(ROWS, ROWS, torch.zeros(1, 1, 2), [ROWS], 2), "1 prompts"),
    (lambda: gradient_norms(torch.zeros(1, 2, 1, 2), "size"), "--more_norms"),
    (lambda: gradient_norms(torch.zeros(1, 2, 1, 2), "signal"), "halves"),
])
def test_bad_input_is_refused_in_one_line(call, said):
    with pytest.raises(ValueError, match=said) as refused:
        call()
    assert "\n" not in str(refused.value)
