"""The core of GOPO: its equations (rewards.py, tse.py, expert.py) and the loop (play.py, gopo.py).

Numbers by hand, properties, second implementations, refusals.  The loop plays the dialogue of
tests/two_turns.py.  The Expert is in tests/test_expert.py, Eqs. 9a-9d are in test_csagent.py."""
import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import dcg_score, ndcg_score

import eval as evaluation
import lm.constraints
import lm.reader
import play
import rewards as equations
from data import Dataset, Request, fill
from expert import Expert, ExpertConfig, ExpertState, expert_loss, gae, pick_advantages
from gopo import Answer, GopoConfig
from judge import RuleJudge
from measure import evaluate
from metrics import summary, training_row
from perception import Perception
from play import Player
from policies import PhraseBook, by_chance
from rewards import (
    CS_WEIGHTS,
    cs_reward,
    dcg,
    dialogue_return,
    end_bonus,
    esndcg,
    expert_weight,
    idcg,
    joint_reward,
    relevance,
    skill_gains,
    skill_reward,
)
from shop import mgshop
from tests.helpers import GUIDE, IDS, POOL, counted, property_test
from tests.two_turns import CONTEXT, play_two, small_gopo, speaking
from tse import tse, tse_printed

T5 = ["a", "b", "c", "d", "e"]
distinct = st.lists(st.sampled_from(IDS), max_size=5, unique=True)
any_list = st.lists(st.sampled_from(IDS), max_size=5)


# --- Eqs. 2-6: the Expert's reward --------------------------------------------------------------

def test_relevance_by_hand():
    # n - index + 1 with index from 1: the first of three has 3
    assert [relevance(s, ["a", "b", "c"]) for s in "abcd"] == [3, 2, 1, 0]
    assert relevance("a", []) == 0


def test_dcg_by_hand():
    # T = [a, b]: gains 2^2 - 1 = 3 and 2^1 - 1 = 1; positions cost log2(2) = 1, log2(3) = 1.58496
    assert dcg(["b", "x", "a"], ["a", "b"]) == pytest.approx(1 + 0 + 3 / 2)
    assert idcg(["a", "b"]) == pytest.approx(3 + 1 / 1.58496, rel=1e-5)


def test_esndcg_by_hand():
    # P = [b, a]: 1 + 3 / log2(3) = 2.8928; ideal 3 + 1 / log2(3) = 3.6309
    assert esndcg(["b", "a"], ["a", "b"]) == pytest.approx(2.8928 / 3.6309, rel=1e-4)


@pytest.mark.parametrize("predicted, value", [
    (["a"], 0.679), (T5[:4], 0.992), (T5[::-1], 0.544), (T5[1:], 0.468), (["e"], 0.022), (T5, 1.0)])
def test_esndcg_is_top_heavy(predicted, value):
    assert esndcg(predicted, T5) == pytest.approx(value, abs=6e-4)


@pytest.mark.parametrize("n, copies, value", [
    (5, 5, 2.003), (5, 2, 1.108), (1, 5, 2.948), (2, 5, 2.436)])
def test_eq5_as_printed_pays_repeats(n, copies, value):
    # the literal formula exceeds 1; ours does not (GAP-2)
    assert dcg(["a"] * copies, T5[:n]) / idcg(T5[:n]) == pytest.approx(value, abs=1e-3)
    assert esndcg(["a"] * copies, T5[:n]) == esndcg(["a"], T5[:n]) <= 1


def test_a_repeat_earns_nothing_and_keeps_its_position():
    # [a, a, b]: b stands third, 3 + 0 + 1 / log2(4) = 3.5
    assert esndcg(["a", "a", "b"], ["a", "b"]) == pytest.approx(3.5 / 3.6309, rel=1e-4)


def test_esndcg_of_nothing():
    assert esndcg([], []) == 1.0
    assert esndcg(["a"], []) == 0.0
    assert esndcg([], ["a"]) == 0.0


@pytest.mark.parametrize("predicted, teacher", [
    (IDS[:6], ["a"]), (["a"], IDS[:6]), (["a"], ["b", "b"])])
