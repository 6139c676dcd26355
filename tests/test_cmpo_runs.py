"""CMPO as it is run: it learns to hold a budget, refuses, warns, resumes, in several processes."""
from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import data
import train
from data import DECISION, DataError
from expert import ExpertConfig
from infra import processes
from infra.runs import Alarms, load_checkpoint, load_tensors, read_rows, save_tensors
from play import GopoConfig
from policies import keyed
from systems.cmpo import CMPO, Turns
from systems.cmpo_config import UNREAD, CMPOConfig
from systems.interactcs import Price
from tests import small_world
from tests.launching import launch
from tests.small_world import made, practised
from tests.training import refused, rows_of


@pytest.fixture(scope="module")
def cmpo() -> CMPO:
    return made(warm=False)


# --- learning -------------------------------------------------------------------------------------

def learned(steps: int = 30, **flags) -> tuple[CMPO, list[float]]:
    """After `steps` steps, and V of the last ten."""
    cmpo = made(steps, **flags)
    rates = [cmpo.step(number, 0)[1]["voucher_rate"] for number in range(1, steps + 1)]
    return cmpo, rates[-10:]


def rates_of(cmpo: CMPO) -> tuple[float, float]:
    """V of eager and of calm customers, sampled."""
    played = cmpo.play(
        cmpo.episodes("test", range(120), 0), cmpo.chooser(keyed(1)), judge_by="nobody")
    found = []
    for eager in (True, False):
        found.append(np.mean([e.env.issued for e in played if e.env.eager == eager]))
    return tuple(found)


@pytest.fixture(scope="module")
def held():
    # forty steps are few for the default K_I, which waits for a policy that answers late
    return learned(40, k_i=0.02)


def test_a_budget_is_held_and_finds_those_who_need_it(held):
    cmpo, rates = held
    eager, calm = rates_of(cmpo)
    assert 0.15 < np.mean(rates) < 0.45
    assert eager > calm + 0.3
    assert cmpo.price.lam > 0


def test_the_printed_cost_withholds_what_was_worth_its_price():
    # Price .3.  A voucher earns an eager customer's dialogue .5, and any other's .125 on average.
    # As printed the turn that issues is compared with turns that pay nothing, those of its own
    # dialogue among them: it looks bad even where every copy does well to issue.
    kept = {}
    for cost in ("to_go", "printed"):
        kept[cost] = rates_of(learned(control="fixed", lambda0=0.3, cost=cost)[0])
    assert kept["to_go"][0] > kept["printed"][0] + 0.3
    assert kept["printed"][0] < 0.3
    assert max(kept["to_go"][1], kept["printed"][1]) < 0.2


def test_without_a_price_more_is_issued(held):
    _, rates = learned(control="off")
    assert np.mean(rates) > np.mean(held[1]) + 0.2
    assert np.mean(rates) > 0.8


# --- flags ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("flags, message", [
    ({"budget": 1.5}, "--budget must lie in"),
    ({"budget": -0.1}, "--budget must lie in"),
    ({"copies": 1}, "--copies must be at least 2"),
    ({"control_copies": 4}, "fewer than --copies"),
    ({"control": "pi"}, "--control must be one of"),
    ({"control": "off", "lambda0": 0.2}, "--control off has no price"),
    ({"lambda0": 2.0}, "above --lambda_max"),
    ({"cmpo_clip": 1.0}, "--cmpo_clip must lie in"),
    ({"kl": math.nan}, "--kl must be at least"),
])
def test_flags_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        CMPOConfig(**flags)


def test_the_pull_of_skills_is_ours_and_that_of_words_the_release_s():
    skills, words = CMPOConfig().settled(speaks=False), CMPOConfig().settled(speaks=True)
    assert (skills.kl, skills.kl_spares, skills.lr_end) == (0.2, "vouchers", 0.0)
    assert (words.kl, words.kl_spares, words.lr_end) == (0.005, "nothing", 0.2)
    chosen = CMPOConfig(kl=0.0, kl_spares="nothing", lr_end=1.0)
    assert chosen.settled(False) == chosen.settled(True) == chosen


def test_a_run_from_before_the_pull_spared_anything_spares_nothing():
    old = {name: value for name, value in asdict(CMPOConfig()).items() if name != "kl_spares"}
    assert CMPO.options_of({"options": old}).kl_spares == "nothing"
    new = asdict(CMPOConfig().settled(False))
    assert CMPO.options_of({"options": new}).kl_spares == "vouchers"


