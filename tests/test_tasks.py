"""infra/jobs.py: tasks run after what they need, stop together, and are not done twice."""
import os
import signal
import sys
import threading
import time

import pytest

from infra.jobs import Task, run_tasks, stop_once, wanted


@pytest.fixture(autouse=True)
def handlers():
    """Signal handlers of a test are taken back."""
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


def write(path: str, text: str, code: int = 0) -> int:
    print(f"writing {path}")
    print("a word to stderr", file=sys.stderr)
    if code == 0:
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"{text} {time.time()}")
    return code


def burst(path: str) -> int:
    raise ValueError("burst")


def ignore(*_: object) -> None:
    """What is called when a task is finished."""


def task(tmp_path, name, needs=(), work=write, arguments=None) -> Task:
    path = tmp_path / name
    return Task(name, work, arguments or (str(path), name), path.exists, needs)


def test_tasks_run_after_what_they_need_and_not_twice(tmp_path):
    (tmp_path / "there").write_text("kept")
    tasks = [
        task(tmp_path, "late", ("early",)),
        task(tmp_path, "early", ("there",)),
        task(tmp_path, "there"),
    ]
    times = {}
    assert run_tasks(tasks, 2, tmp_path / "logs", times.__setitem__) == []

    def when(name):
        return float((tmp_path / name).read_text().split()[1])

    assert when("early") < when("late")
    assert (tmp_path / "there").read_text() == "kept"
    assert set(times) == {"early", "late"}
    log = (tmp_path / "logs/late.log").read_text()
    assert "writing" in log
    assert "a word to stderr" in log


def patient(started: str, saved: str) -> int:
    """As train.py: when it is stopped, it ends its step and saves."""
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    open(started, "w").close()
    while not stopped:
        time.sleep(0.01)
    time.sleep(0.3)
    open(saved, "w").close()
    return 130


def test_two_signals_stop_every_job_once_and_wait_for_all(tmp_path):
    names = ("one", "two")
    tasks = []
    for name in names:
        arguments = (str(tmp_path / f"{name}.started"), str(tmp_path / name))
        tasks.append(Task(name, patient, arguments, lambda: False))

    def interrupt():
        while not all((tmp_path / f"{n}.started").exists() for n in names):
            time.sleep(0.05)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    signal.signal(signal.SIGINT, stop_once)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_tasks(tasks, 2, tmp_path / "logs", ignore)
    thread.join()
    assert all((tmp_path / n).exists() for n in names)


def test_what_failed_is_named_with_all_that_needed_it(tmp_path, capfd):
    path = str(tmp_path / "x")
    tasks = [
        task(tmp_path, "exits", arguments=(path, "x", 3)),
        task(tmp_path, "bursts", work=burst, arguments=(path,)),
        task(tmp_path, "needs_it", ("bursts",)),
        # returns 0 and leaves nothing
        task(tmp_path, "lies", arguments=(path, "x")),
        task(tmp_path, "fine"),
    ]
    failed = run_tasks(tasks, 3, tmp_path / "logs", ignore)
    assert sorted(failed) == ["bursts", "exits", "lies", "needs_it"]
    assert (tmp_path / "fine").exists()
    assert "ValueError: burst" in (tmp_path / "logs/bursts.log").read_text()
    # where to look
    assert "bursts.log" in capfd.readouterr().out


def test_a_seed_whose_numbers_are_there_is_not_trained_again(tmp_path):
    trainings = [
        task(tmp_path, "base"),
        task(tmp_path, "run", ("base",)),
        task(tmp_path, "other", ("base",)),
    ]
    (tmp_path / "measured").write_text("")
    first = task(tmp_path, "measured", ("other", "run"))
    second = task(tmp_path, "to_measure", ("run",))

    def names(ends):
        return [t.name for t in wanted(trainings, ends)]

    assert names([first, second]) == ["base", "run", "measured", "to_measure"]
    (tmp_path / "run").write_text("")
    # what it began with may be gone
    assert names([first, second]) == ["run", "measured", "to_measure"]
    assert wanted(trainings, [first]) == [first]
