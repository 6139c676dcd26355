"""--report_to: what is reported, by whom, and where; the packages are not needed for it."""
import importlib.util
import json
import sys
import types

import pytest

from data import DataError, Dialogue, Episode, Replay, Turn
from infra.flags import REPORTS
from infra.runs import Log
from infra.watch import SILENT, Trackio, Watch, refuse_missing, watch, written
from tests.training import SHORT, refused


class Told(Watch):
    """Keeps what it is told."""

    def __init__(self):
        self.said = []

    def numbers(self, step, numbers):
        self.said.append((step, dict(numbers)))

    def text(self, step, name, text):
        self.said.append((step, name))


def episode(number=3):
    env = Replay(Dialogue("d", (Turn("Hello?"),)))
    return Episode(number, env, env.reset())


def test_each_row_of_a_log_is_reported_without_what_is_no_number(tmp_path):
    told = Told()
    log = Log(tmp_path / "metrics.jsonl", also=told.rows("train"))
    log.write({"step": 4, "tse": 0.5, "loss": None, "turns": 3})
    assert told.said == [(4, {"train/tse": 0.5, "train/turns": 3.0})]


def test_two_dialogues_a_step():
    told = Told()
    told.dialogues("train", 7, [episode(1), episode(2), episode(3)])
    assert told.said == [(7, "train/dialogue 1"), (7, "train/dialogue 2")]
    assert written(episode(5)).startswith("customer 5, success: False")


def test_only_the_main_process_reports(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert watch("tensorboard", tmp_path, "joint") is SILENT
    monkeypatch.setenv("RANK", "0")
    assert watch("none", tmp_path, "joint") is SILENT
    told = Told()
    monkeypatch.setenv("RANK", "1")
    Log(tmp_path / "metrics.jsonl", also=told.rows("train")).write({"step": 1, "tse": 0.5})
    assert told.said == []


def test_a_resumed_run_goes_on_in_the_same_log_of_trackio(tmp_path, monkeypatch):
    calls = []

    class Fake(types.ModuleType):
        def __getattr__(self, name):
            return lambda *args, **kwargs: calls.append((name, args, kwargs))

    monkeypatch.setitem(sys.modules, "trackio", Fake("trackio"))
    first = Trackio(tmp_path, "strategy", 0)
    first.numbers(1, {"train/tse": 0.5})
    first.close()
    Trackio(tmp_path, "joint", 10)
    begun, logged, finished, again = calls
    kept = json.loads((tmp_path / "trackio.json").read_text())
    assert kept["name"].startswith(f"{tmp_path.name}-")
    assert begun == again == ("init", (), kept | {"resume": "allow", "embed": False})
    assert logged == ("log", ({"train/tse": 0.5},), {"step": 1})
    assert finished == ("finish", (), {})


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None,
    reason="tensorboard is not installed: pip install tensorboard")
def test_tensorboard_reads_back_what_was_reported_and_drops_what_was_not_saved(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    first = watch("tensorboard", tmp_path, "joint")
    for step in (1, 2, 3):
        first.rows("train")({"step": step, "tse": step / 10})
    first.dialogues("train", 3, [episode(), episode()])
    first.close()
    again = watch("tensorboard", tmp_path, "joint", 2)            # the checkpoint is of step 2
    again.rows("train")({"step": 3, "tse": 0.9})
    again.close()
    found = EventAccumulator(str(tmp_path / "tensorboard" / "joint"))
    found.Reload()
    seen = [(event.step, round(event.value, 3)) for event in found.Scalars("train/tse")]
    assert seen == [(1, 0.1), (2, 0.2), (3, 0.9)]
    assert "train/dialogue 1/text_summary" in found.Tags()["tensors"]


def test_a_missing_package_is_refused_in_one_line_before_anything_is_trained(
        monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "trackio", None)
    run = tmp_path / "run"
    said = refused([*SHORT, "--report_to", "trackio", "--output_dir", str(run)], capsys)
    assert said == ("train.py: --report_to trackio needs the package trackio: "
                    "pip install trackio\n")
    assert not run.exists()
    with pytest.raises(DataError):
        refuse_missing("trackio")
    refuse_missing("none")


def test_another_word_is_refused(capsys):
    with pytest.raises(SystemExit):
        refused(["--report_to", "wandb"], capsys)
    said = capsys.readouterr().err
    assert f"--report_to must be one of {', '.join(REPORTS)}, got 'wandb'" in said
