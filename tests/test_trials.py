"""pass^k over trials in the paper's tables: measured once a row, read, refused where broken."""
import json
from dataclasses import replace

import pytest

import eval
from data import DataError
from experiments import paper, tables, trials
from experiments.settings import Settings, agree
from experiments.trials import table_of_trials
from tests.made_up import made_up

S = Settings("mgshop", "mgshop", 2, 3, precision="fp32", trials=4)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def numbers(success, tse=0.5):
    return {"success": success, "tse": tse, "violations": 0.0, "vouchers": 1.0}


def write(folder, row, tried):
    path = folder / "trials" / f"{row}-0.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"row": row, "seed": 0, "trials": tried}))


def test_the_table_by_hand(tmp_path):
    # two trials of two customers: served by 2 and by 1 of 2
    write(tmp_path, "gopo", [[numbers(1.0), numbers(1.0, 0.9)], [numbers(1.0), numbers(0.0)]])
    table = table_of_trials(tmp_path)
    (row,) = table["rows"]
    assert row["cells"]["pass_1"]["mean"] == pytest.approx(3 / 4)
    assert row["cells"]["pass_2"]["mean"] == pytest.approx(1 / 2)
    assert row["cells"]["tse"]["mean"] == pytest.approx((0.5 + 0.7) / 2)
    assert row["cells"]["vouchers"]["mean"] == 1
    keys = [column["key"] for column in table["columns"]]
    assert keys == ["pass_1", "pass_2", "tse", "violations", "vouchers"]


def test_nothing_tried_is_no_table(tmp_path):
    assert table_of_trials(tmp_path) is None


def test_rows_of_different_numbers_of_trials_are_refused(tmp_path):
    write(tmp_path, "gopo", [[numbers(1.0)]] * 2)
    write(tmp_path, "ppo", [[numbers(1.0)]] * 3)
    with pytest.raises(DataError, match=r"rows of \[2, 3\] trials"):
        table_of_trials(tmp_path)


@pytest.mark.parametrize("tried", [[], [[]], [[numbers(1.0)], []]])
def test_a_trial_that_met_other_customers_is_refused(tmp_path, tried):
    write(tmp_path, "gopo", tried)
    with pytest.raises(DataError, match="the same customers"):
        table_of_trials(tmp_path)


def test_only_the_first_seed_and_the_rows_of_table_1_are_tried():
    assert paper.trials_left(S, "gopo", 0)
    assert not paper.trials_left(S, "gopo", 1)
    assert not paper.trials_left(S, "cs_warm", 0)
    assert not paper.trials_left(replace(S, trials=0), "gopo", 0)


def test_a_row_that_was_measured_is_tried_later_and_once(monkeypatch):
    """The numbers of an earlier call stay; its trials are added."""
    earlier = S.row_file("gopo", 0)
    earlier.parent.mkdir(parents=True)
    earlier.write_text("measured earlier")
    asked = []

    def serve_again(agents, chooser, *rest):
        asked.append((agents, chooser(agents, 0), *rest))
        return [[numbers(1.0)]] * 4

    class Made:
        def group(self, specs):
            return [(name, "agents", "choose") for name in specs]

    monkeypatch.setattr(paper, "serve_again", serve_again)
    for _ in range(2):
        wanted = {"gopo": None} if "gopo" in paper.rows_left(S, 0) else {}
        paper.measure_group(S, 0, Made(), wanted)
    assert asked == [("agents", "choose", 3, 0, 4, "gopo")]
    assert earlier.read_text() == "measured earlier"
    assert len(trials.read_trials(S.trials_file("gopo", 0))) == 4


def test_a_later_call_may_add_trials_but_not_change_their_number():
    agree(replace(S, trials=0))
    assert agree(S).trials == 4
    assert agree(replace(S, trials=0)).trials == 4
    with pytest.raises(DataError, match="--trials 4, now 8"):
        agree(replace(S, trials=8))


def test_page_and_tables_hold_the_trials(tmp_path):
    folder = made_up(tmp_path / "mgshop")
    write(folder, "gopo", [[numbers(1.0)] * 3] * 4)
    page = tables.write(folder, "mgshop", {}).read_text()
    assert "pass^k over trials of one agent" in page
    assert "pass^4" in (folder / "tables.md").read_text()


@pytest.mark.parametrize("dataset", ["fds", "sale"])
def test_trials_are_refused_where_the_tables_have_none(dataset, capsys):
    assert eval.main(["--paper", "--dataset", dataset, "--trials", "8"]) == 2
    assert f"--trials: the tables of {dataset} have none" in capsys.readouterr().err
