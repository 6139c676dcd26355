"""The Expert's warm start (start/warm_expert.py), and the stage that it is in a run."""
import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import train
from data import Dataset, Dialogue, Turn
from expert import Expert
from expert_learner import labelled_states
from gopo import GopoConfig, algorithm
from rewards import esndcg
from start import stages, warm_expert
from start.base import check_base
from tests.helpers import FOUR, expert_of
from tests.training import SHORT

WARM = "warm_expert.safetensors"
SAID = ("Where is my lamp?", "What does it cost?", "I am angry.", "Thank you, bye.")
SEQUENCES = (("w",), ("x", "y"), ("z", "w"), ())


def logs(dev: int = 2, labelled: bool = True) -> Dataset:
    turns = []
    for said, skills in zip(SAID, SEQUENCES):
        given = skills if labelled else None
        turns.append(Turn(said, skills=given, reply="Well."))
    dialogues = [Dialogue(str(number), tuple(turns)) for number in range(12)]
    return Dataset("toy", {}, (), (), dialogues, dialogues[:dev], [])


def copied(expert: Expert) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in expert.state_dict().items()}


def same(expert: Expert, weights: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, weights[name]) for name, value in expert.state_dict().items())


# --- learning -----------------------------------------------------------------------------------

def test_the_warm_start_teaches_what_the_logs_say():
    expert = expert_of(FOUR, expert_warm=60)
    before = copied(expert)
    dev = labelled_states(logs().dev)
    untrained = warm_expert.mean_esndcg(expert, dev)
    score = warm_expert.warm_expert(expert, logs(), 0)
    assert score > 0.95 > 0.6 > untrained
    assert warm_expert.mean_esndcg(expert, dev) == pytest.approx(score)
    # from the same seed the same, and perception is not its business
    again = expert_of(FOUR, expert_warm=60)
    assert warm_expert.warm_expert(again, logs(), 0) == score
    assert same(again, copied(expert))
    for name, value in expert.state_dict().items():
        frozen = name.startswith(("perception.", "critic.")) or name == "rollouts"
        assert torch.equal(value, before[name]) == frozen, name


def test_mean_esndcg_by_hand(monkeypatch):
    expert = expert_of(FOUR)
    dev = labelled_states(logs(dev=1).dev)
    chosen = [("w",), ("y", "x"), (), ()]
    answers = {state.user: skills for (state, _), skills in zip(dev, chosen)}
    asked = []

    def act(states, greedy=False):
        asked.append((len(states), greedy))
        return [answers[state.user] for state in states]

    monkeypatch.setattr(expert, "act", act)
    wanted = (1.0 + esndcg(["y", "x"], ["x", "y"]) + 0.0 + 1.0) / 4
    assert warm_expert.mean_esndcg(expert, dev) == pytest.approx(wanted)
    # in parts the same
    assert warm_expert.mean_esndcg(expert, dev, at_once=3) == pytest.approx(wanted)
    assert asked == [(4, True), (3, True), (1, True)]


def test_the_epoch_with_the_best_dev_score_is_kept(monkeypatch):
    scores = iter([0.2, 0.5, 0.3, 0.5])
    weights = []
    read = []

    def scripted(expert, labelled):
        weights.append(copied(expert))
        read.append(labelled)
        return next(scores)

    monkeypatch.setattr(warm_expert, "mean_esndcg", scripted)
    expert = expert_of(FOUR, expert_warm=4)
    data = logs()
    assert warm_expert.warm_expert(expert, data, 0) == 0.5
    assert same(expert, weights[1])
    assert not any(same(expert, weights[i]) for i in (0, 2, 3))
    assert read == [labelled_states(data.dev)] * 4


def test_without_a_dev_split_the_training_turns_decide(monkeypatch):
    read = []
    monkeypatch.setattr(warm_expert, "mean_esndcg", lambda expert, turns: read.append(turns) or 1.0)
    warm_expert.warm_expert(expert_of(FOUR, expert_warm=1), logs(dev=0), 0)
    assert read == [labelled_states(logs().train)]


def test_without_labels_there_is_no_warm_start():
    expert = expert_of(FOUR)
    before = copied(expert)
    assert warm_expert.warm_expert(expert, logs(labelled=False), 0) is None
    assert same(expert, before)


# --- the stage ----------------------------------------------------------------------------------

def stage_of(algo: str, warm: int, dataset=None) -> SimpleNamespace:
    """What the stage reads of a Gopo."""
    method = algorithm(algo)
    cfg = GopoConfig(no_expert=method.single)
    expert = expert_of(FOUR, expert_warm=warm)
    return SimpleNamespace(warms=method.warms, cfg=cfg, expert=expert, dataset=dataset or logs())


@pytest.mark.parametrize("algo, warm, warms", [
    ("gopo", 1, True), ("imitation", 1, True), ("gopo", 0, False), ("memento", 1, False),
    ("sft", 1, False), ("ppo", 1, False)])
def test_who_has_a_warm_start(algo, warm, warms, tmp_path):
    gopo = stage_of(algo, warm)
    before = copied(gopo.expert)
    stages.prepare_warm_expert(tmp_path, gopo, 0)
    assert (tmp_path / WARM).exists() == warms
    assert same(gopo.expert, before) != warms


def test_a_finished_warm_start_is_read_back(tmp_path, monkeypatch):
    first = stage_of("gopo", 2)
    stages.prepare_warm_expert(tmp_path, first, 0)
    monkeypatch.setattr(stages, "warm_expert", lambda *_: pytest.fail("learned twice"))
    second = stage_of("gopo", 2)
    assert not same(second.expert, copied(first.expert))
    stages.prepare_warm_expert(tmp_path, second, 0)
    assert same(second.expert, copied(first.expert))


def test_a_run_leaves_its_warm_start(strategy_run, small_shop):
    untrained = load_file(strategy_run / "untrained.safetensors")
    warm = load_file(strategy_run / WARM)
    assert warm.keys() == untrained.keys()
    changed = {name for name in warm if not torch.equal(warm[name], untrained[name])}
    assert {"actor.weight", "trunk.0.weight", "user_reader.words.bag.weight"} <= changed
    assert not any(name.startswith(("perception.", "critic.")) for name in changed)


def test_a_run_takes_the_warm_start_of_its_base(strategy_run, small_shop, tmp_path, monkeypatch):
    run = tmp_path / "run"
    flags = [*SHORT, "--steps", "1", "--eval_episodes", "0", "--base", str(strategy_run)]
    with monkeypatch.context() as patch:
        patch.setattr(stages, "warm_expert", lambda *_: pytest.fail("learned twice"))
        assert train.main([*flags, "--output_dir", str(run)]) == 0
    assert (run / WARM).read_bytes() == (strategy_run / WARM).read_bytes()
    # one of another length is learned again
    config = json.loads((run / "config.json").read_text())
    assert WARM in check_base(strategy_run, config)
    config["expert"]["expert_warm"] = 2
    left = check_base(strategy_run, config)
    assert WARM not in left
    assert "untrained.safetensors" in left
