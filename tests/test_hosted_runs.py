"""Whole runs with hosted models.

A judge that fails 30 % of the time in five ways; hosted agents in the table of results; and what is
refused before any work is done.
"""
from __future__ import annotations

import hashlib
import json

import pytest
import torch

import eval as evaluation
import train
from hosted.judge import G_EVAL, GRE, REWARD
from infra.files import read_json, write_json
from infra.runs import read_rows
from tests.hostile_server import HostileServer

SAYINGS = ("I am sorry for the trouble.", "The lamp costs {price}.", "It arrives {eta}.")
SKILLS = ("sorry", "price", "eta")
FACTS = {"price": "30 euros", "eta": "on Friday"}
NO_FORM = "I would rather not."


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    path = tmp_path_factory.mktemp("logs") / "logs.jsonl"
    turns = []
    for i, (skill, saying) in enumerate(zip(SKILLS, SAYINGS)):
        reply = saying.format(**FACTS)
        turn = {"user": f"Where is lamp {i}?", "skills": [skill], "context": FACTS, "reply": reply}
        turns.append(turn)
    lines = [json.dumps({"id": f"d{i}", "turns": turns}) + "\n" for i in range(10)]
    path.write_text("".join(lines))
    return path


def judging(request: dict) -> str:
    """Marks from a hash of what is judged.

    For about one reply in ten there is no form, however often it is asked for.
    """
    text = json.dumps(request["messages"][:2])
    digest = hashlib.sha256(text.encode()).digest()
    if digest[0] < 26:
        return NO_FORM
    form = form_in(text)
    width = form.high - form.low + 1
    marks = {name: form.low + digest[i] % width for i, name in enumerate(form.criteria, 1)}
    return json.dumps(marks)


def form_in(text: str):
    """The form that a request asks for."""
    for form in (REWARD, GRE, G_EVAL):
        if all(name in text for name in form.criteria):
            return form
    raise AssertionError(f"no form in {text:.200}")


SMALL = (
    "--steps 2 --strategy_steps 2 --expert_warm 1 --strategy_dialogues 3 --pretrain_steps 2 "
    "--warm_steps 2 --dialogues 3 --group 2 "
    "--sft_batch 4 --max_new_tokens 6 --eval_episodes 1 --eval_every 9 --precision fp32 "
    "--device cpu"
).split()


def training(logs, folder, *more: str) -> list[str]:
    return ["--dataset", str(logs), *SMALL, "--output_dir", str(folder), *more]


@pytest.fixture(scope="module")
def judged_twice(logs, tmp_path_factory):
    """(run, the server's log then, run of the same training again, the server's log then)"""
    folder = tmp_path_factory.mktemp("judged")
    with HostileServer(judging, failure_rate=0.3, seed=1, drip=0.1) as server:
        api = [
            "--judge", "api:referee", "--api_base", server.url, "--api_timeout", "1",
            "--api_retries", "9", "--api_cache", str(folder / "cache.sqlite"),
        ]
        assert train.main(training(logs, folder / "one", *api)) == 0
        first = list(server.log)
        assert train.main(training(logs, folder / "two", *api)) == 0
        return folder / "one", first, folder / "two", server.log[len(first):]


def test_the_server_failed_in_every_way(judged_twice):
    _, log, _, _ = judged_twice
    did = [entry["did"] for entry in log]
    assert set(did) == {"ok", "429", "500", "garbage", "slow", "half"}
    assert len(did) - did.count("ok") > 0.2 * len(did)


