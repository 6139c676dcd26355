"""The budget study: rows, planners, criteria by hand, cells that are kept, and what is refused."""
from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import eval as evaluation
import train
from data import Outcome
from experiments import budget, budget_measure
from experiments import budget_criteria as criteria
from experiments.budget import Study
from experiments.budget_rows import BESIDE, FIXED, ROWS, TABLE, flags_of, planner, trained
from experiments.strategy_rows import Row as Learner
from experiments.strategy_rows import own
from expert import ExpertConfig
from gopo import GopoConfig, algorithm
from shop import fds
from shop.fds_customer import Desk
from tests.conftest import small_shops

# --- rows -----------------------------------------------------------------------------------------


def test_the_paper_has_fourteen_rows_and_each_has_ours_or_a_reason():
    assert len(TABLE) == 14
    for line in TABLE:
        assert bool(line.ours) != bool(line.without), line.paper
        assert not line.ours or line.ours in ROWS
    beside = {"cmpo_printed_cost", "cmpo_printed_pid", "cmpo_dual", "cmpo_dialogue", "gopo"}
    assert beside <= set(BESIDE)


@pytest.mark.parametrize("name", [name for name in ROWS if trained(name)])
def test_every_flag_of_a_row_is_a_flag_of_training(name):
    row = Learner(ROWS[name].algo, flags_of(name, 0.2))
    options = algorithm(row.algo).Options
    known = own(ExpertConfig, row) | own(GopoConfig, row)
    if options:
        known |= own(options, row)
        options(**own(options, row))             # what it refuses, it refuses here
    assert known == dict(row.flags)


def test_planners_give_to_whom_they_say():
    dataset = fds_of(Desk)
    desks = [dataset.environment("test", number, 0) for number in range(20)]
    for desk in desks:
        desk.reset()
        for done in ("matched", "told", "settled", "clear", "declined", "passed"):
            setattr(desk.case, done, True)
    given = {}
    for name in ("never", "free", "hidden", "coin"):
        choose = planner(name, dataset, 20)
        told = choose([], [Held(desk) for desk in desks])
        given[name] = {i for i, skills in enumerate(told) if "propose_voucher" in skills}
    assert given["never"] == set()
    assert given["free"] == {i for i, desk in enumerate(desks) if desk.hidden.value > 0}
    assert len(given["hidden"]) == len(given["coin"]) == 6
    # the six to whom it is worth most
    worst = min(desks[i].hidden.value for i in given["hidden"])
    others = given["free"] - given["hidden"]
    assert max(desks[i].hidden.value for i in others) <= worst


class Held:
    def __init__(self, env):
        self.env = env


def fds_of(desk):
    class Store:
        @staticmethod
        def environment(split, number, seed):
            return desk(seed, split, number)

    return Store


# --- the criteria, by hand ------------------------------------------------------------------------

def cell(V: float, marks=None, curve=(0.27,) * 120, valid=1.0) -> dict:
    """A cell of ten customers of whom the first 10 V have a voucher."""
    vouchers = [int(i < round(10 * V)) for i in range(10)]
    look = {
        "voucher": vouchers, "satisfaction": marks or [3.0] * 10, "valid": valid,
        "value": [1.0 - i / 10 for i in range(10)]}
    steps = [{"voucher_rate": v, "lambda": 0.2} for v in curve]
    return {"greedy": look, "sampled": look, "other": look, "soft": {"valid": 0.75}, "curve": steps}


# never 3 stars; free gives nine of ten a voucher, each worth one star
PLANNED = {
    "never": {0: cell(0.0)},
    "free": {0: cell(0.9, [4.0] * 9 + [3.0])},
}


def five(make) -> dict:
    return {seed: make(seed) for seed in range(5)}


def verdict(number: int, cells: dict, seeds: int = 5) -> criteria.Verdict:
    return criteria.verdicts(PLANNED | cells, seeds)[number - 1]


def test_the_budget_is_held_in_four_of_five_seeds():
    rates = [0.3, 0.3, 0.3, 0.3, 0.5]
    assert verdict(1, {"cmpo": five(lambda s: cell(rates[s]))}).holds
    assert not verdict(1, {"cmpo": five(lambda s: cell([0.3, 0.3, 0.3, 0.5, 0.5][s]))}).holds
    # it fell to nothing for twenty steps, and came back
    dip = (0.27,) * 50 + (0.05,) * 20 + (0.27,) * 50
    assert not verdict(1, {"cmpo": five(lambda s: cell(0.3, curve=dip))}).holds
    assert criteria.lowest(cell(0.3, curve=dip)) == pytest.approx(0.05)


def test_satisfaction_is_held_against_the_coin_line():
    # gain of free: .9 stars.  At V .3 the coin earns 3 + .3 / .9 * .9 = 3.3
    aimed = [5.0] * 3 + [3.0] * 7                # 3.6
    good = verdict(2, {"cmpo": five(lambda s: cell(0.3, aimed))})
    assert "0.67 of the gain, over coin +0.300" in good.measured
    by_coin = [4.0] * 3 + [3.0] * 7              # 3.3: a third of the gain, no better than a coin
    poor = verdict(2, {"cmpo": five(lambda s: cell(0.3, by_coin))})
    assert "0.33 of the gain, over coin +0.000" in poor.measured
    assert not poor.holds


