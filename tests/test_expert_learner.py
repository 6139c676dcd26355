"""How the Expert learns (expert_learner.py): Eq. 7 on a rollout used again, the anchor, the critic.

The equations are in expert.py; what of them is older is in test_gopo.py."""
import copy
import math
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expert import Critic, Expert, ExpertState, clipped_loss, expert_loss, gae
from expert_learner import ExpertBatch, ExpertLearner
from perception import reading
from rewards import skill_gains
from tests.helpers import FOUR, STATE, expert_of, property_test

TEACHER = ("y", "w")
# One Adam step on the whole rollout, and Eq. 7 alone.
ONE_STEP = {"expert_epochs": 1, "expert_minibatch": 1000, "expert_anchor": 0}
LOGGED = [(ExpertState("Bye"), ("z", "x"))]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_turn(expert: Expert, generator, size=64) -> ExpertBatch:
    """A rollout of dialogues of one turn, all in STATE."""
    states = [STATE] * size
    skills = expert.act(states, generator)
    gains = [skill_gains(s, TEACHER) for s in skills]
    keys = [(number, 0) for number in range(size)]
    returns = [sum(g) for g in gains]
    return ExpertBatch(states, skills, [TEACHER] * size, returns, gains, keys)


def worthless(batch: ExpertBatch) -> ExpertBatch:
    """The same turns, for which nothing was earned."""
    batch.returns = [0.0] * len(batch.states)
    batch.gains = [[0.0]] * len(batch.states)
    return batch


def indifferent(**flags) -> Expert:
    """An Expert whose critic expects 0 of everything: nothing earned is nothing learned."""
    expert = expert_of(FOUR, **({"alpha": 0, "alpha_end": 0} | flags))
    torch.nn.init.zeros_(expert.critic.out.weight)
    torch.nn.init.zeros_(expert.critic.out.bias)
    return expert


def kept(expert: Expert) -> dict[str, torch.Tensor]:
    return copy.deepcopy(expert.state_dict())


def moved(expert: Expert, before: dict[str, torch.Tensor]) -> set[str]:
    """Names of what has changed."""
    return {k for k, v in expert.state_dict().items() if not torch.equal(v, before[k])}


# --- the clipped loss ---------------------------------------------------------------------------

def test_clipped_loss_by_hand():
    # each pick half as probable in play: rho = 2, clipped at 1.2 where A > 0
    # -(1.2 * 1 + 2 * -2) / 2 - .1 * (.4 + .6) / 2 = 1.4 - .05
    logp = torch.tensor([[-1.0], [-3.0]])
    A = torch.tensor([[1.0], [-2.0]])
    entropy = torch.tensor([[0.4], [0.6]])
    loss = clipped_loss(logp, logp - math.log(2), A, entropy, 0.1, 0.2)
    assert loss.item() == pytest.approx(1.35)
    # twice as probable in play: rho = .5, clipped at .8 where A < 0
    # -(.5 * 1 + .8 * -2) / 2 - .05
    loss = clipped_loss(logp, logp + math.log(2), A, entropy, 0.1, 0.2)
    assert loss.item() == pytest.approx(0.5)


def test_at_the_policy_that_played_the_gradient_is_that_of_eq_7():
    torch.manual_seed(0)
    logp = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    entropy = torch.rand(5, 3, dtype=torch.double, requires_grad=True)
    A = torch.randn(5, 3, dtype=torch.double)
    old = logp.detach().clone()
    found = torch.autograd.grad(clipped_loss(logp, old, A, entropy, 0.3, 0.2), (logp, entropy))
    wanted = torch.autograd.grad(expert_loss(logp, A, entropy, 0.3), (logp, entropy))
    for one, other in zip(found, wanted):
        assert torch.allclose(one, other)


def test_a_clip_stops_the_gradient_in_the_pushed_direction_only():
    # rho: 1.5, 1.5, .5, .5, 1.1, .9 with A: +, -, +, -, +, -; the first and the fourth have gone
    # as far as they were asked to
    ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5, 1.1, 0.9]])
    A = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, -1.0]])
    logp = torch.zeros(1, 6, requires_grad=True)
    clipped_loss(logp, -ratio.log(), A, torch.zeros(1, 6), 0.0, 0.2).backward()
    going = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0, 1.0]])
    assert torch.allclose(logp.grad, -going * ratio * A)


