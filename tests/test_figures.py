"""figures.py: bars and curves hold the numbers of a made-up folder."""
import math

import pytest

from experiments import figures, tables
from experiments.layout import REFERENCES
from tests.made_up import made_up


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made_up(tmp_path_factory.mktemp("results") / "mgshop")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be saved."""
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path, caption: kept.append(figure))
    return kept


def test_bars_hold_the_numbers(folder, drawn, tmp_path):
    one = tables.build(folder, "mgshop", {})["tables"][0]
    figures.bars(one, REFERENCES, tmp_path / "x.png", "mgshop")
    shown = drawn[0].axes[0]
    labels = [label.get_text() for label in shown.get_yticklabels()]
    widths = {}
    for patch in shown.patches:
        at = round(patch.get_y() + patch.get_height() / 2)
        widths[labels[at]] = patch.get_width()
    ran = [row for row in one["rows"] if row["cells"]]
    assert widths == pytest.approx({row["name"]: row["cells"]["tse"]["mean"] for row in ran})
    assert "not run" in [text.get_text() for text in shown.texts]
    circles = [line for line in shown.lines if line.get_marker() == "o"]
    of_paper = sorted(float(line.get_xdata()[0]) for line in circles)
    assert of_paper == [0.7454, 0.8363, 0.8381, 0.8584, 0.9243]
    # no panel for a G-Eval nobody gave
    assert len(drawn[0].axes) == 2


def test_curves_hold_the_numbers(drawn, tmp_path):
    rows = []
    for seed in (0, 2):
        for step in (1, 2, 3):
            numbers = {"loss": float(step + seed), "reward": None}
            rows.append({"method": "gopo", "seed": seed, "step": step, **numbers})
    rows.append({"method": "ppo", "seed": 0, "step": 1, "loss": 9.0})
    figures.losses(rows, {"gopo": "GOPO"}, ("gopo",), tmp_path / "x.png", "mgshop")
    (axis,) = drawn[0].axes
    assert axis.lines[0].get_ydata().tolist() == [2, 3, 4]
    assert len(axis.lines) == 3
    assert figures.smooth([0.0] * 10 + [3.0] + [0.0] * 19)[8:13] == [0, 1, 1, 1, 0]
    longer = {"method": "gopo", "seed": 2, "step": 4, "loss": 7.0}
    steps, values = figures.seeds_of([*rows, longer], "gopo", "loss")
    assert steps.tolist() == [1, 2, 3, 4]
    assert math.isnan(values[0, 3])
    assert values[1, 3] == 7