def test_a_margin_over_coin_needs_an_interval_above_zero():
    rng = np.random.default_rng(0)

    def many(gain: float) -> dict:
        """A thousand customers of whom 300 get a voucher that is worth `gain` stars."""
        vouchers = [int(i < 300) for i in range(1000)]
        marks = [3.0 + gain * v + rng.normal(0, 0.5) for v in vouchers]
        look = {"voucher": vouchers, "satisfaction": marks}
        return {"sampled": look, "greedy": look, "curve": []}

    wide = {
        "never": {0: {"greedy": {"voucher": [0] * 1000, "satisfaction": [3.0] * 1000}}},
        "free": {0: {"greedy": {"voucher": [1] * 1000, "satisfaction": [4.0] * 1000}}},
    }
    better, t = criteria.gained(wide | {"cmpo": five(lambda s: many(2.0))}, "cmpo", "sampled")
    assert better["mean"] == pytest.approx(0.3, abs=0.03)
    assert criteria.above(better, t)
    equal, t = criteria.gained(wide | {"cmpo": five(lambda s: many(1.0))}, "cmpo", "sampled")
    assert not criteria.above(equal, t)


def test_a_fixed_price_has_to_miss_and_the_controller_not():
    cells = {
        "cmpo": five(lambda s: cell(0.3)),
        "cmpo_lambda0": five(lambda s: cell(0.9)),
        FIXED: five(lambda s: cell(0.4)),
    }
    assert verdict(3, cells).holds
    assert not verdict(3, cells | {FIXED: five(lambda s: cell(0.3))}).holds
    assert not verdict(3, cells | {"cmpo": five(lambda s: cell(0.4))}).holds
    assert not verdict(3, cells | {"cmpo_lambda0": five(lambda s: cell(0.5))}).holds


def test_the_cost_as_printed_is_compared_pairwise():
    cells = {
        "cmpo": five(lambda s: cell(0.3, [4.0] * 10)),
        "cmpo_printed_cost": five(lambda s: cell(0.3, [3.0 + s / 10] * 10)),
    }
    found = verdict(4, cells)
    assert found.holds
    assert found.measured.startswith("+0.800")
    assert not verdict(4, cells | {"cmpo_printed_cost": cells["cmpo"]}).holds


def test_a_controller_is_dead_or_cycles():
    swing = (0.0, 0.54) * 60                     # sd .27
    calm = (0.26, 0.28) * 60                     # sd .01
    cells = {
        "cmpo": five(lambda s: cell(0.3, curve=calm)),
        "cmpo_printed_pid": five(lambda s: cell([0.0, 0.0, 0.3, 0.3, 0.3][s], curve=calm)),
        "cmpo_dual": five(lambda s: cell(0.3, curve=swing)),
    }
    found = verdict(5, cells)
    assert found.holds
    assert "2 dead, 0 cycling" in found.measured
    assert "0 dead, 5 cycling" in found.measured
    assert not verdict(5, cells | {"cmpo_dual": cells["cmpo"]}).holds


def test_format_and_what_is_missing():
    found = verdict(6, {"cmpo": five(lambda s: cell(0.3))})
    assert found.holds
    assert found.measured == "hard 100.0%, without the ban 75.0%"
    assert not verdict(6, {"cmpo": five(lambda s: cell(0.3, valid=0.99))}).holds
    open_ = verdict(1, {"cmpo": {0: cell(0.3)}})
    assert (open_.holds, open_.measured) == (None, "missing: cmpo 1 of 5 seeds")
    assert "4 of" not in verdict(7, {}).measured
    # four hosted or larger rows and PPO have none: it cannot hold, and says so
    assert verdict(7, {}).holds is False
    assert "PPO" in verdict(7, {}).measured


def test_the_frontier_gives_to_those_to_whom_it_is_worth_more():
    # thresholds above all values, between the fourth and the fifth, below all
    points = criteria.frontier(PLANNED, np.array([1.5, 0.65, -1.0]))
    assert points[0] == (0.0, 3.0)
    assert points[1] == pytest.approx((0.4, 3.4))
    assert points[2] == pytest.approx((0.9, 3.9))


# --- looks ----------------------------------------------------------------------------------------

def test_without_the_ban_a_second_voucher_is_possible():
    desk = Desk(0, "test", 0)
    soft = budget_measure.Unbanned(desk)
    soft.reset()
    seen = soft.step("I have put a voucher into your account.")
    assert desk.banned
    assert seen.banned == ()
    assert isinstance(seen.outcome, Outcome)


