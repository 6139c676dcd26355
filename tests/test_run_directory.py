"""The folder of a run: who may make it, empty it, train into it and read from it."""
import fcntl
from contextlib import ExitStack

import pytest

from data import DataError
from infra.locks import alone_in, reading_from, refuse_growing
from infra.runs import run_directory

RUN = '{"run": {}}'


@pytest.fixture
def held():
    with ExitStack() as stack:
        yield stack


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- what may be emptied ------------------------------------------------------------------------

def test_a_run_without_a_folder_of_its_own_is_numbered(tmp_path, monkeypatch, held):
    monkeypatch.chdir(tmp_path)
    made = [run_directory(held, None, "x", False).as_posix() for _ in range(2)]
    assert made == ["runs/x", "runs/x-2"]


def test_what_is_no_run_is_never_emptied(tmp_path, held):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_text("dear")
    # a language model has a config.json too
    for config in (None, '{"model_type": "qwen3"}', "[]"):
        if config:
            (photos / "config.json").write_text(config)
        before = names(photos)
        for overwrite in (False, True):
            with pytest.raises(DataError):
                run_directory(held, str(photos), "x", overwrite)
        assert names(photos) == before


@pytest.mark.parametrize("more", [{}, {"dataset.json": "{}"}])
def test_overwrite_empties_a_run(tmp_path, held, more):
    run = tmp_path / "run"
    (run / "checkpoint" / "step-000001").mkdir(parents=True)
    # damaged, but what lies beside it is of training
    config = '{"run": ' if more else RUN
    for name, text in ({"config.json": config} | more).items():
        (run / name).write_text(text)
    run_directory(held, str(run), "x", True)
    assert names(run) == ["lock"]
    # a lock alone is as good as nothing
    held.close()
    run_directory(held, str(run), "x", False)


def test_overwrite_never_removes_what_the_run_needs(tmp_path, held):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(RUN)
    (run / "logs.jsonl").write_text("")
    with pytest.raises(DataError, match="which this run needs as its --dataset"):
        run_directory(held, str(run), "x", True, {"dataset": str(run / "logs.jsonl")})
    with pytest.raises(DataError, match="which this run needs as its --base"):
        run_directory(held, str(run), "x", True, {"base": str(run)})
    assert names(run) == ["config.json", "logs.jsonl"]
    run_directory(held, str(run), "x", True, {"dataset": "mgshop", "base": None})


def test_a_file_is_no_folder(tmp_path, held):
    file = tmp_path / "file"
    file.write_text("dear")
    for path in (file, file / "run" / "deep"):
        for overwrite in (False, True):
            with pytest.raises(DataError, match=f"--output_dir {path}: {file} is a file"):
                run_directory(held, str(path), "x", overwrite)
    assert file.read_text() == "dear"


# --- the lock -----------------------------------------------------------------------------------

def test_a_living_run_is_neither_emptied_nor_entered(tmp_path, held):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(RUN)
    with alone_in(run):
        before = names(run)
        with pytest.raises(DataError, match="another process is training there"):
            run_directory(held, str(run), "x", True)
        with pytest.raises(DataError, match="is training there"), reading_from(run):
            pass
        assert names(run) == before
    run_directory(held, str(run), "x", True)


def test_two_may_read_but_nobody_trains_meanwhile(tmp_path):
    with reading_from(tmp_path), reading_from(tmp_path):
        with pytest.raises(DataError, match="or measures it; nothing was changed"):
            with alone_in(tmp_path):
                pass
    with alone_in(tmp_path):
        pass


def test_logs_that_grow_are_not_read(tmp_path):
    path = tmp_path / "logs.labelled.jsonl"
    refuse_growing(path)                         # not there: the loader says so
    path.write_text("{}")
    refuse_growing(path)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="is labelling into it"):
            refuse_growing(path)
