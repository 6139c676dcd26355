"""report.py: what stands on the page is what stands in the files.

Nothing breaks out of the page and nothing is fetched.  In a browser: test_report_browser.py."""
import base64
import copy
import hashlib
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import DataError
from experiments import cells, report
from tests.page import (
    ATTACKS,
    METHODS,
    PNG,
    Page,
    dialogue,
    example_curves,
    example_dialogues,
    example_results,
    poisoned,
    save,
    turn,
)


@pytest.fixture
def page(tmp_path):
    return Page(report.write(save(tmp_path / "mgshop")).read_text())


def class_of(element):
    return element.get("@class", "")


# ---------------------------------------------------------------- by hand

def test_numbers_have_true_minus_signs_and_no_negative_zero():
    figure = cells.figure
    assert figure(-0.0001, 2) == "0.00"
    assert figure(-1.5, 1) == "−1.5"
    assert figure(0.25, 2, "+") == "+0.25"
    assert figure(-0.001, 1, "+") == "+0.0"
    assert figure(None, 3) == "—"


def test_verdicts_in_plain_words(page):
    words = ("agrees", "differs", "undecided", "not measured")
    said = [e["all"].strip() for e in page.find("td") if class_of(e) in words]
    assert said == ["✓ agrees", "✗ differs", "? undecided", "— not measured", "✓ agrees"]
    tally = "agrees: 2, differs: 1, undecided: 1, not measured: 1"
    assert tally in page.find("h4", id="table1-orders")[0]["all"]


def test_long_curves_become_means_of_blocks():
    rows = []
    for step in (5, 1, 2, 3, 4):
        y = None if step < 4 else 1.0
        numbers = {"x": float(step), "y": y, "z": None}
        rows.append({"method": "A", "seed": 0, "step": step} | numbers)
    # blocks of 3: steps 1-3 and 4-5
    values = {"x": [2.0, 4.5], "y": [None, 1.0]}
    assert report.pack_curves(rows, points=2) == {
        "metrics": ["x", "y"],
        "block": 3,
        "lines": [{"method": "A", "seed": 0, "steps": [3, 5], "values": values}],
    }
    whole = report.pack_curves(rows, points=5)["lines"][0]
    assert whole["values"]["x"] == [1, 2, 3, 4, 5]
    assert report.pack_curves([], 5)["lines"] == []


def test_the_cap_keeps_whole_customers_met_by_all_methods():
    rows = [dialogue("GOPO", 0, 7, False)]
    for method in ("GOPO", "PPO"):
        for seed in (1, 0):
            rows += [dialogue(method, seed, customer, True) for customer in (1, 2)]

    def chosen(limit):
        kept, note = report.choose_dialogues(rows, limit)
        return [(d["seed"], d["customer"], d["method"]) for d in kept], note

    kept, note = chosen(7)
    wanted = []
    for seed, customer in ((0, "1"), (0, "2"), (1, "1")):
        wanted += [(seed, customer, "GOPO"), (seed, customer, "PPO")]
    assert kept == wanted
    assert "6 of 9 dialogues" in note
    assert "2 of 3 customers" in note
    assert "The 3 left out" in note
    assert len(chosen(1)[0]) == 2
    assert chosen(8)[0][-1] == (1, "2", "PPO")
    assert chosen(9)[0][-1] == (0, "7", "GOPO")
    assert chosen(9)[1] == "All 9 dialogues with 3 customers."


def test_methods_are_called_as_in_the_tables_and_stand_in_their_order():
    sft = {"key": "sft", "name": "SFT"}
    gopo = {"key": "gopo", "name": "GOPO"}
    swapped = {"key": "swap", "name": "Swapped"}
    tables = [{"rows": [sft, gopo]}, {"rows": [swapped, gopo, sft]}]
    methods = ("swap", "unknown", "gopo", "sft", "gopo")
    rows = [{"method": m, "n": n} for n, m in enumerate(methods)]
    found = [(r["method"], r["n"]) for r in report.in_words(rows, tables)]
    assert found == [("SFT", 3), ("GOPO", 2), ("GOPO", 4), ("Swapped", 0), ("unknown", 1)]
    assert report.in_words(rows, [{"rows": [{"name": "no key"}]}]) == rows


# ---------------------------------------------------------------- what stands on the page

def numbers_in(text):
    found = re.findall(r"[+−]?\d+\.\d+", text)
    return [float(x.replace("−", "-")) for x in found]


