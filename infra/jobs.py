"""Jobs that need one another: each runs in a process of its own, as many at once as allowed.

A task knows by name what it needs, and it can tell from the files on disk whether it is done.
Nothing else is remembered: a call that was killed is simply given again, and goes on where it
stopped.  experiments/paper.py makes tasks of its trainings and measurements.  What a task does is
its own affair, except that a task which is terminated may take the time to save.
Exercise: let a task say how much memory it takes, and start one only if that much is free."""
from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from infra.files import read_json, write_json

SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Task:
    """Something to do once: `work(*arguments)`.

    done   whether its result is on disk
    needs  names of the tasks that have to be done before
    """
    name: str
    work: Callable[..., Any]
    arguments: tuple
    done: Callable[[], bool]
    needs: tuple[str, ...] = ()


@dataclass
class _Job:
    """A task under way."""
    task: Task
    process: multiprocessing.context.SpawnProcess
    started: float = field(default_factory=time.perf_counter)


# --- running them -------------------------------------------------------------------------------

def run_tasks(
    tasks: Sequence[Task], workers: int, logs: Path, finished: Callable[[str, float], None]
) -> list[str]:
    """Runs every task that is not done, `workers` at a time.

    logs      the folder that gets <name>.log of each task
    finished  called with a task's name and the seconds that it took
    returns   names of the tasks that failed, and of those that need one of them
    """
    waiting = [task for task in tasks if not task.done()]
    undone = {task.name for task in waiting}
    running: list[_Job] = []
    failed = []
    logs.mkdir(parents=True, exist_ok=True)
    with (
        _progress(len(tasks), len(tasks) - len(waiting)) as bar,
        _terminated_on_leaving(running),
    ):
        while waiting or running:
            ready = [task for task in waiting if not undone & set(task.needs)]
            for task in ready[:workers - len(running)]:
                running.append(_start(task, logs))
                waiting.remove(task)
            if not running:
                # what is left needs something that failed
                break
            bar.set_postfix_str(", ".join(job.task.name for job in running))
            for job in _ended(running):
                name = job.task.name
                if job.process.exitcode == 0 and job.task.done():
                    undone.discard(name)
                    finished(name, time.perf_counter() - job.started)
                    bar.update()
                else:
                    failed.append(name)
                    tqdm.write(f"{name} failed (exit {job.process.exitcode}); "
                               f"see {logs / name}.log; the same command tries it again")
    return failed + [task.name for task in waiting]


def _progress(total: int, done: int) -> tqdm:
    # smoothing=0: the speed is that of the whole call, for tasks differ in length
    return tqdm(total=total, initial=done, desc="experiments", unit="job", smoothing=0)


def _start(task: Task, logs: Path) -> _Job:
    log = logs / f"{task.name}.log"
    process = SPAWN.Process(target=in_log, args=(task.work, task.arguments, log))
    process.start()
    return _Job(task, process)


def _ended(running: list[_Job]) -> list[_Job]:
    """Waits until a job ends; removes all that have ended from `running`, and returns them."""
    multiprocessing.connection.wait([job.process.sentinel for job in running])
    ended = [job for job in running if not job.process.is_alive()]
    for job in ended:
        running.remove(job)
        job.process.join()
    return ended


@contextlib.contextmanager
def _terminated_on_leaving(running: Collection[_Job]) -> Iterator[None]:
    """However the block ends, the jobs under way are stopped; a training saves after its step."""
    try:
        yield
    finally:
        for job in running:
            job.process.terminate()
        for job in running:
            job.process.join()


def in_log(work: Callable[..., Any], arguments: tuple, log: Path) -> None:
    """What the process of a job does: `work(*arguments)`, with all that it prints in a file."""
    # Out of reach of the terminal's Ctrl-C.  The parent alone stops this process, and does it
    # once: a training saves after its step, but a second signal would stop it at once.
    os.setsid()
    with (
        open(log, "a", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        try:
            code = work(*arguments)
        except KeyboardInterrupt:
            code = 130
        except Exception:
            traceback.print_exc()
            code = 1
    sys.exit(code)


def stop_once(*_: object) -> None:
    """A handler for Ctrl-C and SIGTERM: `run_tasks` stops its jobs and waits for them.

    Later signals are ignored.  A second one would end that wait, and the jobs would run on with
    nobody watching.
    """
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    tqdm.write("stopping; jobs that train save after their step ...")
    raise KeyboardInterrupt


# --- which of them, and in which order ----------------------------------------------------------

def wanted(means: Sequence[Task], ends: Sequence[Task]) -> list[Task]:
    """All ends, and those of the means that an unfinished end needs, directly or through others.

    An end that is done needs nothing: numbers that are there need no training.
    """
    by_name = {task.name: task for task in means}
    names: set[str] = set()

    def add(needed: Iterable[str]) -> None:
        for name in needed:
            names.add(name)
            if not by_name[name].done():
                add(by_name[name].needs)

    for task in ends:
        if not task.done():
            add(task.needs)
    return [task for task in means if task.name in names] + list(ends)


def order(tasks: Sequence[Task]) -> list[Task]:
    """Puts each task soon after the last one that it needs.

    Of three seeds, the first is then measured before the third is trained.
    """
    place = {task.name: i for i, task in enumerate(tasks)}

    def position(task: Task) -> float:
        if not task.needs:
            return place[task.name]
        behind = [place[name] + 0.5 for name in task.needs if name in place]
        return max([0, *behind])

    return sorted(tasks, key=position)


# --- how long they took -------------------------------------------------------------------------

@contextlib.contextmanager
def clocked(path: Path, command: str) -> Iterator[Callable[[str, float], None]]:
    """Keeps calls.json: command and wall time of every call, and the seconds of every job.

    Yields the `finished` of `run_tasks`.  The file is written after each job, for a call may be
    stopped.  A job that is made again adds to its seconds.  The time of a job that was stopped is
    in that of its call only.
    """
    kept = read_json(path) if path.exists() else {"calls": [], "jobs": {}}
    call = {"command": command, "seconds": 0.0}
    kept["calls"].append(call)
    start = time.perf_counter()

    def write() -> None:
        call["seconds"] = round(time.perf_counter() - start, 1)
        write_json(path, kept)

    def finished(name: str, seconds: float) -> None:
        kept["jobs"][name] = round(kept["jobs"].get(name, 0.0) + seconds, 1)
        write()

    try:
        yield finished
    finally:
        write()
