"""tables.py, printed.py, evals.py on a made-up folder.  Nothing here was measured."""
import csv
import json

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from data import DataError
from experiments import printed, report, tables
from experiments.evals import load_evals
from experiments.intervals import paired
from experiments.layout import ROWS, TABLES
from tests.made_up import made_up


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = made_up(tmp_path_factory.mktemp("results") / "mgshop")
    tables.write(folder, "mgshop", {"commit": "0" * 40, "commands": ["made up"]})
    return folder


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def table(folder, number):
    found = {t["id"]: t for t in results_of(folder)["tables"]}
    return found[f"table{number}"]


def rows_of(folder, number):
    return {row["key"]: row for row in table(folder, number)["rows"]}


def stacked(folder, row, metric="tse"):
    """[S, C]"""
    return np.stack([e.metrics[metric] for e in load_evals(folder)[row].values()])


def signed(x):
    return f"{x:+.3f}".replace("-", "−")


# ---------------------------------------------------------------- the paper

def test_the_papers_figures():
    of = printed.printed
    assert [len(of(n, "mgshop")) for n in range(1, 8)] == [5, 6, 6, 3, 4, 4, 4]
    assert [len(of(n, "tmallbrand-b")) for n in range(1, 8)] == [5, 6, 6, 3, 0, 0, 0]
    assert of(1, "mgshop")["GOPO(Ours)"] == {"tse": 0.9243, "gre": 7.38, "bleu": 0.211}
    assert of(1, "tmallbrand-b")["PPO"] == {"tse": 0.8126, "gre": 6.43, "bleu": 0.183}
    assert of(2, "multiwoz")["GPT-5.2"]["tse"] == 0.7561
    assert of(3, "multiwoz")["GPT-5.2"] == {"g_eval": 3.453}
    assert of(4, "tmallbrand-a")["GOPO-Qwen3-8B"]["bleu"] == 0.202
    baseline = {"tse": 0.1818, "gre": 5.19, "bleu": 0.182}
    assert of(5, "tmallbrand-a")["Baseline w/o Expert Agent"] == baseline
    assert of(7, "mgshop")["Gemini-2.5"]["gre"] == 5.30
    assert of(1, "star") == {}


def test_every_row_of_the_paper_is_whole():
    for number in printed.PRINTED:
        for dataset in printed.DATASETS:
            for row in printed.printed(number, dataset).values():
                assert len(row) in (1, 3)


def test_our_tables_name_rows_that_there_are():
    for t in TABLES:
        named = {name for name in t.rows.values() if name}
        assert named <= set(printed.printed(t.number, "mgshop"))
        assert set(t.rows) <= set(ROWS)


# ---------------------------------------------------------------- orders

def row_by_hand(key, **of_paper):
    cells = {metric: {"mean": 0.0} for metric in of_paper}
    return {"key": key, "name": key.upper(), "paper": of_paper, "cells": cells}


class ByHand:
    """Differences as they are written here."""
    leads = {
        ("a", "b"): (0.1, 0.2),
        ("a", "c"): (-0.3, -0.1),
        ("b", "c"): (-0.1, 0.2),
        ("a", "d"): None,
        ("b", "d"): (0.0, 0.1),
        ("c", "d"): (0.1, 0.1),
    }
    # wider: of few seeds
    students = {("a", "b"): [0.01, 0.29], ("c", "d"): [-0.1, 0.3]}

    def difference(self, above, below, metric):
        lead = self.leads[above, below]
        if lead is None:
            return None
        return {"low": lead[0], "high": lead[1], "t": self.students.get((above, below))}


def test_orders_by_hand():
    # the paper: a > b > c > d in TSE, a = b in BLEU
    rows = [
        row_by_hand("b", tse=0.5, bleu=0.1),
        row_by_hand("c", tse=0.4),
        row_by_hand("a", tse=0.6, bleu=0.1),
        row_by_hand("d", tse=0.1),
        {"key": "e", "name": "E", "paper": None, "cells": None},
    ]
    orders, notes = tables.compare(rows, ByHand())
    assert [(o["above"], o["below"], o["ours"]) for o in orders] == [
        ("A", "B", True),
        ("A", "C", False),
        ("B", "C", None),
        ("B", "D", None),
        ("C", "D", None),
    ]
    assert notes == ["A and D share no seed: not compared in tse."]
    assert all(o["paper"] and o["metric"] == "tse" for o in orders)


