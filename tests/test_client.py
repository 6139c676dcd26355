"""Tests of infra/client.py: asking, bad answers, log-probabilities, settings.

The server is tests/hostile_server.py, on 127.0.0.1.  Failures of the server are tested in
test_client_failures.py, and what ends a run early in test_client_stops.py."""
import math
import subprocess
import sys
import threading
import time

import pytest

from data import DataError
from infra.answers import Answer
from infra.client import ApiConfig, ApiError
from tests.asking import HERE, KEY, choice, itself, said, say, stored, text_of
from tests.hostile_server import HostileServer, echo

pytestmark = pytest.mark.usefixtures("quick")


# --- asking -------------------------------------------------------------------------------------

def test_order_and_equal_prompts_once(make_client):
    with HostileServer(lambda body: said(body).upper()) as server:
        client = make_client(server)
        texts = [f"p{i % 7}" for i in range(30)]
        answers = client.ask([say(text) for text in texts], text_of)
        assert answers == [text.upper() for text in texts]
        assert len(server.log) == 7 == client.stats["sent"] == client.stats["asked"]
        assert client.ask([], text_of) == []


def test_what_is_sent(make_client):
    with HostileServer(echo) as server:
        client = make_client(server)
        client.ask([say("hello")], text_of, max_tokens=9, temperature=0.5, seed=3)
        # a slash at the end of the address changes nothing
        make_client(server.url + "/").ask([say("again")], text_of)
    first, second = server.log
    assert first["body"] == {"model": "test-model", "messages": say("hello"), "max_tokens": 9,
                             "temperature": 0.5, "seed": 3}
    assert first["path"] == second["path"] == "/v1/chat/completions"
    assert first["headers"]["Authorization"] == f"Bearer {KEY}"
    assert "seed" not in second["body"]
    assert second["body"]["temperature"] == 0


def test_concurrency_is_bounded_and_used(make_client):
    lock = threading.Lock()
    three = threading.Barrier(3)
    under_way = 0
    most = 0

    def answer(request):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        # passes only if three requests are under way at once
        three.wait(10)
        # time for a fourth, if there were one
        time.sleep(0.1)
        with lock:
            under_way -= 1
        return "ok"

    with HostileServer(answer) as server:
        client = make_client(server, api_concurrency=3)
        assert client.ask([say(str(i)) for i in range(6)], text_of) == ["ok"] * 6
    assert most == 3


