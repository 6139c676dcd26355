"""Output k of a trained network is the k-th name of the run's dataset.json, whatever else is read.
"""
import json
from dataclasses import replace

import pytest

import data
import eval as evaluation
import train
from data import DataError, Dataset, Skill
from gopo import load, load_gopo
from infra.domain import as_trained, save_domain
from measure import data_of
from tests.forks import QUICK, write_logs
from tests.training import refused


def domain(skills="abc", intents="xy", emotions="uv", name="shop", **more) -> Dataset:
    pool = {id: Skill(id) for id in skills}
    return Dataset(
        name, pool, tuple(intents), tuple(emotions), train=[], dev=[], test=[], **more)


@pytest.fixture
def shop_run(tmp_path):
    save_domain(domain(), tmp_path / "dataset.json")
    return tmp_path


# --- by name ------------------------------------------------------------------------------------

def test_the_order_is_the_runs_and_the_rules_are_the_datasets(shop_run):
    here = domain("cab", "yx", "vu")
    here.skills["a"] = Skill("a", must_say=("Terms apply.",))
    found = as_trained(here, shop_run)
    assert list(found.skills) == ["a", "b", "c"]
    assert (found.intents, found.emotions) == (("x", "y"), ("u", "v"))
    assert found.skills["a"].must_say == ("Terms apply.",)


def test_a_log_may_lack_a_label_and_a_shop_may_not(shop_run):
    assert list(as_trained(domain("ca"), shop_run).skills) == ["a", "b", "c"]
    with pytest.raises(DataError, match="the skills 'b' of .* are not there"):
        as_trained(domain("ca", template=str), shop_run)


@pytest.mark.parametrize("strange, said", [
    (domain("abcd"), "its skills 'd' are unknown to .*; put the data back"),
    (domain(intents="xyz"), "its intents 'z' are unknown"),
    (domain(emotions="w"), "its emotions 'w' are unknown"),
    (domain("q", name="other"), "its skills are not those of shop, .* 'q' are unknown"),
])
def test_what_was_never_learned_is_refused_by_name(shop_run, strange, said):
    with pytest.raises(DataError, match=said):
        as_trained(strange, shop_run)


# --- from end to end ----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def sorted_run(tmp_path_factory):
    """(folder, run): trained on logs.jsonl, whose lines then turn round."""
    folder = tmp_path_factory.mktemp("order")
    logs = folder / "logs.jsonl"
    write_logs(logs, 60)
    logs.with_name("logs.skills.json").unlink()  # without it the order is that of the lines
    flags = [*QUICK, "--steps", "12", "--algo", "imitation", "--eval_episodes", "50"]
    run = folder / "run"
    assert train.main(["--dataset", str(logs), *flags, "--output_dir", str(run)]) == 0
    lines = logs.read_text().splitlines()
    before = list(data.load(str(logs)).skills)
    logs.write_text("\n".join(lines[1:] + lines[:1]) + "\n")
    assert list(data.load(str(logs)).skills) != before
    return folder, run


def test_logs_sorted_otherwise_give_the_same_numbers(sorted_run, tmp_path):
    _, run = sorted_run
    path = tmp_path / "again.json"
    flags = ["--rows", "imitation", "--episodes", "50", "--json", str(path)]
    assert evaluation.main(["--run", str(run), *flags]) == 0
    before = json.loads((run / "results.json").read_text())["imitation"]
    after = json.loads(path.read_text())["imitation"]
    assert after["f1"] == before["f1"]
    assert after["f1"]["mean"] > 0.5


def test_serving_resuming_and_transfer_keep_the_order(sorted_run):
    folder, run = sorted_run
    kept = [skill["id"] for skill in json.loads((run / "dataset.json").read_text())["skills"]]
    turned = data.load(str(folder / "logs.jsonl"))
    assert list(load(run).gopo.dataset.skills) == kept
    assert list(load_gopo(run, turned).dataset.skills) == kept
    other = folder / "other.jsonl"
    other.write_text((folder / "logs.jsonl").read_text())
    assert list(data_of(run, str(other), None).skills) == kept
    assert train.main(["--resume", str(run), "--steps", "13"]) == 0
    assert list(load(run).gopo.expert.pool) == kept
    skills = json.loads((run / "dataset.json").read_text())["skills"]
    assert [skill["id"] for skill in skills] == kept


def test_a_label_that_the_run_never_saw_is_refused_and_nothing_changes(sorted_run, capsys):
    folder, run = sorted_run
    logs = folder / "logs.jsonl"
    before, config = logs.read_text(), (run / "config.json").read_text()
    logs.write_text(before.replace('"skills": ["greet"]', '"skills": ["wave"]', 1))
    said = refused(["--resume", str(run), "--steps", "99"], capsys)
    assert "its skills 'wave' are unknown to" in said
    assert (run / "config.json").read_text() == config
    assert evaluation.main(["--run", str(run)]) == 2
    assert "its skills 'wave' are unknown to" in capsys.readouterr().err
    logs.write_text(before)


def test_a_base_gives_its_order(sorted_run):
    folder, run = sorted_run
    new = folder / "new"
    flags = [*QUICK, "--algo", "imitation", "--base", str(run), "--output_dir", str(new)]
    assert train.main(["--dataset", str(folder / "logs.jsonl"), *flags]) == 0
    assert load(new).gopo.expert.pool == load(run).gopo.expert.pool


def test_a_changed_order_changes_nothing_else(shop_run):
    here = domain("cab", note="said")
    assert as_trained(here, shop_run) == replace(
        here, skills=domain().skills, intents=("x", "y"), emotions=("u", "v"))