def test_no_gradient_flows_through_what_was_in_play():
    old = torch.zeros(1, 2, requires_grad=True)
    A = torch.ones(1, 2, requires_grad=True)
    logp = torch.zeros(1, 2, requires_grad=True)
    clipped_loss(logp, old, A, torch.zeros(1, 2), 0.0, 0.2).backward()
    assert old.grad is None
    assert A.grad is None


# --- GAE with slips -----------------------------------------------------------------------------

def test_gae_with_slips_by_hand():
    # turn 2 slipped: A_2 = 0, and turn 1 is told V_2: delta_1 = 1 + .5 * 4 - 2 = 1
    # turn 3 as ever: 3 + 0 - 1 = 2
    rewards, values = [1.0, 100.0, 3.0], [2.0, 4.0, 1.0, 0.0]
    assert gae(rewards, values, 0.5, 1.0, [False, True, False]) == [1.0, 0.0, 2.0]
    assert gae(rewards, values, 0.5, 1.0, [True] * 3) == [0.0] * 3
    assert gae(rewards, values, 0.5, 1.0, [False] * 3) == gae(rewards, values, 0.5, 1.0)


numbers = st.floats(-2, 2)
a_turn = st.tuples(numbers, numbers, st.booleans())


@property_test
@given(st.lists(a_turn, min_size=1, max_size=10), numbers, st.floats(0, 1), st.floats(0, 1))
def test_a_slip_ends_a_dialogue_for_the_turns_before_it(turns, last, gamma, lam):
    """Oracle: each stretch between slips is a dialogue of its own, cut off where V is known."""
    rewards, values, slips = map(list, zip(*turns))
    values.append(last)
    found = gae(rewards, values, gamma, lam, slips)
    first = 0
    for t, slipped in enumerate([*slips, True]):
        if slipped:
            wanted = gae(rewards[first:t], values[first:t + 1], gamma, lam)
            assert found[first:t] == pytest.approx(wanted, abs=1e-9)
            assert found[t:t + 1] in ([0.0], [])
            first = t + 1


# --- an update ----------------------------------------------------------------------------------

@pytest.mark.parametrize("flags", [
    {}, {"expert_epochs": 1, "expert_clip": 0}, {"expert_epochs": 1, "expert_minibatch": 32}])
def test_the_expert_learns_a_one_turn_task(flags):
    expert = expert_of(FOUR, expert_lr=0.01, expert_lr_end=0.01, **flags)
    learner = ExpertLearner(expert)
    generator = seeded(0)
    earned = []
    for number in range(40):
        batch = one_turn(expert, generator)
        learner.update(batch, seed=number)
        earned.append(np.mean(batch.returns))
    assert earned[0] < 0.6
    assert earned[-1] > 0.9
    assert expert.act([STATE], greedy=True) == [TEACHER]


def test_one_pass_over_a_rollout_is_eq_7_itself():
    # with a ratio that is 1, and without
    weights = []
    for clip in (0.2, 0):
        expert = expert_of(FOUR, **ONE_STEP, expert_clip=clip)
        ExpertLearner(expert).update(one_turn(expert, seeded(0)))
        weights.append(expert.state_dict())
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=1e-6), name


def loss_by_hand(expert: Expert, batch: ExpertBatch) -> tuple[torch.Tensor, Critic]:
    """Eq. 7 with standardised advantages, and the critic's loss; the advantages in numpy.

    returns  the loss, and the copy of the critic that it was computed with
    """
    picks = expert.picks(batch.skills)
    inputs = expert.read(batch.states)
    logp, entropy = expert.log_probs(inputs, picks)
    played = expert.as_played(batch.states, batch.skills, batch.teachers)[1].numpy()
    mask = picks.mask.numpy()
    target = np.zeros(mask.shape)
    for row, gains in enumerate(batch.gains):
        for i in range(mask.shape[1]):
            target[row, i] = batch.returns[row] - sum(gains[:i])
    raw = (target - played)[mask]
    A = np.zeros(mask.shape)
    A[mask] = (raw - raw.mean()) / raw.std()
    mean, spread = target[mask].mean(), target[mask].std() + 1e-3
    critic = copy.deepcopy(expert.critic)
    critic.mean.fill_(0.0)
    critic.spread.fill_(1.0)
    # it learns standardised returns
    said = critic(inputs, picks.before, expert.teachers(batch.teachers))[picks.mask]
    wanted = torch.tensor((target[mask] - mean) / spread, dtype=torch.float)
    policy = expert_loss(logp, torch.tensor(A, dtype=torch.float), entropy, expert.cfg.alpha)
    return policy + 0.5 * (said - wanted).square().mean(), critic