def test_esndcg_refuses(predicted, teacher):
    with pytest.raises(ValueError):
        esndcg(predicted, teacher)


@property_test
@given(any_list, distinct)
def test_esndcg_stays_in_its_range(predicted, teacher):
    value = esndcg(predicted, teacher)
    assert 0 <= value <= 1 + 1e-12
    if predicted[:len(teacher)] == teacher and (teacher or not predicted):
        assert value == pytest.approx(1)


@property_test
@given(distinct.filter(len), distinct.filter(len))
def test_esndcg_equals_scikit_learn(predicted, teacher):
    """Oracle: sklearn's DCG of gains 2^Rel - 1, the predicted skills ranked first in their order.

    It is cut after m; the ideal is cut after n.
    """
    gain = np.zeros((1, len(IDS)))
    rank = -np.arange(len(IDS), dtype=float)[None]
    for i, skill in enumerate(IDS):
        if skill in teacher:
            gain[0, i] = 2.0 ** (len(teacher) - teacher.index(skill)) - 1
        if skill in predicted:
            rank[0, i] = 10.0 - predicted.index(skill)
    wanted = dcg_score(gain, rank, k=len(predicted)) / dcg_score(gain, gain)
    assert esndcg(predicted, teacher) == pytest.approx(wanted)
    if len(predicted) >= len(teacher):
        wanted = ndcg_score(gain, rank, k=len(predicted))
        assert esndcg(predicted, teacher) == pytest.approx(wanted)


def test_skill_reward_charges_for_extra_skills():
    # m - n = 3 skills beyond the teacher's number at .1 each; fewer cost nothing beyond ESNDCG
    assert skill_reward(["a", "x", "y", "z"], ["a"]) == pytest.approx(0.7)
    assert skill_reward(["a", "x", "y", "z"], ["a"], cost=0) == 1
    assert skill_reward(["a"], T5) == esndcg(["a"], T5)
    assert skill_reward(["x"], []) == pytest.approx(-0.1)
    assert skill_reward([], []) == 1


def test_skill_gains_by_hand():
    # T = [a]: a earns 1, x then costs .1, the stop earns nothing; (empty, empty) pays the stop
    assert skill_gains(["a", "x"], ["a"]) == pytest.approx([1.0, -0.1, 0.0])
    assert skill_gains([], []) == [1.0]
    assert skill_gains([], ["a"]) == [0.0]


@property_test
@given(any_list, distinct, st.floats(0, 1))
def test_skill_gains_sum_to_the_reward(predicted, teacher, cost):
    gains = skill_gains(predicted, teacher, cost)
    assert len(gains) == len(predicted) + 1
    assert sum(gains) == pytest.approx(skill_reward(predicted, teacher, cost), abs=1e-9)


# --- Eqs. 8, 10 and 1: the Customer Service Agent, both agents, a dialogue ----------------------

def test_cs_reward_by_hand():
    assert cs_reward((1, 0.5, 0.5, 0)) == pytest.approx(0.6)        # .3 * 1 + .3 * .5 + .3 * .5
    assert sum(CS_WEIGHTS) == pytest.approx(1)
    assert cs_reward((1, 0), (3, 1)) == pytest.approx(0.75)         # weights are normalised


@pytest.mark.parametrize("scores, weights", [
    ((1,), (0.5, 0.5)), ((1, 1), (1, -1)), ((1, 1), (0, 0))])
def test_cs_reward_refuses(scores, weights):
    with pytest.raises(ValueError):
        cs_reward(scores, weights)


@property_test
@given(st.tuples(*[st.floats(0, 1)] * 4), st.tuples(*[st.floats(0.01, 5)] * 4))
def test_cs_reward_is_a_mean(scores, weights):
    assert min(scores) - 1e-9 <= cs_reward(scores, weights) <= max(scores) + 1e-9


