"""experiments/few_dialogues.py: what is on disk is not made again, and what was stopped goes on."""
from pathlib import Path

import pytest

from experiments import few_dialogues
from experiments.few_dialogues import main, over_seeds


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Trainings asked for; each leaves what train.py would.  Rows are measured as .5 and more."""
    asked = []

    def call(command):
        words = list(command)
        asked.append(words)
        flag = "--resume" if "--resume" in words else "--output_dir"
        run = Path(words[words.index(flag) + 1])
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.json").write_text("{}")
        (run / "expert.safetensors").write_text("")

    def evaluate_run(run, dataset, episodes, seed, judge, only):
        value = 0.5 + int(run.name[-1]) / 10
        cell = {"mean": value, "low": value - 0.1, "high": value + 0.1}
        return {only[0]: {"tse": cell, "success": cell}}

    monkeypatch.setattr(few_dialogues, "call", call)
    monkeypatch.setattr(few_dialogues, "evaluate_run", evaluate_run)
    monkeypatch.setattr(few_dialogues, "data_of", lambda *_: None)
    monkeypatch.setattr(few_dialogues, "judge_for", lambda *_: None)
    return asked


def flags(tmp_path, *more):
    return ["--out", str(tmp_path / "out"), "--sizes", "30", "--rows", "warm_start", "gopo", "sft",
            *more]


def test_two_runs_serve_all_rows_and_nothing_is_made_twice(calls, tmp_path, capsys):
    assert main(flags(tmp_path, "--seeds", "0", "1", "--warm_steps", "9")) == 0
    algorithms = [words[words.index("--algo") + 1] for words in calls]
    assert algorithms == ["gopo", "sft", "gopo", "sft"]
    # what is no flag of the study is train.py's
    assert all(words[-2:] == ["--warm_steps", "9"] for words in calls)
    assert "| gopo | 30 | 0.500 [0.400, 0.600] |" in capsys.readouterr().out
    assert main(flags(tmp_path, "--seeds", "0", "1")) == 0
    assert len(calls) == 4
    # a cell that is lost is measured again, without training
    next((tmp_path / "out/cells/mgshop").glob("gopo-30-1.json")).unlink()
    assert main(flags(tmp_path, "--seeds", "1")) == 0
    assert len(calls) == 4


def test_a_run_that_was_stopped_goes_on(calls, tmp_path):
    run = tmp_path / "out/gopo-30-0"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    assert main(flags(tmp_path, "--rows", "gopo")) == 0
    assert calls[0][-2:] == ["--resume", str(run)]


def test_other_settings_are_refused(calls, tmp_path, capsys):
    assert main(flags(tmp_path)) == 0
    assert main(flags(tmp_path, "--episodes", "7")) == 2
    said = capsys.readouterr().err
    assert "was made with episodes 50, not 7: take another --out" in said and "\n" not in said[:-1]


def test_students_interval_by_hand():
    # mean .6, standard deviation .1 of three, so .0577 of the mean; t with 2 degrees is 4.303
    cells = {s: {"tse": {"mean": v}} for s, v in enumerate((0.5, 0.6, 0.7))}
    assert over_seeds(cells) == "0.600 [0.352, 0.848]"
    assert over_seeds({0: {"tse": {"mean": 0.5}}}) == "0.500"