def test_the_ends_of_the_budget():
    assert CMPOConfig(budget=0).gains.target == 0
    assert CMPOConfig(budget=1).gains.target == 0.97
    assert CMPOConfig().gains.target == pytest.approx(0.27)


def test_what_has_no_decision_or_no_customers_is_refused():
    shop = small_world.load()
    poor = {name: skill for name, skill in shop.skills.items() if name != DECISION}
    with pytest.raises(DataError, match="small has no skill issue_voucher; use --dataset fds"):
        CMPO.refuse_unsuited(replace(shop, skills=poor), GopoConfig(), speaks=True)
    with pytest.raises(DataError, match="small is replayed; use fds"):
        CMPO.refuse_unsuited(replace(shop, environment=None), GopoConfig(), speaks=True)


def test_a_process_judge_without_rules_is_refused_before_a_run_begins(
    registered, tmp_path, capsys
):
    run = tmp_path / "run"
    flags = ["--dataset", "small", "--algo", "cmpo", "--replies", "template"]
    said = refused([*flags, "--output_dir", str(run)], capsys)
    assert "--genrm rules has no rules for small, only for fds: add --genrm none" in said
    assert len(said.splitlines()) == 1
    assert not run.exists()


def test_flags_of_cmpo_are_refused_elsewhere(capsys):
    with pytest.raises(SystemExit):
        train.main(["--algo", "gopo", "--budget", "0.3"])
    assert "--budget is none of --algo gopo's flags" in capsys.readouterr().err


@pytest.mark.parametrize("flag, value, cure", [
    ("dialogues", "64", "--customers and --copies"),
    ("expert_epochs", "4", "--cmpo_epochs"),
    ("expert_lr_end", "0.0001", "--lr_end"),
    ("alpha", "0.02", "--decision_anchor"),
    ("expert_clip=0.3", None, "--cmpo_clip"),
    ("gamma", "0.9", "not discounted"),
])
def test_flags_that_cmpo_would_pass_over_are_refused(flag, value, cure, capsys):
    words = [f"--{flag}"] + [value] * (value is not None)
    with pytest.raises(SystemExit):
        train.main(["--dataset", "fds", "--algo", "cmpo", "--replies", "template", *words])
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"--algo cmpo does not read --{flag.partition('=')[0]}: " in said
    assert cure in said


def test_what_is_refused_is_a_flag_and_all_the_others_change_what_is_learned():
    known = {field.name for field in (*fields(GopoConfig), *fields(ExpertConfig))}
    assert set(UNREAD) <= known
    # what is left of both is read: by the warm start, the network, the step size, the measures
    read = {
        "expert_warm", "expert_lr", "expert_decay", "hide", "sentences", "hide_ngrams", "encoder",
        "history", "width", "tse_gamma", "no_expert"}
    assert known - set(UNREAD) == read


def test_without_the_mark_only_the_process_credit_counts(cmpo):
    talk = cmpo.talk(practised(cmpo, [3])[0])
    cmpo.price = Price(0.0, 0.0, None, 0.27)
    talk.R_O, talk.process = 1.0, [0.5] * len(talk.issued)
    found = {}
    for weight in (1.0, 0.0):
        cmpo.options = CMPOConfig(customers=8, session_weight=weight).settled(False)
        found[weight] = cmpo.turn_rewards(talk)
    # R_O + .5 R_P = 1 + .25
    assert found[1.0] == [1.25] * len(talk.issued)
    assert found[0.0] == [0.25] * len(talk.issued)


def test_too_many_processes_are_refused(monkeypatch):
    shop = small_world.load()
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(DataError, match="--customers 4 is fewer than the 8 processes"):
        CMPO.refuse_options(shop, CMPOConfig(customers=4), speaks=False)


def test_other_luck_needs_customers_who_have_some(cmpo, monkeypatch):
    cmpo.options = CMPOConfig(customer_noise="own").settled(False)
    monkeypatch.setattr(cmpo, "episodes", lambda *_: [data.Episode(0, object(), None)])
    with pytest.raises(DataError, match="use paired"):
        cmpo.copies("train", [1], 0)
    cmpo.options = CMPOConfig(customers=8).settled(False)


# --- alarms ---------------------------------------------------------------------------------------

def test_alarms_of_the_price(cmpo):
    quiet = {"voucher_rate": 0.3, "lambda": 0.2, "integral": 10.0}

    def raised(**change) -> list[str]:
        alarms = Alarms(more=cmpo.signs)
        found = []
        for _ in range(12):
            found += alarms(quiet | change)
        return found

    assert raised() == []
    dead, = raised(voucher_rate=0.0)
    assert "no voucher left" in dead
    assert raised(**{"voucher_rate": 0.0, "lambda": 0.0}) == []
    high, = raised(**{"lambda": 1.25})
    assert "--lambda_max" in high
    wound, = raised(integral=250.0)
    assert "integral" in wound


