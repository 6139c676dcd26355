"""eval.py: the table of a run, what it refuses, and a talk."""
import json

import pytest

import eval as evaluation

pytestmark = pytest.mark.usefixtures("small_shop")


def test_eval_shows_what_training_showed(strategy_run, tmp_path, capsys):
    path = tmp_path / "r.json"
    flags = ["--episodes", "3", "--rows", "gopo", "--json", str(path), "--show", "1"]
    assert evaluation.main(["--run", str(strategy_run), *flags]) == 0
    out = capsys.readouterr().out
    assert "R_t" in out
    assert "teacher:" in out
    assert "rule judge, also the training reward" in out
    # the same customers, the same decoding
    results = json.loads((strategy_run / "results.json").read_text())
    assert json.loads(path.read_text())["gopo"] == results["gopo"]


@pytest.mark.parametrize("wrong", [
    ["--episodes", "0"], ["--trials", "-1"], ["--episode", "3"], ["--judge", "gpt"],
    ["--cs_agent", "api:"]])
def test_wrong_flags_are_refused(strategy_run, wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluation.main(["--run", str(strategy_run), *wrong])
    assert stop.value.code == 2


def test_eval_refuses_what_the_run_cannot_show(strategy_run, tmp_path, capsys):
    def said(*flags):
        assert evaluation.main(["--run", *flags]) == 2
        return capsys.readouterr().err

    run = str(strategy_run)
    assert "config.json" in said(str(tmp_path / "nothing"))
    assert "--rows gpt: this run has untrained" in said(run, "--rows", "gpt")
    assert "--api_base is missing" in said(run, "--judge", "api:m")


def test_trials_serve_the_same_customers_again(strategy_run, tmp_path, capsys):
    path = tmp_path / "r.json"
    flags = ["--episodes", "4", "--rows", "teacher", "random", "--trials", "2"]
    assert evaluation.main(["--run", str(strategy_run), *flags, "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "pass^2" in out
    assert "pass^4" not in out
    rows = json.loads(path.read_text())
    assert rows["teacher"]["pass_1"]["mean"] > rows["random"]["pass_1"]["mean"]
    for row in rows.values():
        # both trials succeed at most as often as one
        assert row["pass_2"]["mean"] <= row["pass_1"]["mean"]
    # other draws, other dialogues
    assert rows["random"]["trials_tse"] != rows["random"]["tse"]


def test_trials_need_somebody_to_serve_and_fresh_answers(strategy_run, capsys):
    flags = ["--run", str(strategy_run), "--trials", "2"]
    assert evaluation.main([*flags, "--cs_agent", "api:m", "--api_base", "http://127.0.0.1:1/v1"])
    assert "--trials: the answers of a hosted model are kept" in capsys.readouterr().err


def test_chat(strategy_run, monkeypatch, capsys):
    lines = iter(["I am looking for a kettle.", "quiet, please", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    assert evaluation.main(["--run", str(strategy_run), "--chat"]) == 0
    out = capsys.readouterr().out
    assert "[turn 2]" in out
    assert "skills" in out
    assert "[turn 3]" not in out
