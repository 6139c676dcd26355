"""What stands first on the page: sentences, a dialogue worth reading, and pass^k over seeds."""
from __future__ import annotations

import json

import numpy as np
import pytest

from experiments import plain_words, report, tables
from experiments.evals import Eval, Measured, load_evals
from experiments.layout import TABLES
from experiments.reliability import pass_k, reliability
from tests.made_up import made_up
from tests.page import Page

# --- tables in sentences --------------------------------------------------------------------------


def row(key, mean, difference=None):
    cells = {"tse": {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}}
    found = {"key": key, "name": key.upper(), "cells": cells}
    if difference:
        low, high, t = difference
        found["difference"] = {"tse": {"mean": (low + high) / 2, "low": low, "high": high, "t": t}}
    return found


TABLE = {
    "id": "table1",
    "title": "Methods",
    "columns": [{"key": "tse", "name": "TSE", "digits": 2}],
    "rows": [
        row("gopo", 0.9), row("ppo", 0.8, (-0.2, -0.05, [-0.15, -0.08])),
        row("teacher", 0.95, (0.02, 0.08, None)),
        # its t contains 0
        row("sft", 0.85, (-0.09, -0.01, [-0.2, 0.1])),
    ],
    "orders": [
        {"metric": "tse", "above": "GOPO", "below": "PPO", "paper": True, "ours": True},
        {"metric": "tse", "above": "SFT", "below": "PPO", "paper": True, "ours": False},
        {"metric": "tse", "above": "GOPO", "below": "SFT", "paper": True, "ours": None},
        {"metric": "gre", "above": "GOPO", "below": "SFT", "paper": True, "ours": True},
    ],
}


def test_a_table_in_a_sentence():
    found, = plain_words.findings_of([TABLE], "gopo")
    assert found["question"] == "Methods"
    assert found["answer"] == (
        "GOPO: TSE 0.90 [0.89, 0.91]. Above it: TEACHER. Below it: PPO. Not decided: SFT. "
        "Of 3 pairs that the paper orders by TSE, 1 come out alike, 1 the other way round, "
        "1 undecided.")


def test_who_is_served_and_who_was_not_measured():
    served = row("gopo", 0.9)
    served["cells"]["success"] = {"mean": 0.965}
    assert plain_words.share_of_served(served) == " It serves 96 of 100 customers to the end."
    assert plain_words.findings_of([TABLE], "nobody") == []
    assert plain_words.in_a_sentence(TABLE | {"rows": [{"name": "x", "key": "gopo"}]}, "gopo") == ""


# --- the dialogue to begin with -------------------------------------------------------------------

def dialogue(method, customer, success=True, moods=(0.5, 0.5), decisions=(None, None), seed=0):
    turns = []
    for mood, decision in zip(moods, decisions):
        turns.append({"mood": mood} | ({"decision": decision} if decision else {}))
    return {
        "method": method, "seed": seed, "customer": customer, "success": success, "mood": 0.5,
        "turns": turns}


@pytest.mark.parametrize("better", [
    # came round after having been upset
    dialogue("GOPO", "7", moods=(0.2, 0.9)),
    # a voucher was issued
    dialogue("GOPO", "7", decisions=("chat", "voucher")),
])
def test_it_opens_where_there_is_something_to_see(better):
    others = [dialogue("GOPO", "0"), dialogue("GOPO", "1", success=False, moods=(0.1, 0.9))]
    found = plain_words.opening([*others, better, dialogue("PPO", "2", moods=(0.0, 1.0))], "GOPO")
    assert found == {"method": "GOPO", "seed": "0", "customer": "7"}


def test_it_opens_where_others_ended_otherwise_and_else_with_the_first():
    alike = [dialogue("GOPO", "0"), dialogue("GOPO", "1")]
    assert plain_words.opening(alike, "GOPO")["customer"] == "0"
    failed = dialogue("PPO", "1", success=False)
    assert plain_words.opening([*alike, failed], "GOPO")["customer"] == "1"
    # the same customer of another seed is another talk
    elsewhere = dialogue("PPO", "1", success=False, seed=1)
    assert plain_words.opening([*alike, elsewhere], "GOPO")["customer"] == "0"


def test_the_page_says_which_dialogue_it_opens_with_and_why():
    both = [dialogue("GOPO", "0", success=False), dialogue("GOPO", "1")]
    said = plain_words.opens(both, plain_words.opening(both, "GOPO"))
    assert "of GOPO, with a customer who was served" in said
    said = plain_words.opens(both[:1], plain_words.opening(both[:1], "GOPO"))
    assert "served none of these customers" in said
    assert plain_words.opens([], {}) == ""


def test_it_opens_with_whoever_is_there():
    assert plain_words.opening([dialogue("PPO", "3")], "GOPO")["method"] == "PPO"
    assert plain_words.opening([], "GOPO") == {}


# --- pass^k over seeds ----------------------------------------------------------------------------

def test_pass_k_over_seeds_by_hand():
    # two seeds, four customers: served by 2, 1, 1, 0 of 2
    success = [np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])]
    assert pass_k(success, 1)["mean"] == pytest.approx((1 + 0.5 + 0.5 + 0) / 4)
    assert pass_k(success, 2)["mean"] == pytest.approx(1 / 4)
    assert pass_k(success, 5) is None


def test_one_seed_or_logs_have_no_reliability():
    one = {"gopo": {0: Eval({"success": np.array([1.0, 0.0])}, None)}}
    assert reliability(Measured(one)) is None
    log = Eval({"tse": np.array([1.0, 0.0])}, None)
    assert reliability(Measured({"gopo": {0: log, 1: log}})) is None


def test_the_page_and_the_tables_of_a_folder_have_words_and_pass_k(tmp_path):
    folder = made_up(tmp_path / "mgshop")
    page = Page(tables.write(folder, "mgshop", {}).read_text())
    heads = [e["text"] for e in page.find("h2")]
    assert heads[:2] == ["In plain words", "Tables"]
    found = json.loads((folder / "results.json").read_text())["reliability"]
    success = [e.metrics["success"] for e in load_evals(folder)["gopo"].values()]
    rows = {each["key"]: each for each in found["rows"]}
    assert rows["gopo"]["cells"]["pass_1"]["mean"] == pytest.approx(np.mean(success))
    assert rows["gopo"]["cells"]["pass_2"] == pass_k(success, 2)
    assert set(rows) <= set(TABLES[0].rows)
    assert "pass^2" in page.find("body")[0]["all"]
    assert "pass^k over training seeds" in (folder / "tables.md").read_text()
    assert report.write(folder).read_text() == (folder / "report.html").read_text()
