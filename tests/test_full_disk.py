"""A disk that is full: one line, what was done is kept, and the run goes on when there is space."""
import errno
import json

import pytest
import torch

import eval as evaluation
import train
from hosted import label
from infra import runs
from infra.runs import save_tensors, system_errors
from start import stages
from tests import forks
from tests.label_logs import SORRY, dialogue, logs
from tests.training import rows_of

FULL = "I/O error: No space left on device (os error 28)"


def no_space(*_, **__):
    raise runs.SafetensorError(FULL)


def test_what_rust_says_becomes_a_number(tmp_path):
    with pytest.raises(OSError, match="No space left") as raised, system_errors(tmp_path / "x"):
        raise Exception(FULL)                    # as tokenizers does
    assert raised.value.errno == errno.ENOSPC
    with pytest.raises(ZeroDivisionError), system_errors(tmp_path / "x"):
        raise ZeroDivisionError


def test_no_half_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "save_file", no_space)
    with pytest.raises(OSError, match="No space left"):
        save_tensors({"w": torch.zeros(3)}, tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_when_there_is_space(tmp_path, monkeypatch, capsys):
    forks.write_logs(tmp_path / "logs.jsonl")
    flags = ["--dataset", str(tmp_path / "logs.jsonl"), *forks.QUICK, "--steps", "3"]
    flags += ["--save_every", "1", "--eval_episodes", "0"]
    whole, broken = tmp_path / "whole", tmp_path / "a run"
    assert train.main([*flags, "--output_dir", str(whole)]) == 0
    real = runs.save_file
    # perception, the warm start, two parts of the first checkpoint; then no more
    left = iter(range(4))

    def save_file(*args):
        if next(left, None) is None:
            no_space()
        real(*args)

    monkeypatch.setattr(runs, "save_file", save_file)
    capsys.readouterr()
    assert train.main([*flags, "--output_dir", str(broken)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert f"free some space, then go on with: python train.py --resume '{broken}'" in said[0]
    assert train.load_checkpoint(broken)[0] == 1
    monkeypatch.undo()
    assert train.main(["--resume", str(broken)]) == 0
    assert rows_of(broken) == rows_of(whole)
    assert (broken / "dialogues.jsonl").read_text() == (whole / "dialogues.jsonl").read_text()


def test_the_language_model_too(tmp_path, monkeypatch):
    def make(folder):
        raise Exception(FULL)

    with pytest.raises(OSError, match="No space left"):
        stages.replace_folder(tmp_path / "csagent", make)
    assert list(tmp_path.iterdir()) == []


def test_eval_prints_what_it_cannot_write(strategy_run, tmp_path, monkeypatch, capsys):
    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(evaluation, "write_json", write)
    flags = ["--rows", "random", "--episodes", "2", "--json", str(tmp_path / "x.json")]
    assert evaluation.main(["--run", str(strategy_run), *flags]) == 2
    found = capsys.readouterr()
    assert "random" in found.out
    assert "No space left" in found.err
    assert "written" not in found.out


def test_json_is_there_before_anything_is_printed(strategy_run, tmp_path, monkeypatch):
    path = tmp_path / "x.json"

    def broken_terminal(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(evaluation, "print_table", broken_terminal)
    flags = ["--rows", "random", "--episodes", "2", "--json", str(path)]
    assert evaluation.main(["--run", str(strategy_run), *flags]) == 2
    assert list(json.loads(path.read_text())) == ["random"]


def test_labels_are_kept(tmp_path, monkeypatch, capsys):
    path = logs(tmp_path, [dialogue("a", {"reply": SORRY})])

    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hosted.label_file.append", write)
    assert label.main([str(path)]) == 2
    assert "free some space; what was labelled is kept" in capsys.readouterr().err
    monkeypatch.undo()
    assert label.main([str(path)]) == 0


def test_labelling_goes_on_after_a_kill_before_its_note(tmp_path, capsys):
    path = logs(tmp_path, [dialogue("a", {"reply": SORRY})])
    assert label.main([str(path)]) == 0
    out = tmp_path / "logs.labelled.jsonl"
    whole = out.read_bytes()
    out.write_bytes(b"")
    (tmp_path / "logs.labelled.meta.json").unlink()
    assert label.main([str(path)]) == 0
    assert out.read_bytes() == whole


def test_a_look_that_a_killed_run_did_not_come_to_is_made_up_for(tmp_path):
    forks.write_logs(tmp_path / "logs.jsonl")
    run = tmp_path / "run"
    flags = ["--dataset", str(tmp_path / "logs.jsonl"), *forks.QUICK, "--steps", "2"]
    assert train.main([*flags, "--eval_every", "1", "--output_dir", str(run)]) == 0
    looks = (run / "evals.jsonl").read_text()
    assert len(looks.splitlines()) == 2
    (run / "evals.jsonl").write_text(looks.splitlines(keepends=True)[0])
    assert train.main(["--resume", str(run)]) == 0
    assert (run / "evals.jsonl").read_text() == looks