def test_expert_weight_by_hand():
    # .3 + .4 (t - 1) / 4
    weights = [expert_weight(t, 5) for t in (1, 2, 3, 5, 50)]
    assert weights == pytest.approx([0.3, 0.4, 0.5, 0.7, 0.7])
    assert expert_weight(1, 1) == expert_weight(9, 1) == 0.3        # horizon 1 divides by nothing


@pytest.mark.parametrize("turn, horizon", [(0, 5), (-1, 5), (1, 0)])
def test_expert_weight_refuses(turn, horizon):
    with pytest.raises(ValueError):
        expert_weight(turn, horizon)


@property_test
@given(st.integers(1, 60), st.integers(1, 30))
def test_both_agents_always_count(turn, horizon):
    now, later = expert_weight(turn, horizon), expert_weight(turn + 1, horizon)
    assert 0.3 <= now <= later <= 0.7 + 1e-12                       # so w^A >= .3


def test_joint_reward_by_hand():
    assert joint_reward(0.8, 0.2, 3, 5) == pytest.approx(0.5)       # .5 * .8 + .5 * .2
    assert joint_reward(0.8, None, 3, 5) == 0.8                     # unscored: R^E, not half of it
    assert joint_reward(1.0, 0.0, 1, 5) == pytest.approx(0.3)       # w^E is small at first


def test_end_bonus_by_hand():
    assert end_bonus(10, 12, 0.5, True) == 0.75                     # turn 10 of 12: .5 + .25
    assert end_bonus(10, 12, 0.5, False) == 0
    assert end_bonus(12, 12, 0.5, True) == 0


def test_dialogue_return_by_hand():
    # .5 + .5 * .4 played, then .25 + .125 for the two turns left
    assert dialogue_return([0.5, 0.4], 4, 0.5, True) == pytest.approx(0.7 + 0.375)
    assert dialogue_return([0.5, 0.4], 4, 0.5, False) == pytest.approx(0.7)


def test_stalling_does_not_pay():
    quick, slow = [0.95] * 4, [0.5] * 12
    # without the absorbing end it would: 3.52 < 4.60 (GAP-4)
    discount = 0.95 ** np.arange(12)
    assert discount[:4] @ quick < discount @ slow
    in_time, late = (dialogue_return(rewards, 12, 0.95, True) for rewards in (quick, slow))
    assert in_time > late == dialogue_return(slow, 12, 0.95, False)


@property_test
@given(st.integers(1, 12), st.floats(0, 1))
def test_a_success_is_worth_rewards_of_one_to_the_horizon(turn, gamma):
    # Eq. 1 with T fixed and an absorbing end
    wanted = sum(gamma ** t for t in range(12))
    assert dialogue_return([1.0] * turn, 12, gamma, True) == pytest.approx(wanted)


# --- Eq. 11: TSE --------------------------------------------------------------------------------

@pytest.mark.parametrize("turns, ours, printed", [
    ((1, 2, 3), 1.0, 1.0),
    ((1, 2, 4), 0.9667, 0.9667),
    ((3, 4, 5), 0.9367, 0.9367),
    ((2, 4, 5), 0.9333, 0.9333),                    # not monotone: (3, 4, 5) -> (2, 4, 5)
    ((1, 1, 1), 1.0, 1.0741),                       # as printed exponent -1: 1 / .9 > 1
    ((3, 1, 2), (0.81 + 1 + 1) / 3, 1.0604),        # printed: (.9^2 + .9^-3 + .9^0) / 3
    ((3, 1, 5), (0.81 + 1 + 0.9) / 3, 0.9702),      # the anchor of task 3 is turn 3, the latest
    ((2, None, None), 0.3, None),
    ((2, 3, None), (0.9 + 1) / 3, None),
    ((None, 2, 3), (0.9 + 1) / 3, None),
    ((None, None, None), 0.0, None)])
def test_tse_by_hand(turns, ours, printed):
    # GAP-3
    assert tse(turns) == pytest.approx(ours, abs=1e-4)
    if printed is None:
        with pytest.raises(ValueError):
            tse_printed(turns)
    else:
        assert tse_printed(turns) == pytest.approx(printed, abs=1e-3)