def test_no_password_from_netrc(make_client, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with HostileServer(echo) as server:
        make_client(server).ask([say("a")], text_of)
        monkeypatch.delenv("GOPO_API_KEY")
        make_client(server).ask([say("b")], text_of)
    first, second = server.log
    assert first["headers"]["Authorization"] == f"Bearer {KEY}"
    assert "Authorization" not in second["headers"]


def test_extra_fields_go_along_and_null_removes_one(make_client):
    extra = ('{"chat_template_kwargs": {"enable_thinking": false}, '
             '"max_tokens": null, "max_completion_tokens": 9}')
    with HostileServer(echo) as server:
        client = make_client(server, api_extra=extra)
        assert client.ask([say("hello")], text_of) == ["hello"]
        body = server.log[0]["body"]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["max_completion_tokens"] == 9
    assert not {"max_tokens", "seed"} & set(body)


# --- settings -----------------------------------------------------------------------------------

@pytest.mark.parametrize("flags", [
    {"api_base": "127.0.0.1:8000/v1"},
    {"api_base": "http://"},
    {"api_base": "http://me:pw@host/v1"},
    {"api_base": "http://h/v1?key=1"},
    {"api_base": "http://h/v1/chat/completions"},
    {"api_base": "ftp://h/v1"},
    {"api_base": "http://h /v1"},
    {"api_timeout": 0},
    {"api_timeout": math.nan},
    {"api_timeout": math.inf},
    {"api_timeout": 86_401.0},
    {"api_timeout": 1e10},
    {"api_retries": -1},
    {"api_retries": 10 ** 30},
    {"api_concurrency": 0},
    {"api_concurrency": 1000},
    {"api_cache": ""},
    {"max_requests": -1},
    {"api_extra": "{"},
    {"api_extra": "[1]"},
    {"api_extra": "3"},
    {"api_extra": '{"temperature": NaN}'},
    {"api_extra": '{"a": {"b": [-Infinity]}}'},
    {"api_extra": '{"temperature": 1e999}'},
    {"api_extra": '{"seed": ' + "9" * 5000 + "}"},
    {"api_extra": '{"a":' + "[" * 100_000},
    {"api_extra": '{"messages": []}'},
    {"api_extra": '{"stream": true}'},
])
def test_config_refuses(flags):
    with pytest.raises(DataError, match=f"--{next(iter(flags))}") as error:
        ApiConfig(**flags)
    assert "pw" not in str(error.value)


@pytest.mark.parametrize("url", [
    "http://127.0.0.1:8000/v1",
    "https://api.openai.com/v1/",
    "http://localhost",
    "http://[::1]:8000/v1",
    "https://x.y/openai/deployments/a-b_c",
])
def test_config_accepts(url):
    assert ApiConfig(api_base=url).api_base == url


# --- bad answers --------------------------------------------------------------------------------

def digit(answer):
    if not answer.text.isdigit():
        raise ValueError("no digits\nin it")
    return int(answer.text)


def test_a_bad_answer_is_asked_again(make_client):
    with HostileServer(lambda body: "7" if len(body["messages"]) > 1 else "seven") as server:
        client = make_client(server)
        assert client.ask([say("a number?")], digit) == [7]
        assert client.stats["bad_answers"] == 0
        question, wrong, complaint = server.log[1]["body"]["messages"]
        assert [question] == say("a number?")
        assert wrong == {"role": "assistant", "content": "seven"}
        assert complaint["role"] == "user"
        assert "no digits in it" in complaint["content"]
        # the answer that was taken is in the cache, as the answer to the question
        assert client.ask([say("a number?")], digit) == [7]
        assert len(server.log) == 2
        assert client.stats["cached"] == 1
        (request, kept), = stored(client.cfg.api_cache)
        assert (request["messages"], kept["text"]) == (say("a number?"), "7")


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_after_the_last_attempt_it_is_none(attempts, make_client):
    with HostileServer(lambda body: "x") as server:
        client = make_client(server)
        assert client.ask([say("a number?")], digit, attempts=attempts) == [None]
        assert len(server.log) == attempts
        assert client.stats["bad_answers"] == 1
        assert client.stats["unanswered"] == 0
        why = "1 (100.0%) got only bad answers (the last: no digits in it)"
        assert why in client.report()
        # this client does not ask again
        assert client.ask([say("a number?")], digit, attempts=attempts) == [None]
        assert len(server.log) == attempts
        assert stored(client.cfg.api_cache) == []


def message(**fields):
    """A completion with this message."""
    return {"choices": [{"message": fields}]}


@pytest.mark.parametrize(("body", "why"), [
    (choice("the beginn", finish_reason="length"), "cut off"),
    (choice(None), "empty"),
    (choice("  \n"), "empty"),
    (choice("no", finish_reason="content_filter"), "refused"),
    (message(content=None, refusal="I cannot"), "refused"),
    (message(content=None, reasoning_content="7"), "empty"),
    ({"choices": [{"message": {"content": [], "tool_calls": []}, "finish_reason": "tool_calls"}]},
     "empty"),
])
def test_answers_nobody_can_use(body, why, make_client):
    with HostileServer(lambda request: body) as server:
        client = make_client(server)
        assert client.ask([say("a")], text_of) == [None]
        assert client.stats["bad_answers"] == 1
        *_, answer, complaint = server.log[1]["body"]["messages"]
        assert why in complaint["content"]
        assert answer["content"]


def test_content_in_parts_and_half_characters(make_client):
    parts = [
        {"type": "reasoning", "text": "hm"},
        {"type": "text", "text": "Hel"},
        {"type": "text", "text": "lo \ud83d"},
        "?",
        {"type": "text"},
    ]
    with HostileServer(lambda body: choice(parts, reasoning="ignored")) as server:
        client = make_client(server)
        for _ in range(2):
            assert client.ask([say("a")], text_of) == ["Hello \ufffd"]
        assert len(server.log) == 1


def test_a_bug_in_parse_is_no_bad_answer(make_client):
    with HostileServer(echo) as server, pytest.raises(KeyError):
        prompts = [say(str(i)) for i in range(9)]
        make_client(server).ask(prompts, lambda answer: {}["missing"])


# --- log-probabilities --------------------------------------------------------------------------

def entry(token, logprob, **more):
    return {"token": token, "logprob": logprob} | more


def with_logprobs(text):
    """A completion whose letters are tokens, each with 5 as an alternative (given twice)."""
    rows = []
    for letter in text:
        others = [entry("5", -0.1), entry(letter, -0.5), entry("5", -3.0)]
        rows.append(entry(letter, -0.5, top_logprobs=others))
    return choice(text, logprobs={"content": rows})


def test_logprobs(make_client):
    expected = Answer("42", (("4", {"4": -0.5, "5": -0.1}), ("2", {"2": -0.5, "5": -0.1})))
    with HostileServer(lambda body: with_logprobs("42")) as server:
        client = make_client(server)
        for _ in range(2):
            assert client.ask([say("a")], itself, logprobs=True) == [expected]
        assert len(server.log) == 1
        assert server.log[0]["body"]["logprobs"] is True
        assert server.log[0]["body"]["top_logprobs"] == 20
        # without them it is another request
        client.ask([say("a")], text_of)
        assert len(server.log) == 2
        assert "logprobs" not in server.log[1]["body"]


@pytest.mark.parametrize("value", [
    None,
    {},
    [],
    "x",
    {"content": None},
    {"content": []},
    {"content": ["a"]},
    {"content": [{"token": "a"}]},
    {"content": [entry("a", None)]},
    {"content": [entry("a", math.nan)]},
    {"content": [entry("a", 3.0)]},
    {"content": [entry(5, -1.0)]},
    {"content": [entry("a", 10 ** 400)]},
    {"token_logprobs": [-1.0]},
])
def test_no_or_strange_logprobs_are_none(value, make_client):
    with HostileServer(lambda body: choice("ok", logprobs=value)) as server:
        client = make_client(server)
        assert client.ask([say("a")], itself, logprobs=True) == [Answer("ok", None)]


def test_minus_infinity_survives_the_cache(make_client):
    row = entry("a", 0.0, top_logprobs=[entry("b", -math.inf)])
    with HostileServer(lambda body: choice("a", logprobs={"content": [row]})) as server:
        client = make_client(server)
        for _ in range(2):
            answer, = client.ask([say("a")], itself, logprobs=True)
            assert answer.logprobs == (("a", {"a": 0.0, "b": -math.inf}),)


@pytest.mark.parametrize("status", [400, 422])
def test_falls_back_once_where_logprobs_are_refused(status, make_client):
    with HostileServer(echo, script=[(status, {}, b"unknown field: top_logprobs")]) as server:
        client = make_client(server, api_concurrency=1)
        answers = client.ask([say("a"), say("b")], itself, logprobs=True)
        assert answers == [Answer("a"), Answer("b")]
        asked = ["logprobs" in request["body"] for request in server.log]
        assert asked == [True, False, False]
        # the key is that of the request that was answered
        assert all("logprobs" not in request for request, _ in stored(client.cfg.api_cache))


@pytest.mark.parametrize("status", [400, 422])
def test_a_status_that_stays_without_logprobs_is_final(status, make_client):
    # it was refused for another reason
    with HostileServer(echo, script=[(status, {}, b"top_logprobs?")] * 2) as server:
        with pytest.raises(ApiError, match=f"HTTP {status}"):
            make_client(server).ask([say("c")], itself, logprobs=True)


def test_demo():
    command = [sys.executable, "-m", "infra.client"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True,
                          timeout=60)
    assert "-> 429" in done.stdout
    assert done.stdout.count("'politeness': 4") == 2
    assert "2 requests sent, 1 of them retries; 1 answers from" in done.stdout
