"""eval.py --run RUN --page FOLDER: the rows of one run to read in a browser."""
from __future__ import annotations

import json

import pytest

import eval as evaluation
import train
from shop import fds
from tests.conftest import small_shops
from tests.hostile_server import HostileServer
from tests.page import Page
from tests.test_deciding_agent import stands_in

FLAGS = [
    "--dataset", "fds", "--algo", "cmpo", "--replies", "template", "--steps", "2",
    "--customers", "4", "--lambda0", "0.2", "--expert_warm", "1", "--expert_decay", "4",
    "--eval_every", "3", "--precision", "fp32"]


@pytest.fixture(scope="module")
def fds_run(tmp_path_factory):
    """A run of two steps of CMPO in the food-delivery store."""
    run = tmp_path_factory.mktemp("page") / "run"
    with small_shops(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(fds, "SIZES", {"train": 40, "dev": 6, "test": 6})
        assert train.main([*FLAGS, "--eval_episodes", "0", "--output_dir", str(run)]) == 0
        yield run


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_of_the_store_has_decisions_and_its_last_price(fds_run, tmp_path, capsys):
    flags = ["--rows", "cmpo", "teacher", "--episodes", "3", "--trials", "2"]
    assert evaluation.main(["--run", str(fds_run), *flags, "--page", str(tmp_path / "p")]) == 0
    assert "report.html; open it in a browser" in capsys.readouterr().out
    page = Page((tmp_path / "p" / "report.html").read_text())
    said = page.find("body")[0]["all"]
    assert "pass^2" in said
    assert "A run of train.py" in said
    # nothing is compared, and what the run says stands in words
    assert "paired difference" not in said
    assert "of 100 customers are served in 2 of 2 trials" in said
    assert "of 5 stars" in said
    last = lines(fds_run / "metrics.jsonl")[-1]
    read = lines(tmp_path / "p" / "dialogues.jsonl")
    assert {d["method"] for d in read} == {"cmpo", "teacher"}
    for d in read:
        # the teacher learned nothing under a price
        assert d.get("price") == (last["lambda"] if d["method"] == "cmpo" else None)
        assert all(turn["decision"] in ("chat", "voucher") for turn in d["turns"])
        assert all("process" in turn for turn in d["turns"])
    curves = lines(tmp_path / "p" / "curves.jsonl")
    assert [row["step"] for row in curves] == [1, 2]


def test_a_hosted_judge_marks_whole_dialogues_of_the_store(fds_run, tmp_path, capsys):
    with HostileServer(stands_in) as server:
        flags = ["--judge", "api:m", "--api_base", server.url, "--episodes", "2"]
        flags += ["--api_cache", str(tmp_path / "cache.sqlite"), "--rows", "teacher"]
        assert evaluation.main(["--run", str(fds_run), *flags]) == 0
    # 14 and 9 marks of 1
    assert "teacher: comm 14.00 of 28, logic 9.00 of 12" in capsys.readouterr().out


@pytest.mark.usefixtures("small_shop")
def test_a_run_of_another_shop_has_a_page_without_decisions(strategy_run, tmp_path, capsys):
    flags = ["--rows", "gopo", "random", "--episodes", "3", "--page", str(tmp_path / "p")]
    assert evaluation.main(["--run", str(strategy_run), *flags]) == 0
    capsys.readouterr()
    read = lines(tmp_path / "p" / "dialogues.jsonl")
    assert len(read) == 6
    for d in read:
        assert all("decision" not in turn for turn in d["turns"])
    assert read[0]["turns"][0]["rewards"]["R_t"] is not None
    said = Page((tmp_path / "p" / "report.html").read_text()).find("body")[0]["all"]
    assert "the joint reward of Eq. 10" in said
    assert "chat, or voucher" not in said


def test_a_page_is_refused_before_anything_is_played(fds_run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    flags = ["--run", str(fds_run), "--page", str(tmp_path / "file")]
    assert evaluation.main(flags) == 2
    assert "--page" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluation.main(["--run", str(fds_run), "--page", str(tmp_path / "p"), "--chat"])
    assert "--chat measures none" in capsys.readouterr().err
