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
    ["--episodes", "0"], ["--episode", "3"], ["--judge", "gpt"], ["--cs_agent", "api:"]])
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


def test_chat(strategy_run, monkeypatch, capsys):
    lines = iter(["I am looking for a kettle.", "quiet, please", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    assert evaluation.main(["--run", str(strategy_run), "--chat"]) == 0
    out = capsys.readouterr().out
    assert "[turn 2]" in out
    assert "skills" in out
    assert "[turn 3]" not in out
