"""The Expert (expert.py): its policy by enumeration, how it learns, what it reads and perceives.

Eq. 7 itself and GAE are in test_gopo.py."""
import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.distributions import Categorical

from data import Dataset, Dialogue, Turn
from expert import (
    Expert,
    ExpertBatch,
    ExpertConfig,
    ExpertLearner,
    ExpertState,
    Perception,
    expert_loss,
    pick_advantages,
)
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


# --- the policy ---------------------------------------------------------------------------------

def test_policy_probabilities_sum_to_one(four):
    # by enumeration: 65 sequences, no more
    assert len(EVERY) == 65
    p = four.act([STATE] * 65, given=EVERY).logp.sum(-1).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    assert p.max() > 3 * p.min()


def chain_rule(expert, sequence) -> tuple[float, float]:
    """log pi and entropy of a sequence, with a Categorical per pick, masks and stop spelled out."""
    hidden = expert.encode([STATE])
    logp = 0.0
    entropy = 0.0
    last = expert.stop
    taken = []
    picks = [FOUR.index(s) for s in sequence]
    if len(sequence) < 4:
        picks.append(expert.stop)
    for pick in picks:
        hidden = expert.cell(expert.skill_embedding(torch.tensor([last])), hidden)
        logits = expert.actor(hidden)[0].clone()
        logits[taken] = -1e30
        step = Categorical(logits=logits)
        logp += step.log_prob(torch.tensor(pick)).item()
        entropy += step.entropy().item()
        last = pick
        taken.append(pick)
    return logp, entropy


def test_log_probability_equals_torch_distributions(four):
    for sequence in EVERY:
        logp, entropy = chain_rule(four, sequence)
        choice = four.act([STATE], given=[sequence])
        assert choice.logp.sum().item() == pytest.approx(logp, abs=1e-4)
        assert choice.entropy.sum().item() == pytest.approx(entropy, abs=1e-4)
        assert choice.skills == [sequence]
        assert choice.mask.sum() == min(len(sequence) + 1, 4)


def test_entropy_along_the_path_is_unbiased(four):
    # E[sum of conditional entropies] = H(pi), by enumeration (GAP-8)
    choice = four.act([STATE] * 65, given=EVERY)
    logp = choice.logp.sum(-1)
    found = (logp.exp() * choice.entropy.sum(-1)).sum().item()
    assert found == pytest.approx(-(logp.exp() * logp).sum().item(), rel=1e-4)


def test_samples_follow_the_policy(four):
    with torch.no_grad():
        wanted = four.act([STATE] * 65, given=EVERY).logp.sum(-1).exp().double().numpy()
        choice = four.act([STATE] * 4000, seeded(1))
        again = four.act([STATE] * 4000, given=choice.skills)
    assert torch.allclose(choice.logp, again.logp, atol=1e-5)        # what is sampled is scored
    counts = np.array([choice.skills.count(s) for s in EVERY])
    frequent = wanted * 4000 > 5
    observed = [*counts[frequent], counts[~frequent].sum()]
    expected = np.array([*wanted[frequent], wanted[~frequent].sum()]) / wanted.sum() * 4000
    assert chisquare(observed, expected).pvalue > 1e-3


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_sequences_are_short_and_without_repeats(seed, greedy, stops):
    states = [ExpertState("Hello", STATE.history, ("a",)), ExpertState("")] * 4
    choice = expert_of(IDS, seed).act(states, seeded(seed), greedy=greedy, stops=stops)
    for skills, mask in zip(choice.skills, choice.mask):
        assert len(skills) <= 5
        assert len(set(skills)) == len(skills)
        assert mask.sum() == min(5, len(skills) + 1)
        assert stops or len(skills) == 5
    assert (choice.logp[~choice.mask] == 0).all()
    assert (choice.entropy[~choice.mask] == 0).all()
    assert (choice.entropy >= 0).all()
    assert torch.isfinite(choice.logp).all()


def test_greedy_takes_the_most_probable_next(four):
    choice = four.act([STATE], greedy=True)
    nothing = four.skill_embedding(torch.tensor([four.stop]))
    hidden = four.cell(nothing, four.encode([STATE]))
    best = [*FOUR, None][four.actor(hidden).argmax()]
    assert best == (choice.skills[0] or (None,))[0]
    assert four.act([STATE] * 3, greedy=True).skills == choice.skills * 3