# ---------------------------------------------------------------- the folder

def test_tables_hold_what_the_files_hold(folder):
    row = rows_of(folder, 1)["ppo"]
    ppo, gopo = stacked(folder, "ppo"), stacked(folder, "gopo")
    assert list(load_evals(folder)["ppo"]) == [0, 1, 2]
    assert row["cells"]["tse"]["mean"] == pytest.approx(ppo.mean())
    assert row["cells"]["tse"]["seeds"] == pytest.approx(list(ppo.mean(1)))
    lead = paired(ppo, gopo)
    assert row["difference"]["tse"].items() >= lead.items()
    assert lead["mean"] == pytest.approx((ppo - gopo).mean())
    assert row["paper"] == {"tse": 0.8584, "gre": 7.09, "bleu": 0.190}
    assert row["saw"] == [
        "logged replies",
        "judge (against the teacher's skills)",
        "success at the end",
        "TSE",
    ]
    assert row["cells"]["g_eval"] is None
    assert row["cells"]["N_3"]["mean"] == 4
    assert 0 < row["cells"]["I_3"]["mean"] < 1
    flagged = {key for key, r in rows_of(folder, 1).items() if "FLAG" in (r["note"] or "")}
    assert flagged == {"gopo_tse"}


def test_bleu_of_each_seed_is_sacrebleus(folder):
    wanted = []
    for read in load_evals(folder)["ppo"].values():
        sums = read.bleu.sum(0).astype(int).tolist()
        score = BLEU.compute_bleu(sums[2:6], sums[6:], sums[0], sums[1], smooth_method="exp")
        wanted.append(score.score / 100)
    assert rows_of(folder, 1)["ppo"]["cells"]["bleu"]["seeds"] == pytest.approx(wanted)


def test_missing_rows_stay_listed(folder):
    first = rows_of(folder, 1)
    assert list(first) == [
        *("untrained_single", "untrained_dual", "sft", "ppo", "memento", "imitation"),
        *("gopo", "gopo_tse", "gopo_soft"),
        *("single_warm", "warm_start", "strategy", "teacher", "random"),
    ]
    assert first["gopo_soft"]["cells"] is None
    assert first["gopo_soft"]["note"] == "not run"
    assert first["gopo"]["difference"] is None
    assert first["gopo"]["paper"]["tse"] == 0.9243
    sizes = rows_of(folder, 4)
    assert list(sizes) == ["gopo_nano", "gopo"]
    assert sizes["gopo"]["paper"]["tse"] == 0.9475
    assert sizes["gopo_nano"]["paper"]["tse"] == 0.9243
    experts = rows_of(folder, 5).values()
    assert [r["paper"]["tse"] for r in experts] == [0.9475, 0.9371, 0.7353, 0.4327]
    assert rows_of(folder, 6)["cs_imitation"]["note"] == "not run"
    assert rows_of(folder, 7)["ex_prompted"]["note"] == "not run"
    ids = [t["id"] for t in results_of(folder)["tables"]]
    assert ids == ["table1", "table4", "table5", "table6", "table7"]
    text = (folder / "tables.md").read_text()
    assert "no API was given" in text
    assert "| GOPO, soft constraints (prompt only) (not run) | — | — | — |" in text
    assert "not run" in (folder / "report.html").read_text()


