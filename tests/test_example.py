"""example.py and played.py: the example holds what was played."""
import json

import pytest

from data import fill
from experiments import example as example_page
from experiments import report
from experiments.reading import DIALOGUE, read_lines
from perception import Perception
from tests.page import Page
from tse import tse


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The example with two customers, without the seconds in which perception learns."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Perception, "fit", lambda self, dataset, **how: {})
        example_page.demo(folder, steps=1, customers=2, seeds=(0,))
    return folder


def test_the_example_holds_what_was_played(demo):
    lines = (demo / "dialogues.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 8
    assert read_lines(demo / "dialogues.jsonl", DIALOGUE)
    for row in rows:
        assert row["tse"] == pytest.approx(tse(row["N"]))
        assert row["success"] == (row["outcome"] == "all tasks done")
        moods = {t["mood"] for t in row["turns"]}
        assert len({row["mood"], *moods}) > 1
        for t in row["turns"]:
            assert t["reply"] == fill(t["template"], t["context"])
            assert "{" not in t["reply"]
            assert t["must_not_say"]
            assert 0 <= t["mood"] <= 1
    of_teacher = [row for row in rows if row["method"] == "Teacher"]
    for t in of_teacher[0]["turns"]:
        assert t["skills"] == t["teacher"]
        assert t["rewards"]["R_E"] == 1


def test_the_examples_table_holds_its_dialogues(demo):
    table = json.loads((demo / "results.json").read_text())["tables"][0]
    row = next(r for r in table["rows"] if r["name"] == "Teacher")
    played = read_lines(demo / "dialogues.jsonl", DIALOGUE)
    of_teacher = [d["tse"] for d in played if d["method"] == "Teacher"]
    assert row["cells"]["tse"]["mean"] == pytest.approx(sum(of_teacher) / 2)
    page = Page(report.write(demo).read_text())
    assert "not a result" in page.find("p", **{"class": "notice"})[0]["all"]
    assert len(page.data()["dialogues"]) == 8
