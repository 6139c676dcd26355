"""Bounds of the food-delivery store: do they hold, and can they fail?"""
import pytest

from shop import fds_bounds
from shop.fds_bounds import Field, best_script, bounds, frontier_of, highest, table_of, verdicts

TRIVIAL = ("random skills", "voucher at once", "all skills at once", "five likely skills", "stall",
           "best fixed script", "shuffled emotions")


@pytest.fixture(scope="module")
def measured():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fds_bounds, "SCRIPT_CUSTOMERS", 6)
        patch.setattr(fds_bounds, "SCRIPT_CHOICES", 8)
        patch.setattr(fds_bounds, "EMOTION_DIALOGUES", 40)
        patch.setattr(fds_bounds, "READ_TALKS", 400)
        played, frontier = bounds(60, 0, "hard")
    return table_of(played, 0), frontier


# with 60 customers the intervals are wide; all the rest holds as with 400
def test_bounds_hold(measured):
    failed = [condition for condition, _, holds in verdicts(*measured) if not holds]
    assert [condition for condition in failed if "disjoint" not in condition] == []


def holds(table, frontier, number: str) -> bool:
    return all(kept for condition, _, kept in verdicts(table, frontier) if number in condition)


# a store in which a policy that knows nothing does as well as the planner needs no planner
@pytest.mark.parametrize("row", TRIVIAL)
def test_b5_can_fail(measured, row):
    table, frontier = measured
    assert not holds(table | {row: table["free"]}, frontier, "B5")


@pytest.mark.parametrize("number, row, like", [
    ("B1", "free", "never"),
    ("B2", "free", "never"),
    ("B3", "30 % by coin", "30 % by hidden value"),
    ("B4", "30 % by the text", "30 % by coin"),
    ("B6", "promise, never issued", "never"),
    ("B8", "argmax of the rule GenRM", "random skills"),
    ("B9", "random skills", "free"),
])
def test_each_bound_can_fail(measured, number, row, like):
    table, frontier = measured
    assert not holds(table | {row: table[like]}, frontier, number)


# one v for each demand makes V a staircase
def test_b7_fails_on_a_staircase(measured):
    table, _ = measured
    steps = frontier_of([{"V": 1.0, "value": v} for v in (0.4, 0.4, 0.4, 1.4, 2.4)])
    assert steps[0.25] == 1.0 and steps[0.5] == pytest.approx(0.4)
    assert not holds(table, steps, "B7")


def test_the_highest_share():
    assert highest([0.1, 0.9, 0.5, 0.7], share=0.5) == [False, True, False, True]
    assert sum(highest(list(range(10)))) == 3


def test_a_script_is_found_by_search():
    field = Field("train", 4, 0, "easy")
    lists = [["close"], ["confirm_order"]]
    script = best_script(field, lists, "stars")
    assert len(script) == 8
    assert all(skills in lists for skills in script)
