"""measure.py: BLEU with its interval, and the rows of a run."""
import pytest

import data
import measure
from judge import RuleJudge
from tests.helpers import counted, replay_step, replayed
from tse import bleu

# --- BLEU ---------------------------------------------------------------------------------------

def said(reply, reference="the cat sat on the mat"):
    return replayed(replay_step([], [], reply, reference=reference))


def test_bleu_interval():
    good, bad, silent = said("the cat sat on the mat"), said("a dog ran off to sleep"), said("")
    perfect = measure.bleu_interval([good] * 3)
    assert perfect == pytest.approx({"mean": 1, "low": 1, "high": 1})
    mixed = measure.bleu_interval([good, bad] * 4)
    assert 0 < mixed["low"] < mixed["mean"] < mixed["high"] < 1
    pairs = measure._pairs(good) * 4 + measure._pairs(bad) * 4
    assert mixed["mean"] == bleu(*map(list, zip(*pairs)))
    # one dialogue has a figure and no interval
    alone = measure.bleu_interval([good])
    assert alone == {"mean": pytest.approx(1), "low": None, "high": None}
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
