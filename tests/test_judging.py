"""What R^A says about the choice of skills (experiments/judging.py)."""
import numpy as np
import pytest

from data import load
from experiments.judging import marks, states, within
from experiments.strategy_rows import ROWS, Trainer


def test_spread_and_correlation_within_a_state_by_hand():
    # two states, two copies: R^E; a mark that follows it; one that says the opposite
    values = np.array([
        [[0.0, 0.1, 1.0], [1.0, 0.3, 0.0]],
        [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]],
    ])
    spread, correlation = within(values)
    assert spread == pytest.approx([0.25, 0.05, 0.25])
    assert correlation == pytest.approx([1.0, 1.0, -1.0])


def test_marks_of_the_teachers_skills_are_the_same_by_both(small_shop):
    gopo = Trainer(load("mgshop"), 1).untrained(ROWS["random"], 0)
    found = states(gopo, 2, 0)
    assert len(found[0].drawn) == 8
    teacher = found[0].episode.steps[0].teacher
    R_E, chosen, needed = marks(gopo, found[0], teacher)
    assert R_E == 1.0
    assert chosen == needed
    assert marks(gopo, found[0], ())[0] == 0.0
