"""measure.py: the numbers of a dialogue by hand, the table of metrics, the rows of a run."""
from types import SimpleNamespace

import pytest

import data
import measure
from data import Dataset, ExpertState, Judged, Labels, Observation, Prepared, Reply, Request, Step
from judge import RuleJudge
from measure import HELD_OUT, METRICS, TRAINING, completed, dialogue_metrics, summary
from policies import Silence
from tests.helpers import B_T, POOL, counted
from tests.two_turns import Parrot, play_two


def test_summary_by_hand():
    R_E = (1.0, 1 / (3 + 1 / 1.5849625))         # as in test_gopo.py
    played = play_two()
    row = summary(played.gopo, [played.episode])
    wanted = {
        "tse": 1.0, "success": 1.0, "turns": 2, "r_expert": sum(R_E) / 2, "r_cs": 0.775,
        "w_expert": 0.4, "length": 1.0, "f1": (1 + 2 / 3) / 2, "exact": 0.5, "unscored": 0.0,
        "S_quality": 0.25, "S_fitness": 1.0, "esndcg": sum(R_E) / 2}
    assert {key: row[key] for key in wanted} == pytest.approx(wanted)


# --- the table of metrics -----------------------------------------------------------------------

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


# --- logs ---------------------------------------------------------------------------------------

def replay_step(skills, teacher, reply, context=B_T, reference="ref") -> Step:
    seen = Observation("u", context, labels=Labels(teacher=tuple(teacher), reference=reference))
    return Step(
        seen, ExpertState("u"), (None, None), tuple(skills),
        Prepared(Request("u", tuple(skills), context)), [Reply(reply)],
        Judged("u", context, (), reply, reference=reference), [None])


def replayed(*steps: Step):
    return SimpleNamespace(steps=list(steps))


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


def said(reply, reference="the cat sat on the mat"):
    return replayed(replay_step([], [], reply, reference=reference))


def test_bleu_interval():
    good, bad, silent = said("the cat sat on the mat"), said("a dog ran off to sleep"), said("")
    perfect = measure.bleu_interval([good] * 3)
    assert perfect == pytest.approx({"mean": 1, "low": 1, "high": 1})
    mixed = measure.bleu_interval([good, bad] * 4)
    assert 0 < mixed["low"] < mixed["mean"] < mixed["high"] < 1
    # nobody spoke: no figure, not 0
    assert measure.bleu_interval([silent])["mean"] is None
    assert measure.bleu_interval([said("Hello.", reference=None)])["mean"] is None


# --- the rows of a run --------------------------------------------------------------------------

def loads(run, monkeypatch) -> tuple[int, dict]:
    """How often weights were loaded for all rows of a run, and what each row is made of."""
    dataset = data.load("mgshop")
    calls = counted(monkeypatch, measure, "load_gopo")
    table = measure.evaluate_run(run, dataset, 1, 0, RuleJudge(dataset.skills))
    rows = measure.rows_of(run, dataset)
    assert list(table) == list(rows)
    return len(calls), rows


def test_weights_are_loaded_once_for_all_rows_that_need_them(
        small_shop, strategy_run, monkeypatch):
    count, rows = loads(strategy_run, monkeypatch)
    # untrained; gopo, true_perception, teacher and random
    assert len(rows) == 5
    assert count == 2


def test_weights_with_a_language_model_are_loaded_once(small_shop, lm_run, monkeypatch):
    count, rows = loads(lm_run, monkeypatch)
    weights = {(row.expert, row.agent) for row in rows.values()}
    # untrained, warm_start, strategy, the trained agents, untrained_lm_teacher
    assert len(rows) == 8
    assert count == len(weights) == 5
