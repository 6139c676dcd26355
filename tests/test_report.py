"""report.py: what stands on the page is what stands in the files, nothing breaks out, nothing is fetched; then the page in headless Chromium."""
import base64
import copy
import hashlib
import json
import re
import shutil
import socket
import subprocess
import time
from html.parser import HTMLParser

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from data import DataError
from experiments import example as example_page
from experiments import report

VOID = {"meta", "link", "img", "input", "br", "hr"}
METHODS = ("GOPO", "PPO", "SFT", "Memento", "Untrained", "Expert + soft", "Expert + hard")
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
ATTACKS = ["</script><script>window.broken = 1</script>", "<!--<script>", "--></script><img src=x onerror='window.broken = 1'>", '"><svg onload="window.broken = 1">', "{{ 7 * 7 }}{% raw %}",
           "javascript:window.broken=1", "' onmouseover='window.broken=1", "&lt;b&gt; \u2028 \u0000 ]]>", "</style></title></textarea><iframe src=https://example.org>", "half \ud83d of a character"]


# ---------------------------------------------------------------- a folder, and the page as a tree

def turn(t, word=""):
    return {"user": f"question {t} {word}", "perceived": {"intent": "refund", "emotion": "angry"}, "truth": {"intent": "refund", "emotion": "sad"}, "context": {"price_1": "30 euros"},
            "skills": ["apologise", "upsell", "state_price"], "teacher": ["apologise", "state_price", "close"], "must_say": ["Terms apply."], "must_not_say": ["guaranteed"], "dropped": [],
            "reply": f"It costs 30 euros. {word}", "template": "It costs {price_1}.", "rewards": {"R_E": -0.1 * t, "S": [1.0, 0.5, None, 0.25], "R_A": 0.6, "R_t": 0.45},
            "violations": [], "mood": 0.5 + 0.1 * t}


def dialogue(method, seed, customer, success, turns=2, word=""):
    return {"method": method, "seed": seed, "customer": customer, "success": success, "outcome": "all tasks done" if success else "left", "N": [1, 2, 2 if success else None],
            "tse": 0.93, "mood": 0.4, "last": "Bye.", "turns": [turn(t, f"{method} {customer} {word}") for t in range(1, turns + 1)]}


def example():
    """A folder as Python values: seven methods, one of which failed, five seeds; nothing in it was measured."""
    rows = []
    for i, name in enumerate(METHODS):
        mean = 0.9 - 0.05 * i
        rows.append({"name": name, "saw": ["teacher labels", "judge"], "cells": {
            "tse": {"mean": mean, "low": mean - 0.0213, "high": mean + 0.0187, "seeds": [mean - 0.01, mean + 0.01, mean, mean, mean]},
            "turns": {"mean": 6 + i / 3, "low": 5.5, "high": 9.25, "seeds": [6.0, 7.0]}, "gre": None},
            "difference": {"tse": {"mean": mean - 0.9, "low": mean - 0.93, "high": mean - 0.87 + 0.05 * (i == 1), "t": [mean - 1.2, mean - 0.6] if i == 2 else None}} if i else None, "paper": {"tse": 0.9243 - 0.01 * i} if i < 5 else None})
    rows[4] |= {"cells": None, "difference": None, "note": "failed: out of memory"}
    columns = [{"key": "tse", "name": "TSE", "digits": 3, "better": "high", "help": "Eq. 11"}, {"key": "turns", "name": "turns", "digits": 1, "better": "low"}, {"key": "gre", "name": "GRE"}]
    orders = [{"metric": "tse", "above": "GOPO", "below": "SFT", "paper": True, "ours": True}, {"metric": "tse", "above": "PPO", "below": "SFT", "paper": True, "ours": False},
              {"metric": "tse", "above": "GOPO", "below": "PPO", "paper": True, "ours": None}, {"metric": "tse", "above": "GOPO", "below": "Untrained", "paper": True, "ours": None},
              {"metric": "tse", "above": "SFT", "below": "GOPO", "paper": False, "ours": False}]
    results = {"dataset": "mgshop", "note": "Simulated customers.", "tables": [{"id": "table1", "title": "Table 1: methods", "columns": columns, "rows": rows, "orders": orders, "notes": ["A note."]}],
               "made": {"commit": "0123456789abcdef", "date": "2026-01-02", "commands": ["python eval.py --paper"], "wall_seconds": 4321.0, "seeds": [0, 1, 2, 3, 4], "episodes": 200, "quick": False}}
    curves = [{"method": m, "seed": s, "step": k, "tse": 0.5 + 0.01 * k - 0.1 * i + 0.02 * s, "loss": None if k == 2 else -1.0 * k} for i, m in enumerate(METHODS[:3]) for s in (0, 1) for k in range(1, 11)]
    dialogues = [dialogue(m, s, c, success=(c + i) % 2 == 0, turns=2 + i) for i, m in enumerate(METHODS[:3]) for s in (0, 1) for c in range(4)]
    return results, curves, dialogues


