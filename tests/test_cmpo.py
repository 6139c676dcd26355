"""CMPO on a tiny shop: groups, the control copy, rewards, the price, checkpoints, processes."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import data
from data import DECISION, Outcome
from perception import HideSentences, reading
from policies import keyed
from systems.cmpo import CMPO, PROPOSAL, Shown
from systems.cmpo_config import CMPOConfig
from systems.decision import decision_log_odds, exact_kl, given_no, uniform_anchor
from systems.interactcs import Price, cmpo_objective, cmpo_tokens, normalise
from tests.helpers import IDS, expert_of, property_test
from tests.small_world import made, practised


@pytest.fixture(scope="module")
def cmpo() -> CMPO:
    return made()


def skills_of(episode) -> tuple:
    return tuple(step.skills for step in episode.steps)


# --- groups ---------------------------------------------------------------------------------------

def test_copies_of_a_customer_share_the_customer_and_nothing_that_is_drawn(cmpo):
    episodes = cmpo.copies("train", [7, 8], 0)
    assert len({e.number for e in episodes}) == 8
    first, second = episodes[:4], episodes[4:]
    assert len({e.env.key for e in first}) == 1
    assert first[0].env.key != second[0].env.key
    assert len({e.seen.user for e in first}) == 1
    played = cmpo.play(episodes, cmpo.chooser(keyed(0)), judge_by="nobody")
    assert len({skills_of(e) for e in played[:3]}) > 1


def test_copies_that_choose_alike_have_the_same_dialogue():
    # also in what luck brings: the same customer twice would otherwise be two
    cmpo = made(warm=False)
    for noise, ends in (("paired", 1), ("own", 2)):
        cmpo.options = CMPOConfig(customer_noise=noise, control_copies=0, copies=8).settled(False)
        calm = [c for c in range(20) if not cmpo.copies("train", [c], 0)[0].env.eager]
        episodes = cmpo.copies("train", calm[:1], 0)
        cmpo.play(episodes, lambda states, live: [(DECISION,)] * len(live), judge_by="nobody")
        assert len({e.seen.outcome.satisfaction for e in episodes}) == ends


def test_the_wording_of_the_phrase_book_is_luck(cmpo, monkeypatch):
    drawn = []

    def note(skills, context, rng):
        drawn.append(rng.random())
        return "Hm."

    monkeypatch.setattr(cmpo.dataset, "template", note)
    monkeypatch.setattr(cmpo, "chooser", lambda draws: lambda states, live: [()] * len(live))
    cmpo.step(1, 0)
    # eight customers, three turns: four copies hear the same draw
    assert len(drawn) == 8 * 4 * 3
    assert len(set(drawn)) == 8 * 3


def test_a_control_copy_never_offers_and_its_probability_is_the_masked_one(cmpo):
    played = practised(cmpo, range(12))
    talks = [cmpo.talk(e) for e in played]
    control = [talk for talk in talks if talk.control]
    assert len(control) == 12
    for talk in control:
        for step in talk.episode.steps:
            assert not {DECISION, PROPOSAL} & set(step.skills)
        assert set(talk.episode.steps[0].state.banned) == {DECISION, PROPOSAL}
    assert any(any(talk.issued) for talk in talks if not talk.control)
    # the chance of the pick among what was left, which sums to 1 without the voucher
    state = control[0].episode.steps[0].state
    picks = cmpo.expert.picks([("explain",)], [state])
    log_p = cmpo.expert.distributions(cmpo.expert.read([state]), picks)[0, 0]
    assert log_p.exp().sum().item() == pytest.approx(1)
    assert log_p[cmpo.expert.index[DECISION]] == -math.inf


def test_the_decision_of_a_control_copy_is_not_learned(cmpo):
    played = practised(cmpo, range(6))
    turns = cmpo.turns([t for t in map(cmpo.talk, played) if t.control], [[1.0] * 3] * 6)
    assert not any(turns.could(DECISION) + turns.could(PROPOSAL))
    # with an advantage in every turn, no gradient reaches the voucher's row
    cmpo.freeze()
    _, reference = cmpo._before(turns)
    loss = cmpo._loss(turns, 6, None, reference, 0.05, Shown(1))
    found, = torch.autograd.grad(loss, cmpo.expert.actor.weight)
    assert not found[cmpo.expert.index[DECISION]].any()
    assert found[cmpo.expert.index["explain"]].any()


def test_the_voucher_rate_leaves_the_control_copies_out(cmpo):
    talks = [cmpo.talk(e) for e in practised(cmpo, range(12))]
    free = [any(talk.issued) for talk in talks if not talk.control]
    assert cmpo.told(talks, talks)["voucher_rate"] == sum(free) / 36


def by_hand(cmpo: CMPO, sequences) -> list:
    """Talks of one customer, whose copies play these skills in every turn."""
    episodes = cmpo.copies("train", [eager_customer(cmpo)], 0)
    at = dict(zip([e.number for e in episodes], sequences))
    cmpo.play(episodes, lambda _, live: [at[e.number] for e in live], judge_by="nobody")
    return [cmpo.talk(e) for e in episodes]


def eager_customer(cmpo: CMPO) -> int:
    return next(c for c in range(50) if cmpo.copies("train", [c], 0)[0].env.eager)


def decision_gradient(cmpo: CMPO, talks) -> float:
    """How far the objective, without the anchor, moves the voucher's row."""
    cmpo.reference = None
    cmpo.freeze()
    turns = cmpo.turns(talks, cmpo.advantages(talks))
    _, reference = cmpo._before(turns)
    loss = cmpo._loss(turns, len(talks), None, reference, 0.0, Shown(1))
    found, = torch.autograd.grad(loss, cmpo.expert.actor.weight)
    return float(found[cmpo.expert.index[DECISION]].abs().max())