def test_hosted_models_find_their_tables_and_the_papers_rows(tmp_path):
    levels = {
        "gopo": 0.7,
        "api_deepseek-r1": 0.8,
        "api_cs_gemini-2.5": 0.6,
        "api_ex_my-model": 0.5,
        "dev": 0.1,
    }
    made = made_up(tmp_path / "mgshop", levels, (0,), 8, curves=False)
    results = tables.build(made, "mgshop", {"judge": "Scored by gpt"})
    found = {t["id"]: t for t in results["tables"]}
    rows = {}
    for name, t in found.items():
        rows[name] = {r["key"]: r for r in t["rows"]}

    both = ["gopo", "api_deepseek-r1"]
    assert list(rows["table2"]) == list(rows["table3"]) == both
    assert rows["table2"]["api_deepseek-r1"]["paper"]["tse"] == 0.9381
    assert rows["table3"]["gopo"]["paper"] == {"g_eval": 3.688}
    assert rows["table6"]["api_cs_gemini-2.5"]["paper"]["bleu"] == 0.220
    mine = rows["table7"]["api_ex_my-model"]
    assert mine["paper"] is None
    assert mine["name"] == "my-model hosted as Expert, GOPO's LM"
    assert rows["table2"]["gopo"]["note"] == "paper: GOPO-Qwen3-14B(Ours)"

    assert "Evaluated, but in no table: dev." in results["note"]
    assert "no API" not in results["note"]
    first = results["tables"][0]
    assert first["notes"][0] == "One seed: intervals over customers only."
    assert any("Scored by gpt" in n for n in first["notes"])
    assert first["orders"][0]["ours"] is None
    assert found["table2"]["orders"][0] == {
        "metric": "tse",
        "above": "GOPO",
        "below": "deepseek-r1 hosted, both agents",
        "paper": True,
        "ours": False,
    }
    leads = [t["columns"][0]["key"] for t in results["tables"]]
    assert leads[:3] == ["tse", "tse", "g_eval"]

    notes = {name: " ".join(t["notes"]) for name, t in found.items()}
    left = "Qwen-235B TSE 0.9227, GRE 7.24, BLEU 0.182; GLM-4.7 TSE"
    assert f"Rows of the paper without a counterpart here: {left}" in notes["table2"]
    assert "counterpart" not in notes["table1"].replace("no counterpart", "")
    assert "GOPO-Qwen3-8B TSE 0.9375" in notes["table4"]
    assert "DeepSeek-R1 TSE" not in notes["table2"]


def copy_eval(folder, old, new):
    """The file of one row and seed under the name of another."""
    text = (folder / f"evals/{old[0]}-{old[1]}.json").read_text()
    before = f'"row": "{old[0]}", "seed": {old[1]}'
    assert before in text
    text = text.replace(before, f'"row": "{new[0]}", "seed": {new[1]}')
    (folder / f"evals/{new[0]}-{new[1]}.json").write_text(text)


def test_rows_of_other_seeds_are_not_compared(tmp_path):
    made = made_up(tmp_path / "mgshop", {"gopo": 0.7}, (0, 1), 8, curves=False)
    copy_eval(made, ("gopo", 0), ("sft", 7))
    copy_eval(made, ("gopo", 1), ("ppo", 1))
    one = tables.build(made, "mgshop", {})["tables"][0]
    rows = {r["key"]: r for r in one["rows"]}
    assert rows["sft"]["difference"]["tse"] is None
    assert "no seed shared with GOPO" in rows["sft"]["note"]
    assert "GOPO and SFT, single agent share no seed: not compared in tse." in one["notes"]
    zero = rows["ppo"]["difference"]["tse"]
    assert (zero["mean"], zero["low"], zero["high"]) == (0, 0, 0)
    # of the one seed that both have, not of GOPO's two
    assert zero["over"] == "customers"
    order = next(o for o in one["orders"] if o["below"].startswith("PPO"))
    assert order["ours"] is None


def test_rows_with_an_older_name_are_read(tmp_path, capsys):
    made = made_up(tmp_path / "mgshop", {"gopo": 0.7, "told": 0.8}, (0,), 8, curves=False)
    assert set(load_evals(made)) == {"gopo", "true_perception"}
    line = {"method": "told", "seed": 0, "step": 1, "tse": 0.5}
    (made / "curves.jsonl").write_text(json.dumps(line) + "\n")
    results = tables.build(made, "mgshop", {})
    assert "Evaluated, but in no table: true_perception." in results["note"]
    tables.write(made, "mgshop", {})
    page = (made / "report.html").read_text()
    assert '"method":"true_perception"' in page
    assert "told" not in page.partition("<main>")[0]
    for name in ("told", "true_perception"):
        assert tables.main([str(made), "--difference", name, "gopo"]) == 0
        assert capsys.readouterr().out.startswith("true_perception - gopo, ")


def perceived_turn(perceived, truth):
    return {
        "perceived": {"intent": perceived[0], "emotion": perceived[1]},
        "truth": {"intent": truth[0], "emotion": truth[1]},
    }


