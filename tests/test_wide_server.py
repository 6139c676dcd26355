"""The short form of tests/wide_server.py, which by itself runs as long as one likes."""
import random

import pytest

from tests.wide_server import random_answer, wide

pytestmark = pytest.mark.usefixtures("quick")


def test_random_answers_cost_themselves():
    counts, failures = wide(12, seed=1)
    assert not failures, "\n".join(failures)
    assert counts.total() == 48
    assert {became.partition(": ")[2] for became in counts} >= {"cost itself"}


def test_every_kind_of_answer_is_drawn_and_the_same_for_a_seed():
    drawn = [random_answer(random.Random(f"0 {i}"), "{}") for i in range(200)]
    assert drawn == [random_answer(random.Random(f"0 {i}"), "{}") for i in range(200)]
    kinds = {answer.kind for answer in drawn}
    assert kinds == {
        "junk", "wrong type", "wrong text", "cut off", "own error", "busy", "everybody's"}