# --- cells ----------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def small_study(tmp_path_factory):
    """A study of two steps and three customers, with the cells of four rows."""
    threads = torch.get_num_threads()
    with small_shops(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(fds, "SIZES", {"train": 30, "dev": 4, "test": 4})
        rows = ("never", "free", "cmpo", "sft")
        study = Study(tmp_path_factory.mktemp("study"), seeds=1, steps=2, episodes=3, rows=rows)
        for task in budget.tasks_of(study):
            assert task.work(*task.arguments) == 0
            assert task.done()
        yield study
    torch.set_num_threads(threads)


def test_a_cell_holds_what_the_tables_need(small_study):
    found = json.loads(small_study.cell("cmpo", 0).read_text())
    assert len(found["curve"]) == found["steps"] == 2
    assert found["curve"][0]["lambda"] == 0
    for look in ("greedy", "sampled"):
        assert len(found[look]["satisfaction"]) == len(found[look]["voucher"]) == 3
        assert set(found[look]["satisfaction"]) <= {1, 2, 3, 4, 5}
    assert found["soft"]["customers"] == 3
    start = json.loads(small_study.cell("sft", 0).read_text())
    assert start["curve"] == []


def test_a_row_learns_what_train_py_learns(small_study, tmp_path, monkeypatch):
    # neither pictures nor dev customers
    monkeypatch.setattr(train, "look", lambda *_: "")
    flags = ["--dataset", "fds", "--algo", "cmpo", "--replies", "template", "--steps", "2"]
    flags += ["--eval_episodes", "0", "--eval_every", "9", "--save_every", "9"]
    assert train.main([*flags, "--precision", "fp32", "--output_dir", str(tmp_path / "run")]) == 0
    curve = json.loads(small_study.cell("cmpo", 0).read_text())["curve"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    for step, row in zip(curve, rows, strict=True):
        assert step == {key: row[key] for key in step}


def test_the_tables_are_written_of_what_is_there(small_study, capsys):
    budget.write(small_study)
    said = capsys.readouterr().out
    assert "(1)" in said and "missing" not in said.split("(2)")[0].split("(1)")[1]
    assert "not comparable" in said
    assert "needs a hosted model" in said and "not run yet" in said
    for name in ("tables.md", "criteria.json", "curves.png", "pareto.png"):
        assert (small_study.folder / name).stat().st_size > 100
    verdicts = json.loads((small_study.folder / "criteria.json").read_text())
    assert [row["number"] for row in verdicts] == [1, 2, 3, 4, 5, 6, 7]


def test_a_table_of_nothing_is_refused(tmp_path, capsys):
    assert budget.main(["--tables", "--out", str(tmp_path)]) == 2
    assert "holds no row yet" in capsys.readouterr().err


def test_what_was_made_otherwise_is_refused(small_study, capsys):
    flags = ["--out", str(small_study.out), "--seeds", "1", "--rows", "cmpo", "--steps", "2"]
    assert budget.main([*flags, "--episodes", "4"]) == 2
    said = capsys.readouterr().err
    assert "was made with episodes 3, not 4" in said
    assert len(said.splitlines()) == 1


def test_a_fixed_price_is_that_at_which_the_controller_rested(small_study, tmp_path, capsys):
    path = tmp_path / "cell.json"
    curve = [{"lambda": 1.0}] * 50 + [{"lambda": 0.2}] * 50 + [{"lambda": 0.3}] * 50
    path.write_text(json.dumps({"curve": curve}))
    assert budget.resting_price(path) == 0.25
    curve = json.loads(small_study.cell("cmpo", 0).read_text())["curve"]
    resting = round((curve[0]["lambda"] + curve[1]["lambda"]) / 2, 3)
    assert small_study.made_with(FIXED)["flags"] == {"control": "fixed", "lambda0": resting}
    flags = ["--out", str(tmp_path / "none"), "--rows", FIXED]
    assert budget.main(flags) == 2
    assert f"{FIXED} takes its price from" in capsys.readouterr().err


def test_the_study_is_reached_by_eval(monkeypatch):
    asked = []
    monkeypatch.setattr(budget, "conduct", lambda study, *_: asked.append(study) or 0)
    flags = ["--paper", "--dataset", "fds"]
    assert evaluation.main(flags) == 0
    assert evaluation.main([*flags, "--difficulty", "easy", "--quick"]) == 0
    whole, quick = asked
    assert (whole.seeds, whole.steps, whole.episodes) == (5, 600, 1000)
    assert str(whole.folder) == "results/fds/hard"
    assert whole.rows == tuple(ROWS)
    assert (quick.seeds, quick.episodes, quick.difficulty) == (1, 100, "easy")


@pytest.mark.parametrize("flags, said", [
    (["--dataset", "fds", "--model", "nano"], "--model: --paper --dataset fds compares strategies"),
    (["--dataset", "fds", "--train_on", "mgshop"], "--train_on: --paper"),
    (["--dataset", "mgshop", "--difficulty", "easy"], "--difficulty chooses the customers of fds"),
])
def test_flags_of_other_tables_are_refused_in_one_line(flags, said, capsys):
    assert evaluation.main(["--paper", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