def test_a_group_that_decides_alike_is_moved_by_its_control_copy_alone(cmpo):
    cmpo.price = Price(0.3, 0.0, None, 0.27)
    voucher = ("explain", DECISION)
    # all four issue: whatever the price, nothing is better than anything
    alike = [talk for talk in by_hand(cmpo, [voucher] * 4) if not talk.control]
    assert all(talk.issued == [1, 0, 0] for talk in alike)
    # the turns of a dialogue differ, for a voucher is charged until it is issued ...
    by_dialogue = np.array(cmpo.advantages(alike))
    assert np.ptp(by_dialogue, axis=0).max() == 0
    # ... but with the release's credit all advantages are 0, and with them the gradient
    cmpo.options = CMPOConfig(customers=8, credit="dialogue").settled(False)
    assert decision_gradient(cmpo, alike) < 1e-6
    with_control = by_hand(cmpo, [voucher] * 4)
    assert with_control[-1].control
    assert decision_gradient(cmpo, with_control) > 1e-3
    row = cmpo.told(with_control, with_control)
    assert (row["dead_groups"], cmpo.told(alike, alike)["dead_groups"]) == (0, 1)
    cmpo.options, cmpo.price = CMPOConfig(customers=8).settled(False), Price.start(0.0, cmpo.gains)


# --- rewards --------------------------------------------------------------------------------------

def test_advantages_by_hand(cmpo):
    # an eager customer gives 2 stars, and 4 with a voucher: R_O .25 and .75.  Price .3, credit 0.
    cmpo.price = Price(0.3, 0.0, None, 0.27)
    cmpo.options = CMPOConfig(customers=8, scale="group").settled(False)
    talks = by_hand(cmpo, [(DECISION,), ("explain",), ("explain",), ()])
    assert [talk.R_O for talk in talks] == [0.75, 0.25, 0.25, 0.25]
    # turns .45 .75 .75 and nine of .25: mean 4.2 / 12 = .35
    # variance (.01 + 2 * .16 + 9 * .01) / 12 = .035, sd .187083
    found = cmpo.advantages(talks)
    assert found[0] == pytest.approx([0.1 / 0.187083, 0.4 / 0.187083, 0.4 / 0.187083], abs=1e-4)
    assert found[1] == pytest.approx([-0.1 / 0.187083] * 3, abs=1e-4)
    cmpo.options = CMPOConfig(customers=8).settled(False)
    cmpo.price = Price.start(0.0, cmpo.gains)


def test_one_scale_for_the_batch_is_the_pure_function(cmpo):
    cmpo.options = CMPOConfig(scale="batch").settled(False)
    talks = [cmpo.talk(e) for e in practised(cmpo)]
    groups = [talk.group for talk in talks]
    rewards = [cmpo.turn_rewards(talk) for talk in talks]
    expected = normalise(rewards, groups, "batch")
    for row, wanted in zip(cmpo.advantages(talks), expected):
        assert row == pytest.approx(wanted)
    cmpo.options = CMPOConfig(customers=8).settled(False)


@pytest.mark.parametrize("end, truncated, expected", [
    (Outcome(satisfaction=5), False, 1.0),
    (Outcome(satisfaction=5), True, -0.25),
    (Outcome(satisfaction=5, valid=False), False, -1.0),
    (Outcome(), False, None),
])
def test_how_a_dialogue_ended(cmpo, end, truncated, expected):
    episode = practised(cmpo, [3])[0]
    episode.seen.outcome, episode.seen.truncated = end, truncated
    assert cmpo.ended(episode) == expected


