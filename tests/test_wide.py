"""The short forms of the wide runs; the long ones: python -m tests.wide_flags, _pairs, _kills."""
import pytest

from tests import forks, wide_flags, wide_kills, wide_pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small logs, and a run on them."""
    found = tmp_path_factory.mktemp("wide")
    wide_flags.prepare(found)
    return found


@pytest.mark.parametrize("command", wide_flags.CONFIGS)
def test_hostile_values(command, folder):
    # numbers alone: what they are refused with is known before any work
    numbers = []
    for tried in wide_flags.tries(command):
        if tried.value in ("nan", "1e30", "99999999999999999999999"):
            numbers.append(tried)
    for tried in wide_flags.spread(numbers, 8):
        assert not wide_flags.wrong(tried, folder), tried


@pytest.mark.parametrize("second", ["overwrite", "resume"])
def test_a_living_run(second, tmp_path):
    assert not wide_pairs.pair("train", second, tmp_path)


def test_killed_labelling():
    assert not wide_kills.conduct(wide_kills.label, 1, seed=0)


def test_every_flag_is_tried():
    flags = {tried.flag for tried in wide_flags.tries("train")}
    assert {"expert_lr", "agent_lr", "sft_lr", "ppo_clip", "memento_k", "api_timeout"} <= flags
    assert len(list(wide_flags.tries("train"))) > 5 * 80


def test_a_traceback_is_found():
    assert forks.Done(2, "", "one line").clean
    assert not forks.Done(1, "", "Traceback (most recent call last):").clean
    assert not forks.Done(-9, "", "").clean