def test_perception_by_hand():
    turns = [
        perceived_turn("xa", "xa"),
        perceived_turn("xa", "ya"),
        perceived_turn("yb", "xa"),
        perceived_turn("xa", "xa"),
        {"perceived": None, "truth": None},
    ]
    said = tables.perception(
        [
            {"method": "teacher", "turns": turns[:2]},
            {"method": "teacher", "turns": turns[2:]},
            {"method": "gopo", "turns": [perceived_turn("zz", "xa")]},
        ]
    )
    assert "intent rightly in 50 % and the emotion in 75 % of the 4 turns" in said
    assert tables.perception([{"method": "gopo", "turns": turns}]) == ""


def test_data_without_the_paper_and_logs(tmp_path):
    made = made_up(tmp_path / "mine", {"gopo": 0.7, "sft": 0.4}, (0, 1), 8, curves=False)
    for path in (made / "evals").glob("*.json"):
        text = path.read_text()
        for value in ("1.0", "0.0"):
            text = text.replace(f'"success": {value}', '"success": null')
        path.write_text(text)
    (made / "figure3.png").write_bytes(b"an old one")
    tables.write(made)
    results = results_of(made)
    assert results["dataset"] == "mine"
    for t in results["tables"]:
        assert all(row["paper"] is None for row in t["rows"])
        assert not t["orders"]
    assert results["tables"][0]["columns"][0]["name"] == "TSE-replay"
    assert results["made"] == {"seeds": [0, 1], "episodes": 8}
    assert not (made / "figure3.png").exists()
    assert not (made / "hacking.png").exists()
    text = (made / "tables.md").read_text()
    assert "The paper orders no two of these rows here." in text
    assert "Made by `python -m experiments.tables`." in text


def test_the_page_and_the_tables_speak_alike(folder):
    view = report.view_table(table(folder, 1), 3)
    said = {(o["paper"], o["metric"]): o["word"] for o in view["orders"]}
    # 5 rows with figures of the paper: 10 pairs, thrice
    assert len(said) == 30
    assert said["GOPO above Untrained, dual agent (prompted Expert)", "TSE"] == "agrees"
    # made up so; the paper: 7.13, 7.09
    assert said["Memento above PPO, single agent", "GRE*"] == "differs"
    text = (folder / "tables.md").read_text()
    assert "Made by `made up`." in text
    assert view["tally"] in text
    assert "- GRE\\*: Memento > PPO, single agent: differs\n" in text
    assert results_of(folder)["made"] == {
        "commit": "0" * 40,
        "commands": ["made up"],
        "seeds": [0, 1, 2],
        "episodes": 40,
    }
    page = (folder / "report.html").read_text()
    assert view["tally"] in page
    assert "data:image/png" in page


def test_markdown(folder):
    row = rows_of(folder, 1)["sft"]
    cell, delta = row["cells"]["tse"], row["difference"]["tse"]
    lines = (folder / "tables.md").read_text().splitlines()
    line = next(x for x in lines if x.startswith("| SFT"))
    assert line.startswith(
        "| SFT, single agent (paper: SFT) "
        f"| {cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}] "
        f"| {signed(delta['mean'])} [{signed(delta['low'])}, {signed(delta['high'])}] "
        f"| [{signed(delta['t'][0])}, {signed(delta['t'][1])}] "
        "| 0.8363 | "
    )


def test_csv(folder):
    row = rows_of(folder, 1)["sft"]
    cell, delta = row["cells"]["tse"], row["difference"]["tse"]
    with open(folder / "tables.csv", encoding="utf-8") as f:
        rows = {(r["table"], r["row"], r["metric"]): r for r in csv.DictReader(f)}
    found = rows["table1", "sft", "tse"]
    assert list(found) == [
        *("table", "row", "metric", "mean", "low", "high"),
        *("difference", "diff_low", "diff_high", "seeds", "paper", "diff_t_low", "diff_t_high"),
    ]
    assert found["mean"] == f"{cell['mean']:.6g}"
    assert found["diff_high"] == f"{delta['high']:.6g}"
    assert (found["seeds"], found["paper"]) == ("3", "0.8363")
    assert rows["table1", "gopo_soft", "tse"]["mean"] == ""
    assert rows["table1", "gopo", "tse"]["difference"] == ""
    assert rows["table1", "sft", "g_eval"]["low"] == ""
    sizes = [len(t["rows"]) * len(t["columns"]) for t in results_of(folder)["tables"]]
    assert len(rows) == sum(sizes)


