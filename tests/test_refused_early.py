"""What can be checked before training is checked before training; a refusal leaves nothing."""
import re

import pytest

import eval as evaluation
from infra.curves import plot_curves
from tests.forks import QUICK, write_logs
from tests.training import refused


@pytest.fixture
def logs(tmp_path):
    write_logs(tmp_path / "logs.jsonl")
    return str(tmp_path / "logs.jsonl")


@pytest.mark.parametrize("flags, said", [
    (["--reward", "end"], "--reward end is always 0 here: logs is replayed"),
    (["--reward", "cs"], "--reward cs is always 0 here.*strategy stage: add --strategy_steps 0"),
    (["--reward", "cs", "--replies", "template"], "--reward cs is always 0 here"),
    (["--outcome_weight", "1"], "--outcome_weight needs a live shop"),
    (["--fix_expert", "True", "--replies", "template"], "leaves nothing to learn: leave it out"),
    (["--fix_expert", "True", "--no_expert", "True"], "nobody whom --fix_expert could keep"),
    (["--fix_expert", "True", "--algo", "memento"], "does not read --fix_expert"),
    (["--algo", "memento", "--no_expert", "True"], "leaves Memento nothing to do"),
    (["--algo", "ppo", "--outcome_weight", "1"], "with PPO set --ppo_tse"),
])
def test_rewards_that_are_always_zero(logs, flags, said, tmp_path, capsys):
    run = tmp_path / "run"
    found = refused(["--dataset", logs, *flags, "--output_dir", str(run)], capsys)
    assert len(found.strip().splitlines()) == 1
    assert re.search(said, found)
    assert not run.exists()


def test_fewer_steps_than_are_done_are_refused(strategy_run, capsys):
    config = (strategy_run / "config.json").read_text()
    said = refused(["--resume", str(strategy_run), "--steps", "1"], capsys)
    assert "--steps 1" in said
    assert "has done 2 already" in said
    assert (strategy_run / "config.json").read_text() == config


def test_paths_are_checked_before_work(logs, strategy_run, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("dear")
    flags = ["--dataset", "nowhere.jsonl", *QUICK, "--output_dir"]
    # it comes before the data, which may take minutes
    assert "is a file, no folder" in refused([*flags, str(file / "run")], capsys)
    for path, said in (("/", "is a folder"), (str(tmp_path / "no" / "x.json"), "no such folder")):
        assert evaluation.main(["--run", str(strategy_run), "--json", path]) == 2
        error = capsys.readouterr().err
        assert f"--json {path}" in error
        assert said in error


def test_a_config_of_another_program_is_no_run(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    assert "not written by train.py" in refused(["--resume", str(tmp_path)], capsys)
    assert evaluation.main(["--run", str(tmp_path)]) == 2
    assert "not written by train.py" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_title_is_drawn_as_text(tmp_path):
    rows = [{"step": 1, "reward": 0.5}, {"step": 2, "reward": 0.7}]
    plot_curves(rows, [], tmp_path / "curves.png", "cost$10_to_$20")
    assert (tmp_path / "curves.png").stat().st_size > 1000
