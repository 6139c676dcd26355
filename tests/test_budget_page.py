"""The page of the budget study: answers, tables, dialogues with decision, price, mark and credit.

The cells are made up; the dialogues are played by the store's planner."""
from __future__ import annotations

import json

import pytest

from experiments import budget, budget_dialogues, budget_page, report
from experiments.budget import Study
from experiments.budget_criteria import Verdict
from experiments.budget_measure import meet
from experiments.budget_rows import choosers
from shop import fds
from tests.browser import all_of, browser, text_of
from tests.conftest import small_shops
from tests.page import Page
from tests.test_budget import PLANNED, cell, five

__all__ = ["browser"]


def whole(cell: dict) -> dict:
    """A made-up cell with all that the page reads."""
    more = {
        "process": [0.8] * 10, "tse": 0.9, "success": 1.0, "turns": 5.0, "unfair": 0.1,
        "agreed": 0.5, "by_demand": {
            demand: [1, 4] for demand in ("rigid", "preference", "incentive", "feedback")}}
    for look in ("greedy", "sampled", "other"):
        cell[look] = cell[look] | more
    cell["seen"] = cell["sampled"]
    for number, step in enumerate(cell["curve"], 1):
        step["step"] = number
    return cell


CELLS = {name: {0: whole(of_row[0])} for name, of_row in PLANNED.items()} | {
    "cmpo": five(lambda s: whole(cell(0.3, [5.0] * 3 + [3.0] * 7))),
    "cmpo_lambda0": five(lambda s: whole(cell(0.9))),
}
for of_row in (CELLS["never"], CELLS["free"]):
    del of_row[0]["sampled"]