def test_a_run_with_a_failing_judge_finishes_and_loses_nothing(judged_twice):
    run, _, _, _ = judged_twice
    rows = read_rows(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(0 <= row["unscored"] < 0.5 for row in rows)
    table = read_json(run / "results.json")
    assert 1 <= table["gopo"]["g_eval"]["mean"] <= 5
    assert 0 <= table["gopo"]["gre"]["mean"] <= 10
    unscored = [row["unscored"] for row in rows]
    assert sum(unscored) + table["gopo"]["unscored"]["mean"] > 0


def bodies(log) -> set[str]:
    return {json.dumps(entry["body"], sort_keys=True) for entry in log}


def test_the_same_run_again_sends_nothing_that_was_taken(judged_twice):
    one, first, two, again = judged_twice
    answered = [entry for entry in first if entry["did"] == "ok"]
    bad = [entry for entry in answered if judging(entry["body"]) == NO_FORM]
    taken = bodies(answered) - bodies(bad)
    assert taken
    assert not taken & bodies(again)
    # a bad answer is no answer: it is asked for anew
    assert bodies(bad) & bodies(again)
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()


def test_a_spent_budget_keeps_what_was_learned(logs, tmp_path, capsys):
    run = tmp_path / "run"
    with HostileServer(judging) as server:
        flags = training(
            logs, run, "--judge", "api:m", "--api_base", server.url,
            "--api_cache", str(tmp_path / "c.sqlite"), "--max_requests", "25", "--save_every", "9",
        )
        assert train.main(flags) == 2
        error = capsys.readouterr().err
        assert "--max_requests 25" in error
        assert f"--resume {run}" in error
        assert len(server.log) == 25
        assert train.main(["--resume", str(run), "--max_requests", "5000"]) == 0
    assert [row["step"] for row in read_rows(run / "metrics.jsonl")] == [1, 2]
    assert read_json(run / "config.json")["api"]["max_requests"] == 5000


def answering(request: dict) -> str:
    text = request["messages"][0]["content"]
    if "You plan" in text:
        return json.dumps({"skills": ["price"]})
    return json.dumps({"reply": "The lamp costs 30 euros, guaranteed."})


def evaluate(run, server, tmp_path, roles) -> dict:
    """eval.py with a hosted model in these roles; what it wrote."""
    flags = ["--run", str(run), "--rows", "random", "--json", str(tmp_path / "r.json")]
    flags += ["--api_base", server.url, "--api_cache", str(tmp_path / "c.sqlite")]
    for role in roles:
        flags += [role, "api:m"]
    assert evaluation.main(flags) == 0
    return read_json(tmp_path / "r.json")


@pytest.mark.parametrize(("roles", "row"), [
    (["--cs_agent"], "gopo + api:m"),
    (["--expert"], "api:m + gopo"),
    (["--expert", "--cs_agent"], "api:m + api:m"),
])
def test_hosted_models_take_the_place_of_the_agents(judged_twice, tmp_path, roles, row):
    with HostileServer(answering) as server:
        table = evaluate(judged_twice[0], server, tmp_path, roles)
        asked = {"You plan" in entry["body"]["messages"][0]["content"] for entry in server.log}
    assert list(table) == [row, "random"]
    assert asked == {role == "--expert" for role in roles}
    if "--expert" in roles:
        assert table[row]["length"]["mean"] == 1
        # "price" is right in one turn of three
        assert table[row]["exact"]["mean"] == pytest.approx(1 / 3)
    if roles == ["--expert", "--cs_agent"]:
        # "The lamp costs {price}, guaranteed."
        assert table[row]["reply_words"]["mean"] == 5


@pytest.mark.parametrize(("flags", "message"), [
    (["--cs_agent", "api:m"], "need --api_base"),
    (["--judge", "api:m"], "--api_base is missing"),
])
def test_a_missing_server_is_said_before_any_row_is_played(judged_twice, capsys, flags, message):
    assert evaluation.main(["--run", str(judged_twice[0]), *flags]) == 2
    out = capsys.readouterr()
    assert message in out.err
    assert not out.out


def test_a_missing_server_is_said_before_training(logs, tmp_path, capsys):
    assert train.main(training(logs, tmp_path / "run", "--judge", "api:m")) == 2
    assert "--api_base is missing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_said_before_training(logs, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    flags = training(logs, tmp_path / "run")
    flags[flags.index("--device") + 1] = "cuda"
    assert train.main(flags) == 2
    assert "--device cuda: PyTorch finds no GPU of this kind" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_chat_talks_to_the_runs_own_agents(judged_twice, capsys):
    with pytest.raises(SystemExit):
        evaluation.main(["--run", str(judged_twice[0]), "--chat", "--cs_agent", "api:m"])
    assert "--chat talks to the run's own agents" in capsys.readouterr().err


def test_runs_from_before_hosted_judges_resume(tmp_path, logs):
    run = tmp_path / "old"
    assert train.main(training(logs, run, "--eval_episodes", "0")) == 0
    config = read_json(run / "config.json")
    del config["api"]
    del config["run"]["judge"]
    write_json(run / "config.json", config)
    assert train.main(["--resume", str(run), "--steps", "3"]) == 0