def numbers_of(row, column):
    """Mean and intervals of a cell, then those of its difference, as the page rounds them."""
    key, digits = column["key"], column["digits"]
    delta = (row["difference"] or {}).get(key)
    wanted = []
    for part in (row["cells"][key], delta):
        if part:
            wanted += [part["mean"], part["low"], part["high"], *(part.get("t") or [])]
    return [round(x, digits) + 0.0 for x in wanted]


def test_every_number_of_the_tables_is_on_the_page(page):
    table = example_results()["tables"][0]
    body, *_ = page.find("table", class_="results")
    names = [e["text"].strip() for e in page.find("th", scope="row")]
    assert names[:7] == list(METHODS)
    assert body["all"]
    shown = page.find("td", **{"class": "number"})
    assert len(shown) == 21
    left = iter(shown)
    for row in table["rows"]:
        for column in table["columns"]:
            cell = next(left)
            if (row["cells"] or {}).get(column["key"]) is None:
                assert cell["all"].strip() == "—"
            else:
                assert numbers_in(cell["all"]) == numbers_of(row, column)
    papers = [e["all"] for e in page.find("td", **{"class": "number of-paper"})]
    assert papers == ["0.924", "0.914", "0.904", "0.894", "0.884", "—", "—"]
    assert sum("2 of 5 seeds" in cell["all"] for cell in shown) == 6


def test_bold_differences_are_those_whose_intervals_exclude_zero(page):
    shown = [e for e in page.elements if class_of(e).startswith("line delta")]
    texts = [e["all"][:8] for e in shown]
    bold = [e["all"][:8] for e in shown if "sure" in class_of(e)]
    assert texts[:3] == ["Δ −0.050", "Δ −0.100", "t [−0.40"]
    # neither [-0.08, +0.0…] nor where t says [-0.4, +0.2]
    assert texts[3:] == bold == ["Δ −0.150", "Δ −0.250", "Δ −0.300"]


def test_bars_share_the_axis_of_their_column():
    axis = (0.0, 2.0)
    column = {"key": "k", "has_paper": False}
    row = {"cells": {"k": {"mean": 1.0, "low": 0.0, "high": 2.0, "seeds": [0.5, 1.5, None]}}}
    cell = report.view_cell(row, column, axis, 3)
    assert (cell["at"], cell["low"], cell["high"]) == (50.0, 4.0, 96.0)
    assert cell["seed_marks"] == [27.0, 73.0]
    assert cell["few"] == "2 of 3 seeds"
    wide = {"cells": {"k": {"mean": 1.0, "low": -3, "seeds": [4]}}}
    assert report.scale([wide, {"cells": None}, {"cells": {"k": None}}], "k") == (-3, 4)


def test_header_failed_rows_and_figures(page):
    text = page.find("body")[0]["all"]
    for said in (
        "Simulated customers.",
        "0123456789ab",
        "0, 1, 2, 3, 4",
        "72 minutes",
        "python eval.py --paper",
        "failed: out of memory",
        "A note.",
        "teacher labels, judge",
        "Eq. 11",
    ):
        assert said in text, said
    (image,) = page.find("img")
    assert image["@alt"] == "Figure 1"
    assert base64.b64decode(image["@src"].split(",")[1]) == PNG
    assert "quick" not in text.lower()


def test_the_data_of_the_script_is_that_of_the_files(page):
    held = page.data()
    wanted = []
    for seed in (0, 1):
        for customer in range(4):
            for d in example_dialogues():
                if (d["seed"], d["customer"]) == (seed, customer):
                    wanted.append(d | {"customer": str(customer)})
    assert held["dialogues"] == wanted
    curves = held["curves"]
    assert curves["metrics"] == ["tse", "loss"]
    assert sum(len(line["steps"]) for line in curves["lines"]) == len(example_curves())
    assert curves["lines"][0]["values"]["loss"][1] is None
    assert held["dimensions"] == ["quality", "fitness", "compliance", "diversity"]


def test_structure_names_and_labels(page):
    ids = [e["@id"] for e in page.elements if "@id" in e]
    assert len(set(ids)) == len(ids)
    assert page.doctype == 1
    assert page.find("html")[0]["@lang"] == "en"
    inputs = page.find("select") + page.find("input")
    assert all("label" in e["path"] for e in inputs)
    assert all(e["@href"][1:] in ids for e in page.find("a"))
    assert all(e.get("@scope") for e in page.find("th"))
    assert all(e.get("@alt") for e in page.find("img"))
    heads = [e["tag"] for e in page.elements if e["tag"] in ("h1", "h2")]
    assert heads == ["h1", "h2", "h2", "h2", "h2"]