def test_the_gradient_of_an_update_by_hand():
    expert = expert_of(FOUR, **ONE_STEP, alpha=0.3)
    batch = one_turn(expert, seeded(0))
    learner = ExpertLearner(expert)
    loss, critic = loss_by_hand(expert, batch)
    policy = [*expert.trunk.parameters(), *expert.actor.parameters()]
    policy += expert.user_reader.parameters()
    wanted = torch.autograd.grad(loss, [*policy, *critic.parameters()])
    row = learner.update(batch)
    scale = max(1.0, row["grad_norm_expert"])    # clipped to norm 1
    for p, gradient in zip([*policy, *expert.critic.parameters()], wanted):
        assert torch.allclose(p.grad * scale, gradient, atol=3e-3 * gradient.abs().max())


def test_after_a_step_nothing_is_remembered_of_the_weights_before():
    expert = expert_of(FOUR, expert_lr=0.01)
    with reading(expert), torch.no_grad():
        before = expert.read([STATE])
        with torch.enable_grad():
            ExpertLearner(expert).update(one_turn(expert, seeded(0)))
        after = expert.read([STATE])
    with torch.no_grad():
        assert torch.allclose(after, expert.read([STATE]), atol=1e-6)
    assert not torch.allclose(after, before, atol=1e-4)


def test_an_update_makes_epochs_times_minibatches_adam_steps(monkeypatch):
    expert = expert_of(FOUR, expert_epochs=3, expert_minibatch=16, expert_decay=9)
    learner = ExpertLearner(expert)
    sizes = []
    real = learner._loss

    def loss(part, *rest):
        sizes.append(len(part.states))
        return real(part, *rest)

    monkeypatch.setattr(learner, "_loss", loss)
    row = learner.update(one_turn(expert, seeded(0)))
    assert len(sizes) == 3 * 4
    assert [sum(sizes[i:i + 4]) for i in (0, 4, 8)] == [64] * 3
    steps = [int(state["step"]) for state in learner.optimiser.state.values()]
    assert set(steps) == {12}
    assert expert.rollouts == 1
    assert set(row) == {
        "loss_expert", "loss_critic", "entropy_expert", "explained_variance", "grad_norm_expert"}
    assert all(map(math.isfinite, row.values()))


def entropy_after_learning(alpha: float) -> float:
    """Of a sharp policy, after 25 steps in which nothing earns anything."""
    expert = expert_of(
        FOUR, expert_lr=0.02, expert_lr_end=0.02, alpha=alpha, alpha_end=alpha, **ONE_STEP)
    learner = ExpertLearner(expert)
    generator = seeded(0)
    with torch.no_grad():
        expert.actor.weight *= 6
    for _ in range(25):
        row = learner.update(worthless(one_turn(expert, generator)))
    return row["entropy_expert"]


def test_alpha_keeps_entropy_up():
    # Eq. 7's second term: with no reward at all, entropy rises to that of the widest policy
    assert entropy_after_learning(2.0) > entropy_after_learning(0.0) + 0.3


def test_update_stops_at_a_value_that_is_no_number():
    expert = expert_of(FOUR)
    learner = ExpertLearner(expert)
    before = [p.detach().clone() for p in expert.parameters()]
    batch = one_turn(expert, seeded(0))
    batch.returns[3] = float("nan")
    with pytest.raises(FloatingPointError, match="^Eq. 7 of the Expert is nan"):
        learner.update(batch)
    assert all(map(torch.equal, before, expert.parameters()))


def test_update_leaves_perception_alone():
    expert = expert_of(FOUR)
    before = kept(expert)
    ExpertLearner(expert).update(one_turn(expert, seeded(0)), LOGGED)
    found = moved(expert, before)
    assert not any(name.startswith("perception.") for name in found)
    assert {
        "actor.weight", "critic.state.0.weight", "critic.out.weight", "trunk.0.weight",
        "picked.weight", "last.weight", "user_reader.words.bag.weight",
        "reply_reader.lift.weight", "rollouts"} <= found


def test_a_rollout_of_nothing_but_slips_teaches_nothing():
    expert = expert_of(FOUR)
    before = kept(expert)
    row = ExpertLearner(expert).update(ExpertBatch(), LOGGED)
    assert not moved(expert, before)
    assert set(row.values()) == {None}
    assert list(row) == list(ExpertLearner(expert).update(one_turn(expert_of(FOUR), seeded(0))))


