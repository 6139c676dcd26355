"""How the Expert practises in a step (gopo.py): slips, hidden sentences, further samples on logs.

Who slips and what is hidden is in test_policies.py and test_perception.py."""
from collections import Counter

import pytest

import gopo as gopo_module
from data import DataError, Dataset, Dialogue, Turn
from gopo import Gopo, GopoConfig, algorithm
from judge import ReplayJudge
from measure import evaluate
from perception import HideEverywhere, HideSentences, Hiding
from rewards import expert_weight, joint_reward, skill_reward
from tests.helpers import POOL, counted, expert_of
from tests.two_turns import Grader, play_two, small_gopo, wording

TURNS = (
    Turn("one", skills=("pay",), reply="You get it."),
    Turn("two", skills=None, reply="Well."),
    Turn("three", skills=("sorry", "guide"), reply="Sorry."),
)
LOGS = [Dialogue(str(number), TURNS) for number in range(3)]


# --- slips --------------------------------------------------------------------------------------

def practising(cfg=GopoConfig(dialogues=12), **expert) -> Gopo:
    """The hand-made shop, with logs from which slips are taken."""
    gopo = small_gopo(cfg, **expert)
    gopo.dataset.train = LOGS
    return gopo


def test_nothing_is_learned_from_a_slip():
    gopo = practising(slips=0.5)
    played, _ = gopo.step(1, 0)
    own, slipped = set(), set()
    for episode in played:
        for turn, step in enumerate(episode.steps):
            if turn in episode.slips:
                slipped.add((episode.number, turn))
                assert step.skills in {("pay",), ("sorry", "guide")}
            else:
                own.add((episode.number, turn))
    batch = gopo.expert_batch(played)
    assert set(batch.keys) == own
    assert len(batch.keys) == len(own)
    assert 6 < len(slipped) < 18
    lengths = {len(column) for column in vars(batch).values()}
    assert lengths == {len(own)}


def test_what_follows_a_slip_is_no_merit_of_the_turns_before():
    # G_1 = R_1 + gamma V_2, whatever turn 2 and the end brought
    cfg = GopoConfig(gamma=0.5)
    for second, success in ((("guide",), True), (("pay",), False)):
        played = play_two(cfg, skills=(("pay",), second), success=success)
        gopo, episode = played.gopo, played.episode
        states = [step.state for step in played.steps]
        V = gopo.expert.state_values(states, [step.teacher for step in played.steps])
        plain = gopo.expert_batch([episode]).returns
        episode.slips = {1}
        batch = gopo.expert_batch([episode])
        assert batch.returns == pytest.approx([played.steps[0].R_t + 0.5 * V[1]], abs=1e-6)
        assert batch.keys == [(7, 0)]
        assert abs(plain[0] - batch.returns[0]) > 0.01
        # a slip in turn 1 leaves turn 2 as it was
        episode.slips = {0}
        assert gopo.expert_batch([episode]).returns == pytest.approx(plain[1:])


def test_slips_belong_to_training_in_a_live_shop():
    gopo = practising(slips=0.999)
    played, _ = gopo.step(1, 0)
    assert all(e.slips == {0, 1} for e in played)
    _, measured = evaluate(gopo, gopo.chooser(greedy=True), 3, 0)
    assert not any(e.slips for e in measured)
    # nothing to take a slip from
    gopo = small_gopo(GopoConfig(dialogues=2), slips=0.999)
    assert not any(e.slips for e in gopo.step(1, 0)[0])
    # a log does not answer
    played, _ = on_logs(slips=0.999).step(1, 0)
    assert not any(e.slips for e in played)


def test_only_an_expert_that_learns_from_what_it_plays_practises():
    for name, practises in (("gopo", True), ("imitation", True), ("memento", False)):
        assert algorithm(name).practises == practises
    single = practising(GopoConfig(dialogues=4, no_expert=True), slips=0.999, hide=1.0)
    assert not single.practises
    assert not any(e.slips for e in single.step(1, 0)[0])


# --- hidden sentences ---------------------------------------------------------------------------

def test_sentences_are_hidden_while_a_step_is_played_and_learned(monkeypatch):
    gopo = practising(hide=0.2)
    reader = gopo.expert.user_reader
    seen = []

    def learn(played, seed=0):
        seen.append((reader.hiding, reader.memory))
        return {}

    monkeypatch.setattr(gopo, "learn", learn)
    hidings = counted(monkeypatch, gopo_module, "HideSentences")
    for number in (1, 2):
        gopo.step(number, 0)
    (first, memory), (second, other) = seen
    assert isinstance(first, HideSentences)
    assert first.share == 0.2
    assert first.seed != second.seed
    assert memory is not other
    assert len(hidings) == 2
    assert type(reader.hiding) is Hiding
    assert reader.memory is None


def test_nothing_is_hidden_of_those_who_do_not_practise():
    seeds = gopo_module.Seeds(1, 2, 3, 4, 5)
    assert practising(hide=0.0)._hiding(seeds) is None
    single = practising(GopoConfig(dialogues=4, no_expert=True), hide=1.0)
    assert single._hiding(seeds) is None


# --- who sets the standard ----------------------------------------------------------------------

@pytest.mark.parametrize("judge_by", ["chosen", "needed"])
def test_training_is_judged_by_what_was_chosen_or_needed(judge_by):
    gopo = practising(GopoConfig(dialogues=1, judge_by=judge_by), slips=0.0)
    (episode,), _ = gopo.step(1, 0)
    standard = []
    for item in gopo.judge.seen:
        standard.append(tuple(skill.id for skill in item.skills))
    needed = [("pay",), ("sorry", "guide")]
    chosen = [step.skills for step in episode.steps]
    assert standard == {"chosen": chosen, "needed": needed}[judge_by]
    assert chosen != needed