def test_again_gives_the_same_bytes(folder):
    def contents():
        names = ("results.json", "tables.md", "tables.csv", "report.html")
        return {name: (folder / name).read_bytes() for name in names}

    before = contents()
    assert tables.main([str(folder)]) == 0
    assert contents() == before
    assert not list(folder.glob("*.part"))


# ---------------------------------------------------------------- broken files

GOOD = {"row": "gopo", "seed": 0, "customers": [{"tse": 1.0}], "seconds": 1.0}
WITHOUT_ROW = {"seed": 0, "customers": [{"tse": 1.0}], "seconds": 1.0}
NOT_A_NUMBER = '{"row": "gopo", "seed": 0, "customers": [{"tse": NaN}]}'
TOO_LARGE = '{"row": "gopo", "seed": 0, "customers": [{"tse": 1e999}]}'


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("{", "not valid JSON"),
        (WITHOUT_ROW, "row: missing"),
        (GOOD | {"customers": []}, "no customers"),
        (GOOD | {"customers": [{"tse": "0.5"}]}, "tse: '0.5' where a number or null"),
        (GOOD | {"seed": 3}, "must be named gopo-3.json"),
        (NOT_A_NUMBER, "NaN is no JSON"),
        (TOO_LARGE, "too large"),
        (GOOD | {"bleu": [[1] * 9]}, "ten whole numbers"),
        (GOOD | {"bleu": []}, "ten whole numbers"),
    ],
)
def test_broken_files_are_named(tmp_path, capsys, wrong, said):
    made = made_up(tmp_path / "mgshop", {"gopo": 0.7}, (0,), 8, curves=False)
    refuses(made, made / "evals/gopo-0.json", wrong, said, capsys)


def test_a_file_with_other_customers_is_named(tmp_path, capsys):
    made = made_up(tmp_path / "mgshop", {"gopo": 0.7, "sft": 0.5}, (0,), 8, curves=False)
    wrong = GOOD | {"row": "sft", "customers": [{"tse": 1.0}] * 2, "bleu": None}
    said = "2 customers, but 8 in gopo-0.json"
    refuses(made, made / "evals/sft-0.json", wrong, said, capsys)


def refuses(folder, path, wrong, said, capsys):
    """Both load_evals and the command name the file and what is wrong in it."""
    if not isinstance(wrong, str):
        wrong = json.dumps(wrong)
    path.write_text(wrong)
    with pytest.raises(DataError) as refused:
        load_evals(folder)
    assert path.name in str(refused.value)
    assert said in str(refused.value)
    assert tables.main([str(folder)]) == 2
    assert str(path) in capsys.readouterr().err
    assert not (folder / "results.json").exists()


# ---------------------------------------------------------------- the command

def test_a_difference_in_words(folder, capsys):
    assert tables.main([str(folder), "--difference", "ppo", "gopo"]) == 0
    head, tse, *others = capsys.readouterr().out.splitlines()
    ppo, gopo = stacked(folder, "ppo"), stacked(folder, "gopo")
    each = (ppo - gopo).mean(1)
    lead = paired(ppo, gopo)
    assert head == "ppo - gopo, 95 % intervals"
    assert tse.split()[:2] == ["TSE", signed(each.mean())]
    assert tse.endswith(f"each seed {' '.join(map(signed, each))}")
    assert f"[{signed(lead['low'])}, {signed(lead['high'])}]  t [" in tse
    assert len(others) > 5
    assert not any("G-Eval" in line for line in others)
    assert tables.main([str(folder), "--difference", "ppo", "nobody"]) == 2
    said = f"--difference nobody: no such row in {folder}/evals; there are cs_warm"
    assert said in capsys.readouterr().err


def test_command_line(tmp_path, capsys):
    assert tables.main([]) == 2
    command = "python -m experiments.tables"
    assert capsys.readouterr().err == (
        f"{command}: name a results folder: {command} results/mgshop\n"
    )
    assert tables.main([str(tmp_path)]) == 2
    assert "no evals/*.json in it" in capsys.readouterr().err
    with pytest.raises(SystemExit) as asked:
        tables.main(["--help"])
    assert asked.value.code == 0
    said = capsys.readouterr().out
    assert "results/mgshop" in said
    assert said.startswith(f"usage: {command} ")
