"""The Expert (expert.py): its policy by enumeration, what it reads, its settings.

Eq. 7 itself and GAE are in test_gopo.py, how it learns in test_expert_learner.py, how it reads a
text in test_perception.py."""
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.distributions import Categorical

from expert import Expert, ExpertConfig, ExpertState, Picks, expert_loss, pick_advantages
from rewards import skill_gains
from tests.helpers import FOUR, IDS, STATE, expert_of

# All 1 + 4 + 12 + 24 + 24 sequences of up to four of four skills.
EVERY = []
for length in range(5):
    EVERY += itertools.permutations(FOUR, length)


@pytest.fixture(scope="module")
def four() -> Expert:
    expert = expert_of(FOUR)
    with torch.no_grad():
        expert.actor.weight *= 4                 # far from uniform, or an error would hide
    return expert


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scored(expert: Expert, sequences) -> tuple[torch.Tensor, torch.Tensor, Picks]:
    """(log p, entropy) of each pick of the sequences, all chosen in STATE; and the picks."""
    picks = expert.picks(sequences)
    logp, entropy = expert.log_probs(expert.read([STATE] * len(sequences)), picks)
    return logp, entropy, picks


# --- the policy ---------------------------------------------------------------------------------

def test_policy_probabilities_sum_to_one(four):
    # by enumeration: 65 sequences, no more
    assert len(EVERY) == 65
    p = scored(four, EVERY)[0].sum(-1).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    assert p.max() > 3 * p.min()


def test_a_banned_skill_has_no_probability(four):
    state = STATE._replace(banned=("x",))
    # 1 + 3 + 6 + 6 sequences of the other three
    left = [skills for skills in EVERY if "x" not in skills]
    assert len(left) == 16
    picks = four.picks(left, [state] * 16)
    logp, _ = four.log_probs(four.read([state] * 16), picks)
    assert logp.sum(-1).exp().sum().item() == pytest.approx(1, abs=1e-5)
    as_played, _ = four.as_played([state] * 16, left, [None] * 16)
    assert torch.allclose(as_played, logp)
    drawn = four.act([state] * 50 + [STATE] * 50, seeded(0))
    assert all("x" not in skills for skills in drawn[:50])
    assert any("x" in skills for skills in drawn[50:])


def test_picks_by_hand():
    picks = expert_of(FOUR).picks([("y", "w"), (), ("w", "x", "y", "z")])
    # the skills, then the stop, which also pads; a fifth pick, here of four skills, has no stop
    assert picks.number.tolist() == [[2, 0, 4, 4], [4, 4, 4, 4], [0, 1, 2, 3]]
    assert picks.mask.tolist() == [
        [True, True, True, False], [True, False, False, False], [True] * 4]
    assert picks.last.tolist() == [[4, 2, 0, 4], [4, 4, 4, 4], [4, 0, 1, 2]]
    assert picks.before[0].tolist() == [[0] * 4, [0, 0, 1, 0], [1, 0, 1, 0], [1, 0, 1, 0]]


def chain_rule(expert, sequence) -> tuple[float, float]:
    """log pi and entropy of a sequence, with a Categorical per pick, masks and stop spelled out."""
    state = expert.trunk(expert.read([STATE]))[0]
    logp = 0.0
    entropy = 0.0
    last = expert.stop
    taken = torch.zeros(4)
    picks = [FOUR.index(s) for s in sequence]
    if len(sequence) < 4:
        picks.append(expert.stop)
    for pick in picks:
        hidden = torch.tanh(state + expert.picked(taken) + expert.last.weight[last])
        barred = torch.cat([taken, torch.zeros(1)]) * -1e30
        step = Categorical(logits=expert.actor(hidden) + barred)
        logp += step.log_prob(torch.tensor(pick)).item()
        entropy += step.entropy().item()
        last = pick
        if pick != expert.stop:
            taken[pick] = 1.0
    return logp, entropy


def test_log_probability_equals_torch_distributions(four):
    # all sequences and positions at once, against one pick after another
    logp, entropy, picks = scored(four, EVERY)
    for row, sequence in enumerate(EVERY):
        wanted = chain_rule(four, sequence)
        found = (logp[row].sum().item(), entropy[row].sum().item())
        assert found == pytest.approx(wanted, abs=1e-4)
        assert picks.mask[row].sum() == min(len(sequence) + 1, 4)


def test_entropy_along_the_path_is_unbiased(four):
    # E[sum of conditional entropies] = H(pi), by enumeration (GAP-8)
    logp, entropy, _ = scored(four, EVERY)
    logp = logp.sum(-1)
    found = (logp.exp() * entropy.sum(-1)).sum().item()
    assert found == pytest.approx(-(logp.exp() * logp).sum().item(), rel=1e-4)