def test_a_dialogue_without_a_mark_leaves_the_loss_and_is_counted(cmpo):
    played = practised(cmpo, [3, 4])
    played[0].seen.outcome = Outcome(vouchers=0)
    talks = [cmpo.talk(e) for e in played]
    kept = cmpo.comparable(talks)
    assert [talk.group for talk in kept] == [3] * 3 + [4] * 4
    assert cmpo.told(talks, kept)["unscored_dialogues"] == 1 / 8
    # a group of one is none
    for e in played[1:3]:
        e.seen.outcome = Outcome(vouchers=0)
    left = cmpo.comparable([cmpo.talk(e) for e in played])
    assert [talk.group for talk in left] == [4] * 4


@pytest.mark.parametrize("skills", [(), (DECISION,)])
def test_a_batch_without_a_voucher_or_with_nothing_else(skills, monkeypatch):
    cmpo = made(warm=False)
    monkeypatch.setattr(cmpo, "chooser", lambda draws: lambda _, live: [skills] * len(live))
    _, row = cmpo.step(1, 0)
    assert row["voucher_rate"] == bool(skills)
    assert all(v is None or math.isfinite(v) for v in row.values())


def test_a_batch_in_which_nobody_gave_a_mark_changes_no_weight(monkeypatch):
    cmpo = made(warm=False)
    before = cmpo.expert.actor.weight.clone()
    monkeypatch.setattr(cmpo, "ended", lambda episode: None)
    _, row = cmpo.step(1, 0)
    assert torch.equal(before, cmpo.expert.actor.weight)
    assert (row["unscored_dialogues"], row["loss"]) == (1, None)
    monkeypatch.undo()
    assert list(cmpo.step(2, 0)[1]) == list(row)


# --- the two-way decision -------------------------------------------------------------------------

def test_the_decision_of_a_sequence_by_hand():
    # two picks, voucher 0: q = .2, then .5 of what is left; p = .2 + .8 * .5 = .6, chat .4
    log_p = torch.tensor([[[0.2, 0.5, 0.3], [0.5, 0.0, 0.5]]]).log()
    mask = torch.ones(1, 2, dtype=torch.bool)
    log_d, log_chat = decision_log_odds(log_p, mask, 0)
    assert (log_d.exp().item(), log_chat.exp().item()) == pytest.approx((0.6, 0.4))
    # a pick that was not made does not count
    log_d, _ = decision_log_odds(log_p, torch.tensor([[True, False]]), 0)
    assert log_d.exp().item() == pytest.approx(0.2)
    # once it was taken it is barred, and later picks add nothing
    log_p = torch.tensor([[[0.2, 0.5, 0.3], [0.0, 0.5, 0.5]]]).log()
    assert decision_log_odds(log_p, mask, 0)[0].exp().item() == pytest.approx(0.2)


@property_test
@given(st.floats(-40, 40))
def test_the_anchor_pulls_the_harder_the_surer_the_decision(log_odds):
    x = torch.tensor(log_odds, dtype=torch.float64, requires_grad=True)
    log_p = torch.stack([x, torch.zeros_like(x)]).log_softmax(0)[None, None]
    mask = torch.ones(1, 1, dtype=torch.bool)
    log_d, log_chat = decision_log_odds(log_p, mask, 0)
    anchor = uniform_anchor(log_d, log_chat)
    anchor.backward()
    p = 1 / (1 + math.exp(-log_odds))
    # the gradient in the log-odds is p - 1/2: the entropy's, p (1 - p) log-odds, would vanish
    assert x.grad.item() == pytest.approx(p - 0.5, abs=1e-9)
    assert anchor.item() >= -1e-12


def test_the_divergence_of_the_decision_is_exact():
    # one pick of three: KL over all of them is that of the decision plus (1 - q) times the rest
    log_p = torch.tensor([[[0.2, 0.5, 0.3]]]).log()
    reference = torch.tensor([[[0.6, 0.1, 0.3]]]).log()
    found = exact_kl(log_p, reference, torch.ones(1, 1, dtype=torch.bool))
    decision = 0.2 * math.log(0.2 / 0.6) + 0.8 * math.log(0.8 / 0.4)
    rest = 0.625 * math.log(0.625 / 0.25) + 0.375 * math.log(0.375 / 0.75)
    assert found.item() == pytest.approx(decision + 0.8 * rest)


def test_the_divergence_is_finite_where_skills_are_barred():
    first, other = expert_of(IDS), expert_of(IDS, seed=1)
    state = data.ExpertState("Hello", banned=("a",))
    picks = first.picks([("b", "c")], [state])
    log_p = first.distributions(first.read([state]), picks)
    kl = exact_kl(log_p, other.distributions(other.read([state]), picks).detach(), picks.mask)
    kl.sum().backward()
    assert kl.item() > 0
    assert all(torch.isfinite(p.grad).all() for p in first.parameters() if p.grad is not None)
    assert exact_kl(log_p, log_p, picks.mask).item() == pytest.approx(0, abs=1e-6)


