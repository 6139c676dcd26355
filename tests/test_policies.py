"""Who chooses the skills and who speaks (policies.py), and how GopoConfig is checked."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data import Dataset, Dialogue, Labels, Turn
from expert import Expert, ExpertConfig, ExpertState
from gopo import Gopo, GopoConfig
from judge import ReplayJudge
from metrics import training_row
from perception import Perception
from policies import by_chance, keyed, with_slips, with_true_perception
from rewards import skill_reward
from tests.helpers import IDS, POOL


def test_by_chance_is_keyed():
    # the random row meets every dialogue with the same skills
    choose = by_chance(IDS, 5)
    episodes = []
    for number in range(3):
        for turn in range(3):
            episodes.append(SimpleNamespace(number=number, steps=[None] * turn))
    first = choose([None] * 9, episodes)
    assert choose([None] * 9, episodes[::-1]) == first[::-1]
    assert len(set(first)) > 3
    for skills in first:
        assert 1 <= len(skills) <= 5
        assert len(set(skills)) == len(skills)


OTHERS = [("slip", "a"), ("slip",)]


def slipped(numbers, share=0.3, seed=5) -> list[SimpleNamespace]:
    """Dialogues after two turns, with the skills that are played in the third as .played."""
    episodes = []
    for number in numbers:
        episodes.append(SimpleNamespace(number=number, steps=[None] * 2, slips={0}))
    choose = with_slips(lambda states, episodes: [("b",)] * len(states), OTHERS, share, keyed(seed))
    for episode, played in zip(episodes, choose([None] * len(episodes), episodes)):
        episode.played = played
    return episodes


def test_a_slip_is_noted_and_plays_a_logged_sequence():
    episodes = slipped(range(1000))
    for episode in episodes:
        assert (episode.slips == {0, 2}) == (episode.played in OTHERS)
        assert episode.slips == {0, 2} or episode.played == ("b",)
    assert np.mean([2 in e.slips for e in episodes]) == pytest.approx(0.3, abs=0.05)
    first = np.mean([e.played == OTHERS[0] for e in episodes])
    assert first == pytest.approx(0.15, abs=0.05)
    assert not any(2 in e.slips for e in slipped(range(100), share=0.0))
    assert all(2 in e.slips for e in slipped(range(100), share=1.0))


def test_slips_are_keyed():
    # the same whichever other dialogues are played
    every = slipped(range(60))
    assert slipped(range(20, 40)) == every[20:40]
    assert slipped(range(60), seed=6) != every


def test_true_perception_passes_on_what_the_customer_has_in_mind():
    asked = []

    def choose(states, episodes):
        asked.extend(states)
        return [("pay",)]

    def episode(**labels):
        return SimpleNamespace(seen=SimpleNamespace(labels=Labels(**labels)))

    episodes = [episode(intent="refund", emotion="angry"), episode()]
    states = [ExpertState("a"), ExpertState("b")]
    assert with_true_perception(choose)(states, episodes) == [("pay",)]
    assert asked == [ExpertState("a", true_perception=("refund", "angry")), ExpertState("b")]


def test_strategy_learning_needs_no_replies():
    # logs without a phrase book: Silence speaks, nobody judges, R_t = R^E_t
    turns = (Turn("one", skills=("pay",), reply="You get it."), Turn("two", skills=None))
    logs = Dataset("logs", POOL, (), (), [Dialogue("1", turns)], [], [])
    torch.manual_seed(0)
    expert = Expert(list(POOL), Perception([], []), ExpertConfig(width=16))
    gopo = Gopo(logs, expert, None, ReplayJudge(), GopoConfig(dialogues=4))
    played, learned = gopo.step(1, 0)
    row = training_row(1, gopo, played, learned)
    assert gopo.gamma == 0.0
    assert row["unscored"] == 1.0
    assert row["tse"] is None
    assert row["reward"] is not None
    first, second = played[0].steps
    wanted = skill_reward(first.skills, first.teacher, 0.1)
    assert gopo.rewards(played[0])[0] == pytest.approx(wanted)
    assert second.teacher is None
    # the log dictates H_t, but a_{t-1} is the policy's own
    assert second.state.history == (("one", "You get it."),)
    assert second.state.previous == first.skills


@pytest.mark.parametrize("bad", [
    {"gamma": 1.5}, {"tse_gamma": 0.0}, {"dialogues": 0}, {"reward": "both"}, {"cs_reward": "x"},
    {"outcome_weight": -1.0}, {"judge_by": "nobody"}, {"end_weight": -1.0}])
def test_gopo_config_refuses(bad):
    with pytest.raises(ValueError):
        GopoConfig(**bad)