def test_samples_follow_the_policy(four):
    wanted = scored(four, EVERY)[0].sum(-1).exp().detach().double().numpy()
    drawn = four.act([STATE] * 4000, seeded(1))
    counts = np.array([drawn.count(s) for s in EVERY])
    frequent = wanted * 4000 > 5
    observed = [*counts[frequent], counts[~frequent].sum()]
    expected = np.array([*wanted[frequent], wanted[~frequent].sum()]) / wanted.sum() * 4000
    assert chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("greedy", [False, True])
def test_what_is_drawn_one_by_one_is_what_is_scored_at_once(four, monkeypatch, greedy):
    real = four._next
    columns = []

    def kept(*args):
        columns.append(real(*args))
        return columns[-1]

    monkeypatch.setattr(four, "_next", kept)
    drawn = four.act([STATE] * 200, seeded(2), greedy=greedy)
    monkeypatch.undo()
    logp, _, picks = scored(four, drawn)
    assert greedy or len(columns) == 4
    for i, column in enumerate(columns):
        made = column.gather(-1, picks.number[:, i:i + 1]).squeeze(-1)
        there = picks.mask[:, i]
        assert torch.allclose(made[there], logp[there, i], atol=1e-5)
        if greedy:
            assert (column.argmax(-1) == picks.number[:, i])[there].all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_sequences_are_short_and_without_repeats(seed, greedy, stops):
    states = [ExpertState("Hello", STATE.history, ("a",)), ExpertState("")] * 4
    expert = expert_of(IDS, seed)
    drawn = expert.act(states, seeded(seed), greedy=greedy, stops=stops)
    logp, entropy = expert.log_probs(expert.read(states), expert.picks(drawn))
    mask = expert.picks(drawn).mask
    assert mask.sum(-1).tolist() == [min(5, len(skills) + 1) for skills in drawn]
    for skills in drawn:
        assert len(skills) <= 5
        assert len(set(skills)) == len(skills)
        assert stops or len(skills) == 5
    assert (logp[~mask] == 0).all()
    assert (entropy[~mask] == 0).all()
    assert (entropy >= 0).all()
    assert torch.isfinite(logp).all()


def test_greedy_takes_the_most_probable_next(four):
    drawn = four.act([STATE], greedy=True)
    nothing = four.last(torch.tensor([four.stop]))
    hidden = torch.tanh(four.trunk(four.read([STATE])) + nothing)
    best = [*FOUR, None][four.actor(hidden).argmax()]
    assert best == (drawn[0] or (None,))[0]
    assert four.act([STATE] * 3, greedy=True) == drawn * 3


def test_a_draw_depends_on_its_own_generator_alone(four):
    def drawn(*seeds):
        return four.act([STATE] * len(seeds), [seeded(seed) for seed in seeds])

    together = drawn(*range(20))
    assert drawn(*range(5, 15)) == together[5:15]
    assert len(set(together)) > 5


def test_gradient_of_the_entropy_is_finite_where_a_skill_is_barred(four):
    parameters = [p for n, p in four.named_parameters() if not n.startswith("perception.")]
    logp, entropy, _ = scored(four, EVERY)
    found = torch.autograd.grad((entropy + logp).sum(), parameters, allow_unused=True)
    assert all(torch.isfinite(g).all() for g in found if g is not None)


def test_pick_advantages_are_unbiased(four):
    """Enumerated: E[sum_i A_i grad log p_i] = grad E[R] for any critic.  R = sum of the gains.

    One advantage per turn is unbiased, too, and varies more.
    """
    teacher = ("y", "w")
    logits = four.actor.weight
    logp, _, picks = scored(four, EVERY)
    p = logp.sum(-1).exp()
    weight = p.detach()[:, None]
    # what is told to the critic makes no difference
    V = four.as_played([STATE] * 65, EVERY, [teacher] * 65)[1]
    S = picks.mask.shape[1]
    gains = torch.tensor([(skill_gains(s, teacher) + [0.0] * S)[:S] for s in EVERY])
    R = gains.sum(-1)
    wanted, = torch.autograd.grad((p * R).sum(), logits, retain_graph=True)
    by_pick = pick_advantages(R, gains, V, picks.mask)
    by_turn = (R[:, None] - V[:, :1]) * picks.mask
    for advantage in (by_pick, by_turn):
        loss = expert_loss(logp, weight * advantage, torch.zeros(65, S), 0.0)
        found, = torch.autograd.grad(-65 * loss, logits, retain_graph=True)
        assert torch.allclose(found, wanted, atol=1e-5)
    # and that is what it is for
    assert (weight * by_pick.pow(2)).sum() < (weight * by_turn.pow(2)).sum()