def test_gradient_of_the_entropy_is_finite_where_a_skill_is_barred(four):
    parameters = [p for n, p in four.named_parameters() if not n.startswith("perception.")]
    choice = four.act([STATE] * 65, given=EVERY)
    total = (choice.entropy + choice.logp).sum()
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    assert all(torch.isfinite(g).all() for g in found if g is not None)


def test_pick_advantages_are_unbiased(four):
    """Enumerated: E[sum_i A_i grad log p_i] = grad E[R] for any critic.  R = sum of the gains.

    One advantage per turn is unbiased, too, and varies more.
    """
    teacher = ["y", "w"]
    logits = four.actor.weight
    choice = four.act([STATE] * 65, given=EVERY)
    p = choice.logp.sum(-1).exp()
    weight = p.detach()[:, None]
    V = choice.value.detach()
    S = choice.mask.shape[1]
    gains = torch.tensor([(skill_gains(s, teacher) + [0.0] * S)[:S] for s in EVERY])
    R = gains.sum(-1)
    wanted, = torch.autograd.grad((p * R).sum(), logits, retain_graph=True)
    by_pick = pick_advantages(R, gains, V, choice.mask)
    by_turn = (R[:, None] - V[:, :1]) * choice.mask
    for advantage in (by_pick, by_turn):
        loss = expert_loss(choice.logp, weight * advantage, torch.zeros(65, S), 0.0)
        found, = torch.autograd.grad(-65 * loss, logits, retain_graph=True)
        assert torch.allclose(found, wanted, atol=1e-5)
    # and that is what it is for
    assert (weight * by_pick.pow(2)).sum() < (weight * by_turn.pow(2)).sum()


# --- the learner --------------------------------------------------------------------------------

def one_turn(expert: Expert, generator, teacher=("y", "w"), size=64) -> ExpertBatch:
    with torch.no_grad():
        skills = expert.act([STATE] * size, generator).skills
    gains = [skill_gains(s, teacher) for s in skills]
    return ExpertBatch([STATE] * size, skills, [sum(g) for g in gains], gains)


def test_the_expert_learns_a_one_turn_task():
    expert = expert_of(FOUR, expert_lr=0.01)
    learner = ExpertLearner(expert)
    generator = seeded(0)
    earned = []
    for _ in range(60):
        batch = one_turn(expert, generator)
        learner.update(batch)
        earned.append(np.mean(batch.returns))
    assert earned[0] < 0.6
    assert earned[-1] > 0.9
    assert expert.act([STATE], greedy=True).skills == [("y", "w")]


def test_imitation_lowers_the_cross_entropy():
    expert = expert_of(FOUR, expert_lr=0.01)
    learner = ExpertLearner(expert)
    states = [STATE, ExpertState("Bye")]
    wanted = [("z", "x"), ()]
    losses = [learner.imitate(states, wanted) for _ in range(40)]
    assert losses[-1] < 0.2 < losses[0]
    assert expert.act(states, greedy=True).skills == wanted


def entropy_after_learning(alpha: float) -> float:
    """Of a sharp policy, after 25 steps in which nothing earns anything."""
    expert = expert_of(FOUR, expert_lr=0.02, alpha=alpha)
    learner = ExpertLearner(expert)
    generator = seeded(0)
    with torch.no_grad():
        expert.actor.weight *= 6
    for _ in range(25):
        batch = one_turn(expert, generator)
        batch.returns = [0.0] * 64
        batch.gains = [[0.0]] * 64
        row = learner.update(batch)
    return row["entropy_expert"]


def test_alpha_keeps_entropy_up():
    # Eq. 7's second term: with no reward at all, entropy rises to that of the widest policy
    assert entropy_after_learning(2.0) > entropy_after_learning(0.0) + 0.3


def test_update_stops_at_a_value_that_is_no_number():
    expert = expert_of(FOUR)
    learner = ExpertLearner(expert)
    before = copy.deepcopy(expert.state_dict())
    batch = one_turn(expert, seeded(0))
    batch.returns[3] = float("nan")
    with pytest.raises(FloatingPointError, match="^Eq. 7 of the Expert is nan"):
        learner.update(batch)
    assert all(torch.equal(before[k], v) for k, v in expert.state_dict().items())