FETCHING = ("@src", "@srcset", "@data", "@poster", "@action", "@xlink:href")


def resources(page):
    """Everything in the HTML and its styles that a browser would fetch."""
    found = []
    styles = ""
    for element in page.elements:
        found += [value for name, value in element.items() if name in FETCHING]
        if element["tag"] != "a" and "@href" in element:
            found.append(element["@href"])
        if element["tag"] == "style":
            styles += element["text"]
        styles += element.get("@style", "")
    return found + re.findall(r"url\(([^)]*)|(@import)", styles)


def digest(element):
    """As a Content-Security-Policy names it."""
    found = hashlib.sha256(element["text"].encode()).digest()
    return f"'sha256-{base64.b64encode(found).decode()}'"


def policy_of(page):
    meta = page.find("meta", **{"http-equiv": "Content-Security-Policy"})[0]
    parts = [part.strip().split(" ", 1) for part in meta["@content"].split(";")]
    return dict(parts)


FORBIDDEN = (
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write"
    r"|eval\(|fetch\(|XMLHttp|import\("
)


def test_nothing_is_fetched_and_the_page_forbids_it(page):
    # the icon, and figure 1
    assert [r[:5] for r in resources(page)] == ["data:", "data:"]
    _, script = page.find("script")
    (style,) = page.find("style")
    assert policy_of(page) == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": digest(style),
        "script-src": digest(script),
    }
    for element in page.elements:
        assert not [name for name in element if name.startswith("@on") or name == "@style"]
    assert not re.search(FORBIDDEN, script["text"])


# ---------------------------------------------------------------- colours

def luminance(colour):
    digits = colour[1:]
    if len(digits) == 3:
        digits = "".join(2 * c for c in digits)
    linear = []
    for i in (0, 2, 4):
        v = int(digits[i : i + 2], 16) / 255
        if v <= 0.03928:
            linear.append(v / 12.92)
        else:
            linear.append(((v + 0.055) / 1.055) ** 2.4)
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_readable_in_both_themes(dark):
    """WCAG: a contrast of 4.5 for text, of 3 for lines of a chart."""
    themes = re.findall(r":root \{(.*?)\}", report.STYLE.read_text(), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", themes[dark]))

    def contrast(a, b):
        low, high = sorted((luminance(colours[a]), luminance(colours[b])))
        return (high + 0.05) / (low + 0.05)

    for ground in ("paper", "card"):
        for ink in ("ink", "mute", "link", "good", "bad"):
            assert contrast(ink, ground) >= 4.5
        for i in range(8):
            assert contrast(f"c{i}", ground) >= 3
    assert contrast("ink", "warn") >= 4.5
    assert contrast("ink", "mine") >= 4.5
    assert contrast("mute", "mine") >= 4.5


# ---------------------------------------------------------------- attacks

PIECES = [
    *("<", ">", "&", '"', "'", "</", "script", "style", "!--", "--"),
    *("{{", "}}", "{%", "\\", "\u2028", "x", " ", "中"),
]
WORDS = st.lists(st.sampled_from(PIECES), min_size=1).map("".join)


def structure(page):
    """Tags and the names of their attributes, in order."""
    found = []
    for element in page.elements:
        names = sorted(name for name in element if name.startswith("@"))
        found.append((element["tag"], names))
    return found


@settings(max_examples=40, deadline=None)
@given(st.one_of(st.sampled_from(ATTACKS), WORDS))
def test_no_text_changes_the_structure_of_the_page(tmp_path_factory, word):
    folder = tmp_path_factory.mktemp("attack")

    def page_with(said):
        return Page(report.write(save(folder, *poisoned(said))).read_text())

    plain = page_with("harmless")
    attacked = page_with(word)
    assert structure(attacked) == structure(plain)
    # half a character becomes "?"
    seen = word.encode("utf-8", "replace").decode()
    first = attacked.data()["dialogues"][0]
    assert first["turns"][0]["user"] == first["last"] == seen
    assert first["turns"][0]["context"] == {seen: seen}
    kept = seen.replace("\0", "\ufffd").replace("\r", "\n")
    commands = [e["text"].replace("\0", "\ufffd") for e in attacked.find("pre")]
    assert any(kept in text for text in commands)


def test_what_could_end_the_script_is_escaped(tmp_path):
    text = report.write(save(tmp_path / "x", *poisoned("</script><!--<script>"))).read_text()
    held = re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1)
    assert "<" not in held
    assert r"\u003c/script\u003e\u003c!--" in held


