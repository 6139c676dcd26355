"""Whole runs with hosted models: a judge that fails 30 % of the time in five ways, hosted agents in the table, and what is refused before any work."""
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


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    path = tmp_path_factory.mktemp("logs") / "logs.jsonl"
    skills, context = ("sorry", "price", "eta"), {"price": "30 euros", "eta": "on Friday"}
    turns = [{"user": f"Where is lamp {i}?", "skills": [skills[i]], "context": context, "reply": SAYINGS[i].format(**context)} for i in range(3)]
    path.write_text("".join(json.dumps({"id": f"d{i}", "turns": turns}) + "\n" for i in range(10)))
    return path


def judging(request: dict) -> str:
    """Marks from a hash of what is judged; for about one reply in ten no form, however often it is asked for."""
    text = json.dumps(request["messages"][:2])
    digest = hashlib.sha256(text.encode()).digest()
    form = next(f for f in (REWARD, GRE, G_EVAL) if all(c in text for c in f.criteria))
    return "I would rather not." if digest[0] < 26 else json.dumps({c: form.low + digest[i + 1] % (form.high - form.low + 1) for i, c in enumerate(form.criteria)})


def training(logs, folder, *more: str) -> list[str]:
    return ["--dataset", str(logs), "--steps", "2", "--strategy_steps", "2", "--pretrain_steps", "2", "--warm_steps", "2", "--dialogues", "3", "--group", "2", "--sft_batch", "4",
            "--max_new_tokens", "6", "--eval_episodes", "1", "--eval_every", "9", "--precision", "fp32", "--device", "cpu", "--output_dir", str(folder), *more]


@pytest.fixture(scope="module")
def judged_twice(logs, tmp_path_factory):
    """(run of a first training, server's log then, run of the same training again, server's log then)"""
    folder = tmp_path_factory.mktemp("judged")
    with HostileServer(judging, failure_rate=0.3, seed=1, drip=0.1) as server:
        api = ["--judge", "api:referee", "--api_base", server.url, "--api_timeout", "1", "--api_retries", "9", "--api_cache", str(folder / "cache.sqlite")]
        assert train.main(training(logs, folder / "one", *api)) == 0
        first = list(server.log)
        assert train.main(training(logs, folder / "two", *api)) == 0
        return folder / "one", first, folder / "two", server.log[len(first):]


def test_a_run_with_a_failing_judge_finishes_and_loses_nothing(judged_twice):
    run, log, _, _ = judged_twice
    assert {e["did"] for e in log} == {"ok", "429", "500", "garbage", "slow", "half"} and sum(e["did"] != "ok" for e in log) > 0.2 * len(log)
    rows = read_rows(run / "metrics.jsonl")
    assert [r["step"] for r in rows] == [1, 2] and all(0 <= r["unscored"] < 0.5 for r in rows)
    table = read_json(run / "results.json")
    assert 1 <= table["gopo"]["g_eval"]["mean"] <= 5 and 0 <= table["gopo"]["gre"]["mean"] <= 10 and sum(r["unscored"] for r in rows) + table["gopo"]["unscored"]["mean"] > 0


def test_the_same_run_again_sends_nothing_that_was_answered(judged_twice):
    one, first, two, again = judged_twice
    key = lambda e: json.dumps(e["body"], sort_keys=True)
    assert not {key(e) for e in first if e["did"] == "ok"} & {key(e) for e in again}
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()


def test_a_spent_budget_keeps_what_was_learned(logs, tmp_path, capsys):
    with HostileServer(judging) as server:
        flags = training(logs, tmp_path / "run", "--judge", "api:m", "--api_base", server.url, "--api_cache", str(tmp_path / "c.sqlite"), "--max_requests", "25", "--save_every", "9")
        assert train.main(flags) == 2
        error = capsys.readouterr().err
        assert "--max_requests 25" in error and f"--resume {tmp_path / 'run'}" in error and len(server.log) == 25
        assert train.main(["--resume", str(tmp_path / "run"), "--max_requests", "5000"]) == 0
    assert [r["step"] for r in read_rows(tmp_path / "run/metrics.jsonl")] == [1, 2] and read_json(tmp_path / "run/config.json")["api"]["max_requests"] == 5000


def answering(request: dict) -> str:
    text = request["messages"][0]["content"]
    return json.dumps({"skills": ["price"]} if "You plan" in text else {"reply": "The lamp costs 30 euros, guaranteed."})


@pytest.mark.parametrize(("roles", "row"), [(["--cs_agent"], "gopo + api:m"), (["--expert"], "api:m + gopo"), (["--expert", "--cs_agent"], "api:m + api:m")])
def test_hosted_models_take_the_place_of_the_agents(judged_twice, tmp_path, roles, row):
    with HostileServer(answering) as server:
        chosen = [x for role in roles for x in (role, "api:m")]
        assert evaluation.main(["--run", str(judged_twice[0]), "--rows", "random", "--json", str(tmp_path / "r.json"), "--api_base", server.url,
                                "--api_cache", str(tmp_path / "c.sqlite"), *chosen]) == 0
        asked = {"You plan" in e["body"]["messages"][0]["content"] for e in server.log}
    table = read_json(tmp_path / "r.json")
    assert list(table) == [row, "random"] and asked == {role == "--expert" for role in roles}
    if "--expert" in roles:
        assert table[row]["length"]["mean"] == 1 and table[row]["exact"]["mean"] == pytest.approx(1 / 3)       # "price" is right in one turn of three
    if roles == ["--expert", "--cs_agent"]:
        assert table[row]["reply_words"]["mean"] == 5                    # "The lamp costs {price}, guaranteed."


@pytest.mark.parametrize(("flags", "message"), [
    (["--cs_agent", "api:m"], "need --api_base"), (["--judge", "api:m"], "--api_base is missing")])
def test_a_missing_server_is_said_before_any_row_is_played(judged_twice, capsys, flags, message):
    assert evaluation.main(["--run", str(judged_twice[0]), *flags]) == 2
    out = capsys.readouterr()
    assert message in out.err and not out.out


def test_a_missing_server_is_said_before_training(logs, tmp_path, capsys):
    assert train.main(training(logs, tmp_path / "run", "--judge", "api:m")) == 2
    assert "--api_base is missing" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_said_before_training(logs, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    flags = training(logs, tmp_path / "run")
    flags[flags.index("--device") + 1] = "cuda"
    assert train.main(flags) == 2 and "--device cuda: PyTorch finds no GPU" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_chat_talks_to_the_runs_own_agents(judged_twice, capsys):
    with pytest.raises(SystemExit):
        evaluation.main(["--run", str(judged_twice[0]), "--chat", "--cs_agent", "api:m"])
    assert "--chat talks to the run's own agents" in capsys.readouterr().err


def test_runs_of_before_resume(judged_twice, tmp_path, logs):
    assert train.main(training(logs, tmp_path / "old", "--eval_episodes", "0")) == 0
    config = read_json(tmp_path / "old/config.json")
    del config["api"], config["run"]["judge"]
    write_json(tmp_path / "old/config.json", config)
    assert train.main(["--resume", str(tmp_path / "old"), "--steps", "3"]) == 0
