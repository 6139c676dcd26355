"""A few damaged logs through the whole of train.py; `python -m tests.wide_logs` tries hundreds."""
import pytest

from tests.wide_logs import damaged, fault, tried


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_log_is_trained_on_or_refused_in_one_line(seed, tmp_path):
    trial = tried(seed, tmp_path)
    assert fault(trial) is None, trial.said


def test_damage_follows_from_its_seed():
    assert damaged(3) == damaged(3)
    assert len({damaged(seed)[1] for seed in range(40)}) > 30