# --- ablations of the reward --------------------------------------------------------------------

def test_the_end_alone_can_be_rewarded():
    played = play_two(GopoConfig(reward="end", gamma=0.5))
    gopo, step = played.gopo, played.steps[0]
    assert [step.R_t for step in played.steps] == [0.0, 0.0]
    # success at turn 2 of 3: gamma^1 * 1
    assert gopo.rewards(played.episode) == pytest.approx([0.0, 0.5])
    assert gopo.gains(step, 1) == [0.0]


@pytest.mark.parametrize("weight, bonus", [(0.0, 0.0), (2.0, 1.0)])
def test_the_end_is_weighted(weight, bonus):
    played = play_two(GopoConfig(gamma=0.5, end_weight=weight))
    earned = [step.R_t for step in played.steps]
    assert played.gopo.rewards(played.episode) == pytest.approx([earned[0], earned[1] + bonus])


# --- further samples on logs --------------------------------------------------------------------

def on_logs(template=None, judge=None, **expert) -> Gopo:
    logs = Dataset("logs", POOL, (), (), LOGS, [], [], horizon=3, template=template)
    policy = expert_of(list(POOL), **expert)
    return Gopo(logs, policy, None, judge or ReplayJudge(), GopoConfig(dialogues=3))


def test_on_logs_every_sentence_loses_some():
    seeds = gopo_module.Seeds(1, 2, 3, 4, 5)
    hidden = on_logs(hide=0.0, hide_ngrams=0.3)._hiding(seeds)
    assert isinstance(hidden, HideEverywhere) and hidden.share == 0.3
    assert on_logs(hide_ngrams=0.0)._hiding(seeds) is None


def test_other_sequences_in_the_states_of_a_log_earn_their_own_reward():
    gopo = on_logs(expert_samples=4)
    played, _ = gopo.step(1, 0)
    batch = gopo.expert_batch(played, seed=3)
    # the 2 labelled turns of 3 dialogues as played, and 3 more sequences for each of them
    assert len(batch.states) == 6 + 3 * 6
    assert set(Counter(batch.keys).values()) == {4}
    # nothing is known of the turn between
    assert {turn for _, turn in batch.keys} == {0, 2}
    for skills, teacher, G, gains in zip(batch.skills, batch.teachers, batch.returns, batch.gains):
        wanted = skill_reward(skills, teacher, 0.1)
        assert sum(gains) == pytest.approx(wanted)
        assert G == pytest.approx(wanted, abs=1e-6)
    assert len(set(batch.skills[6:])) > 3
    # what was played is as it was
    first, _, third = played[0].steps
    assert batch.skills[:2] == [first.skills, third.skills]
    assert gopo.expert_batch(played, seed=3) == batch
    assert gopo.expert_batch(played, seed=4).skills[6:] != batch.skills[6:]
    assert gopo.expert_batch(played, seed=4).skills[:6] == batch.skills[:6]


def test_a_reward_that_is_always_0_on_logs_is_refused():
    logs = Dataset("logs", POOL, (), (), LOGS, [], [], horizon=3)
    for reward in ("end", "cs"):
        with pytest.raises(DataError, match=f"--reward {reward} is always 0 here"):
            Gopo(logs, expert_of(list(POOL)), None, ReplayJudge(), GopoConfig(reward=reward))


def test_a_log_is_played_once_a_step_however_few_there_are():
    played, _ = on_logs(expert_samples=1).step(1, 0)
    assert sorted(e.number for e in played) == [0, 1, 2]
    few = Gopo(on_logs().dataset, expert_of(list(POOL)), None, ReplayJudge(), GopoConfig())
    assert sorted(e.number for e in few.step(1, 0)[0]) == [0, 1, 2]


def test_a_step_without_a_labelled_turn_teaches_nothing():
    gopo = on_logs()
    gopo.dataset.train = [Dialogue("1", (Turn("Hi", reply="Hello"),))]
    _, learned = gopo.step(1, 0)
    assert learned["loss_expert"] is None


def test_another_sequence_leaves_what_the_reply_earned():
    gopo = on_logs(wording, Grader(), expert_samples=3)
    played, _ = gopo.step(1, 0)
    steps = {}
    for episode in played:
        for turn, step in enumerate(episode.steps):
            steps[episode.number, turn] = step
    batch = gopo.expert_batch(played)
    assert len(batch.states) == 9 + 2 * 6
    for key, skills, G, gains in zip(batch.keys, batch.skills, batch.returns, batch.gains):
        step, turn = steps[key], key[1] + 1
        if step.teacher is None:
            assert G == pytest.approx(step.R_A_mean, abs=1e-6)
            continue
        R_E = skill_reward(skills, step.teacher, 0.1)
        assert G == pytest.approx(joint_reward(R_E, step.R_A_mean, turn, 3), abs=1e-6)
        assert sum(gains) == pytest.approx(expert_weight(turn, 3) * R_E)


def test_a_sample_is_the_same_whichever_other_logs_are_played():
    gopo = on_logs(expert_samples=4)
    played, _ = gopo.step(1, 0)
    together = gopo.expert_batch(played, seed=3)
    alone = gopo.expert_batch(played[1:2], seed=3)
    number = played[1].number
    wanted = [s for key, s in zip(together.keys, together.skills) if key[0] == number]
    assert alone.skills == wanted


def test_in_a_live_shop_only_what_was_played_is_learned_from():
    gopo = practising(slips=0.0, expert_samples=4)
    played, _ = gopo.step(1, 0)
    assert len(gopo.expert_batch(played).states) == 2 * 12