@pytest.fixture(scope="module")
def played():
    """(agents, dialogues) of the planner that gives a voucher wherever it is worth anything."""
    study = Study(None, episodes=3)
    with small_shops(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(fds, "SIZES", {"train": 4, "dev": 4, "test": 4})
        dataset = budget.load(study)
    gopo = budget.begun(study, dataset, {"row": "free", "flags": {}, "steps": 0}, 0)
    _, episodes = meet(gopo, choosers("free", gopo, 3)["greedy"], 3)
    return gopo, episodes


@pytest.fixture(scope="module")
def folder(played, tmp_path_factory):
    """The folder of a study with a page; only row cmpo has dialogues."""
    folder = tmp_path_factory.mktemp("fds") / "hard"
    gopo, episodes = played
    rows = budget_dialogues.rows_of(gopo, episodes, "cmpo", 0, 0.125)
    budget_dialogues.write_lines(budget_dialogues.path_of(folder, "cmpo", 0), rows)
    budget_page.write(folder, "hard", 5, CELLS)
    return folder


# --- dialogues ------------------------------------------------------------------------------------

def test_a_dialogue_has_decisions_marks_credit_and_who_it_was(played):
    gopo, episodes = played
    rows = budget_dialogues.rows_of(gopo, episodes, "cmpo", 0, 0.125)
    for row, episode in zip(rows, episodes, strict=True):
        hidden = episode.env.hidden
        given = [turn["decision"] for turn in row["turns"]].count("voucher")
        assert given == episode.seen.outcome.vouchers == int(hidden.value > 0)
        assert row["satisfaction"] == episode.seen.outcome.satisfaction
        assert row["customer_is"]["demand"] == hidden.demand
        assert row["price"] == 0.125
        for turn in row["turns"]:
            S = turn["process"]["S"]
            # Eq. 6, weights 1 1 1 2
            by_hand = (S["persona"] + S["stage"] + S["quality"] + 2 * S["scenario"]) / 5
            assert turn["process"]["credit"] == pytest.approx(by_hand)
    # the turn of the voucher is the one in which the skill was chosen
    first = next(e for e in episodes if e.env.hidden.value > 0)
    row = rows[episodes.index(first)]
    for turn, step in zip(row["turns"], first.steps):
        assert (turn["decision"] == "voucher") == ("issue_voucher" in step.skills)


def test_what_nobody_perceived_and_no_rule_can_read_is_left_out(played):
    gopo, episodes = played
    row, *_ = budget_dialogues.rows_of(
        gopo, episodes, "never", 0, None, perceives=False, by_rule=False)
    assert "price" not in row
    for turn in row["turns"]:
        assert "perceived" not in turn and "process" not in turn
        assert turn["truth"]["intent"]


# --- in plain words -------------------------------------------------------------------------------

def test_each_criterion_is_a_question_with_its_answer():
    found = budget_page.answered(Verdict(4, "a > b", "+.1 stars", True))
    assert found["verdict"] == "yes"
    assert found["answer"] == "Criterion: a > b. Measured: +.1 stars."
    open_ = budget_page.answered(Verdict(5, "a > b", "missing: cmpo 1 of 5 seeds", None))
    assert open_["verdict"] == "not known yet"
    assert open_["answer"] == "Criterion: a > b. Missing: cmpo 1 of 5 seeds."


def test_words_by_hand():
    # never 3.0, free 3.9 at V .9: coin at V .3 earns 3.3; cmpo 3.6
    worth, made = budget_page.in_words(CELLS)
    assert "earns 3.00 of 5 stars" in worth["answer"]
    assert "3.90, with a voucher for 90 of 100 customers" in worth["answer"]
    assert "a voucher to 30 of 100 customers and earns 3.60 stars: 0.30 more" in made["answer"]


# --- the page -------------------------------------------------------------------------------------

def test_the_page_has_answers_before_tables_and_figures(folder):
    page = Page((folder / "report.html").read_text())
    heads = [e["text"] for e in page.find("h2")]
    assert heads == ["In plain words", "Tables", "Curves", "Dialogues"]
    said = page.find("body")[0]["all"]
    for words in (
        "InteractCS-RL", "difference against cmpo", "Does CMPO hold its budget",
        "No dialogues were kept of never, free, cmpo_lambda0", "not comparable",
        "Comm (LLM)", "lies (rule)", "No dialogue was judged by a language model",
    ):
        assert words in said, words


def test_the_table_holds_our_figures_beside_the_papers(folder):
    table, others = json.loads((folder / "results.json").read_text())["tables"]
    rows = {row["key"]: row for row in table["rows"]}
    assert rows["cmpo"]["cells"]["satisfaction"]["mean"] == pytest.approx(3.6)
    assert rows["cmpo"]["cells"]["V"]["seeds"] == pytest.approx([0.3] * 5)
    assert rows["cmpo"]["paper"] == {
        "satisfaction": 2.74, "FR": 1.0, "comm": 26.12, "logic": 10.07, "V": 0.308}
    # 3.0 less 3.6 stars
    assert rows["cmpo_lambda0"]["difference"]["satisfaction"]["mean"] == pytest.approx(-0.6)
    assert "seeds" not in rows["never"]["cells"]["satisfaction"]
    # cells from before lies were counted
    assert rows["cmpo"]["cells"]["lied"]["mean"] is None
    assert [row["key"] for row in others["rows"]] == ["cmpo", "cmpo_lambda0"]
    assert others["rows"][0]["cells"]["rigid"]["mean"] == 0.25


def test_the_browser_shows_decision_price_mark_and_credit(browser, folder):
    browser.open((folder / "report.html").as_uri())
    said = text_of(browser)
    # it opens with a customer who was served and got a voucher
    assert "all tasks done" in said
    assert "λ 0.125, 0.50 stars" in said
    assert "of 5 stars" in said
    assert "hidden from the agent" in said
    assert all_of(browser, ".decision.voucher", "innerText") == ["voucher"]
    bars = all_of(browser, "#played article:first-of-type .bars div", "children[0].innerText")
    assert bars == ["persona", "stage", "quality", "scenario", "R_P process"]
    assert "constraint" not in said
    assert browser.complaints() == []
    for width in (1280, 400):
        browser.device("Emulation.setDeviceMetricsOverride", width=width, height=900,
                       deviceScaleFactor=1, mobile=width < 600)
        browser.open((folder / "report.html").as_uri())
        assert browser.value("document.documentElement.scrollWidth") <= width
    browser.device("Emulation.clearDeviceMetricsOverride")


def test_a_turn_without_a_form_of_numbers_is_refused(folder):
    path = folder / "dialogues.jsonl"
    text = path.read_text()
    try:
        path.write_text(text.replace('"credit": 1.0', '"credit": "good"', 1))
        with pytest.raises(report.DataError, match="process, credit"):
            report.render(folder)
    finally:
        path.write_text(text)