# --- what is read -------------------------------------------------------------------------------

def test_the_state_is_read(four):
    # U_t, H_t, e_t and a_{t-1} each change the policy; a turn older than k does not
    def policy(state):
        logp, _ = four.log_probs(four.read([state] * 65), four.picks(EVERY))
        return logp

    base = policy(STATE)
    others = (
        STATE._replace(user="Thanks, bye"),
        STATE._replace(history=(("Hi", "Go away."),)),
        STATE._replace(history=(("Well", "Hello."),)),
        STATE._replace(history=()),
        STATE._replace(previous=("w",)),
        STATE._replace(true_perception=(None, "angry")),
    )
    for other in others:
        assert not torch.allclose(base, policy(other), atol=1e-4)
    older = STATE._replace(history=(("old", "older"), *STATE.history))
    assert torch.equal(base, policy(older))


# --- settings -----------------------------------------------------------------------------------

@pytest.mark.parametrize("bad", [
    {"expert_lr": 0}, {"expert_lr_end": 0}, {"gae_lambda": 1.1}, {"alpha": -1}, {"alpha_end": -1},
    {"skill_cost": -0.1}, {"history": -1}, {"width": 0}, {"expert_warm": -1}, {"expert_decay": 0},
    {"expert_epochs": 0}, {"expert_minibatch": 0}, {"expert_clip": -0.1}, {"expert_anchor": -1},
    {"slips": 1}, {"slips": -0.1}, {"hide": 2}, {"expert_samples": 0},
    {"sentences": 0}, {"hide_ngrams": 0.6}, {"hide_ngrams": -0.1}])
def test_expert_config_refuses(bad):
    flag = "--" + next(iter(bad))
    with pytest.raises(ValueError, match=f"{flag} must"):
        ExpertConfig(**bad)


def test_a_rollout_is_not_used_twice_without_a_ratio():
    assert ExpertConfig(expert_clip=0, expert_epochs=1).expert_clip == 0
    with pytest.raises(ValueError, match="--expert_clip 0 needs --expert_epochs 1"):
        ExpertConfig(expert_clip=0, expert_epochs=2)


def test_open_settings_follow_the_data():
    live = ExpertConfig().settled(live=True, rollouts=60)
    assert (live.expert_decay, live.expert_samples, live.expert_anchor) == (60, 1, 0.3)
    logs = ExpertConfig().settled(live=False, rollouts=0)
    assert (logs.expert_decay, logs.expert_samples, logs.expert_anchor) == (1, 4, 0.0)
    assert live.expert_lr == 2 * logs.expert_lr
    assert live.settled(live=False, rollouts=9) == live
    chosen = ExpertConfig(expert_decay=7, expert_samples=2, expert_anchor=0.0)
    settled = chosen.settled(live=True, rollouts=60)
    assert (settled.expert_decay, settled.expert_samples, settled.expert_anchor) == (7, 2, 0.0)


# --- what it reads, as tables -------------------------------------------------------------------

TURNS = st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=5).map(tuple)


@settings(max_examples=30)
@given(st.lists(TURNS, min_size=1, max_size=3), st.integers(0, 3))
def test_a_turn_not_played_is_an_empty_text(histories, k):
    expert = expert_of(FOUR)
    expert.cfg = ExpertConfig(history=k)
    users, replies = expert._texts([ExpertState("now", said) for said in histories])
    for row, said in enumerate(histories):
        last = [("", "")] * k + list(said)
        last = last[len(last) - k:]
        assert users[row * (k + 1):(row + 1) * (k + 1)] == [user for user, _ in last] + ["now"]
        assert replies[row * k:(row + 1) * k] == [reply for _, reply in last]


@settings(max_examples=30)
@given(st.lists(st.sampled_from(EVERY), max_size=4))
def test_sequences_become_sets_and_picks(sequences):
    expert = expert_of(FOUR)
    for row, chosen in zip(expert._sets(sequences).tolist(), sequences):
        assert row == [float(skill in chosen) for skill in FOUR]
    picks = expert.picks(sequences)
    for number, mask, chosen in zip(picks.number.tolist(), picks.mask.tolist(), sequences):
        # 4 is the stop; a sequence of all four skills ends without one
        assert number == [FOUR.index(skill) for skill in chosen] + [4] * (4 - len(chosen))
        assert mask == [i <= len(chosen) for i in range(4)]
