"""The trainer on the food-delivery store: wiring, the mix of a run, and at most one voucher."""
import json

import pytest

import data
import train
from gopo import load
from policies import by_chance
from shop import fds
from shop.fds_planner import VOUCHER
from tests.conftest import small_shops
from tests.training import SHORT, refused


@pytest.fixture(scope="module")
def small_store():
    with small_shops(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(fds, "SIZES", {"train": 40, "dev": 6, "test": 6})
        yield


@pytest.fixture(scope="module")
def run(small_store, tmp_path_factory):
    run = tmp_path_factory.mktemp("fds") / "run"
    flags = [*SHORT, "--dataset", "fds", "--steps", "1", "--eval_episodes", "3"]
    assert train.main([*flags, "--output_dir", str(run)]) == 0
    return run


def test_a_run_says_its_mix_and_its_marks(run):
    config = json.loads((run / "config.json").read_text())
    assert config["run"]["difficulty"] == "hard"
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert 1 <= row["satisfaction"] <= 5
    table = json.loads((run / "results.json").read_text())
    for name in ("gopo", "teacher"):
        assert 1 <= table[name]["satisfaction"]["mean"] <= 5
        assert table[name]["tse"]["mean"] is not None
    assert data.load_used(config["run"]).note == data.load("fds", difficulty="hard").note


@pytest.mark.parametrize("algo", ["imitation", "memento"])
def test_baselines_run_unchanged(algo, run, tmp_path):
    flags = [*SHORT, "--dataset", "fds", "--algo", algo, "--steps", "1", "--eval_episodes", "0"]
    out = tmp_path / algo
    assert train.main([*flags, "--base", str(run), "--output_dir", str(out)]) == 0


def gives(log) -> bool:
    """Whether a logged dialogue has a voucher."""
    return any(VOUCHER in turn.skills for turn in log.turns)


def test_the_generosity_of_the_logs_is_a_flag(run, small_store, tmp_path, capsys):
    config = json.loads((run / "config.json").read_text())["run"]
    # V of the logs is about .45 by default, and all that the planner would give at 1
    assert config["warm_generosity"] == fds.GENEROSITY == 0.48
    rates = {}
    for share in (0.0, 1.0):
        logs = data.load_used(config | {"warm_generosity": share}).train
        rates[share] = sum(map(gives, logs)) / len(logs)
    assert rates[0.0] == 0
    assert rates[1.0] > 0.8
    flags = [*SHORT, "--dataset", "fds", "--warm_generosity", "1", "--steps", "1"]
    said = refused([*flags, "--base", str(run), "--output_dir", str(tmp_path / "x")], capsys)
    assert "--warm_generosity 0.48, this run has 1.0" in said


def test_another_mix_is_no_base(run, tmp_path, capsys):
    flags = [*SHORT, "--dataset", "fds", "--difficulty", "easy", "--steps", "1"]
    said = refused([*flags, "--base", str(run), "--output_dir", str(tmp_path / "x")], capsys)
    assert "--difficulty hard, this run has easy" in said


@pytest.mark.parametrize("flags, said", [
    (["--dataset", "fds", "--difficulty", "mean"], "--difficulty is one of hard, easy"),
    (["--dataset", "mgshop", "--difficulty", "hard"], "chooses the customers of fds"),
    (["--dataset", "mgshop", "--warm_generosity", "0.5"], "--warm_generosity is of the planner"),
])
def test_a_wrong_mix_is_refused_in_one_line(flags, said, capsys, tmp_path):
    out = ["--output_dir", str(tmp_path / "x")]
    message = refused([*flags, "--replies", "template", *out], capsys)
    assert said in message
    assert len(message.splitlines()) == 1


# whoever chooses: what is banned is dropped before it is said
def test_nobody_issues_two_vouchers(run):
    player = load(run).gopo
    episodes = player.episodes("train", range(30), 0)
    player.play(episodes, by_chance([VOUCHER, "apologise"], 0), judge_by="nobody")
    for episode in episodes:
        said = []
        for step in episode.steps:
            said += step.skills
        assert said.count(VOUCHER) == episode.seen.outcome.vouchers <= 1
        assert episode.seen.outcome.valid
    assert sum(episode.seen.outcome.vouchers for episode in episodes) > 5