def save(folder, results=None, curves=None, dialogues=None, figures=True):
    given_results, given_curves, given_dialogues = example()
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results or given_results))
    for name, rows in (("curves", given_curves if curves is None else curves), ("dialogues", given_dialogues if dialogues is None else dialogues)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    if figures:
        (folder / "figure1.png").write_bytes(PNG)
    return folder


class Page(HTMLParser):
    """Elements in order with attributes and own text; fails on a tag that closes what is not open."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.stack, self.doctype = [], [], 0
        self.feed(text)
        self.close()
        assert not self.stack, f"left open: {self.stack}"

    def handle_decl(self, decl):
        self.doctype += 1

    def handle_starttag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", "all": "", "path": [e["tag"] for e in self.stack], **{f"@{k}": v for k, v in attributes}})
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):
            self.stack.append(self.elements[-1])

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1]["tag"] == tag, f"</{tag}> closes {[e['tag'] for e in self.stack]}"
        self.stack.pop()

    def handle_data(self, text):
        if self.stack:
            self.stack[-1]["text"] += text
        for element in self.stack:
            element["all"] += text

    def find(self, tag, **attributes):
        return [e for e in self.elements if e["tag"] == tag and all(e.get(f"@{k.rstrip('_')}") == v for k, v in attributes.items())]

    def data(self):
        return json.loads(self.find("script", id="data")[0]["text"])


@pytest.fixture
def page(tmp_path):
    return Page(report.write(save(tmp_path / "mgshop")).read_text())


# ---------------------------------------------------------------- by hand

def test_numbers_have_true_minus_signs_and_no_negative_zero():
    assert [report.figure(*a) for a in ((-0.0001, 2), (-1.5, 1), (0.25, 2, "+"), (-0.001, 1, "+"), (None, 3))] == ["0.00", "−1.5", "+0.25", "+0.0", "—"]


def test_verdicts_in_plain_words(page):
    cells = [e["all"].strip() for e in page.elements if e["tag"] == "td" and e.get("@class", "").split()[:1] and e["@class"] in ("agrees", "differs", "undecided", "not measured")]
    assert cells == ["✓ agrees", "✗ differs", "? undecided", "— not measured", "✓ agrees"]
    assert "agrees: 2, differs: 1, undecided: 1, not measured: 1" in page.find("h4", id="table1-orders")[0]["all"]


def test_long_curves_become_means_of_blocks():
    rows = [{"method": "A", "seed": 0, "step": k, "x": float(k), "y": None if k < 4 else 1.0, "z": None} for k in (5, 1, 2, 3, 4)]
    packed = report.pack_curves(rows, points=2)          # blocks of 3: steps 1-3 and 4-5
    assert packed == {"metrics": ["x", "y"], "block": 3, "lines": [{"method": "A", "seed": 0, "steps": [3, 5], "values": {"x": [2.0, 4.5], "y": [None, 1.0]}}]}
    assert report.pack_curves(rows, points=5)["lines"][0]["values"]["x"] == [1, 2, 3, 4, 5] and report.pack_curves([], 5)["lines"] == []


def test_the_cap_keeps_whole_customers_met_by_all_methods():
    rows = [dialogue("GOPO", 0, 7, False)] + [dialogue(m, seed, c, True) for m in ("GOPO", "PPO") for seed in (1, 0) for c in (1, 2)]
    def chosen(limit):
        kept, note = report.choose_dialogues(rows, limit)
        return [(d["seed"], d["customer"], d["method"]) for d in kept], note
    kept, note = chosen(7)
    assert kept == [(seed, c, m) for seed, c in ((0, "1"), (0, "2"), (1, "1")) for m in ("GOPO", "PPO")]
    assert "6 of 9 dialogues" in note and "2 of 3 customers" in note and "The 3 left out" in note
    assert len(chosen(1)[0]) == 2 and chosen(8)[0][-1] == (1, "2", "PPO") and chosen(9)[0][-1] == (0, "7", "GOPO") and chosen(9)[1] == "All 9 dialogues with 3 customers."


# ---------------------------------------------------------------- what stands on the page

def test_every_number_of_the_tables_is_on_the_page(page):
    table, (body, *_) = example()[0]["tables"][0], page.find("table", class_="results")
    assert [e["text"].strip() for e in page.find("th", scope="row")][:7] == list(METHODS) and body["all"]
    cells = page.find("td", **{"class": "number"})
    for row, shown in zip(table["rows"], [cells[i:i + 3] for i in range(0, 21, 3)]):
        for column, cell in zip(table["columns"], shown):
            wanted = (row["cells"] or {}).get(column["key"])
            if wanted is None:
                assert cell["all"].strip() == "—"
                continue
            numbers = [float(x.replace("−", "-")) for x in re.findall(r"[+−]?\d+\.\d+", cell["all"])]
            digits, delta = column["digits"], (row["difference"] or {}).get(column["key"])
            assert numbers == [round(x, digits) + 0.0 for part in (wanted, delta) if part for x in (part["mean"], part["low"], part["high"], *(part.get("t") or []))]
    papers = [e["all"] for e in page.find("td", **{"class": "number of-paper"})]
    assert papers == ["0.924", "0.914", "0.904", "0.894", "0.884", "—", "—"]
    assert sum("2 of 5 seeds" in c["all"] for c in cells) == 6 and len(cells) == 21


def test_bold_differences_are_those_whose_intervals_exclude_zero(page):
    shown = [e for e in page.elements if e.get("@class", "").startswith("line delta")]
    assert [e["all"][:8] for e in shown] == ["Δ −0.050", "Δ −0.100", "t [−0.40", "Δ −0.150", "Δ −0.250", "Δ −0.300"]
    assert [e["all"][:8] for e in shown if "sure" in e["@class"]] == ["Δ −0.150", "Δ −0.250", "Δ −0.300"]       # neither [-0.08, +0.0…] nor where t says [-0.4, +0.2]


def test_bars_share_the_axis_of_their_column():
    axis, column = (0.0, 2.0), {"key": "k", "has_paper": False}
    cell = report.view_cell({"cells": {"k": {"mean": 1.0, "low": 0.0, "high": 2.0, "seeds": [0.5, 1.5, None]}}}, column, axis, 3)
    assert (cell["at"], cell["low"], cell["high"], cell["seed_marks"], cell["few"]) == (50.0, 4.0, 96.0, [27.0, 73.0], "2 of 3 seeds")
    assert report.scale([{"cells": {"k": {"mean": 1.0, "low": -3, "seeds": [4]}}}, {"cells": None}, {"cells": {"k": None}}], "k") == (-3, 4)


def test_header_failed_rows_and_figures(page):
    text = page.find("body")[0]["all"]
    for said in ("Simulated customers.", "0123456789ab", "0, 1, 2, 3, 4", "72 minutes", "python eval.py --paper", "failed: out of memory", "A note.", "teacher labels, judge", "Eq. 11"):
        assert said in text, said
    assert [e["@alt"] for e in page.find("img")] == ["Figure 1"] and base64.b64decode(page.find("img")[0]["@src"].split(",")[1]) == PNG
    assert "quick" not in text.lower()


def test_the_data_of_the_script_is_that_of_the_files(page):
    _, curves, dialogues = example()
    held = page.data()
    assert held["dialogues"] == [d | {"customer": str(d["customer"])} for s in (0, 1) for c in range(4) for d in dialogues if (d["seed"], d["customer"]) == (s, c)]
    assert held["curves"]["metrics"] == ["tse", "loss"] and sum(len(x["steps"]) for x in held["curves"]["lines"]) == len(curves)
    assert held["curves"]["lines"][0]["values"]["loss"][1] is None and held["dimensions"] == ["quality", "fitness", "compliance", "diversity"]


def test_structure_names_and_labels(page):
    ids = [e["@id"] for e in page.elements if "@id" in e]
    assert len(set(ids)) == len(ids) and page.doctype == 1 and page.find("html")[0]["@lang"] == "en"
    assert all("label" in e["path"] for e in page.elements if e["tag"] in ("select", "input"))
    assert all(e["@href"][1:] in ids for e in page.find("a"))
    assert all(e.get("@scope") for e in page.find("th")) and all(e.get("@alt") for e in page.find("img"))
    assert [e["tag"] for e in page.elements if e["tag"] in ("h1", "h2")] == ["h1", "h2", "h2", "h2", "h2"]


def resources(page):
    """Everything in the HTML and its styles that a browser would fetch."""
    found = [v for e in page.elements for k, v in e.items() if k in ("@src", "@srcset", "@data", "@poster", "@action", "@xlink:href") or (k == "@href" and e["tag"] != "a")]
    styles = "".join(e["text"] for e in page.find("style")) + "".join(e.get("@style", "") for e in page.elements)
    return found + re.findall(r"url\(([^)]*)|(@import)", styles)


def test_nothing_is_fetched_and_the_page_forbids_it(page):
    assert [r[:5] for r in resources(page)] == ["data:", "data:"]                             # the icon, figure 1
    policy = dict(part.strip().split(" ", 1) for part in page.find("meta", **{"http-equiv": "Content-Security-Policy"})[0]["@content"].split(";"))
    digest = lambda e: "'sha256-" + base64.b64encode(hashlib.sha256(e["text"].encode()).digest()).decode() + "'"
    assert policy == {"default-src": "'none'", "img-src": "data:", "style-src": digest(page.find("style")[0]), "script-src": digest(page.find("script")[1])}
    assert len(page.find("script")) == 2 and len(page.find("style")) == 1
    assert not [k for e in page.elements for k in e if k.startswith("@on") or k == "@style"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|XMLHttp|import\(", page.find("script")[1]["text"])


def colours(theme):
    return dict(re.findall(r"--([\w-]+): (#\w+)", theme))


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in (int(digits[i:i + 2], 16) / 255 for i in (0, 2, 4))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_readable_in_both_themes(dark):                  # WCAG: 4.5 for text, 3 for lines of a chart
    light, night = re.findall(r":root \{(.*?)\}", report.PAGE.read_text(), re.DOTALL)[:2]
    theme = colours(night if dark else light)
    contrast = lambda a, b: (max(x := (luminance(theme[a]), luminance(theme[b]))) + 0.05) / (min(x) + 0.05)
    for ground in ("paper", "card"):
        assert min(contrast(ink, ground) for ink in ("ink", "mute", "link", "good", "bad")) >= 4.5
        assert min(contrast(f"c{i}", ground) for i in range(8)) >= 3
    assert contrast("ink", "warn") >= 4.5 and contrast("ink", "mine") >= 4.5 and contrast("mute", "mine") >= 4.5


# ---------------------------------------------------------------- attacks

def poisoned(word):
    """The example with `word` in every string that a person or a corpus could have written."""
    results, curves, dialogues = example()
    table = results["tables"][0]
    results |= {"dataset": word, "note": word}
    results["made"] |= {"commands": [word], "date": word}
    table |= {"title": word, "notes": [word]}
    table["columns"][0] |= {"name": word, "help": word}
    table["rows"][0] |= {"saw": [word], "note": word}
    for row in curves:
        row["method"] += word
    for d in dialogues:
        d |= {"method": d["method"] + word, "customer": f"{d['customer']}{word}", "outcome": word, "last": word}
        d["turns"][0] |= {"user": word, "reply": word, "template": word, "skills": [word], "teacher": [word], "must_say": [word], "violations": [word], "context": {word: word},
                          "perceived": {"intent": word}, "truth": {"intent": word}}
    return results, curves, dialogues


@settings(max_examples=40, deadline=None)
@given(st.one_of(st.sampled_from(ATTACKS), st.lists(st.sampled_from(["<", ">", "&", '"', "'", "</", "script", "style", "!--", "--", "{{", "}}", "{%", "\\", "\u2028", "x", " ", "中"]), min_size=1).map("".join)))
def test_no_text_changes_the_structure_of_the_page(tmp_path_factory, word):
    folder = tmp_path_factory.mktemp("attack")
    plain, attacked = (Page(report.write(save(folder, *poisoned(w))).read_text()) for w in ("harmless", word))
    names = lambda page: [(e["tag"], sorted(k for k in e if k.startswith("@"))) for e in page.elements]
    assert names(attacked) == names(plain)
    seen = word.encode("utf-8", "replace").decode()              # half a character becomes "?"
    first = attacked.data()["dialogues"][0]
    assert first["turns"][0]["user"] == first["last"] == seen and first["turns"][0]["context"] == {seen: seen}
    kept = seen.replace("\0", "\ufffd").replace("\r", "\n")
    assert any(kept in e["text"].replace("\0", "\ufffd") for e in attacked.find("pre"))


def test_what_could_end_the_script_is_escaped(tmp_path):
    text = report.write(save(tmp_path / "x", *poisoned("</script><!--<script>"))).read_text()
    held = re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1)
    assert "<" not in held and r"\u003c/script\u003e\u003c!--" in held


# ---------------------------------------------------------------- missing and broken

def test_missing_parts_are_said(tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "results.json").write_text('{"dataset": "bare", "tables": []}')
    page = Page(report.write(folder).read_text())
    text = page.find("main")[0]["all"]
    assert "No tables in results.json." in text and "no curves.jsonl" in text and "no dialogues.jsonl" in text and not page.find("select") and not page.find("figure")
    assert page.data()["dialogues"] == []


def test_a_quick_run_is_called_quick(tmp_path):
    results = example()[0]
    results["made"]["quick"] = True
    assert "A quick run" in Page(report.write(save(tmp_path / "q", results)).read_text()).find("header")[0]["all"]


def broken(change):
    results = copy.deepcopy(example()[0])
    change(results)
    return results


@pytest.mark.parametrize("name, content, said", [
    ("results.json", "{", "results.json: not valid JSON"),
    ("results.json", "[]", "results.json: [] where an object"),
    ("results.json", "{}", "results.json, dataset: missing or null where a string"),
    ("results.json", json.dumps(broken(lambda r: r["tables"][0]["rows"][2]["cells"]["tse"].update(mean="0.9"))), "tables[0], rows[2], cells, tse, mean: '0.9' where a number"),
    ("results.json", json.dumps(broken(lambda r: r["tables"][0]["columns"][1].pop("key"))), "tables[0], columns[1], key: missing"),
    ("results.json", json.dumps(broken(lambda r: r["tables"][0]["orders"][0].update(ours="yes"))), "orders[0], ours: 'yes' where true or false"),
    ("results.json", json.dumps(broken(lambda r: r["made"].update(commit=7))), "made, commit: 7 where a string"),
    ("results.json", json.dumps(broken(lambda r: r["tables"][0]["rows"][0]["cells"]["tse"].update(low=float("nan")))), "NaN is no JSON"),
    ("curves.jsonl", '{"method": "A", "seed": 0, "step": 1}\n\n{"method": "A", "seed": 0,', "curves.jsonl, line 3: not valid JSON"),
    ("curves.jsonl", '{"method": "A", "seed": 0, "step": true}', "curves.jsonl, line 1, step: True where a number"),
    ("dialogues.jsonl", '{"method": "A"}', "dialogues.jsonl, line 1, seed: missing"),
    ("dialogues.jsonl", json.dumps(dialogue("A", 0, 1, True) | {"turns": [{"user": None}]}), "dialogues.jsonl, line 1, turns[0], user: missing or null where a string"),
    ("dialogues.jsonl", json.dumps(dialogue("A", 0, 1, True) | {"turns": [turn(1) | {"rewards": {"S": 3}}]}), "turns[0], rewards, S: 3 where a list"),
    ("dialogues.jsonl", "\udcff".join("ab"), "dialogues.jsonl, line 1: not valid JSON"),
    ("figure1.png", "GIF89a", "figure1.png: not a PNG"),
])
def test_a_broken_file_is_named_with_its_line(tmp_path, name, content, said):
    folder = save(tmp_path / "broken")
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError) as error:
        report.write(folder)
    assert said in str(error.value) and "\n" not in str(error.value) and not (folder / "report.html").exists()


def test_the_command_line(tmp_path, capsys):
    assert report.main([str(save(tmp_path / "ok")), "--dialogues", "6", "--points", "4"]) == 0
    page = Page((tmp_path / "ok/report.html").read_text())
    assert len(page.data()["dialogues"]) == 6 and page.data()["curves"]["block"] == 3 and "6 of 24 dialogues" in page.find("main")[0]["all"]
    assert report.main([str(tmp_path / "none")]) == 2 and "no such folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert report.main([str(tmp_path / "empty")]) == 2 and "no results.json in it" in capsys.readouterr().err
    for wrong in ([], ["x", "--points", "0"], ["x", "--dialogue", "3"]):
        with pytest.raises(SystemExit):
            report.main(wrong)


# ---------------------------------------------------------------- dialogues as they are played

def test_the_example_holds_what_was_played(tmp_path, monkeypatch):
    from data import fill
    from expert import Perception
    from tse import tse
    monkeypatch.setattr(Perception, "fit", lambda self, dataset, **how: {})                  # seconds of training that this test does not need
    example_page.demo(tmp_path / "demo", steps=1, customers=2, seeds=(0,))
    rows = [json.loads(line) for line in (tmp_path / "demo/dialogues.jsonl").read_text().splitlines()]
    assert len(rows) == 8 and report.read_lines(tmp_path / "demo/dialogues.jsonl", report.DIALOGUE)
    for row in rows:
        assert row["tse"] == pytest.approx(tse(row["N"])) and row["success"] == (row["outcome"] == "all tasks done") and len({row["mood"], *(t["mood"] for t in row["turns"])}) > 1
        for t in row["turns"]:
            assert t["reply"] == fill(t["template"], t["context"]) and "{" not in t["reply"] and t["must_not_say"] and 0 <= t["mood"] <= 1
    teacher = next(r for r in rows if r["method"] == "Teacher")
    assert all(t["skills"] == t["teacher"] and t["rewards"]["R_E"] == 1 for t in teacher["turns"])
    table = json.loads((tmp_path / "demo/results.json").read_text())["tables"][0]
    row = next(r for r in table["rows"] if r["name"] == "Teacher")
    assert row["cells"]["tse"]["mean"] == pytest.approx(sum(r["tse"] for r in rows if r["method"] == "Teacher") / 2)
    page = Page(report.write(tmp_path / "demo").read_text())
    assert "not a result" in page.find("p", **{"class": "notice"})[0]["all"] and len(page.data()["dialogues"]) == 8


# ---------------------------------------------------------------- in headless Chromium, driven over HTTP by chromedriver (no Selenium)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage", "--window-size=1280,900")


class Browser:
    """One session of the W3C WebDriver protocol."""

    def __init__(self, profile):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.root = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.process = subprocess.Popen([DRIVER, f"--port={self.root.rsplit(':')[-1]}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.http = requests.Session()
        self.http.trust_env = False                              # no proxy on the way to ourselves
        for _ in range(200):
            try:
                self.http.get(f"{self.root}/status", timeout=5)
                break
            except requests.ConnectionError:
                time.sleep(0.05)
        wanted = {"goog:chromeOptions": {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self.session = f"{self.root}/session"
        self.session += "/" + self.ask("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def ask(self, path, body):
        value = self.http.post(self.session + path, json=body, timeout=60).json()["value"]
        if isinstance(value, dict) and "error" in value:
            raise RuntimeError(value["error"] + ": " + value["message"])
        return value

    def open(self, address):
        self.ask("/url", {"url": "about:blank"})                 # or a new hash alone would not load the page again
        self.ask("/url", {"url": address})

    def run(self, script):
        return self.ask("/execute/sync", {"script": script, "args": []})

    def keys(self, selector, keys):
        found = self.ask("/element", {"using": "css selector", "value": selector})
        self.ask(f"/element/{next(iter(found.values()))}/value", {"text": keys})

    def device(self, command, **parameters):
        return self.ask("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def requested(self):
        events = [json.loads(e["message"])["message"] for e in self.ask("/se/log", {"type": "performance"})]
        return {"" if (url := e["params"]["request"]["url"]).startswith("data:") else url.split("#")[0] for e in events if e["method"] == "Network.requestWillBeSent"} - {""}

    def complaints(self):
        return [e["message"] for e in self.ask("/se/log", {"type": "browser"})]

    def close(self):
        try:
            self.http.delete(self.session, timeout=60)
        finally:
            self.process.terminate()
            self.process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not CHROMIUM or not DRIVER:
        pytest.skip("Chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return report.write(save(tmp_path_factory.mktemp("shown") / "mgshop")).as_uri()


TEXT = "return document.querySelector('#played').innerText"


def test_browser_chooses_dialogues_and_asks_no_server(browser, address):
    browser.open(address)
    browser.complaints(), browser.requested()
    browser.open(address)
    assert "question 1 GOPO 0" in browser.run(TEXT) and "Bye." in browser.run(TEXT)
    browser.keys("#method", "PPO")                               # by the keyboard alone
    browser.keys("#customer", "\ue015")                          # arrow down
    assert "question 1 PPO 1" in browser.run(TEXT) and "GOPO" not in browser.run(TEXT)
    assert "method=PPO" in browser.run("return location.hash") and "customer=1" in browser.run("return location.hash")
    browser.keys("#after", "\ue007")                             # enter
    assert "question 1 PPO 2" in browser.run(TEXT)
    browser.keys("#outcome", "all")
    assert browser.run("return [...document.querySelectorAll('#customer option')].map(o => o.value)") == ["1", "3"]
    assert browser.run("return document.querySelector('#said').innerText").endswith("all tasks done.")
    assert browser.run("return [...document.querySelectorAll('#outcome option')].map(o => o.innerText)") == ["any (4)", "left (2)", "all tasks done (2)"]
    assert browser.requested() == {address} and browser.complaints() == []


def test_browser_opens_the_view_of_an_address(browser, address):
    browser.open(address + "#method=PPO&seed=1&customer=3&compare=SFT&metric=loss&off=GOPO&off=PPO")
    heads = browser.run("return [...document.querySelectorAll('#played h3')].map(h => h.innerText)")
    assert heads == ["PPO", "SFT"] and "question 1 PPO 3" in browser.run(TEXT) and "question 4 SFT 3" in browser.run(TEXT)
    assert browser.run("return document.querySelector('#metric').value") == "loss"
    assert browser.run("return [...document.querySelectorAll('#legend input')].map(c => c.checked)") == [False, False, True]
    assert browser.run("return document.querySelectorAll('#chart path.mean-line').length") == 1
    browser.run("location.hash = '#tables'")
    assert browser.run("return document.querySelector('#metric').value") == "loss"             # a link to a part of the page is no state
    browser.open(address + "#method=nobody&customer=99&seed=x&metric=nothing&compare=nobody")
    assert "question 1 GOPO 0" in browser.run(TEXT) and browser.complaints() == []


def test_browser_marks_skills_states_and_rewards(browser, address):
    browser.open(address + "#method=GOPO&customer=0")
    chips = browser.run("return [...document.querySelector('#played article').querySelectorAll('.chip')].map(c => c.textContent)")
    assert chips == ["✓ refund (perceived rightly)", "✗ angry (perceived wrongly)", "= apologise (same place in the teacher’s list)", "+ upsell (not in the teacher’s list)",
                     "↕ state_price (another place in the teacher’s list)", "= apologise (chosen, same place)", "↕ state_price (chosen, another place)", "− close (missed)"]
    bars = browser.run("return [...document.querySelector('#played article').querySelectorAll('.bars div')].map(b => b.innerText.split('\\n').join(' '))")
    assert bars == ["R^E skills −0.10", "S1 quality 1.00", "S2 fitness 0.50", "S3 compliance —", "S4 diversity 0.25", "R^A reply 0.60", "R_t joint 0.45"]
    assert browser.run("return document.querySelector('.bars rect.below').getAttribute('width')") == "10"
    text = browser.run(TEXT)
    assert "in truth sad" in text and "must say: Terms apply." in text and "requirement turn 1, information turn 2" in text
    assert browser.run("return document.querySelector('.spark').getAttribute('aria-label')") == "mood over the turns: 0.40, 0.60, 0.70"


def test_browser_draws_curves_and_reads_values(browser, address):
    browser.open(address + "#metric=tse")
    assert browser.run("return [document.querySelectorAll('#chart path.mean-line').length, document.querySelectorAll('#chart path.run').length]") == [3, 6]
    values = "return [...document.querySelectorAll('#legend output')].map(o => o.value)"
    assert browser.run(values) == ["0.61", "0.51", "0.41"]       # mean of two seeds at step 10
    browser.keys("#step", "\ue011")                              # home: step 1
    assert browser.run(values) == ["0.52", "0.42", "0.32"] and browser.run("return document.querySelector('#at').value") == "1"
    box = browser.run("const b = document.querySelector('#chart svg').getBoundingClientRect(); return [b.left + 52 + (b.width - 68) * 4 / 9, b.top + 50]")
    browser.run(f"document.querySelector('#chart svg').dispatchEvent(new PointerEvent('pointermove', {{clientX: {box[0]}, clientY: {box[1]}}}))")
    assert browser.run("return document.querySelector('#at').value") == "5" and browser.run(values)[0] == "0.56"
    gap = browser.run("const m = document.querySelector('#metric'); m.value = 'loss'; m.onchange(); return document.querySelector('#chart path.mean-line').getAttribute('d')")
    assert gap.count("M") == 1 and gap.count("L") == 8           # the mean leaves the step out that no seed measured
    assert browser.run("return document.querySelector('#chart path.run').getAttribute('d')").count("M") == 2
    assert browser.complaints() == []


def test_browser_fits_a_phone_the_night_and_paper(browser, address):
    browser.device("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    browser.device("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.open(address + "#method=GOPO&customer=1&compare=PPO")
    wide, inner, columns, ground = browser.run("return [document.documentElement.scrollWidth, innerWidth, getComputedStyle(document.querySelector('#played')).gridTemplateColumns.split(' ').length,"
                                               "getComputedStyle(document.body).backgroundColor]")
    browser.device("Emulation.setDeviceMetricsOverride", width=480, height=1000, deviceScaleFactor=1, mobile=False)
    browser.device("Emulation.setEmulatedMedia", media="print", features=[])
    printed = browser.run("return [document.documentElement.scrollWidth - document.documentElement.clientWidth, getComputedStyle(document.querySelector('.controls')).display, getComputedStyle(document.body).backgroundColor]")
    browser.device("Emulation.clearDeviceMetricsOverride")
    browser.device("Emulation.setEmulatedMedia", media="", features=[])
    assert (wide, inner, columns) == (390, 390, 1) and ground == "rgb(20, 23, 27)"
    assert printed == [0, "none", "rgb(255, 255, 255)"]


@pytest.mark.parametrize("word", [*ATTACKS[:6], "<b>bold</b>"])
def test_browser_shows_attacks_as_text(browser, tmp_path, word):
    browser.open(report.write(save(tmp_path / "x", *poisoned(word))).as_uri())
    assert browser.run("return window.broken ?? null") is None
    assert browser.run("return [...document.querySelectorAll('.say')].map(e => e.lastChild.textContent)")[0] == word
    assert browser.run("return document.querySelectorAll('img').length") == 1                # figure 1
    assert browser.complaints() == []


def test_browser_holds_the_lock_even_if_something_got_in(browser, address):
    browser.open(address)
    with socket.create_server(("127.0.0.1", 0)) as thief:
        thief.setblocking(False)
        browser.run(f"const stolen = 'http://127.0.0.1:{thief.getsockname()[1]}/stolen', i = new Image(), s = document.createElement('script');"
                    "s.textContent = 'window.broken = 1'; document.body.append(s, i);"
                    "return Promise.allSettled([fetch(stolen), new Promise(done => { i.onload = i.onerror = done; i.src = stolen; })])")
        with pytest.raises(BlockingIOError):                     # nobody came
            thief.accept()
    assert browser.run("return window.broken ?? null") is None
    assert len([c for c in browser.complaints() if "Content Security Policy" in c]) >= 3       # the script, the picture, the request


def test_browser_says_what_is_missing(browser, tmp_path):
    browser.open(report.write(save(tmp_path / "x", curves=[], dialogues=[])).as_uri())
    assert "no curves.jsonl" in browser.run("return document.body.innerText") and browser.complaints() == []
    turns = [{"user": "only this"}]
    browser.open(report.write(save(tmp_path / "y", dialogues=[{"method": "A", "seed": 0, "customer": 1, "success": False, "outcome": "cut", "turns": turns}])).as_uri())
    text = browser.run(TEXT)
    assert "only this" in text and "not recorded" in text and "nobody labelled this turn" in text and "TSE —" in text and browser.complaints() == []


def test_methods_are_called_as_in_the_tables_and_stand_in_their_order():
    tables = [{"rows": [{"key": "sft", "name": "SFT"}, {"key": "gopo", "name": "GOPO"}]}, {"rows": [{"key": "swap", "name": "Swapped"}, {"key": "gopo", "name": "GOPO"}, {"key": "sft", "name": "SFT"}]}]
    rows = [{"method": m, "n": n} for n, m in enumerate(("swap", "unknown", "gopo", "sft", "gopo"))]
    assert [(r["method"], r["n"]) for r in report.in_words(rows, tables)] == [("SFT", 3), ("GOPO", 2), ("GOPO", 4), ("Swapped", 0), ("unknown", 1)]
    assert report.in_words(rows, [{"rows": [{"name": "no key"}]}]) == rows
