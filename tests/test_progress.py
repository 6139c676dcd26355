"""The line of progress: time left for the whole run, worked out by hand, and what it shows."""
import pytest

from infra import progress
from infra.progress import bar, time_left, whole_run
from start.plan import planned

PLAN = {"warm": 10.0, "joint": 30.0, "table": 20.0}


def test_time_left_by_hand():
    """The first stage took twice its 10 s.  Of the second, 1/4 took 12 s, so 36 s are left of it.

    Spent: 20 + 12 s where 10 + 30/4 were planned: 32 / 17.5 as slow.  The table: 20 x 32 / 17.5 s.
    """
    spent = {"warm": 20.0, "joint": 12.0}
    assert time_left(PLAN, spent, "joint", 0.25) == pytest.approx(36 + 20 * 32 / 17.5)
    # nothing of the stage is done: as planned, on this machine
    assert time_left(PLAN, {"warm": 20.0, "joint": 0.0}, "joint", 0) == pytest.approx(60 + 40)
    assert time_left(PLAN, {"warm": 3.0}, "warm", 0.0) is None
    assert time_left(PLAN, {"table": 5.0}, "table", 1.0) == 0


class Line:
    """What tqdm was told, instead of tqdm."""
    made = []

    def __init__(self, **how):
        self.how = how
        self.n = 0
        self.said = []
        Line.made.append(self)

    def set_postfix_str(self, text, refresh):
        self.said.append((self.n, text))

    def update(self, steps):
        self.how["updated"] = self.how.get("updated", 0) + steps

    def __enter__(self):
        return self

    def clear(self):
        self.said.append("clear")

    def __exit__(self, *_):
        pass

    close = clear


@pytest.fixture
def lines(monkeypatch):
    clock = iter(range(0, 10_000, 10))           # each look at the clock is 10 s later
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress, "tqdm", Line)
    monkeypatch.setattr(Line, "made", [])
    return Line.made


def test_all_stages_are_one_line(lines):
    with whole_run("run", {"warm": 1.0, "joint": 3.0}):
        with bar("warm", 2) as steps:
            steps.update()                       # 20 s for a half: 20 s are left, and 3 x 40 s
            with bar("evaluating", 7) as inner:
                inner.update()
                inner.set_postfix(x=1)
            steps.update()
        with bar("joint", 1) as steps:
            steps.set_postfix(tse="0.50")
            steps.update()
    line, = lines
    assert line.said == [
        (0, "warm 0/2"),
        (12, "about 2 min left, warm 1/2"),      # 20 of 20 + 140 s
        (25, "about 2 min left, warm 2/2"),      # 30 of 30 + 90 s
        "clear",
        (25, "about 2 min left, joint 0/1"),
        (100, "less than a minute left, joint 1/1, tse=0.50"),
        "clear",
        "clear",
    ]


def test_without_a_whole_run_a_bar_is_a_bar(lines):
    with bar("evaluating", 7, unit="dialogue", leave=False) as steps:
        steps.update(3)
    assert lines[0].how == {
        "total": 7, "initial": 0, "desc": "evaluating", "unit": "dialogue", "leave": False,
        "updated": 3}


class Dialogues:
    turns = (0,) * 5


class Data:
    train = [Dialogues] * 10
    environment = True


CONFIG = {
    "run": {"replies": "template", "steps": 60, "eval_episodes": 100, "algo": "gopo"},
    "gopo": {"no_expert": False, "dialogues": 128, "strategy_dialogues": 128},
    "expert": {"expert_warm": 12},
    "lm": {}, "agent": {}, "warm": {},
}


def test_stages_that_are_complete_are_not_planned(tmp_path, monkeypatch):
    monkeypatch.setattr("start.plan.rows_of", lambda run, dataset: {"gopo": 1})
    plan = planned(tmp_path, CONFIG, Data, 0)
    assert list(plan) == ["perception", "warm start of the Expert", "joint steps", "the table"]
    (tmp_path / "untrained.safetensors").touch()
    (tmp_path / "warm_expert.safetensors").touch()
    half = planned(tmp_path, CONFIG, Data, 30)
    assert list(half) == ["joint steps", "the table"]
    assert half["joint steps"] == plan["joint steps"] / 2
    speaks = CONFIG | {"run": CONFIG["run"] | {
        "replies": "lm", "strategy_steps": 60, "eval_episodes": 0}}
    assert list(planned(tmp_path, speaks, Data, 0)) == [
        "pretraining", "warm start of the LM", "strategy", "joint steps"]
