"""For the tests of report.py: a made-up folder, attacks on it, and a page read as a tree."""
import base64
import json
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "input", "br", "hr", "wbr"}
METHODS = ("GOPO", "PPO", "SFT", "Memento", "Untrained", "Expert + soft", "Expert + hard")
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ATTACKS = [
    "</script><script>window.broken = 1</script>",
    "<!--<script>",
    "--></script><img src=x onerror='window.broken = 1'>",
    '"><svg onload="window.broken = 1">',
    "{{ 7 * 7 }}{% raw %}",
    "javascript:window.broken=1",
    "' onmouseover='window.broken=1",
    "&lt;b&gt; \u2028 \u0000 ]]>",
    "</style></title></textarea><iframe src=https://example.org>",
    "half \ud83d of a character",
]


# ---------------------------------------------------------------- a folder as Python values

def turn(t, word=""):
    return {
        "user": f"question {t} {word}",
        "perceived": {"intent": "refund", "emotion": "angry"},
        "truth": {"intent": "refund", "emotion": "sad"},
        "context": {"price_1": "30 euros"},
        "skills": ["apologise", "upsell", "state_price"],
        "teacher": ["apologise", "state_price", "close"],
        "must_say": ["Terms apply."],
        "must_not_say": ["guaranteed"],
        "dropped": [],
        "reply": f"It costs 30 euros. {word}",
        "template": "It costs {price_1}.",
        "rewards": {"R_E": -0.1 * t, "S": [1.0, 0.5, None, 0.25], "R_A": 0.6, "R_t": 0.45},
        "violations": [],
        "mood": 0.5 + 0.1 * t,
    }


def dialogue(method, seed, customer, success, turns=2, word=""):
    said = f"{method} {customer} {word}"
    return {
        "method": method,
        "seed": seed,
        "customer": customer,
        "success": success,
        "outcome": "all tasks done" if success else "left",
        "N": [1, 2, 2 if success else None],
        "tse": 0.93,
        "mood": 0.4,
        "last": "Bye.",
        "turns": [turn(t, said) for t in range(1, turns + 1)],
    }


def difference(i, mean):
    """The difference of method i to the first; the second's is undecided, the third's t is wide."""
    cell = {"mean": mean - 0.9, "low": mean - 0.93, "high": mean - 0.87 + 0.05 * (i == 1)}
    t = [mean - 1.2, mean - 0.6] if i == 2 else None
    return {"tse": cell | {"t": t}}


def example_row(i, name):
    mean = 0.9 - 0.05 * i
    seeds = [mean - 0.01, mean + 0.01, mean, mean, mean]
    cells = {
        "tse": {"mean": mean, "low": mean - 0.0213, "high": mean + 0.0187, "seeds": seeds},
        "turns": {"mean": 6 + i / 3, "low": 5.5, "high": 9.25, "seeds": [6.0, 7.0]},
        "gre": None,
    }
    return {
        "name": name,
        "saw": ["teacher labels", "judge"],
        "cells": cells,
        "difference": difference(i, mean) if i else None,
        "paper": {"tse": 0.9243 - 0.01 * i} if i < 5 else None,
    }


def order(above, below, paper, ours):
    return {"metric": "tse", "above": above, "below": below, "paper": paper, "ours": ours}


def example_results():
    """Seven methods, one of which failed, five seeds; nothing in it was measured."""
    rows = [example_row(i, name) for i, name in enumerate(METHODS)]
    rows[4] |= {"cells": None, "difference": None, "note": "failed: out of memory"}
    columns = [
        {"key": "tse", "name": "TSE", "digits": 3, "better": "high", "help": "Eq. 11"},
        {"key": "turns", "name": "turns", "digits": 1, "better": "low"},
        {"key": "gre", "name": "GRE"},
    ]
    orders = [
        order("GOPO", "SFT", True, True),
        order("PPO", "SFT", True, False),
        order("GOPO", "PPO", True, None),
        order("GOPO", "Untrained", True, None),
        order("SFT", "GOPO", False, False),
    ]
    table = {
        "id": "table1",
        "title": "Table 1: methods",
        "columns": columns,
        "rows": rows,
        "orders": orders,
        "notes": ["A note."],
    }
    made = {
        "commit": "0123456789abcdef",
        "date": "2026-01-02",
        "commands": ["python eval.py --paper"],
        "wall_seconds": 4321.0,
        "seeds": [0, 1, 2, 3, 4],
        "episodes": 200,
        "quick": False,
    }
    return {"dataset": "mgshop", "note": "Simulated customers.", "tables": [table], "made": made}


def example_curves():
    rows = []
    for i, method in enumerate(METHODS[:3]):
        for seed in (0, 1):
            for step in range(1, 11):
                tse = 0.5 + 0.01 * step - 0.1 * i + 0.02 * seed
                loss = None if step == 2 else -1.0 * step
                row = {"method": method, "seed": seed, "step": step, "tse": tse, "loss": loss}
                rows.append(row)
    return rows


def example_dialogues():
    rows = []
    for i, method in enumerate(METHODS[:3]):
        for seed in (0, 1):
            for customer in range(4):
                success = (customer + i) % 2 == 0
                rows.append(dialogue(method, seed, customer, success, turns=2 + i))
    return rows


def example():
    return example_results(), example_curves(), example_dialogues()


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def save(folder, results=None, curves=None, dialogues=None):
    """A results folder; what is not given is the example's."""
    if curves is None:
        curves = example_curves()
    if dialogues is None:
        dialogues = example_dialogues()
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results or example_results()))
    write_lines(folder / "curves.jsonl", curves)
    write_lines(folder / "dialogues.jsonl", dialogues)
    (folder / "figure1.png").write_bytes(PNG)
    return folder


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
        d |= {"method": d["method"] + word, "customer": f"{d['customer']}{word}"}
        d |= {"outcome": word, "last": word}
        first = d["turns"][0]
        first |= {"user": word, "reply": word, "template": word, "context": {word: word}}
        first |= {"skills": [word], "teacher": [word], "must_say": [word], "violations": [word]}
        first |= {"perceived": {"intent": word}, "truth": {"intent": word}}
    return results, curves, dialogues


# ---------------------------------------------------------------- a page as a tree

class Page(HTMLParser):
    """Elements in order with attributes and own text; fails on a tag that closes what is not open.

    An element's "text" is its own, "all" is also that of the elements inside."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements = []
        self.stack = []
        self.doctype = 0
        self.feed(text)
        self.close()
        assert not self.stack, f"left open: {self.stack}"

    def handle_decl(self, decl):
        self.doctype += 1

    def handle_starttag(self, tag, attributes):
        path = [e["tag"] for e in self.stack]
        element = {"tag": tag, "text": "", "all": "", "path": path}
        element |= {f"@{name}": value for name, value in attributes}
        self.elements.append(element)
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):
            self.stack.append(element)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        open_tags = [e["tag"] for e in self.stack]
        assert open_tags and open_tags[-1] == tag, f"</{tag}> closes {open_tags}"
        self.stack.pop()

    def handle_data(self, text):
        if self.stack:
            self.stack[-1]["text"] += text
        for element in self.stack:
            element["all"] += text

    def find(self, tag, **attributes):
        wanted = {f"@{name.rstrip('_')}": value for name, value in attributes.items()}
        found = []
        for element in self.elements:
            if element["tag"] == tag and all(element.get(k) == v for k, v in wanted.items()):
                found.append(element)
        return found

    def data(self):
        """What the page's script reads."""
        return json.loads(self.find("script", id="data")[0]["text"])