# --- minibatches --------------------------------------------------------------------------------

KEYS = []
for dialogue in range(40):
    KEYS += [(dialogue, turn) for turn in range(1 + dialogue % 4)]


def deal(keys, seed=(0, 0), size=10) -> list[list]:
    """The keys of each minibatch; of all processes there are 100 turns."""
    learner = ExpertLearner(expert_of(FOUR, expert_minibatch=size))
    dealt = []
    for rows in learner.minibatches(keys, len(KEYS), seed):
        dealt.append([keys[row] for row in rows])
    return dealt


def test_minibatches_hold_every_turn_once():
    assert len(KEYS) == 100
    dealt = deal(KEYS)
    assert len(dealt) == 10
    assert sorted(chain.from_iterable(dealt)) == KEYS
    sizes = [len(part) for part in dealt]
    assert 1 <= min(sizes) and max(sizes) <= 25
    assert deal(KEYS) == dealt
    assert deal(KEYS, (0, 1)) != dealt != deal(KEYS, (1, 0))
    assert deal(KEYS, size=1000) == [KEYS]


def test_a_turn_goes_where_it_goes_whichever_process_holds_it():
    dealt = deal(KEYS)
    for rank in range(3):
        mine = [key for key in KEYS if key[0] % 3 == rank]
        wanted = []
        for part in dealt:
            wanted.append([key for key in part if key in mine])
        assert deal(mine) == wanted


# --- the anchor ---------------------------------------------------------------------------------

def log_probability(expert: Expert, labelled) -> float:
    states, teachers = zip(*labelled)
    logp, _ = expert.log_probs(expert.read(states), expert.picks(teachers))
    return logp.sum(-1).mean().item()


def test_the_anchor_makes_logged_turns_more_probable():
    expert = indifferent(expert_lr=0.01, expert_lr_end=0.01, expert_anchor=0.3)
    learner = ExpertLearner(expert)
    before = log_probability(expert, LOGGED)
    for number in range(5):
        learner.update(worthless(one_turn(expert, seeded(0))), LOGGED, number)
    assert log_probability(expert, LOGGED) > before + 1


def test_the_anchor_is_the_warm_starts_loss_times_its_weight():
    gradients = []
    for weight in (0.01, 0.02):
        expert = indifferent(**ONE_STEP | {"expert_anchor": weight})
        learner = ExpertLearner(expert)
        learner.update(worthless(one_turn(expert, seeded(0))), LOGGED)
        gradients.append(expert.actor.weight.grad / weight)
    expert = indifferent()
    logp, _ = expert.log_probs(expert.read([LOGGED[0][0]]), expert.picks([LOGGED[0][1]]))
    wanted, = torch.autograd.grad(-logp.sum(), expert.actor.weight)
    for found in gradients:
        assert torch.allclose(found, wanted, atol=1e-4)


def test_without_an_anchor_the_logs_are_not_read():
    found = []
    for logged in (LOGGED, ()):
        expert = expert_of(FOUR, expert_anchor=0)
        ExpertLearner(expert).update(one_turn(expert, seeded(0)), logged)
        found.append(expert.state_dict())
    assert all(torch.equal(v, found[1][k]) for k, v in found[0].items())
    # nothing earned, no entropy, no anchor: nothing learned
    expert = indifferent(expert_anchor=0)
    before = kept(expert)
    ExpertLearner(expert).update(worthless(one_turn(expert, seeded(0))), LOGGED)
    assert moved(expert, before) <= {"rollouts", "critic.spread"}


# --- the schedule -------------------------------------------------------------------------------

FALLING = {"expert_lr": 1e-2, "expert_lr_end": 2e-3, "alpha": 0.5, "alpha_end": 0.1}


def schedule(learner: ExpertLearner, rollouts: int) -> list[tuple[float, float]]:
    """(step size, alpha) of the next rollouts."""
    found = []
    for _ in range(rollouts):
        alpha = learner.schedule()
        found.append((learner.optimiser.param_groups[0]["lr"], alpha))
        learner.expert.rollouts += 1
    return found