def test_update_leaves_perception_alone():
    expert = expert_of(FOUR)
    before = copy.deepcopy(expert.state_dict())
    row = ExpertLearner(expert).update(one_turn(expert, seeded(0)))
    after = expert.state_dict()
    moved = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert not any(k.startswith("perception.") for k in moved)
    assert {"actor.weight", "critic.0.weight", "trunk.0.weight", "user_bag.weight"} <= moved
    assert set(row) == {
        "loss_expert", "loss_critic", "entropy_expert", "explained_variance", "grad_norm_expert"}
    assert all(map(math.isfinite, row.values()))


# --- what is read -------------------------------------------------------------------------------

def test_the_state_is_read(four):
    # H_t, u_t and a_{t-1} each change the encoding; a turn older than k does not
    base = four.encode([STATE])
    others = (
        STATE._replace(user="Thanks, bye"),
        STATE._replace(history=(("Hi", "Go away."),)),
        STATE._replace(history=()),
        STATE._replace(previous=("w",)),
    )
    for other in others:
        assert not torch.allclose(base, four.encode([other]), atol=1e-4)
    older = STATE._replace(history=(("old", "older"), *STATE.history))
    assert torch.equal(base, four.encode([older]))


@pytest.mark.parametrize("bad", [
    {"expert_lr": 0}, {"gae_lambda": 1.1}, {"alpha": -1}, {"skill_cost": -0.1}, {"history": -1},
    {"width": 0}])
def test_expert_config_refuses(bad):
    flag = "--" + next(iter(bad)).split("_")[0]
    with pytest.raises(ValueError, match=flag):
        ExpertConfig(**bad)


# --- perception ---------------------------------------------------------------------------------

LABELLED = (
    Turn("Refund me at once!", "refund", "angry"),
    Turn("A refund, please.", "refund", None),
    Turn("Lovely day.", None, "happy"),
    Turn("Hello, lovely.", "hello", "happy"),
)
# Unlabelled copies outnumber the labelled one.
UNLABELLED = (Turn("Hello, lovely."),) * 3


def labelled(n: int) -> list[Dialogue]:
    return [Dialogue(str(i), LABELLED + UNLABELLED) for i in range(n)]


def test_perception_learns_its_labels():
    intents, emotions = ("refund", "hello"), ("angry", "happy")
    logs = Dataset("d", {}, intents, emotions, labelled(8), [], labelled(2))
    torch.manual_seed(0)
    perception = Perception(intents, emotions, 8)
    accuracy = perception.fit(logs, epochs=30, lr=0.05)
    # unlabelled turns are neither learned from nor counted
    assert accuracy == {"intent": 1.0, "emotion": 1.0}
    found = perception.perceive(["Refund me at once!", "Hello, lovely."])
    assert found == [("refund", "angry"), ("hello", "happy")]
    # one distribution for each label set
    total = perception.probabilities([ExpertState("x"), ExpertState("退款")]).sum(-1)
    assert torch.allclose(total, torch.tensor([2.0, 2.0]))


def test_true_labels_take_the_place_of_perceived_ones():
    # a 1 at the label; labels that do not exist, and those that nobody knows, are perceived
    perception = Perception(["refund", "hello"], ["angry", "happy"], 8)
    perceived, = perception.probabilities([ExpertState("x")])
    given_labels = (("hello", "angry"), (None, "happy"), ("bye", None))
    states = [ExpertState("x", true_perception=labels) for labels in given_labels]
    known, half, wrong = perception.probabilities(states)
    assert known.tolist() == [0, 1, 1, 0]
    assert torch.equal(half[:2], perceived[:2])
    assert half[2:].tolist() == [0, 1]
    assert torch.equal(wrong, perceived)


def test_perception_without_labels():
    perception = Perception([], ["angry"])
    assert perception.perceive([""]) == [(None, "angry")]
    assert perception.size == 1
    nothing = Perception([], [])
    assert nothing.perceive(["x"]) == [(None, None)]
    assert nothing.probabilities([ExpertState("x")]).shape == (1, 0)
    assert nothing.fit(Dataset("d", {}, (), (), labelled(1), [], [])) == {}
    # such logs have an Expert all the same
    assert Expert(FOUR, nothing, ExpertConfig(width=8)).act([STATE], greedy=True).skills