weights3 = st.tuples(*[st.floats(0, 3)] * 3)
decay = st.floats(0.05, 1)
turn_or_none = st.none() | st.integers(1, 20)
three_turns = st.lists(st.integers(1, 40), min_size=3, max_size=3, unique=True)


@property_test
@given(three_turns, weights3, decay)
def test_tse_equals_the_printed_formula_in_order(turns, weights, gamma):
    turns = sorted(turns)
    assert tse(turns, weights, gamma) == pytest.approx(tse_printed(turns, weights, gamma))


@property_test
@given(st.tuples(*[turn_or_none] * 3), weights3, decay, st.integers(0, 2), st.integers(1, 20))
def test_tse_range_and_completing_never_lowers(turns, weights, gamma, i, turn):
    assert -1e-12 <= tse(turns, weights, gamma) <= sum(weights) + 1e-9
    not_done, done = list(turns), list(turns)
    not_done[i] = None
    done[i] = turn
    assert tse(done, weights, gamma) >= tse(not_done, weights, gamma) - 1e-9


@pytest.mark.parametrize("arguments", [
    ((0, 1, 2),), ((1, 2),), ((1, 2, 3), (1, 1)), ((1, 2, 3), (1, -1, 1)),
    ((1, 2, 3), (1, 1, 1), 0.0), ((1, 2, 3), (1, 1, 1), 1.1)])
def test_tse_refuses(arguments):
    with pytest.raises(ValueError):
        tse(*arguments)


# --- Eq. 7: the Expert's loss -------------------------------------------------------------------

def test_gae_by_hand():
    # delta_2 = 0 + 0 - .5 = -.5, delta_1 = 1 + .45 - .5 = .95; A_1 = .95 + .45 * -.5 = .725
    assert gae([1.0, 0.0], [0.5, 0.5, 0.0], 0.9, 0.5) == pytest.approx([0.725, -0.5])
    # truncated: the last state's value still counts
    assert gae([0.0], [0.5, 2.0], 0.5, 0.7) == pytest.approx([0.5])


reward_and_value = st.tuples(st.floats(-1, 1), st.floats(-1, 1))


@property_test
@given(st.lists(reward_and_value, min_size=1, max_size=12),
       st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_a_double_sum(pairs, last, gamma, lam):
    # A_t = sum_{k >= t} (gamma lam)^(k-t) delta_k
    r = [reward for reward, _ in pairs]
    v = [value for _, value in pairs] + [last]
    T = len(r)
    delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(T)]
    wanted = []
    for t in range(T):
        wanted.append(sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, T)))
    assert gae(r, v, gamma, lam) == pytest.approx(wanted, abs=1e-9)


def test_gae_refuses():
    with pytest.raises(ValueError):
        gae([1.0], [0.5], 0.9, 0.5)


def test_expert_loss_by_hand():
    # -(1 * -1 + -2 * -3) / 2 - .1 * (.4 + .6) / 2 = -2.5 - .05
    logp = torch.tensor([[-1.0], [-3.0]])
    adv = torch.tensor([[1.0], [-2.0]])
    entropy = torch.tensor([[0.4], [0.6]])
    assert expert_loss(logp, adv, entropy, 0.1).item() == pytest.approx(-2.55)
    # pick by pick with one advantage a turn: the same
    picks = torch.tensor([[-0.5, -0.5], [-3.0, 0.0]])
    each = torch.tensor([[0.3, 0.1], [0.6, 0.0]])
    assert expert_loss(picks, adv.expand(2, 2), each, 0.1).item() == pytest.approx(-2.55)


def test_expert_loss_gradient_by_finite_differences():
    logp = torch.randn(3, 2, dtype=torch.double, requires_grad=True)
    entropy = torch.rand(3, 2, dtype=torch.double, requires_grad=True)
    adv = torch.randn(3, 2, dtype=torch.double, requires_grad=True)

    def loss(a, b):
        return expert_loss(a, adv.detach(), b, 0.3)

    assert torch.autograd.gradcheck(loss, (logp, entropy))
    expert_loss(logp, adv, entropy, 0.3).backward()
    assert torch.allclose(logp.grad, -adv / 3)
    assert torch.allclose(entropy.grad, torch.full_like(entropy, -0.1))
    assert adv.grad is None


