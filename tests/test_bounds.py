"""Bounds of the simulated shop: does it need a planner?  And the command line that prints them."""
import json
import sys

import pytest

from shop import mgshop
from shop.bounds import bounds, verdicts

TRIVIAL = [
    "random skills",
    "all skills at once",
    "five likely skills",
    "best fixed script",
    "shuffled emotions",
]


@pytest.fixture(scope="module")
def table():
    return bounds(60, 0)


def test_bounds_hold(table):
    failed = [condition for condition, holds in verdicts(table).items() if not holds]
    assert failed == []
    assert table["teacher"]["success"]["mean"] > 0.9
    assert table["stall"]["tse"]["mean"] == 0
    assert table["always apologise"]["success"]["mean"] == 0


# a shop in which a trivial policy does as well as the teacher needs no planner
@pytest.mark.parametrize("row", TRIVIAL)
def test_verdicts_can_fail(table, row):
    assert not all(verdicts(table | {row: table["teacher"]}).values())


def test_stalling_pays_in_neither_measure(table):
    for metric in ("tse", "return"):
        stall = table["stall"][metric]["mean"]
        chance = table["random skills"][metric]["mean"]
        assert stall < chance < table["teacher"][metric]["mean"]


# --- the command line -----------------------------------------------------------------------------

def test_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mgshop.py"])
    mgshop.main()
    out = capsys.readouterr().out
    assert "hidden agenda" in out
    assert "TSE =" in out
    for wrong in (["--bounds", "--episodes", "0"], ["--bound"], ["--episode", "3"]):
        monkeypatch.setattr(sys, "argv", ["mgshop.py", *wrong])
        with pytest.raises(SystemExit) as stop:
            mgshop.main()
        assert stop.value.code == 2


def test_json_of_bounds(monkeypatch, tmp_path, table):
    path = tmp_path / "b.json"
    argv = ["mgshop.py", "--bounds", "--episodes", "60", "--json", str(path)]
    monkeypatch.setattr(mgshop, "bounds", lambda episodes, seed, name: table)
    monkeypatch.setattr(sys, "argv", argv)
    mgshop.main()
    written = json.loads(path.read_text())
    assert written["episodes"] == 60
    assert set(written["rows"]) == set(table)
    assert all(written["conditions"].values())
