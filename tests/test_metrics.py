"""metrics.py: the values of a dialogue by hand, and the table of metrics."""
import math
from types import SimpleNamespace

import pytest

from data import Dataset
from metrics import HELD_OUT, METRICS, TRAINING, completed, dialogue_metrics, summary
from policies import Silence
from tests.helpers import POOL, replay_step, replayed
from tests.two_turns import Parrot, play_two


def test_summary_by_hand():
    R_E = (1.0, 1 / (3 + 1 / math.log2(3)))         # as in test_gopo.py
    played = play_two()
    row = summary(played.gopo, [played.episode])
    wanted = {
        "tse": 1.0, "success": 1.0, "turns": 2, "r_expert": sum(R_E) / 2, "r_cs": 0.775,
        "w_expert": 0.4, "length": 1.0, "f1": (1 + 2 / 3) / 2, "exact": 0.5, "unscored": 0.0,
        "S_quality": 0.25, "S_fitness": 1.0, "esndcg": sum(R_E) / 2}
    assert {key: row[key] for key in wanted} == pytest.approx(wanted)


# --- the table ----------------------------------------------------------------------------------

def test_every_column_is_a_metric():
    assert set(TRAINING) <= set(METRICS)
    assert set(HELD_OUT) <= set(METRICS)
    for columns in (TRAINING, HELD_OUT):
        assert len(set(columns)) == len(columns)


@pytest.mark.parametrize("key", METRICS)
def test_every_metric_is_explained(key):
    metric = METRICS[key]
    assert metric.key == key
    assert metric.help.strip()
    assert metric.name.strip()
    assert metric.better in ("high", "low", "")
    assert metric.digits >= 0


def test_both_tables_read_the_metrics():
    played = play_two()
    assert list(summary(played.gopo, [played.episode])) == list(TRAINING)
    assert list(dialogue_metrics(played.gopo, played.episode)) == list(HELD_OUT)


# --- tasks of logged dialogues ------------------------------------------------------------------

LOGS = Dataset("logs", POOL, (), (), [], [], [])
SILENT = SimpleNamespace(dataset=LOGS, speaker=Silence(LOGS))
SPEAKING = SimpleNamespace(dataset=LOGS, speaker=Parrot())


def test_completed_on_logs_by_hand():
    """TSE-replay: a skill counts if the policy chose it and the teacher has it.

    If the policy speaks, a slot that the skill needs must have been said as well.
    """
    episode = replayed(
        replay_step(["guide"], ["pay"], ""),
        replay_step(["pay"], ["pay"], "No slot."),
        replay_step(["pay", "guide"], ["guide", "pay"], "You get {refund_2}."))
    assert completed(SILENT, episode) == (None, 2, 3)
    assert completed(SPEAKING, episode) == (None, 3, 3)
    # nothing to state: choosing it is all it can do
    bare = replayed(replay_step(["pay"], ["pay"], "No.", context={}))
    assert completed(SPEAKING, bare) == (None, 1, None)
