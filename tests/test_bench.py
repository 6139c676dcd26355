"""experiments/bench.py: what its table says, and that it takes turns.  Nothing here is timed."""
import json
import shutil

import pytest

from data import DataError
from experiments import bench
from experiments.bench_rows import Rows, module


def figures(*cpu: float) -> list[dict[str, float]]:
    """Seconds a unit; the clock shows twice as many."""
    return [{"cpu": seconds, "wall": 2 * seconds} for seconds in cpu]


def test_a_line_of_the_table_by_hand():
    # medians 2 and 5 us a token: the other takes 2.5 times as long, by the clock too
    line = bench.line_of("joint_16", figures(1e-6, 2e-6, 4e-6), [figures(5e-6, 5e-6, 9e-6)])
    assert "2 (1 to 4) [4]" in line
    assert "5 (5 to 9) [10]  2.50x  2.50x  (aim 2)" in line


def test_a_line_without_another_commit_has_no_ratio():
    assert "x" not in bench.line_of("supervised", figures(1.0), []).partition(" s ")[2]


class Recorded:
    """Stands for a state of the code, and notes which row it was asked for."""

    def __init__(self, name: str, asked: list):
        self.name = name
        self.asked = asked
        self.plain = name == "ours"

    def measure(self, row: str) -> dict[str, float]:
        self.asked.append((self.name, row))
        return {"cpu": float(len(self.asked)), "wall": 0.0}


def test_states_of_the_code_take_turns_and_the_first_round_warms_up():
    asked: list = []
    codes = [Recorded("ours", asked), Recorded("theirs", asked)]
    ours, theirs = bench.in_turns(codes, "playing", 2)
    assert asked == [("ours", "playing"), ("theirs", "playing")] * 3
    # the second and third round
    assert [figure["cpu"] for figure in ours] == [3, 5]
    assert [figure["cpu"] for figure in theirs] == [4, 6]


def test_transformers_itself_is_measured_once():
    asked: list = []
    codes = [Recorded("ours", asked), Recorded("theirs", asked)]
    assert len(bench.in_turns(codes, "plain_update", 1)) == 1
    assert asked == [("ours", "plain_update")] * 2


def test_every_row_of_the_table_can_be_done():
    done = {name for name in bench.TABLE if hasattr(Rows, name)}
    assert done | set(bench.COMMANDS) == set(bench.TABLE)


def test_without_git_nothing_is_compared(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(DataError, match="--against needs git"), bench.worktree("HEAD"):
        pass


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_commit_that_is_not_there_is_refused_in_one_line():
    with pytest.raises(DataError) as refused, bench.worktree("no-such-commit"):
        pass
    said = str(refused.value)
    assert said.startswith("--against no-such-commit: git says: ")
    assert "\n" not in said


def test_a_module_is_found_by_the_name_that_it_had(tmp_path, monkeypatch):
    assert module("no_such.name", "json") is json
    # one that is there and broken is not passed over
    (tmp_path / "broken_here.py").write_text("import no_such_thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
        module("broken_here", "json")