# --- runs -----------------------------------------------------------------------------------------

@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(data.DATASETS, "small", "tests.small_world:load")


SMALL = [
    "--dataset", "small", "--algo", "cmpo", "--replies", "template", "--genrm", "none",
    "--customers", "4", "--expert_warm", "1", "--expert_decay", "4", "--precision", "fp32",
    "--width", "24", "--save_every", "1", "--eval_every", "4"]


def test_a_run_leaves_its_price_and_resumes_bit_for_bit(registered, tmp_path, capsys):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    flags = [*SMALL, "--eval_episodes", "0"]
    assert train.main([*flags, "--steps", "4", "--output_dir", str(whole)]) == 0
    assert train.main([*flags, "--steps", "2", "--output_dir", str(halves)]) == 0
    assert train.main(["--resume", str(halves), "--steps", "4"]) == 0
    assert rows_of(whole) == rows_of(halves)
    one, two = (load_checkpoint(run)[1] for run in (whole, halves))
    assert one.keys() == {"expert", "expert_adam", "price"}
    assert torch.equal(one["price"]["price"], two["price"]["price"])
    price = Price.of(one["price"]["price"])
    assert price.previous is not None
    assert price.rate != pytest.approx(0.27)
    # the pull to the warm start is the same in a resumed run
    assert all(torch.equal(one["expert"][k], two["expert"][k]) for k in one["expert"])
    rows = read_rows(whole / "metrics.jsonl")
    assert [row["lambda"] for row in rows][:1] == [0]
    assert any(row["lambda"] > 0 for row in rows)
    assert rows[-1]["kl"] > 0


def test_a_table_has_the_rate_with_its_interval_sampled_and_greedy(registered, tmp_path, capsys):
    run = tmp_path / "run"
    flags = [*SMALL, "--steps", "1", "--eval_episodes", "6", "--output_dir", str(run)]
    assert train.main(flags) == 0
    results = json.loads((run / "results.json").read_text())
    assert {"untrained", "cmpo", "cmpo_sampled", "teacher", "random"} <= set(results)
    for name in ("cmpo", "cmpo_sampled"):
        rate = results[name]["voucher_rate"]
        assert 0 <= rate["low"] <= rate["mean"] <= rate["high"] <= 1
        assert rate["low"] < rate["high"]
        assert 1 <= results[name]["satisfaction"]["mean"] <= 5
    assert "cmpo_sampled: V " in capsys.readouterr().out


def one_update(path: str) -> None:
    """Two steps of CMPO with four customers, in as many processes as were started."""
    processes.join("cpu")
    torch.set_num_threads(1)
    rows, kept = [], {}
    cmpo = made(customers=4)
    for number, scale in enumerate(("group", "batch"), 1):
        cmpo.options = replace(cmpo.options, scale=scale)
        played, row = cmpo.step(number, 0)
        rows.append(row)
        grads = enumerate(cmpo.learner.parameters)
        kept |= {f"{scale}.{i}": p.grad for i, p in grads if p.grad is not None}
    rows.append({"price": cmpo.price.lam, "here": float(len(played))})
    if processes.is_main():
        save_tensors(kept, Path(path) / "all.safetensors")
        (Path(path) / "rows.json").write_text(json.dumps(rows))
    processes.leave()


def test_two_processes_learn_what_one_learns(tmp_path):
    found = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        launch("tests/test_cmpo_runs.py", str(folder), processes=count)
        rows = json.loads((folder / "rows.json").read_text())
        found.append((load_tensors(folder / "all.safetensors"), rows))
    (one, rows), (two, of_two) = found
    assert sum(float(g.norm()) > 0 for g in one.values()) > 20
    for name, gradient in one.items():
        # one step of Adam lies before the second: it makes a step of any gradient
        close = 1e-6 if name.startswith("group") else 1e-4
        assert float((two[name] - gradient).abs().max()) < close, name
    assert (rows[2].pop("here"), of_two[2].pop("here")) == (16, 8)
    for row, other in zip(rows, of_two):
        assert other == pytest.approx(row, abs=1e-4)
    assert rows[1]["lambda"] > 0


def test_turns_without_a_state_are_no_turns():
    assert Turns().could(DECISION) == []


if __name__ == "__main__":
    one_update(sys.argv[1])
