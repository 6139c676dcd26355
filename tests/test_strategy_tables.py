"""Tables and pictures of the study of strategies (experiments/strategy_tables.py)."""
import json

import pytest

from data import DataError
from experiments.strategy_rows import GOPO
from experiments.strategy_tables import execute, main, pass_text, share_of, tables_of

METRICS = ("success", "turns", "esndcg", "f1", "exact", "length", "vouchers")


def cell(folder, row: str, fault: str, seed: int, tse: list[float | None]) -> None:
    """A file as experiments.strategy leaves it."""
    each = {"tse": tse, "success": tse, "esndcg": [0.4, 0.6], "f1": [0.5, 0.5]}
    mean = None if None in tse else sum(tse) / len(tse)
    part = {"tse": mean, "of_each": each} | dict.fromkeys(METRICS, 0.5)
    path = folder / fault.replace(" ", "-") / row.replace(" ", "-") / f"{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {"row": row, "fault": fault, "cpu": 1.0, "dev": part, "test": part, "new": part}
    path.write_text(json.dumps(made))


def a_shop(folder):
    for seed in (0, 1):
        cell(folder, GOPO, "true labels", seed, [0.9, 0.7])
        cell(folder, "random", "true labels", seed, [0.1, 0.1])
    cell(folder, GOPO, "omit 0.6", 0, [0.8, 0.8])
    for fault in ("true labels", "omit 0.6"):
        cell(folder, "Memento, logs only", fault, 0, [0.5, 0.5])
    # a part of the return that was measured at one share alone is no curve
    cell(folder, "GOPO, the end only", "omit 0.6", 0, [0.7, 0.7])
    return folder


def test_rows_stand_with_their_differences_in_the_order_of_the_study(tmp_path):
    written = execute(a_shop(tmp_path / "shop"), tmp_path)
    names = [path.name for path in written]
    assert names == ["strategy_shop.md", "strategy_shop.png", "label_noise_omit_shop.png"]
    assert all(path.stat().st_size for path in written)
    text = written[0].read_text()
    assert text.index("| random | 2 | 0.100") < text.index(f"| {GOPO} | 2 | 0.800")
    assert "label_noise_omit_parts_shop.png" not in names
    # .8 and .6 on the two customers, the same on both seeds
    assert "| random | +0.700 [+0.600, +0.800] t [+0.700, +0.700]" in text


def test_the_parts_of_the_return_have_a_picture_of_their_own(tmp_path):
    shop = a_shop(tmp_path / "shop")
    cell(shop, "GOPO, the end only", "true labels", 0, [0.9, 0.9])
    assert tmp_path / "label_noise_omit_parts_shop.png" in execute(shop, tmp_path)


def test_flawed_labels_have_their_own_table(tmp_path):
    written = execute(a_shop(tmp_path / "shop"), tmp_path)
    true, flawed = written[0].read_text().split("## Labels with a fault: omit 0.6")
    assert f"| {GOPO} | 2 | 0.800" in true
    assert f"| {GOPO} | 1 | 0.800 [0.800, 0.800] |" in flawed


def test_who_is_served_by_the_agents_of_all_seeds():
    # three customers: served by both, by the first seed's agent only, by none
    cells = {
        seed: {"test": {"of_each": {"success": served}}}
        for seed, served in enumerate([[1, 1, 0], [1, 0, 0]])
    }
    # (1 + 1/2 + 0) / 3, and one customer of three
    assert pass_text(cells, "test", 1) == "0.500"
    assert pass_text(cells, "test", 2) == "0.333"
    assert pass_text(cells, "test", 5) == "—"


def test_logs_without_tse_have_a_table_and_no_picture(tmp_path):
    for row in ("random", "GOPO on logs"):
        cell(tmp_path / "logs", row, "true labels", 0, [None, None])
    assert [p.name for p in execute(tmp_path / "logs", tmp_path)] == ["strategy_logs.md"]
    text = (tmp_path / "strategy_logs.md").read_text()
    assert "TSE" not in text and "left out" not in text
    assert "| random | 1 | 0.500 [0.400, 0.600] | 0.500 | 0.500 |" in text
    assert "| GOPO less | esndcg, test |" in text
    assert "| random | +0.000 [+0.000, +0.000] |" in text


def test_shares_of_a_kind():
    assert share_of("true labels", "omit") == 0
    assert share_of("omit 0.6", "omit") == 0.6
    assert share_of("omit 0.6", "confuse") is None
    assert share_of("confuse 0.2 apologise empathise", "confuse") == 0.2


def test_an_empty_folder_is_refused(tmp_path, capsys):
    with pytest.raises(DataError, match="no rows there"):
        tables_of(tmp_path)
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
