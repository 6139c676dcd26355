"""tables.py, figures.py, paper.py: intervals against loops, variances worked out by hand and sacrebleu; then a made-up folder, whole.  Nothing here was measured."""
import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU
from scipy.stats import ttest_rel

from data import DataError
from experiments import figures, report, tables
from experiments import printed as paper
from tse import bleu, bleu_tokenizer, interval

NAN = math.nan
REPLIES = ["your lamp arrives on monday", "i am sorry to hear that , let me look", "it costs {price_1} with free delivery", "shall i order it for you now ?", "your lamp arrives soon"]
REFERENCES = ["your lamp will arrive on monday", "i am sorry to hear that", "it costs {price_1} and delivery is free", "shall i order it for you ?", "your lamp arrives on friday"]


# ---------------------------------------------------------------- a folder of made-up numbers

LEVEL = {"untrained_single": 0.15, "untrained_dual": 0.25, "sft": 0.45, "ppo": 0.55, "memento": 0.5, "imitation": 0.7, "gopo": 0.72, "gopo_tse": 0.76, "gopo_nano": 0.6, "gopo_single": 0.52,
         "warm_start": 0.4, "strategy": 0.68, "teacher": 0.85, "random": 0.3, "cs_warm": 0.65, "ex_other": 0.72}


def statistics(replies, references):
    """sacrebleu's sentence statistics, summed."""
    return np.sum([(lambda s: [s.sys_len, s.ref_len, *s.counts, *s.totals])(BLEU(tokenize="13a", smooth_method="none").corpus_score([h], [[r]])) for h, r in zip(replies, references)], 0).tolist()


