"""One line of progress for a whole run: its stage, and about how long everything still takes.

    GOPO  31%|███       | 2:10 gone, about 5 min left, strategy 20/60, R_E=0.61

A stage asks for a `bar`.  While a whole run is shown (`whole_run`), all bars are that one line.
Else, as in eval.py, each is a bar of its own.
How long the stages take that are to come is known of another machine.  What ran here says how much
faster or slower this one is.  So early in a run the time left is rough.
Try it:  python -m infra.progress"""
from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

WIDTH = "{l_bar}{bar}| {elapsed} gone{postfix}"


def time_left(
    planned: Mapping[str, float], spent: Mapping[str, float], stage: str, share: float
) -> float | None:
    """Seconds that a run still takes; None: nothing is known yet.

    planned  stage -> seconds on another machine, in the order of the run
    spent    stage -> seconds here, of the stages that ran; `stage`, the last of them, is under way
    share    of `stage` that is done, in [0, 1]

    Two stages of 10 and 30 s.  Half of the first took 20 s, so this machine takes four times as
    long: 20 s are left of the first, and 120 s of the second.

    >>> time_left({"warm": 10, "joint": 30}, {"warm": 20}, "warm", 0.5)
    140.0
    """
    done = {name: planned.get(name, 0.0) for name in spent} | {stage: planned[stage] * share}
    if not sum(done.values()):
        return None
    slower = sum(spent.values()) / sum(done.values())
    here = planned[stage] * (1 - share) * slower
    if share:
        here = spent[stage] * (1 - share) / share
    order = list(planned)
    later = order[order.index(stage) + 1:]
    return here + slower * sum(planned[name] for name in later)


def in_words(seconds: float | None) -> str:
    """
    >>> in_words(None), in_words(20), in_words(100), in_words(5400)
    ('', 'less than a minute left', 'about 2 min left', 'about 1.5 h left')
    """
    if seconds is None:
        return ""
    if seconds < 50:
        return "less than a minute left"
    if seconds < 3000:
        return f"about {seconds / 60:.0f} min left"
    return f"about {seconds / 3600:.1f} h left"


class Whole:
    """A run under way, as one line."""

    def __init__(self, title: str, planned: Mapping[str, float]):
        self.planned = dict(planned)
        self.spent: dict[str, float] = {}
        self.line = tqdm(total=100, desc=title, bar_format=WIDTH, leave=False, miniters=0)

    def show(self, stage: str, share: float, seconds: float, said: str) -> None:
        """`seconds` of this stage are gone, in this process."""
        self.spent[stage] = seconds
        left = time_left(self.planned, self.spent, stage, share)
        gone = sum(self.spent.values())
        if left is not None:
            # an estimate may fall, what is shown does not
            self.line.n = max(self.line.n, round(100 * gone / max(gone + left, 1e-9)))
        self.line.set_postfix_str(", ".join(filter(None, (in_words(left), said))), refresh=False)
        self.line.update(0)

    def pause(self) -> None:
        """An empty line, on which others may print."""
        self.line.clear()


_whole: Whole | None = None


@contextmanager
def whole_run(title: str, planned: Mapping[str, float]) -> Iterator[None]:
    """All bars within are one line about the whole.

    planned  stage -> seconds that it takes on another machine; a stage without work is left out
    """
    global _whole
    _whole = Whole(title, planned)
    try:
        yield
    finally:
        _whole.line.close()
        _whole = None


class Bar:
    """The steps of a stage, as a part of the line of the whole run."""

    def __init__(self, whole: Whole, stage: str, total: int, initial: int):
        self.whole = whole
        self.stage = stage
        self.total = total
        self.first = initial                     # steps of an earlier process
        self.done = initial
        self.began = time.monotonic()
        self.said = ""

    def __enter__(self) -> Bar:
        self.update(0)
        return self

    def __exit__(self, *_: object) -> None:
        self.whole.pause()

    def set_postfix(self, refresh: bool = False, **numbers: object) -> None:
        """What is said of the stage; shown with the next step."""
        self.said = ", ".join(f"{name}={value}" for name, value in numbers.items())

    def update(self, steps: int = 1) -> None:
        self.done += steps
        share = (self.done - self.first) / max(1, self.total - self.first)
        said = ", ".join(filter(None, (f"{self.stage} {self.done}/{self.total}", self.said)))
        self.whole.show(self.stage, min(1.0, share), time.monotonic() - self.began, said)


class Silent:
    """Work within a stage, which the line of the whole run does not show."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set_postfix(self, refresh: bool = False, **numbers: object) -> None:
        pass

    def update(self, steps: int = 1) -> None:
        pass


def bar(stage: str, total: int, unit: str = "step", initial: int = 0, **how: Any) -> Any:
    """A bar with `update` and `set_postfix`: the line of the whole run, or else tqdm's own."""
    if _whole is None:
        return tqdm(total=total, initial=initial, desc=stage, unit=unit, **how)
    if stage in _whole.planned:
        return Bar(_whole, stage, total, initial)
    return Silent()


def demo() -> None:
    with whole_run("demo", {"warm start": 1.0, "joint steps": 3.0}):
        for stage, seconds in (("warm start", 0.02), ("joint steps", 0.06)):
            with bar(stage, 40) as steps:
                for _ in range(40):
                    time.sleep(seconds)
                    steps.update()
            print(f"{stage}: done")


if __name__ == "__main__":
    demo()