@pytest.mark.parametrize("shapes", [
    ((2, 4), (3, 4), (2, 4)), ((2, 4), (2,), (2, 4)), ((2, 4), (2, 4), (3, 4)),
    ((2, 4), (2, 4), (2,)), ((2,), (2,), (2,))])
def test_expert_loss_refuses(shapes):
    with pytest.raises(ValueError):
        expert_loss(*(torch.zeros(s) for s in shapes), 0.1)


def test_pick_advantages_by_hand():
    # G = 2, gains 1, .5, 0, V = .3, .2, .1: 2 - 0 - .3, 2 - 1 - .2; the third pick was not made
    G = torch.tensor([2.0])
    gains = torch.tensor([[1.0, 0.5, 0.0]])
    values = torch.tensor([[0.3, 0.2, 0.1]])
    mask = torch.tensor([[True, True, False]])
    found = pick_advantages(G, gains, values, mask)
    assert found.tolist() == [pytest.approx([1.7, 0.8, 0.0])]


# --- a turn -------------------------------------------------------------------------------------

def test_the_customer_hears_reply_0():
    # never the best-scored one, or training would be on-policy for another policy
    played = play_two()
    assert played.heard == ["one/0", "two/0"]
    assert [len(s.replies) for s in played.steps] == [3, 3]
    assert max(played.steps[0].scores) == played.steps[0].scores[2]
    assert len(played.judged) == 6
    assert played.judged[0].reference == "gold"


def test_a_turn_hands_on_history_and_previous_skills():
    played = play_two()
    first, second = played.steps
    assert first.state == ExpertState("one")
    assert second.state == ExpertState("two", (("one", "one/0"),), ("pay",))
    said = (("one", "one/0"), ("two", "two/0"))
    assert played.episode.state() == ExpertState("bye", said, ("guide",))
    assert played.judged[3].previous == ("one/0",)
    assert played.judged[3].skills == (GUIDE,)


def test_labels_of_the_customer_are_kept_from_the_agents():
    played = play_two()
    first, second = (s.seen.labels for s in played.steps)
    assert (first.intent, first.emotion) == ("refund", "angry")
    assert (second.intent, second.emotion) == (None, None)
    assert played.steps[0].perceived == ("refund", "neutral")
    # s^A_t = (U_t, a^E_t, B_t), no more: no label of the customer
    assert played.requests == [Request("two", ("guide",), {})]
    single = play_two(GopoConfig(no_expert=True), skills=((), ()))
    said = (("one", "one/0"),)
    assert single.requests == [Request("two", (), {}, said, "refund", "neutral")]


def test_judge_by_names_who_sets_the_standard():
    gopo = small_gopo()
    choose = by_chance(["guide"], 0)

    def played(judge_by):
        episode, = gopo.play(gopo.episodes("train", [0], 0), choose, judge_by=judge_by)
        return episode

    played("needed")
    assert [i.skills for i in gopo.judge.seen] == [(POOL["pay"],), (POOL["sorry"], GUIDE)]
    assert [s.scores for s in played("nobody").steps] == [[None], [None]]
    assert len(gopo.judge.seen) == 2
    with pytest.raises(ValueError, match="judge_by"):
        played("chance")


def test_dialogues_in_lockstep_equal_those_played_one_by_one():
    pool = mgshop.skill_pool()

    def customer(split, number, seed):
        return mgshop.Shop(seed, split, number)

    def wording(skills, context, rng):
        return mgshop.template(skills, context, random.Random(0))

    shop = Dataset(
        "shop", pool, (), (), [], [], [], environment=customer, template=wording)
    expert = Expert(list(pool), Perception([], []), ExpertConfig(width=8))
    player = Player(shop, expert, PhraseBook(shop), RuleJudge(pool), GopoConfig())
    choose = by_chance(list(pool), 0)

    def steps(numbers):
        return [e.steps for e in player.play(player.episodes("test", numbers, 0), choose)]

    together = steps(range(5))
    assert together == [steps([n])[0] for n in range(5)]
    # dialogues of different length do not mix
    assert len({len(turns) for turns in together}) > 1