def made_up(folder, rows=LEVEL, seeds=(0, 1, 2), customers=40, curves=True):
    """A results folder of random numbers with some order in them."""
    (folder / "evals").mkdir(parents=True)
    of_customer = np.random.default_rng(0).normal(0, 0.15, customers)
    stats = [statistics([h], [r]) for h, r in zip(REPLIES, REFERENCES)]
    for i, (row, level) in enumerate(rows.items()):
        for seed in seeds:
            rng = np.random.default_rng([i, seed])
            served = np.clip(level + of_customer + rng.normal(0, 0.02) + rng.normal(0, 0.05, customers), 0, 1)
            people = [{"tse": x, **{f"I_{k}": float(x > 0.2 * k) for k in (1, 2, 3)}, **{f"N_{k}": k + 1 if x > 0.2 * k else None for k in (1, 2, 3)}, "turns": 6, "success": float(x > 0.6),
                       "gre": 4 + 4 * x, "g_eval": None, "r_cs": x, "tse_2nd_ear": x - 0.1 * (row == "gopo_tse") if row in ("gopo", "gopo_tse") else None} for x in served.tolist()]
            (folder / f"evals/{row}-{seed}.json").write_text(json.dumps(
                {"row": row, "seed": seed, "customers": people, "bleu": [stats[n] for n in rng.integers(0, len(stats), customers)], "seconds": 1.0}))
    if curves:
        with open(folder / "curves.jsonl", "w") as f:
            for i, method in enumerate(("gopo", "gopo_nano", "gopo_tse", "ppo", "imitation")):
                for seed in seeds:
                    rng = np.random.default_rng([i, seed])
                    for step in range(1, 81):
                        rise = 1 - math.exp(-step / (20 + 5 * i))
                        f.write(json.dumps({"method": method, "seed": seed, "step": step, "loss_expert": 1.2 - 0.2 * rise + rng.normal(0, 0.1), "loss": -0.5 * rise + rng.normal(0, 0.1),
                                            "reward": 0.4 + 0.4 * rise + rng.normal(0, 0.04), "r_cs": 0.5 + 0.3 * rise, "tse": 0.2 + (0.5 - 0.1 * i) * rise + rng.normal(0, 0.04),
                                            "reply_words": 12 + 5 * rise * i, "distinct_2": 0.5 - 0.1 * rise, "repeated": None}) + "\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = made_up(tmp_path_factory.mktemp("results") / "mgshop")
    tables.write(folder, "mgshop", {"commit": "0" * 40, "commands": ["made up"]})
    return folder


def table(folder, number):
    return next(t for t in json.loads((folder / "results.json").read_text())["tables"] if t["id"] == f"table{number}")


# ---------------------------------------------------------------- intervals

def test_means_and_draws_by_hand():          # 2 seeds x 2 customers; a draw of seed 1 twice and customer 0 twice sees one cell
    x = np.array([[1.0, 2.0], [3.0, NAN]])
    assert tables.mean_of(x, np.array([[1.0, 1], [0, 2], [2, 0], [0, 2]]), np.array([[1.0, 1], [2, 0], [1, 1], [0, 2]])) == pytest.approx([(2 + 2) / 2, 3, 1.5, NAN], nan_ok=True)
    crossed = tables.bootstrap(np.array([[0.0, 1], [2, 3]]), 4000)
    assert crossed["mean"] == 1.5 and crossed["over"] == "seeds and customers" and (crossed["low"], crossed["high"]) == (0, 3)         # one cell alone: 1 draw in 16


def test_bootstrap_is_the_loop_it_stands_for():
    x = np.where(np.random.default_rng(1).random((3, 7)) < 0.3, NAN, np.random.default_rng(2).normal(size=(3, 7)))
    x[:, 4] = NAN                              # a customer nobody served
    taken_seeds, taken_customers = tables.resample(3, 7, 200, 5)
    means = []
    for seeds, customers in zip(taken_seeds[1:].astype(int), taken_customers[1:].astype(int)):
        assert seeds.sum() == 3 and customers.sum() == 7
        each = []
        for c in np.repeat(np.arange(7), customers):
            known = [x[s, c] for s in np.repeat(np.arange(3), seeds) if not math.isnan(x[s, c])]
            each += [sum(known) / len(known)] if known else []
        means.append(sum(each) / len(each))
    found = tables.bootstrap(x, 200, 5)
    assert [found["low"], found["high"]] == pytest.approx(list(np.percentile(means, [2.5, 97.5])))
    assert len(np.unique(taken_seeds, axis=0)) == 10 and np.array_equal(tables.resample(8, 7, 200, 5)[1], taken_customers)      # all ways to draw 3 of 3; the same customers whatever S


def test_variance_of_the_draws_is_the_one_worked_out():
    """var = mean r^2 / S + mean c^2 / C + mean e^2 / (S C), with r, c, e the effects of seed, customer and both together."""
    x = np.random.default_rng(3).normal(size=(4, 30)) + np.random.default_rng(4).normal(size=(4, 1))
    r, c = x.mean(1) - x.mean(), x.mean(0) - x.mean()
    e = x - x.mean() - r[:, None] - c
    drawn = tables.mean_of(x, *tables.resample(4, 30, 40_000, 0))
    assert drawn[0] == pytest.approx(x.mean()) and drawn[1:].var() == pytest.approx((r**2).mean() / 4 + (c**2).mean() / 30 + (e**2).mean() / 120, rel=0.03)
    alone = tables.mean_of(x[:1], *tables.resample(1, 30, 40_000, 0))                          # customers only
    assert alone[1:].var() == pytest.approx(x[0].var() / 30, rel=0.03) and tables.bootstrap(x[:1])["over"] == "customers"


def test_pairs_are_narrower_where_rows_go_together():
    rng = np.random.default_rng(0)
    customer = rng.normal(0, 1, (1, 60))
    a, b = (customer + rng.normal(0, 0.1, (3, 60)) + shift for shift in (0.3, 0.0))
    width = lambda i: i["high"] - i["low"]
    together = tables.paired(a, b)
    assert width(together) < 0.3 * width(tables.bootstrap(a)) and together["low"] > 0 and together["mean"] == pytest.approx((a - b).mean())
    assert tables.paired(a, b) == pytest.approx(tables.bootstrap(a - b)) and tables.paired(a, a)["high"] == 0
    with pytest.raises(ValueError, match="same seeds and customers"):
        tables.paired(a, b[:2])


def test_student_is_scipys_paired_test(folder):
    read, found = tables.load_evals(folder), tables.Measured(tables.load_evals(folder)).difference("ppo", "gopo", "tse")
    of = lambda row: [e.metrics["tse"].mean() for e in read[row].values()]
    wanted = ttest_rel(of("ppo"), of("gopo")).confidence_interval(0.95)
    assert found["t"] == pytest.approx([wanted.low, wanted.high]) and found["t"][0] < found["low"] and found["high"] < found["t"][1]        # three seeds
    assert tables.student([0.4]) is None and tables.student([0.4, 0.4]) == [0.4, 0.4]
    assert tables.student([0.0, 1.0]) == pytest.approx([0.5 - 12.706 * 0.5, 0.5 + 12.706 * 0.5], abs=1e-3)       # by hand: s / sqrt(2) = 1/2, one degree of freedom


@given(st.lists(st.one_of(st.none(), st.floats(-5, 5)), min_size=1, max_size=12))
@settings(max_examples=30)
def test_one_seed_has_the_mean_of_tse_interval(values):
    assert tables.bootstrap(np.array([values], dtype=float), 50)["mean"] == pytest.approx(interval(values, draws=2)["mean"])


@given(st.permutations([0, 1, 2]), st.permutations(range(6)), st.floats(0.1, 9), st.floats(-9, 9))
@settings(max_examples=20)
def test_order_does_not_matter_and_units_do_not(seeds, customers, scale, shift):
    x = np.where(np.random.default_rng(1).random((3, 6)) < 0.2, NAN, np.random.default_rng(2).normal(size=(3, 6)))
    one, two = tables.bootstrap(x, 100), tables.bootstrap(scale * x + shift, 100)
    assert tables.bootstrap(x[seeds][:, customers], 100)["mean"] == pytest.approx(one["mean"]) and one["low"] <= one["high"]
    assert [two[k] for k in ("mean", "low", "high")] == pytest.approx([scale * one[k] + shift for k in ("mean", "low", "high")])


def test_bleu_is_sacrebleus():
    owner = [0, 1, 1, 2, 0]                    # the customer of each reply
    stats = np.array([statistics(*zip(*[(h, r) for h, r, o in zip(REPLIES, REFERENCES, owner) if o == c])) for c in range(3)])
    assert bleu_tokenizer(REFERENCES) == "13a" and len(stats[0]) == 10
    found = tables.bootstrap(stats[None], 300, statistic=tables.bleu_of)
    assert found["mean"] == pytest.approx(bleu(REPLIES, REFERENCES)) and found["low"] < found["mean"] < found["high"]
    drawn = tables.bleu_of(np.stack([stats, stats[::-1]]), np.array([[2.0, 0], [1, 1]]), np.array([[3.0, 0, 0], [0, 2, 1]]))
    of = lambda *customers: bleu(*zip(*[(h, r) for c in customers for h, r, o in zip(REPLIES, REFERENCES, owner) if o == c]))
    assert drawn == pytest.approx([of(0, 0, 0), (of(1, 1, 2) + of(1, 1, 0)) / 2])
    assert tables.bleu_of(np.zeros((1, 2, 10)), *tables.resample(1, 2, 3, 0)).tolist() == [0, 0, 0, 0]      # nothing said


def test_nothing_known_is_no_number():
    assert tables.bootstrap(np.full((2, 3), NAN))["mean"] is None and tables.bootstrap(np.full((2, 3), NAN))["low"] is None
    measured = tables.Measured({"a": {0: tables.Eval({"N_1": np.array([NAN, 4, 2])}, None), 1: tables.Eval({"N_1": np.full(3, NAN)}, None)}, "gopo": {1: tables.Eval({"N_1": np.ones(3)}, None)}})
    cell = measured.cell("a", "N_1")
    assert cell["mean"] == 3 and cell["seeds"] == [3] and cell["over"] == "customers"                # seed 1 served nobody: it has no turn to tell
    assert measured.cell("a", "tse") is None and measured.cell("a", "bleu") is None and measured.cell("b", "N_1") is None and measured.difference("a", "gopo", "N_1") is None


# ---------------------------------------------------------------- the paper

def test_the_papers_figures():
    assert [len(paper.printed(n, "mgshop")) for n in range(1, 8)] == [5, 6, 6, 3, 4, 4, 4] and [len(paper.printed(n, "tmallbrand-b")) for n in range(1, 8)] == [5, 6, 6, 3, 0, 0, 0]
    assert paper.printed(1, "mgshop")["GOPO(Ours)"] == {"tse": 0.9243, "gre": 7.38, "bleu": 0.211} and paper.printed(1, "tmallbrand-b")["PPO"] == {"tse": 0.8126, "gre": 6.43, "bleu": 0.183}
    assert paper.printed(2, "multiwoz")["GPT-5.2"]["tse"] == 0.7561 and paper.printed(3, "multiwoz")["GPT-5.2"] == {"g_eval": 3.453} and paper.printed(4, "tmallbrand-a")["GOPO-Qwen3-8B"]["bleu"] == 0.202
    assert paper.printed(5, "tmallbrand-a")["Baseline w/o Expert Agent"] == {"tse": 0.1818, "gre": 5.19, "bleu": 0.182} and paper.printed(7, "mgshop")["Gemini-2.5"]["gre"] == 5.30
    assert paper.printed(1, "star") == {} and all(len(row) in (1, 3) for n in paper.PRINTED for d in paper.DATASETS for row in paper.printed(n, d).values())
    for t in tables.TABLES:
        assert {name for name in t.rows.values() if name} <= set(paper.printed(t.number, "mgshop")) and set(t.rows) <= set(tables.ROWS)


def test_orders_by_hand():                     # the paper: a > b > c in TSE, a = b in BLEU
    row = lambda key, **of_paper: {"key": key, "name": key.upper(), "paper": of_paper, "cells": {m: {"mean": 0.0} for m in of_paper}}
    rows = [row("b", tse=0.5, bleu=0.1), row("c", tse=0.4), row("a", tse=0.6, bleu=0.1), row("d", tse=0.1), {"key": "e", "name": "E", "paper": None, "cells": None}]
    leads = {("a", "b"): (0.1, 0.2), ("a", "c"): (-0.3, -0.1), ("b", "c"): (-0.1, 0.2), ("a", "d"): None, ("b", "d"): (0.0, 0.1), ("c", "d"): (0.1, 0.1)}
    students = {("a", "b"): [0.01, 0.29], ("c", "d"): [-0.1, 0.3]}            # wider: of few seeds
    class Told:
        def difference(self, above, below, metric):
            return (lead := leads[above, below]) and {"low": lead[0], "high": lead[1], "t": students.get((above, below))}
    orders, notes = tables.compare(rows, Told())
    assert [(o["above"], o["below"], o["ours"]) for o in orders] == [("A", "B", True), ("A", "C", False), ("B", "C", None), ("B", "D", None), ("C", "D", None)]
    assert notes == ["A and D share no seed: not compared in tse."] and all(o["paper"] and o["metric"] == "tse" for o in orders)


# ---------------------------------------------------------------- the folder

def test_tables_hold_what_the_files_hold(folder):
    read = tables.load_evals(folder)
    row = next(r for r in table(folder, 1)["rows"] if r["key"] == "ppo")
    known = np.stack([e.metrics["tse"] for e in read["ppo"].values()])
    assert row["cells"]["tse"]["mean"] == pytest.approx(known.mean()) and row["cells"]["tse"]["seeds"] == pytest.approx(list(known.mean(1))) and list(read["ppo"]) == [0, 1, 2]
    lead = tables.paired(known, np.stack([e.metrics["tse"] for e in read["gopo"].values()]))
    assert row["difference"]["tse"].items() >= lead.items() and lead["mean"] == pytest.approx((known - np.stack([e.metrics["tse"] for e in read["gopo"].values()])).mean())
    assert row["paper"] == {"tse": 0.8584, "gre": 7.09, "bleu": 0.190} and row["saw"] == ["logged replies", "judge (against the teacher's skills)", "success at the end", "TSE"] and row["cells"]["g_eval"] is None
    assert row["cells"]["bleu"]["seeds"] == pytest.approx([BLEU.compute_bleu((k := e.bleu.sum(0).astype(int).tolist())[2:6], k[6:], k[0], k[1], smooth_method="exp").score / 100 for e in read["ppo"].values()])
    assert row["cells"]["N_3"]["mean"] == 4 and 0 < row["cells"]["I_3"]["mean"] < 1
    flagged = {r["key"] for r in table(folder, 1)["rows"] if "FLAG" in (r["note"] or "")}
    assert flagged == {"gopo_tse"}


def test_missing_rows_stay_listed(folder):
    of = lambda n: {r["key"]: r for r in table(folder, n)["rows"]}
    assert list(of(1)) == ["untrained_single", "untrained_dual", "sft", "ppo", "memento", "imitation", "gopo", "gopo_tse", "gopo_soft", "single_warm", "warm_start", "strategy", "teacher", "random"]
    assert of(1)["gopo_soft"]["cells"] is None and of(1)["gopo_soft"]["note"] == "not run" and of(1)["gopo"]["difference"] is None
    assert list(of(4)) == ["gopo_nano", "gopo"] and of(4)["gopo"]["paper"]["tse"] == 0.9475 and of(4)["gopo_nano"]["paper"]["tse"] == 0.9243 and of(1)["gopo"]["paper"]["tse"] == 0.9243
    assert [r["paper"]["tse"] for r in of(5).values()] == [0.9475, 0.9371, 0.7353, 0.4327] and of(6)["cs_imitation"]["note"] == of(7)["ex_prompted"]["note"] == "not run"
    ids = [t["id"] for t in json.loads((folder / "results.json").read_text())["tables"]]
    assert ids == ["table1", "table4", "table5", "table6", "table7"] and "no API was given" in (folder / "tables.md").read_text()
    assert "| GOPO, soft constraints (prompt only) (not run) | — | — | — |" in (folder / "tables.md").read_text() and "not run" in (folder / "report.html").read_text()


def test_hosted_models_find_their_tables_and_the_papers_rows(tmp_path):
    made = made_up(tmp_path / "mgshop", {"gopo": 0.7, "api_deepseek-r1": 0.8, "api_cs_gemini-2.5": 0.6, "api_ex_my-model": 0.5, "dev": 0.1}, (0,), 8, curves=False)
    results = tables.build(made, "mgshop", {"judge": "Scored by gpt"})
    rows = {t["id"]: {r["key"]: r for r in t["rows"]} for t in results["tables"]}
    assert list(rows["table2"]) == list(rows["table3"]) == ["gopo", "api_deepseek-r1"] and rows["table2"]["api_deepseek-r1"]["paper"]["tse"] == 0.9381 and rows["table3"]["gopo"]["paper"] == {"g_eval": 3.688}
    assert rows["table6"]["api_cs_gemini-2.5"]["paper"]["bleu"] == 0.220 and rows["table7"]["api_ex_my-model"]["paper"] is None and rows["table7"]["api_ex_my-model"]["name"] == "my-model hosted as Expert, GOPO's LM"
    assert "Evaluated, but in no table: dev." in results["note"] and "no API" not in results["note"] and rows["table2"]["gopo"]["note"] == "paper: GOPO-Qwen3-14B(Ours)" and results["tables"][0]["notes"][0] == "One seed: intervals over customers only."
    assert any("Scored by gpt" in n for n in results["tables"][0]["notes"]) and results["tables"][0]["orders"][0]["ours"] is None
    order = next(t for t in results["tables"] if t["id"] == "table2")["orders"][0]
    assert order == {"metric": "tse", "above": "GOPO", "below": "deepseek-r1 hosted, both agents", "paper": True, "ours": False}
    assert [t["columns"][0]["key"] for t in results["tables"]][:3] == ["tse", "tse", "g_eval"]
    notes = {t["id"]: " ".join(t["notes"]) for t in results["tables"]}
    assert "Rows of the paper without a counterpart here: Qwen-235B TSE 0.9227, GRE 7.24, BLEU 0.182; GLM-4.7 TSE" in notes["table2"] and "counterpart" not in notes["table1"].replace("no counterpart", "")
    assert "GOPO-Qwen3-8B TSE 0.9375" in notes["table4"] and "DeepSeek-R1 TSE" not in notes["table2"]


def test_rows_of_other_seeds_are_not_compared(tmp_path):
    made = made_up(tmp_path / "mgshop", {"gopo": 0.7}, (0, 1), 8, curves=False)
    (made / "evals/sft-7.json").write_text((made / "evals/gopo-0.json").read_text().replace('"row": "gopo", "seed": 0', '"row": "sft", "seed": 7'))
    (made / "evals/ppo-1.json").write_text((made / "evals/gopo-1.json").read_text().replace('"row": "gopo"', '"row": "ppo"'))
    one = tables.build(made, "mgshop", {})["tables"][0]
    rows = {r["key"]: r for r in one["rows"]}
    assert rows["sft"]["difference"]["tse"] is None and "no seed shared with GOPO" in rows["sft"]["note"] and "GOPO and SFT, single agent share no seed: not compared in tse." in one["notes"]
    zero = rows["ppo"]["difference"]["tse"]
    assert (zero["mean"], zero["low"], zero["high"], zero["over"]) == (0, 0, 0, "customers")           # of the one seed that both have, not of GOPO's two
    assert next(o for o in one["orders"] if o["below"].startswith("PPO"))["ours"] is None


def test_perception_by_hand():
    turn = lambda perceived, truth: {"perceived": {"intent": perceived[0], "emotion": perceived[1]}, "truth": {"intent": truth[0], "emotion": truth[1]}}
    turns = [turn("xa", "xa"), turn("xa", "ya"), turn("yb", "xa"), turn("xa", "xa"), {"perceived": None, "truth": None}]
    said = tables.perception([{"method": "teacher", "turns": turns[:2]}, {"method": "teacher", "turns": turns[2:]}, {"method": "gopo", "turns": [turn("zz", "xa")]}])
    assert "intent rightly in 50 % and the emotion in 75 % of the 4 turns" in said and tables.perception([{"method": "gopo", "turns": turns}]) == ""


def test_data_without_the_paper_and_logs(tmp_path):
    made = made_up(tmp_path / "mine", {"gopo": 0.7, "sft": 0.4}, (0, 1), 8, curves=False)
    for path in (made / "evals").glob("*.json"):
        path.write_text(path.read_text().replace('"success": 1.0', '"success": null').replace('"success": 0.0', '"success": null'))
    (made / "figure3.png").write_bytes(b"an old one")
    tables.write(made)
    results = json.loads((made / "results.json").read_text())
    assert results["dataset"] == "mine" and all(r["paper"] is None for t in results["tables"] for r in t["rows"]) and not any(t["orders"] for t in results["tables"])
    assert results["tables"][0]["columns"][0]["name"] == "TSE-replay" and results["made"] == {"seeds": [0, 1], "episodes": 8}
    assert not (made / "figure3.png").exists() and not (made / "hacking.png").exists() and "The paper orders no two of these rows here." in (made / "tables.md").read_text()


def test_the_page_and_the_tables_speak_alike(folder):
    view = report.view_table(table(folder, 1), 3)
    said = {(o["paper"], o["metric"]): o["word"] for o in view["orders"]}
    assert len(said) == 30 and said["GOPO above Untrained, dual agent (prompted Expert)", "TSE"] == "agrees"          # 5 rows with figures of the paper: 10 pairs, thrice
    assert said["Memento above PPO, single agent", "GRE*"] == "differs"                                               # made up so; the paper: 7.13, 7.09
    text = (folder / "tables.md").read_text()
    assert "Made by `made up`." in text
    assert view["tally"] in text and "- GRE\\*: Memento > PPO, single agent: differs\n" in text
    assert json.loads((folder / "results.json").read_text())["made"] == {"commit": "0" * 40, "commands": ["made up"], "seeds": [0, 1, 2], "episodes": 40}
    assert view["tally"] in (folder / "report.html").read_text() and "data:image/png" in (folder / "report.html").read_text()


def test_markdown_and_csv_round(folder):
    row = next(r for r in table(folder, 1)["rows"] if r["key"] == "sft")
    cell, delta = row["cells"]["tse"], row["difference"]["tse"]
    line = next(x for x in (folder / "tables.md").read_text().splitlines() if x.startswith("| SFT"))
    minus = lambda x: f"{x:+.3f}".replace("-", "−")
    assert line.startswith(f"| SFT, single agent (paper: SFT) | {cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}] | {minus(delta['mean'])} [{minus(delta['low'])}, {minus(delta['high'])}] | "
                           f"[{minus(delta['t'][0])}, {minus(delta['t'][1])}] | 0.8363 | ")
    rows = {(r["table"], r["row"], r["metric"]): r for r in csv.DictReader(open(folder / "tables.csv", encoding="utf-8"))}
    found = rows["table1", "sft", "tse"]
    assert list(found) == ["table", "row", "metric", "mean", "low", "high", "difference", "diff_low", "diff_high", "seeds", "paper", "diff_t_low", "diff_t_high"]
    assert (found["mean"], found["diff_high"], found["seeds"], found["paper"]) == (f"{cell['mean']:.6g}", f"{delta['high']:.6g}", "3", "0.8363")
    assert rows["table1", "gopo_soft", "tse"]["mean"] == rows["table1", "gopo", "tse"]["difference"] == rows["table1", "sft", "g_eval"]["low"] == "" and len(rows) == sum(len(t["rows"]) * len(t["columns"]) for t in json.loads((folder / "results.json").read_text())["tables"])


def test_again_gives_the_same_bytes(folder):
    names = ("results.json", "tables.md", "tables.csv", "report.html")
    before = {name: (folder / name).read_bytes() for name in names}
    assert tables.main([str(folder)]) == 0 and before == {name: (folder / name).read_bytes() for name in names} and not list(folder.glob("*.part"))


def test_pictures_hold_the_numbers(folder, monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(figures, "save", lambda drawn, path, caption: kept.append(drawn))
    one = table(folder, 1)
    figures.bars(one, tables.REFERENCES, tmp_path / "x.png", "mgshop")
    shown = kept[0].axes[0]
    widths = {shown.get_yticklabels()[round(p.get_y() + p.get_height() / 2)].get_text(): p.get_width() for p in shown.patches}
    assert widths == pytest.approx({r["name"]: r["cells"]["tse"]["mean"] for r in one["rows"] if r["cells"]}) and "not run" in [t.get_text() for t in shown.texts]
    circles = sorted(float(line.get_xdata()[0]) for line in shown.lines if line.get_marker() == "o")
    assert circles == [0.7454, 0.8363, 0.8381, 0.8584, 0.9243] and len(kept[0].axes) == 2                              # no panel for a G-Eval nobody gave
    rows = [{"method": "gopo", "seed": s, "step": k, "loss": float(k + s), "reward": None} for s in (0, 2) for k in (1, 2, 3)] + [{"method": "ppo", "seed": 0, "step": 1, "loss": 9.0}]
    figures.losses(rows, {"gopo": "GOPO"}, ("gopo",), tmp_path / "x.png", "mgshop")
    line = kept[1].axes[0].lines[0]
    assert len(kept[1].axes) == 1 and line.get_ydata().tolist() == [2, 3, 4] and len(kept[1].axes[0].lines) == 3
    assert figures.smooth([0.0] * 10 + [3.0] + [0.0] * 19)[8:13] == [0, 1, 1, 1, 0]
    steps, values = figures.seeds_of([*rows, {"method": "gopo", "seed": 2, "step": 4, "loss": 7.0}], "gopo", "loss")
    assert steps.tolist() == [1, 2, 3, 4] and math.isnan(values[0, 3]) and values[1, 3] == 7


@pytest.mark.parametrize("wrong, said", [
    ("{", "not valid JSON"), ({"seed": 0}, "row: missing"), ({"customers": []}, "no customers"), ({"customers": [{"tse": "0.5"}]}, "tse: '0.5' where a number or null"), ({"seed": 3}, "must be named gopo-3.json"),
    ('{"row": "gopo", "seed": 0, "customers": [{"tse": NaN}]}', "NaN is no JSON"), ('{"row": "gopo", "seed": 0, "customers": [{"tse": 1e999}]}', "too large"),
    ({"bleu": [[1] * 9]}, "ten whole numbers"), ({"bleu": []}, "ten whole numbers"), ({"customers": [{"tse": 1.0}] * 2, "bleu": None}, "2 customers, but 8 in gopo-0.json")])
def test_broken_files_are_named(tmp_path, capsys, wrong, said):
    made = made_up(tmp_path / "mgshop", {"gopo": 0.7, "sft": 0.5} if "but 8" in said else {"gopo": 0.7}, (0,), 8, curves=False)
    path = made / f"evals/{'sft' if 'but 8' in said else 'gopo'}-0.json"
    if isinstance(wrong, dict):
        content = {"row": "gopo", "seed": 0, "customers": [{"tse": 1.0}], "seconds": 1.0} | wrong
        wrong = json.dumps((content | {"row": "sft"}) if "but 8" in said else {k: v for k, v in content.items() if said != "row: missing" or k != "row"})
    path.write_text(wrong)
    with pytest.raises(DataError) as refused:
        tables.load_evals(made)
    assert path.name in str(refused.value) and said in str(refused.value)
    assert tables.main([str(made)]) == 2 and str(path) in capsys.readouterr().err and not (made / "results.json").exists()


def test_a_difference_in_words(folder, capsys):
    assert tables.main([str(folder), "--difference", "ppo", "gopo"]) == 0
    head, tse, *others = capsys.readouterr().out.splitlines()
    of = lambda row: np.stack([e.metrics["tse"] for e in tables.load_evals(folder)[row].values()])
    each, lead = (of("ppo") - of("gopo")).mean(1), tables.paired(of("ppo"), of("gopo"))
    minus = lambda x: f"{x:+.3f}".replace("-", "−")
    assert head == "ppo - gopo, 95 % intervals" and tse.split()[:2] == ["TSE", minus(each.mean())] and tse.endswith(f"each seed {' '.join(map(minus, each))}")
    assert f"[{minus(lead['low'])}, {minus(lead['high'])}]  t [" in tse and len(others) > 5 and not any("G-Eval" in line for line in others)
    assert tables.main([str(folder), "--difference", "ppo", "nobody"]) == 2
    assert f"--difference nobody: no such row in {folder}/evals; there are cs_warm" in capsys.readouterr().err


def test_command_line(tmp_path, capsys):
    assert tables.main([]) == 2 and capsys.readouterr().err == "tables.py: name a results folder: python tables.py results/mgshop\n"
    assert tables.main([str(tmp_path)]) == 2 and "no evals/*.json in it" in capsys.readouterr().err
    with pytest.raises(SystemExit) as asked:
        tables.main(["--help"])
    assert asked.value.code == 0 and "results/mgshop" in capsys.readouterr().out
