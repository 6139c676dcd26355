"""The study of strategies without a language model (experiments/strategy*.py)."""
import json

import numpy as np
import pytest

import data
from experiments import strategy, strategy_rows
from experiments.strategy_rows import GOPO, ROWS, Row, Trainer, own
from expert import ExpertConfig
from expert_learner import labelled_states
from gopo import GopoConfig, algorithm

pytestmark = pytest.mark.usefixtures("small_shop")


def test_a_constant_and_the_most_frequent_sequence_are_rows():
    shop = data.load("mgshop")
    assert len(set(strategy_rows.best_constant(shop))) == 5
    sequences = {teacher for _, teacher in labelled_states(shop.train)}
    assert strategy_rows.most_frequent(shop) in sequences


@pytest.mark.parametrize("name", ROWS)
def test_every_flag_of_a_row_is_a_flag_of_training(name):
    row = ROWS[name]
    options = algorithm(row.algo).Options
    known = own(ExpertConfig, row) | own(GopoConfig, row)
    if options:
        known |= own(options, row)
    assert known == dict(row.flags)
    assert row.chooser in strategy_rows.CHOOSERS


def test_a_row_learns_as_its_flags_say():
    trainer = Trainer(data.load("mgshop"), 7)
    gopo = trainer.untrained(Row(flags={"slips": 0.5, "reward": "cs"}), 0)
    assert (gopo.expert.cfg.slips, gopo.cfg.reward) == (0.5, "cs")
    assert gopo.expert.cfg.expert_decay == 7


def run(folder, *flags: str) -> int:
    return strategy.main([
        "--steps", "1", "--episodes", "3", "--out", str(folder), *flags])


def test_a_row_is_measured_once_and_kept(tmp_path, capsys, monkeypatch):
    assert run(tmp_path, "--seeds", "0", "1", "--rows", "random", "teacher") == 0
    said = capsys.readouterr().out
    assert "random" in said and "2 seeds" in said and "1 seeds" in said
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.json"))
    assert files == [
        f"mgshop/true-labels/{name}.json" for name in ("random/0", "random/1", "teacher/0")]
    cell = json.loads((tmp_path / files[2]).read_text())
    assert cell["test"]["success"] == cell["new"]["success"] == 1
    assert len(cell["test"]["of_each"]["tse"]) == 3

    monkeypatch.setattr(strategy, "cell_of", None)                   # nothing is made again
    assert run(tmp_path, "--seeds", "0", "1", "--rows", "random", "teacher") == 0
    assert capsys.readouterr().out == said


def test_differences_are_paired_over_seeds_and_customers():
    def cells(*tse):
        return {i: {"test": {"of_each": {"tse": list(row)}}} for i, row in enumerate(tse)}

    a, b = cells((1.0, 0.0), (1.0, 0.5)), cells((0.5, 0.0), (0.5, 0.0))
    by_bootstrap, by_t = strategy.difference(a, b, "tse", "test")
    assert by_bootstrap["mean"] == pytest.approx(0.375)
    assert by_bootstrap["low"] <= 0.375 <= by_bootstrap["high"]
    assert np.mean(by_t) == pytest.approx(0.375)                     # .25 and .5
    assert strategy.difference(a, {}, "tse", "test") is None
    # a third dialogue, in which there is nothing to measure, changes nothing
    nan = float("nan")
    c, d = cells((1.0, 0.0, nan), (1.0, 0.5, nan)), cells((0.5, 0.0, nan), (0.5, 0.0, nan))
    assert strategy.difference(c, d, "tse", "test")[1] == by_t


@pytest.mark.parametrize("flags, said", [
    (["--rows", "nonesuch"], "--rows nonesuch: no row of mgshop has such a name"),
    (["--label_noise", "2"], "--label_noise must lie in"),
    (["--dataset", "nowhere"], "--dataset nowhere: unknown"),
])
def test_what_cannot_be_is_refused_in_one_line(flags, said, tmp_path, capsys):
    assert run(tmp_path, *flags) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_gopo_is_a_row_and_the_ablations_are_another_table():
    shop = data.load("mgshop")
    usual = strategy.chosen_rows(shop, strategy.arguments().parse_args([]))
    ablations = strategy.chosen_rows(shop, strategy.arguments().parse_args(["--ablations"]))
    assert GOPO in usual and GOPO in ablations
    assert not any(row.ablation for row in usual.values())
    assert len(ablations) > 5
