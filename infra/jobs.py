"""Jobs that need one another, a process each, as many at once as there are workers; they go on where they were stopped.

A task knows what it needs by name and can tell whether it is done, by what it left on disk: nothing else is remembered, so a call that was
killed is simply given again.  experiments.py makes its trainings and measurings of these; what a task does is its own affair, but that one
told to stop may take the time to save.
Exercise: let a task say how much memory it takes, and start one only where that fits beside those that run."""
from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from infra.files import read_json, write_json


@dataclass(frozen=True)
class Task:
    name: str
    work: Callable[..., Any]
    arguments: tuple
    done: Callable[[], bool]
    needs: tuple[str, ...] = ()


def run_tasks(tasks: Sequence[Task], workers: int, logs: Path, finished: Callable[[str, float], None]) -> list[str]:
    """Runs what is not done, a process each, `workers` at a time, as far as what it needs is there; returns the names of those that failed.

    finished  called with a task's name and its seconds
    """
    context, failed, waiting = multiprocessing.get_context("spawn"), [], [t for t in tasks if not t.done()]
    running: dict[str, tuple[multiprocessing.Process, Task, float]] = {}
    undone = {t.name for t in waiting}
    logs.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(tasks), initial=len(tasks) - len(waiting), desc="experiments", unit="job", smoothing=0) as bar:
        try:
            while waiting or running:
                for task in [t for t in waiting if not undone & set(t.needs)][:workers - len(running)]:
                    process = context.Process(target=in_log, args=(task.work, task.arguments, logs / f"{task.name}.log"))
                    process.start()
                    running[task.name] = (process, task, time.perf_counter())
                    waiting.remove(task)
                if not running:
                    break                                                # what is left needs something that failed
                bar.set_postfix_str(", ".join(running))
                multiprocessing.connection.wait([p.sentinel for p, _, _ in running.values()])
                for name, (process, task, clock) in list(running.items()):
                    if process.is_alive():
                        continue
                    del running[name]
                    process.join()
                    if process.exitcode == 0 and task.done():
                        undone.discard(name)
                        finished(name, time.perf_counter() - clock)
                        bar.update()
                    else:
                        failed.append(name)
                        tqdm.write(f"{name} failed (exit {process.exitcode}); see {logs / name}.log; the same command tries it again")
        finally:
            for process, _, _ in running.values():                       # training saves after its step, and ends
                process.terminate()
            for process, _, _ in running.values():
                process.join()
    return failed + [t.name for t in waiting]


def in_log(work: Callable[..., Any], arguments: tuple, log: Path) -> None:
    """`work(*arguments)` in a process of its own, what it prints in a file of its own.

    Out of reach of the terminal's Ctrl-C: told by its parent alone, once, training saves after its step; twice would stop it at once."""
    os.setsid()
    with open(log, "a", encoding="utf-8", buffering=1) as f, contextlib.redirect_stdout(f), contextlib.redirect_stderr(f):
        try:
            code = work(*arguments)
        except KeyboardInterrupt:
            code = 130
        except Exception:
            traceback.print_exc()
            code = 1
    sys.exit(code)


def wanted(means: Sequence[Task], ends: Sequence[Task]) -> list[Task]:
    """Every end, and the means that an unfinished one needs: numbers that are there need no training."""
    by_name = {t.name: t for t in means}
    def needed(names: Sequence[str]) -> set[str]:
        return set(names).union(*(needed(by_name[n].needs) for n in names if not by_name[n].done()))
    names = set().union(*(needed(t.needs) for t in ends if not t.done()))
    return [t for t in means if t.name in names] + list(ends)


def order(tasks: Sequence[Task]) -> list[Task]:
    """A task as soon as what it needs is through: a seed is measured before the next but one is trained."""
    place = {t.name: i for i, t in enumerate(tasks)}
    return sorted(tasks, key=lambda t: max([place[t.name] if not t.needs else 0, *(place[n] + 0.5 for n in t.needs if n in place)]))


def stop_once(*_: object) -> None:
    """Ctrl-C or SIGTERM: `run_tasks` tells the jobs, and waits for them, which a second signal must not cut short: they would run on, unheard."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    tqdm.write("stopping; jobs that train save after their step ...")
    raise KeyboardInterrupt


@contextlib.contextmanager
def clocked(path: Path, command: str) -> Iterator[Callable[[str, float], None]]:
    """calls.json: every call's command and wall time, and the seconds of every job, kept up to date, for a call may be stopped.

    A job that is made again adds to its seconds; those of one that was stopped are only in its call's."""
    kept = read_json(path) if path.exists() else {"calls": [], "jobs": {}}
    kept["calls"].append({"command": command, "seconds": 0.0})
    clock = time.perf_counter()

    def finished(name: str, seconds: float) -> None:
        kept["jobs"][name] = round(kept["jobs"].get(name, 0.0) + seconds, 1)
        kept["calls"][-1]["seconds"] = round(time.perf_counter() - clock, 1)
        write_json(path, kept)
    try:
        yield finished
    finally:
        kept["calls"][-1]["seconds"] = round(time.perf_counter() - clock, 1)
        write_json(path, kept)