# --- what a turn earns --------------------------------------------------------------------------

# Turn 1: T = [pay], P = [pay]: R^E = 1, w^E = .3.
# Turn 2: T = [sorry, guide], P = [guide]: R^E = 1 / 3.6309 = .2754, w^E = .5.
# R^A of reply k = .3 k/4 + .7; its group mean over k = 0, 1, 2 is .775.
R_E = (1.0, 1 / (3 + 1 / math.log2(3)))
JOINT = (0.3 + 0.7 * 0.775, 0.5 * R_E[1] + 0.5 * 0.775)


def turn_rewards(played):
    return [step.R_t for step in played.steps]


@pytest.mark.parametrize("reward, wanted", [
    ("joint", JOINT), ("expert", R_E), ("cs", (0.775, 0.775))])
def test_rewards_by_hand(reward, wanted):
    cfg = GopoConfig(reward=reward, gamma=0.5)
    played = play_two(cfg)
    assert turn_rewards(played) == pytest.approx(wanted)
    # success at turn 2 of 3: gamma^1 * 1
    assert played.gopo.rewards(played.episode) == pytest.approx((wanted[0], wanted[1] + 0.5))
    # the customer left: 0; cut off: the critic says what is to come
    for end in ({"success": False}, {"truncated": True}):
        other = play_two(cfg, **end)
        assert other.gopo.rewards(other.episode) == pytest.approx(wanted)


def test_an_unscored_turn_has_the_experts_reward_alone():
    # GAP-7: neither 0 nor half
    played = play_two(silent=("two",))
    gopo = played.gopo
    assert turn_rewards(played) == pytest.approx((JOINT[0], R_E[1]))
    assert gopo.reply_rewards(played.episode)[1] == [None, None, None]
    # and the gains are not halved either
    assert gopo.gains(played.steps[1], 2) == pytest.approx([R_E[1], 0.0])
    assert summary(gopo, [played.episode])["unscored"] == 0.5


def test_outcome_weight_adds_tse():
    # N = (1, 2, 2): all three weights at full value, TSE = 1
    plain = play_two()
    weighted = play_two(GopoConfig(outcome_weight=2.0))
    first, second = plain.gopo.rewards(plain.episode)
    assert weighted.gopo.rewards(weighted.episode) == pytest.approx([first, second + 2.0])
    assert turn_rewards(weighted) == pytest.approx(turn_rewards(plain))


def test_reply_rewards_by_hand():
    # Eq. 9b: R^A as printed, or R_t of each reply
    plain = play_two()
    assert plain.gopo.reply_rewards(plain.episode)[0] == pytest.approx([0.7, 0.775, 0.85])
    joint = play_two(GopoConfig(cs_reward="joint"))
    wanted = [0.5 * R_E[1] + 0.5 * r for r in (0.7, 0.775, 0.85)]
    assert joint.gopo.reply_rewards(joint.episode)[1] == pytest.approx(wanted)


@pytest.mark.parametrize("reward, factor", [("joint", 0.3), ("expert", 1.0), ("cs", 0.0)])
def test_gains_are_weighted_like_the_reward(reward, factor):
    played = play_two(GopoConfig(reward=reward))
    step = played.steps[0]
    assert step.R_E == skill_reward(step.skills, step.teacher, 0.1)
    assert sum(played.gopo.gains(step, 1)) == pytest.approx(factor * step.R_E)