def test_the_step_size_and_alpha_fall_to_their_ends_and_stay_there():
    wanted = [(1e-2, 0.5), (8e-3, 0.4), (6e-3, 0.3), (4e-3, 0.2), (2e-3, 0.1), (2e-3, 0.1)]
    expert = expert_of(FOUR, expert_decay=5, **FALLING)
    early = schedule(ExpertLearner(expert), 2)
    # read back, as after a resume
    other = expert_of(FOUR, expert_decay=5, **FALLING)
    other.load_state_dict(expert.state_dict())
    for found, hand in zip(early + schedule(ExpertLearner(other), 4), wanted):
        assert found == pytest.approx(hand)


def test_the_first_rollout_of_one_is_learned_at_the_first_step_size():
    found = schedule(ExpertLearner(expert_of(FOUR, expert_decay=1, **FALLING)), 2)
    assert found[0] == pytest.approx((1e-2, 0.5))
    assert found[1] == pytest.approx((2e-3, 0.1))


def test_an_update_follows_the_schedule_and_counts():
    expert = expert_of(FOUR, expert_decay=3, **FALLING)
    learner = ExpertLearner(expert)
    rates = []
    for _ in range(3):
        learner.update(one_turn(expert, seeded(0), 4))
        rates.append(learner.optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-2, 6e-3, 2e-3])
    assert expert.rollouts == 3


# --- the critic ---------------------------------------------------------------------------------

def test_the_critic_moves_nothing_but_itself():
    # every turn returns 1 and 0 was expected: equal advantages, so nothing for the policy
    expert = indifferent(expert_anchor=0)
    expert.rollouts += 1                         # returns are not standardised again
    batch = worthless(one_turn(expert, seeded(0)))
    batch.returns = [1.0] * 64
    before = kept(expert)
    ExpertLearner(expert).update(batch)
    found = moved(expert, before) - {"rollouts"}
    assert "critic.out.weight" in found
    assert all(name.startswith("critic.") for name in found)


@pytest.mark.parametrize("blind", [False, True])
def test_the_critic_is_told_the_teachers_skills_and_the_policy_never(blind):
    expert = expert_of(FOUR, blind_critic=blind)
    states = [STATE] * 4
    skills = [("x", "w")] * 4
    # first skills differ in the last two; None: nobody knows
    logp, V = expert.as_played(states, skills, [None, ("y",), ("y", "w"), ("w", "y")])
    assert (logp == logp[0]).all()
    rows = [tuple(row) for row in V.tolist()]
    assert len(set(rows)) == (1 if blind else 4)
    values = expert.state_values(states[:2], [None, ("y",)])
    assert (values[0] == values[1]) == blind
    assert values == pytest.approx([rows[0][0], rows[1][0]], abs=1e-6)
    assert expert.state_values([STATE]) == pytest.approx(values[:1], abs=1e-6)


def test_the_critic_knows_what_was_picked():
    expert = expert_of(FOUR)
    V = expert.as_played([STATE] * 2, [("x", "w"), ("y", "w")], [None] * 2)[1]
    # before the first pick alike, then not; in what order does not matter
    assert V[0, 0] == V[1, 0]
    assert (V[0, 1:3] != V[1, 1:3]).all()


def test_returns_are_standardised_by_the_first_rollouts():
    expert = expert_of(FOUR)
    learner = ExpertLearner(expert)
    batch = one_turn(expert, seeded(0))
    targets = []
    for skills, G, gains in zip(batch.skills, batch.returns, batch.gains):
        for i in range(min(4, len(skills) + 1)):
            targets.append(G - sum(gains[:i]))
    learner.update(batch)
    mean, spread = expert.critic.mean.item(), expert.critic.spread.item()
    assert mean == pytest.approx(np.mean(targets), abs=1e-5)
    assert spread == pytest.approx(np.std(targets) + 1e-3, abs=1e-5)
    batch.returns = [G + 5 for G in batch.returns]
    learner.update(batch)
    assert (expert.critic.mean.item(), expert.critic.spread.item()) == (mean, spread)


# --- imitation ----------------------------------------------------------------------------------

def test_imitation_lowers_the_cross_entropy():
    expert = expert_of(FOUR)
    learner = ExpertLearner(expert, lr=0.01)
    states = [STATE, ExpertState("Bye")]
    wanted = [("z", "x"), ()]
    labelled = list(zip(states, wanted))
    first = learner.imitate(labelled)
    assert first == pytest.approx(-log_probability(expert_of(FOUR), labelled), abs=1e-5)
    losses = [learner.imitate(labelled) for _ in range(40)]
    assert losses[-1] < 0.2 < first
    assert expert.act(states, greedy=True) == wanted
    assert learner.imitate([]) is None