# ---------------------------------------------------------------- missing and broken

def test_missing_parts_are_said(tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "results.json").write_text('{"dataset": "bare", "tables": []}')
    page = Page(report.write(folder).read_text())
    text = page.find("main")[0]["all"]
    assert "No tables in results.json." in text
    assert "no curves.jsonl" in text
    assert "no dialogues.jsonl" in text
    assert not page.find("select")
    assert not page.find("figure")
    assert page.data()["dialogues"] == []


def test_a_quick_run_is_called_quick(tmp_path):
    results = example_results()
    results["made"]["quick"] = True
    page = Page(report.write(save(tmp_path / "q", results)).read_text())
    assert "A quick run" in page.find("header")[0]["all"]


def broken(place, value):
    """results.json of the example with another value at a place; the value None takes it away."""
    results = copy.deepcopy(example_results())
    *path, last = place
    part = results
    for step in path:
        part = part[step]
    part[last] = value
    if value is None:
        del part[last]
    return json.dumps(results)


TSE_CELL = ("tables", 0, "rows", 2, "cells", "tse")
FIRST_CELL = ("tables", 0, "rows", 0, "cells", "tse")
TURN_OF_NOBODY = json.dumps(dialogue("A", 0, 1, True) | {"turns": [{"user": None}]})
TURN_WITH_A_NUMBER = json.dumps(
    dialogue("A", 0, 1, True) | {"turns": [turn(1) | {"rewards": {"S": 3}}]}
)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("results.json", "{", "results.json: not valid JSON"),
        ("results.json", "[]", "results.json: [] where an object"),
        ("results.json", "{}", "results.json, dataset: missing or null where a string"),
        (
            "results.json",
            broken((*TSE_CELL, "mean"), "0.9"),
            "tables[0], rows[2], cells, tse, mean: '0.9' where a number",
        ),
        (
            "results.json",
            broken(("tables", 0, "columns", 1, "key"), None),
            "tables[0], columns[1], key: missing",
        ),
        (
            "results.json",
            broken(("tables", 0, "orders", 0, "ours"), "yes"),
            "orders[0], ours: 'yes' where true or false",
        ),
        ("results.json", broken(("made", "commit"), 7), "made, commit: 7 where a string"),
        ("results.json", broken((*FIRST_CELL, "low"), float("nan")), "NaN is no JSON"),
        (
            "curves.jsonl",
            '{"method": "A", "seed": 0, "step": 1}\n\n{"method": "A", "seed": 0,',
            "curves.jsonl, line 3: not valid JSON",
        ),
        (
            "curves.jsonl",
            '{"method": "A", "seed": 0, "step": true}',
            "curves.jsonl, line 1, step: True where a number",
        ),
        ("dialogues.jsonl", '{"method": "A"}', "dialogues.jsonl, line 1, seed: missing"),
        (
            "dialogues.jsonl",
            TURN_OF_NOBODY,
            "dialogues.jsonl, line 1, turns[0], user: missing or null where a string",
        ),
        ("dialogues.jsonl", TURN_WITH_A_NUMBER, "turns[0], rewards, S: 3 where a list"),
        ("dialogues.jsonl", "\udcff".join("ab"), "dialogues.jsonl, line 1: not valid JSON"),
        ("figure1.png", "GIF89a", "figure1.png: not a PNG"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, name, content, said):
    folder = save(tmp_path / "broken")
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError) as error:
        report.write(folder)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (folder / "report.html").exists()


def test_the_command_line(tmp_path, capsys):
    folder = save(tmp_path / "ok")
    assert report.main([str(folder), "--dialogues", "6", "--points", "4"]) == 0
    page = Page((folder / "report.html").read_text())
    assert len(page.data()["dialogues"]) == 6
    assert page.data()["curves"]["block"] == 3
    assert "6 of 24 dialogues" in page.find("main")[0]["all"]
    assert report.main([str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert report.main([str(tmp_path / "empty")]) == 2
    assert "no results.json in it" in capsys.readouterr().err
    for wrong in ([], ["x", "--points", "0"], ["x", "--dialogue", "3"]):
        with pytest.raises(SystemExit):
            report.main(wrong)