def test_returns_of_a_batch_by_hand():
    cfg = GopoConfig(gamma=0.5)
    ended = play_two(cfg, expert={"gae_lambda": 1.0})
    cut = play_two(cfg, truncated=True).episode
    gopo = ended.gopo
    batch = gopo.expert_batch([ended.episode, cut])
    # lambda 1, terminated: G_t is the discounted sum whatever the critic says
    r = gopo.rewards(ended.episode)
    assert batch.returns[:2] == pytest.approx([r[0] + 0.5 * r[1], r[1]], abs=1e-6)
    # truncated: V of the last state follows
    q = gopo.rewards(cut)
    last = gopo.expert.state_values([cut.state()])[0]
    wanted = [q[0] + 0.5 * (q[1] + 0.5 * last), q[1] + 0.5 * last]
    assert batch.returns[2:] == pytest.approx(wanted, abs=1e-6)
    assert abs(last) > 1e-4
    assert batch.skills == [("pay",), ("guide",)] * 2
    assert batch.states[1].user == "two"
    assert [len(gains) for gains in batch.gains] == [2, 2] * 2


# --- a step -------------------------------------------------------------------------------------

def test_a_step_is_determined_by_seed_and_number():
    # so a resumed run needs no generator's state
    calls = itertools.count()

    def outcome(number, seed, stage=0):
        gopo = small_gopo(GopoConfig(dialogues=6))
        torch.manual_seed(next(calls))           # global randomness plays no part
        played, learned = gopo.step(number, seed, stage)
        turns = []
        for e in played:
            turns.append((e.number, [(s.skills, s.reply) for s in e.steps]))
        row = training_row(number, gopo, played, learned)
        return row, turns, gopo.expert.actor.weight.detach().clone()

    row, turns, weight = outcome(3, 0)
    again = outcome(3, 0)
    assert (row, turns) == again[:2]
    assert torch.equal(weight, again[2])
    for other in ((4, 0), (3, 1), (3, 0, 1)):
        assert outcome(*other)[1] != turns
    assert row["step"] == 3
    assert all(v is None or math.isfinite(v) for v in row.values())


# --- one turn is one thing ----------------------------------------------------------------------

both_speakers = pytest.mark.parametrize("who", ["phrase book", "language model"])
both_uses = pytest.mark.parametrize("use", ["training", "evaluation"])


@both_speakers
@both_uses
def test_a_turn_is_computed_once(who, use, monkeypatch):
    gopo = speaking(who)
    compiled = {
        "phrase book": counted(monkeypatch, lm.constraints, "compile_constraints"),
        "language model": counted(monkeypatch, lm.reader, "compile_constraints")}
    prompts = counted(monkeypatch, lm.reader.Reader, "prompt")
    asked = counted(monkeypatch, play, "prefix_esndcg")
    again = counted(monkeypatch, equations, "prefix_esndcg")
    if use == "training":
        played, learned = gopo.step(1, 0)
        training_row(1, gopo, played, learned)
    else:
        _, played = evaluate(gopo, gopo.chooser(greedy=True), 3, 0)
    turns = sum(len(e.steps) for e in played)
    assert turns == 6
    assert len(compiled[who]) == turns
    assert len(compiled["phrase book"] + compiled["language model"]) == turns
    assert len(prompts) == turns * (who == "language model")
    assert len(asked) == turns                   # Eqs. 2-6, all that a turn needs of them
    assert not again


@both_speakers
def test_chat_respond_and_an_evaluated_turn_are_the_same(who, monkeypatch, capsys):
    gopo = speaking(who)
    _, played = evaluate(gopo, gopo.chooser(greedy=True), 1, 0)
    measured = [(s.skills, s.reply) for s in played[0].steps]

    shown = []
    monkeypatch.setattr(evaluation, "show_turn", lambda step, *_, **__: shown.append(step))
    lines = iter(["one", "two", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    evaluation.chat(gopo)
    assert [(s.skills, s.reply) for s in shown] == measured

    answer = Answer(gopo)
    skills, reply = answer.respond(["one"], CONTEXT)
    assert (skills, reply) == (measured[0][0], fill(measured[0][1], CONTEXT))
    second = answer.respond(["one", reply, "two"], CONTEXT, previous=skills)
    assert second == (measured[1][0], fill(measured[1][1], CONTEXT))
