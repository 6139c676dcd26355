"""The study of MORE on sale: rows, cells that are kept, tables, verdicts."""
import json

import pytest

import eval as eval_module
from experiments import more_cost, more_study, more_tables
from experiments.more_rows import MEAN, MORE_ROW, ROWS, Maker, Settings
from experiments.more_study import false_numbers, mean_lambdas
from experiments.more_tables import step_std, verdicts
from gopo import algorithm
from shop import sale
from systems import more_train
from systems.more_config import MoreConfig
from tests.test_more_train import SMALL

FLAGS = [
    "--model", "nano", "--pretrain_steps", "1", "--warm_steps", "1", "--scaffold_steps", "1",
    "--steps", "2", "--contexts", "2", "--group", "2", "--watch", "1", "--states", "3",
    "--calls", "2"]


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sale, "SIZES", SMALL)
        patch.setattr(more_study, "TASKS", 4)
        patch.setattr(more_train, "WATCHED", 4)
        yield


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    rows = ["fixed at mean lambda", "untrained"]
    assert more_study.main([*FLAGS, "--out", str(out), "--rows", *rows]) == 0
    return out


# --- rows -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_one_that_training_knows(name, tmp_path):
    row = ROWS[name]
    options = Maker(None, Settings(), tmp_path).options(row, [1.0] * 6)
    assert isinstance(options, MoreConfig)
    assert algorithm(row.algo).single
    assert set(row.tables) <= set("AB")


def test_a_row_that_is_not_there_is_refused(capsys, tmp_path):
    assert more_study.main(["--rows", "MOER", "--out", str(tmp_path)]) == 2
    assert "--rows MOER: no such row; there are" in capsys.readouterr().err


def test_the_paper_command_refuses_what_the_study_has_not(capsys):
    assert eval_module.main(["--paper", "--dataset", "sale", "--train_on", "mgshop"]) == 2
    assert "leave out --train_on" in capsys.readouterr().err


# --- cells ----------------------------------------------------------------------------------------

def test_a_cell_is_made_with_what_it_needs_and_kept(cells, capsys, monkeypatch):
    # the mean weights of MORE were needed, so its cell was made as well
    found = sorted(path.relative_to(cells).as_posix() for path in cells.glob("*/*.json"))
    assert found == ["MORE/0.json", "fixed-at-mean-lambda/0.json", "untrained/0.json"]
    cell = json.loads((cells / "MORE" / "0.json").read_text())
    assert len(cell["states"]["RSN"]) == 3
    assert len(cell["calls"]["accepted"]) == 2
    assert {"before", "after", "train", "test"} == set(cell["RA"])
    assert len(cell["told"]["lambda_NAT"]) == 2
    fixed = json.loads((cells / "fixed-at-mean-lambda" / "0.json").read_text())
    assert fixed["told"]["lambda_NAT"][0] == pytest.approx(mean_lambdas(cell)[0], abs=1e-4)
    monkeypatch.setattr(more_study, "cell_of", None)                 # nothing is made again
    assert more_study.main([*FLAGS, "--out", str(cells), "--rows", MORE_ROW]) == 0
    assert "Table A" in capsys.readouterr().out


def test_a_cell_of_other_settings_is_refused(cells, capsys):
    flags = [*FLAGS, "--steps", "3", "--out", str(cells), "--rows", MORE_ROW]
    assert more_study.main(flags) == 2
    assert "was made with settings {" in capsys.readouterr().err


def test_the_tables_read_a_folder(cells, capsys, tmp_path):
    assert more_tables.main([str(cells)]) == 0
    said = capsys.readouterr().out
    assert "| MORE | 1 |" in said
    assert "open   RSN, MORE - SFT >= .15: no cells" in said
    assert more_tables.main([str(tmp_path)]) == 2
    assert "no cells there" in capsys.readouterr().err


# --- figures --------------------------------------------------------------------------------------

def test_false_numbers_by_hand():
    # 40 is 40.00; 06-12 is on file; 41 is not
    assert false_numbers("It is 40, until 06-12, or 41.", {"40.00", "06-12"}) == 1
    assert false_numbers("", {"40"}) == 0


def test_a_trend_is_no_jump():
    assert step_std([0.1, None, 0.2, 0.3]) == pytest.approx(0)
    # differences +1 and -1: std 1, over sqrt 2
    assert step_std([0.0, 1.0, 0.0]) == pytest.approx(0.7071, abs=1e-4)
    assert step_std([None, 1.0]) is None


def made_up(rsn: float, false: float, accepted: float, after: float = 0.9) -> dict:
    states = {name: [0.8] * 4 for name in ("NAT", "COV", "FID", "RUD", "RGE", "tokens")}
    states |= {"RSN": [rsn] * 4, "false": [false] * 4}
    calls = {name: [accepted] * 4 for name in ("accepted", "reached", "handoff", "false")}
    RA = {"before": 0.9, "after": after, "test": {"all": after}, "train": {"all": after}}
    return {"states": states, "calls": calls, "RA": RA, "told": {"kl": [0, 0.1, 0.2]}}


def held(found) -> dict[str, bool]:
    return {verdict["text"]: verdict["holds"] for verdict in verdicts(found)}


def test_verdicts_by_hand():
    found = {
        MORE_ROW: {0: made_up(0.8, 0.3, 0.5), 1: made_up(0.9, 0.3, 0.5)},
        "SFT": {0: made_up(0.6, 0.6, 0.45), 1: made_up(0.7, 0.6, 0.45)},
        "w/o reasoning": {0: made_up(0.9, 0.3, 0.5, 0.5)},
    }
    holds = held(found)
    assert holds["false numbers of a reply, MORE / SFT <= .6"]           # .3 / .6 = .5
    assert holds["RSN, MORE - SFT >= .15"]                               # .2 with both seeds
    assert not holds["conversion, MORE - SFT >= .10"]                    # .05
    assert not holds["RSN, MORE - w/o reasoning > 0"]                    # one seed: .8 - .9
    assert holds["RA, MORE - w/o reasoning > 0"]
    assert holds["RSN, MORE - equal weights >= 0"] is None
    assert holds["the anchor: RA after the dialogues >= .9 of RA before"]
    assert holds["the anchor: kl > 0 from the second step on"]
    assert holds["tokens of a reply, MORE / SFT <= 1.1"]


def test_the_row_of_fixed_weights_takes_a_runs_mean():
    assert ROWS["fixed at mean lambda"].flags["more_weights"] == MEAN
    cell = {"told": {"lambda_NAT": [1.0, 0.5], "kl": [9.0, 9.0], "lambda_RSN": [0.0, 1.0]}}
    assert mean_lambdas(cell) == [0.75, 0.5]


def test_what_weights_cost_is_a_ratio_to_equal_weights(monkeypatch, capsys):
    # CPU seconds as they come: 2 to warm up each, then 1, 1.1, 1.2, 2.5
    clock = iter([2.0] * 4 + [1.0, 1.1, 1.2, 2.5])
    monkeypatch.setattr(more_cost, "made", lambda model, tokens: None)
    monkeypatch.setattr(more_cost, "seconds", lambda more, kind, number: next(clock))
    assert more_cost.main(["--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "x1.10   at most 1.15: holds" in lines[1]
    assert "x1.20   at most 1.15: FAILS" in lines[2]
    assert "x2.50   at most 3.00: holds" in lines[3]