def test_the_pull_spares_the_vouchers():
    # given no voucher: .5 : .3 against .1 : .3, whatever the voucher's own probability is
    log_p = torch.tensor([[[0.2, 0.5, 0.3]]]).log()
    reference = torch.tensor([[[0.6, 0.1, 0.3]]]).log()
    mask = torch.ones(1, 1, dtype=torch.bool)
    found = exact_kl(given_no(log_p, [0]), given_no(reference, [0]), mask)
    by_hand = 0.625 * math.log(0.625 / 0.25) + 0.375 * math.log(0.375 / 0.75)
    assert found.item() == pytest.approx(by_hand)
    eager = torch.tensor([[[0.9, 0.0625, 0.0375]]]).log()
    again = exact_kl(given_no(eager, [0]), given_no(reference, [0]), mask)
    assert again.item() == pytest.approx(by_hand)


@pytest.mark.parametrize("spares, moved", [("vouchers", False), ("nothing", True)])
def test_who_only_gives_more_vouchers_is_pulled_back_where_nothing_is_spared(cmpo, spares, moved):
    cmpo.options = CMPOConfig(kl_spares=spares).settled(False)
    cmpo.freeze()
    talks = [cmpo.talk(e) for e in practised(cmpo)]
    turns = cmpo.turns(talks, cmpo.advantages(talks))
    picks = cmpo.expert.picks(turns.skills, turns.states)
    with torch.no_grad():
        cmpo.expert.actor.bias[cmpo.expert.index[DECISION]] += 3.0
        log_p = cmpo.expert.distributions(cmpo.expert.read(turns.states), picks)
    pull = cmpo._pull(log_p, cmpo._before(turns)[1], picks)
    assert (float(pull.sum()) > 0.1) == moved


# --- Eq. 9 ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("ratio", ["turn", "token"])
def test_the_loss_is_the_objective(cmpo, ratio):
    cmpo.options = CMPOConfig(kl=0.0, ratio=ratio, cmpo_epochs=2).settled(False)
    played = practised(cmpo)
    talks = [cmpo.talk(e) for e in played]
    turns = cmpo.turns(talks, cmpo.advantages(talks))
    cmpo.freeze()
    old, reference = cmpo._before(turns)
    # as if the policy had moved since
    old = old - 0.3 * torch.rand(old.shape, generator=torch.Generator().manual_seed(0))
    picks = cmpo.expert.picks(turns.skills, turns.states)
    logp, _ = cmpo.expert.log_probs(cmpo.expert.read(turns.states), picks)
    A, dialogue = torch.tensor(turns.advantage), torch.tensor(turns.dialogue)
    if ratio == "turn":
        was = torch.where(picks.mask, old, 0.0).sum(-1)
        expected = cmpo_objective(logp.sum(-1), was, was, A, dialogue, beta=0.0)
        old = torch.where(picks.mask, old, 0.0)
    else:
        expected = cmpo_tokens(logp, old, old, A, dialogue, picks.mask, beta=0.0)
    loss = cmpo._loss(turns, len(talks), old, reference, 0.0, Shown(1))
    assert loss.item() == pytest.approx(-expected.item(), abs=1e-5)
    assert abs(loss.item()) > 1e-3
    cmpo.options = CMPOConfig(customers=8).settled(False)


def test_the_reference_reads_what_the_policy_reads(cmpo):
    # the same sentences are hidden from both: a policy that has not moved is not pulled
    cmpo.reference = None
    with reading(cmpo.expert, HideSentences(0.5, seed=3)):
        played = practised(cmpo)
        row = cmpo.learn(played)
    assert row["kl"] == pytest.approx(0, abs=1e-6)
    assert not any(p.requires_grad for p in cmpo.reference.parameters())


def test_step_size_and_anchor_fall_by_a_cosine():
    cmpo = made(steps=100, warm=False, lr_end=0.2)
    group = cmpo.learner.optimiser.param_groups[0]
    seen = []
    for rollout in (0, 9, 10, 55, 100, 500):
        cmpo.expert.rollouts.fill_(rollout)
        anchor = cmpo.schedule()
        seen.append((group["lr"] / 5e-3, anchor / 0.05))
    # rises over ten steps, then from 1 to .2; half way between them at step 10 + 45
    expected = [(0.1, 1), (1, 1), (1, 1), (0.6, 0.6), (0.2, 0.2), (0.2, 0.2)]
    assert np.array(seen) == pytest.approx(np.array(expected))
