"""Why customers are lost (experiments/failures.py)."""
from types import SimpleNamespace

import pytest

from data import Episode, Labels, Observation, Outcome, Step
from experiments import failures
from experiments.failures import cause, differences, lost
from expert import ExpertState


def turn(perceived, truth, skills, teacher) -> Step:
    seen = Observation("Hi.", {}, labels=Labels(*truth, teacher))
    return Step(seen, ExpertState("Hi.", (), ()), perceived, skills, None, [], None, [])


@pytest.mark.parametrize(("perceived", "truth", "skills", "said"), [
    (("refund", "neutral"), ("refund", "angry"), ("greet",), "feeling misread"),
    (("refund", "angry"), ("refund", "neutral"), ("greet",), "feeling misread"),
    # happy or neutral: nobody has to be calmed
    (("stock", "happy"), ("refund", "neutral"), ("greet",), "wish misread"),
    (("refund", "happy"), ("refund", "neutral"), ("greet",), "understood, other skills"),
    (("refund", "angry"), ("refund", "angry"), ("apologise",), "right skills"),
])
def test_causes_by_hand(perceived, truth, skills, said):
    assert cause(turn(perceived, truth, skills, ("apologise",))).startswith(said)


def test_differences_by_hand():
    same = ("refund", "neutral")
    step = turn(same, same, ("greet", "close"), ("apologise", "close"))
    assert differences(step) == ["- apologise", "+ greet"]
    assert differences(turn(same, same, ("a", "b"), ("b", "a"))) == ["order"]
    assert differences(turn(same, same, ("a",), ("a",))) == []


def test_the_dearest_turn_of_the_lost():
    episodes = []
    for success in (True, False):
        seen = Observation("Bye.", {}, terminated=True, outcome=Outcome(success))
        episodes.append(Episode(len(episodes), SimpleNamespace(), seen))
    one, = lost(episodes, [[2.0, 0.0], [0.5, 1.5, 1.0]])
    assert (one.episode.number, one.turn, one.cost) == (1, 1, 1.5)


def test_the_command(strategy_run, small_shop, tmp_path, capsys):
    assert failures.main(["--run", str(strategy_run), "--episodes", "3", "--show", "1"]) == 0
    said = capsys.readouterr().out
    assert "of 3 customers were not served in full" in said
    assert failures.main(["--run", str(tmp_path / "nowhere")]) == 2
    assert "not found" in capsys.readouterr().err
