"""Tests of llm.py against a server that misbehaves on purpose (hostile_server.py) and a real one (`transformers serve`), both on 127.0.0.1."""
import base64
import collections
import email.utils
import importlib.util
import json
import math
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from data import DataError
from infra import client as llm
from infra import transport
from infra.client import Answer, ApiConfig, ApiError, BudgetSpent, Client, parse_json, pause, retry_after
from tests.hostile_server import WAYS, HostileServer, answerer, chosen, echo

HERE = Path(__file__).parent.parent
KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No pause between retries, no proxy of this machine; a key in the environment."""
    monkeypatch.setattr(llm, "pause", lambda *_: 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("GOPO_API_KEY", KEY)


@pytest.fixture
def client(tmp_path):
    """client(server or url, flag=...) -> a Client whose cache is tmp_path/cache.sqlite; closed at the end."""
    made = []

    def make(server, **flags):
        url = server if isinstance(server, str) else server.url
        made.append(Client("test-model", ApiConfig(**{"api_base": url, "api_cache": str(tmp_path / "cache.sqlite"), "api_timeout": 5.0} | flags)))
        return made[-1]
    yield make
    for c in made:
        c.close()


def say(text):
    return [{"role": "user", "content": text}]


def text_of(answer):
    return answer.text


def stored(path):
    """The cache as another program sees it."""
    with sqlite3.connect(path) as db:
        return [(json.loads(r), json.loads(a)) for r, a in db.execute("SELECT request, answer FROM answers")]


def choice(text, **more):
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} | more]}


# ---------------------------------------------------------------- asking

def test_order_and_equal_prompts_once(client):
    with HostileServer(lambda r: r["messages"][0]["content"].upper()) as server:
        c = client(server)
        texts = [f"p{i % 7}" for i in range(30)]
        assert c.ask([say(t) for t in texts], text_of) == [t.upper() for t in texts]
        assert len(server.log) == 7 == c.stats["sent"] == c.stats["asked"]
        assert c.ask([], text_of) == []


def test_what_is_sent(client):
    with HostileServer(echo) as server:
        client(server).ask([say("hello")], text_of, max_tokens=9, temperature=0.5, seed=3)
        client(server.url + "/").ask([say("again")], text_of)            # a slash at the end of the address changes nothing
    first, second = server.log
    assert first["body"] == {"model": "test-model", "messages": say("hello"), "max_tokens": 9, "temperature": 0.5, "seed": 3}
    assert first["path"] == second["path"] == "/v1/chat/completions" and first["headers"]["Authorization"] == f"Bearer {KEY}"
    assert "seed" not in second["body"] and second["body"]["temperature"] == 0


def test_concurrency_is_bounded_and_used(client):
    lock, now, most, both = threading.Lock(), [0], [0], threading.Barrier(3)

    def answer(request):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        both.wait(10)                            # passes only if three requests are under way at once
        time.sleep(0.1)                          # time for a fourth, if there were one
        with lock:
            now[0] -= 1
        return "ok"
    with HostileServer(answer) as server:
        assert client(server, api_concurrency=3).ask([say(str(i)) for i in range(6)], text_of) == ["ok"] * 6
    assert most[0] == 3


def test_no_password_from_netrc(client, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with HostileServer(echo) as server:
        client(server).ask([say("a")], text_of)
        monkeypatch.delenv("GOPO_API_KEY")
        client(server).ask([say("b")], text_of)
    assert server.log[0]["headers"]["Authorization"] == f"Bearer {KEY}" and "Authorization" not in server.log[1]["headers"]


# ---------------------------------------------------------------- failures that pass

@pytest.mark.parametrize("way", [*WAYS, "slow head"])
def test_recovers_from(way, client):
    with HostileServer(echo, script=[way, way], drip=0.02) as server:    # 0.02 s a byte, 80 bytes and more: over a second
        c = client(server, api_timeout=0.3 if "slow" in way else 5.0)
        assert c.ask([say("hello")], text_of) == ["hello"]
        assert server.did() == [way, way, "ok"] and c.stats["sent"] == 3 and c.stats["retried"] == 2


def test_a_deadline_that_passes_while_connecting():
    line = transport.Deadline(0)
    line.timer.join(10)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line.attach(ours)
        theirs.settimeout(10)
        assert theirs.recv(1) == b""             # hung up


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_statuses_that_pass(status, client):
    with HostileServer(echo, script=[(status, {}, b"busy")]) as server:
        assert client(server).ask([say("hello")], text_of) == ["hello"]


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{}", b'{"choices": []}', b'{"choices": [{}]}', b'{"choices": [{"message": null}]}', b'{"choices": "no"}',
                                  b'{"choices": [{"message": {"content": 7}}]}', b'{"error": {"message": "overloaded"}}', b"[" * 100000])
def test_bodies_that_are_no_completion(body, client):
    with HostileServer(echo, script=[(200, {}, body)]) as server:
        c = client(server)
        assert c.ask([say("hello")], text_of) == ["hello"] and c.stats["retried"] == 1
    assert len(stored(c.cfg.api_cache)) == 1


def test_answers_against_http(client):
    """A cut chunk, a reset, a length that is no number, an endless header: written byte by byte, no HTTP library in between."""
    replies = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"cho", b"", b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}",
               b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000 + b"\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"]
    good = json.dumps(choice("ok")).encode()
    replies.append(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(good), good))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve():
            for reply in replies:
                conn, _ = listener.accept()
                with conn:
                    conn.recv(65536)
                    conn.sendall(reply)
        threading.Thread(target=serve, daemon=True).start()
        c = client(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        assert c.ask([say("hello")], text_of) == ["ok"] and c.stats["sent"] == len(replies)


def test_answer_without_an_end(client, monkeypatch):
    monkeypatch.setattr(transport, "LARGEST_BODY", 1000)
    with HostileServer(echo, script=[(200, {}, json.dumps(choice("x" * 2000)).encode())]) as server:
        assert client(server).ask([say("hello")], text_of) == ["hello"]


def test_unanswered_is_none_and_counted_and_never_stored(client):
    with HostileServer(echo, script=[None]) as server:
        c = client(server, api_retries=2)
        assert c.ask([say("good")], text_of) == ["good"]
        server.failure_rate, server.ways = 1.0, ("500",)
        assert c.ask([say("bad"), say("good")], text_of) == [None, "good"]
        assert c.stats == {"asked": 3, "sent": 4, "retried": 2, "unanswered": 1, "cached": 1}
        assert "1 (33.3%) none" in c.report() and "HTTP 500" in c.report() and "\n" not in c.report()
        assert [r["messages"] for r, _ in stored(c.cfg.api_cache)] == [say("good")]
        server.failure_rate = 0.0
        assert c.ask([say("bad")], text_of) == ["bad"]                   # an unanswered prompt is asked anew


def test_thirty_percent_in_five_ways_then_nothing_is_sent_twice(client):
    """All answered; the same run again needs no server at all."""
    prompts = [say(f"prompt {i}") for i in range(60)]
    with HostileServer(echo, failure_rate=0.3, seed=1, drip=0.02) as server:
        c = client(server, api_timeout=0.6, api_retries=9)
        assert c.ask(prompts, text_of) == [p[0]["content"] for p in prompts]
        seen = collections.Counter(server.did())
        assert set(seen) == {*WAYS, "ok"} and seen["ok"] == 60 and c.stats["retried"] == sum(seen[w] for w in WAYS) == c.stats["sent"] - 60
    again = client(server, max_requests=0)
    assert again.ask(prompts, text_of) == [p[0]["content"] for p in prompts]
    assert again.stats["sent"] == 0 and again.stats["cached"] == 60


@given(st.integers(0, 30), st.integers(0, 2**32))
def test_pause_is_full_jitter(attempt, seed):
    assert 0 <= pause(attempt, None, random.Random(seed)) <= min(60, 2 ** attempt)


def test_pause_uses_its_range_and_obeys_the_server():
    drawn = [pause(3, None, random.Random(i)) for i in range(400)]
    assert min(drawn) < 0.5 and max(drawn) > 7.5 and abs(sum(drawn) / 400 - 4) < 0.5                # uniform on [0, 8]
    assert 7 <= pause(0, 7.0, random.Random(0)) <= 8 and pause(0, 86400.0, random.Random(0)) == 60


def test_retry_after_by_hand():
    at = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert retry_after("12") == 12 and retry_after(" 0.5 ") == 0.5 and 25 < retry_after(at) <= 30
    for nonsense in ("-5", "nan", "inf", "soon", "", "Wed, 99 Oct 99999 99:99:99 GMT", "9" * 400, None):
        assert retry_after(nonsense) is None
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@given(st.text(max_size=40))
def test_retry_after_never_breaks(text):
    assert retry_after(text) is None or 0 <= retry_after(text) < math.inf


def test_retry_after_reaches_the_pause(client, monkeypatch):
    told = []
    monkeypatch.setattr(llm, "pause", lambda attempt, after, rng: told.append((attempt, after)) or 0.0)
    with HostileServer(echo, script=["429", "500", (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"")], retry_after="17") as server:
        client(server).ask([say("hello")], text_of)
    assert told == [(0, 17.0), (1, None), (2, 0.0)]


def test_the_pause_is_waited(client, monkeypatch):
    monkeypatch.setattr(llm, "pause", lambda *_: 0.25)
    with HostileServer(echo, script=["500", "500"]) as server:
        start = time.monotonic()
        client(server).ask([say("hello")], text_of)
    assert time.monotonic() - start >= 0.5       # a lower bound holds on any machine


# ---------------------------------------------------------------- failures that stay

@pytest.mark.parametrize(("status", "words"), [(400, "refuses the request"), (401, "GOPO_API_KEY is refused"), (403, "may not do this"),
                                               (404, "no model 'test-model'"), (413, "refuses"), (422, "refuses")])
def test_final_errors(status, words, client):
    with HostileServer(echo, script=[(status, {}, f"{KEY} of no\nuse {'x' * 500}".encode())]) as server:
        c = client(server, api_concurrency=1)
        with pytest.raises(ApiError) as error:
            c.ask([say("a"), say("b")], text_of)
        message = str(error.value)
        assert len(server.log) == 1 and server.url in message and f"HTTP {status}" in message and words in message and "*** of no use xxx" in message
        assert KEY not in message and "\n" not in message and message.count("x") < 200 and not isinstance(error.value, BudgetSpent)
        assert isinstance(error.value, DataError) and stored(c.cfg.api_cache) == []


def test_extra_fields_go_along_and_null_removes_one(client):
    with HostileServer(echo) as server:
        c = client(server, api_extra='{"chat_template_kwargs": {"enable_thinking": false}, "max_tokens": null, "max_completion_tokens": 9}')
        assert c.ask([say("hello")], text_of) == ["hello"]
        body = server.log[0]["body"]
        assert body["chat_template_kwargs"] == {"enable_thinking": False} and body["max_completion_tokens"] == 9 and not {"max_tokens", "seed"} & set(body)
    for wrong in ("{", "[1]", "3"):
        with pytest.raises(DataError, match="--api_extra"):
            llm.ApiConfig(api_extra=wrong)


@pytest.mark.parametrize("words", ["This model's maximum context length is 4096 tokens", "Input is too long for requested model", "context_length_exceeded"])
def test_a_prompt_that_is_too_long_costs_itself_and_not_the_run(words, client):
    with HostileServer(echo, script=[(400, {}, words.encode())] * 2) as server:
        c = client(server, api_concurrency=1)
        assert c.ask([say("very long"), say("short")], text_of) == [None, "short"]
        assert c.stats["bad_answers"] == 1 and c.stats["unanswered"] == 0 and len(server.log) == 3


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status, client):
    with HostileServer(echo) as other, HostileServer(echo, script=[(status, {"Location": f"{other.url}/chat/completions"}, b"")]) as server:
        with pytest.raises(ApiError, match=f"redirects to {other.url}"):
            client(server).ask([say("a")], text_of)
        assert other.log == []


def test_no_server_no_address_no_key(client, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    c = client(f"http://127.0.0.1:{free}/v1")
    with pytest.raises(ApiError, match=f"--api_base http://127.0.0.1:{free}/v1: no server answers there .*refused"):
        c.ask([say("a")], text_of)
    assert c.stats["sent"] == 1 + llm.FIRST_RETRIES
    with pytest.raises(ApiError, match="--api_base is missing"):
        Client("m", ApiConfig())
    with pytest.raises(ApiError, match="--api_base"):
        client("http://" + "a" * 70 + ".invalid/v1", api_retries=0).ask([say("a")], text_of)
    for key in ("two words", "two\nlines", "zwei Schlüssel", "двa"):
        monkeypatch.setenv("GOPO_API_KEY", key)
        with pytest.raises(ApiError, match="GOPO_API_KEY") as error:
            client("http://127.0.0.1:1/v1")
        assert key not in str(error.value)


def test_server_gone(client):
    """20 prompts in a row without an answer end the run; one answer in between starts the count anew."""
    with HostileServer(echo, failure_rate=1.0, ways=("500",)) as server:
        c = client(server, api_retries=0, api_concurrency=1)
        assert c.ask([say(f"a{i}") for i in range(19)], text_of) == [None] * 19
        server.failure_rate = 0.0
        assert c.ask([say("good")], text_of) == ["good"]
        server.failure_rate = 1.0
        assert c.ask([say(f"b{i}") for i in range(19)], text_of) == [None] * 19
        with pytest.raises(ApiError, match=r"server gone: 20 prompts in a row.*HTTP 500.*cache\.sqlite; run again"):
            c.ask([say("c0"), say("c1"), say("c2")], text_of)
        assert c.stats["unanswered"] == 19 + 20 and [r["messages"] for r, _ in stored(c.cfg.api_cache)] == [say("good")]


@pytest.mark.parametrize("flags", [{"api_base": "127.0.0.1:8000/v1"}, {"api_base": "http://"}, {"api_base": "http://me:pw@host/v1"}, {"api_base": "http://h/v1?key=1"},
                                   {"api_base": "http://h/v1/chat/completions"}, {"api_base": "ftp://h/v1"}, {"api_base": "http://h /v1"}, {"api_timeout": 0},
                                   {"api_timeout": math.nan}, {"api_timeout": math.inf}, {"api_retries": -1}, {"api_concurrency": 0}, {"api_concurrency": 1000},
                                   {"api_cache": ""}, {"max_requests": -1}])
def test_config_refuses(flags):
    with pytest.raises(DataError, match=f"--{next(iter(flags))}") as error:
        ApiConfig(**flags)
    assert "pw" not in str(error.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v1", "https://api.openai.com/v1/", "http://localhost", "http://[::1]:8000/v1", "https://x.y/openai/deployments/a-b_c"])
def test_config_accepts(url):
    assert ApiConfig(api_base=url).api_base == url


# ---------------------------------------------------------------- bad answers

def digit(answer):
    if not answer.text.isdigit():
        raise ValueError("no digits\nin it")
    return int(answer.text)


def test_a_bad_answer_is_asked_again(client):
    with HostileServer(lambda r: "7" if len(r["messages"]) > 1 else "seven") as server:
        c = client(server)
        assert c.ask([say("a number?")], digit) == [7] and c.stats["bad_answers"] == 0
        ask, wrong, told = server.log[1]["body"]["messages"]
        assert [ask] == say("a number?") and wrong == {"role": "assistant", "content": "seven"} and told["role"] == "user" and "no digits in it" in told["content"]
        assert c.ask([say("a number?")], digit) == [7] and len(server.log) == 2 and c.stats["cached"] == 2        # both are in the cache


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_then_it_is_none(attempts, client):
    with HostileServer(lambda r: "x") as server:
        c = client(server)
        assert c.ask([say("a number?")], digit, attempts=attempts) == [None] and len(server.log) == attempts
        assert c.stats["bad_answers"] == 1 and c.stats["unanswered"] == 0 and "1 (100.0%) got only bad answers" in c.report()
    again = client(server, max_requests=0)
    assert again.ask([say("a number?")], digit, attempts=attempts) == [None]                         # and paid for once


@pytest.mark.parametrize(("body", "why"), [
    (choice("the beginn", finish_reason="length"), "cut off"), (choice(None), "empty"), (choice("  \n"), "empty"), (choice("no", finish_reason="content_filter"), "refused"),
    ({"choices": [{"message": {"content": None, "refusal": "I cannot"}}]}, "refused"), ({"choices": [{"message": {"content": None, "reasoning_content": "7"}}]}, "empty"),
    ({"choices": [{"message": {"content": [], "tool_calls": []}, "finish_reason": "tool_calls"}]}, "empty")])
def test_answers_nobody_can_use(body, why, client):
    with HostileServer(lambda r: body) as server:
        c = client(server)
        assert c.ask([say("a")], text_of) == [None] and c.stats["bad_answers"] == 1
        assert why in server.log[1]["body"]["messages"][-1]["content"] and server.log[1]["body"]["messages"][-2]["content"]


def test_content_in_parts_and_half_characters(client):
    parts = [{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "Hel"}, {"type": "text", "text": "lo \ud83d"}, "?", {"type": "text"}]
    with HostileServer(lambda r: choice(parts, reasoning="ignored")) as server:
        c = client(server)
        assert c.ask([say("a")], text_of) == c.ask([say("a")], text_of) == ["Hello \ufffd"] and len(server.log) == 1


def test_a_bug_in_parse_is_no_bad_answer(client):
    with HostileServer(echo) as server, pytest.raises(KeyError):
        client(server).ask([say(str(i)) for i in range(9)], lambda answer: {}["missing"])


# ---------------------------------------------------------------- log-probabilities

def with_logprobs(text):
    rows = [{"token": t, "logprob": -0.5, "top_logprobs": [{"token": "5", "logprob": -0.1}, {"token": t, "logprob": -0.5}, {"token": "5", "logprob": -3.0}]} for t in text]
    return choice(text, logprobs={"content": rows})


def test_logprobs(client):
    with HostileServer(lambda r: with_logprobs("42")) as server:
        c = client(server)
        expected = (("4", {"4": -0.5, "5": -0.1}), ("2", {"2": -0.5, "5": -0.1}))
        assert c.ask([say("a")], lambda a: a, logprobs=True) == [Answer("42", expected)] == c.ask([say("a")], lambda a: a, logprobs=True)
        assert server.log[0]["body"]["logprobs"] is True and server.log[0]["body"]["top_logprobs"] == 20 and len(server.log) == 1
        c.ask([say("a")], text_of)               # without is another request
        assert len(server.log) == 2 and "logprobs" not in server.log[1]["body"]


@pytest.mark.parametrize("value", [None, {}, [], "x", {"content": None}, {"content": []}, {"content": [{"token": "a"}]}, {"content": [{"token": "a", "logprob": None}]},
                                   {"content": ["a"]}, {"content": [{"token": "a", "logprob": math.nan}]}, {"content": [{"token": "a", "logprob": 3.0}]},
                                   {"content": [{"token": 5, "logprob": -1.0}]}, {"token_logprobs": [-1.0]}])
def test_no_or_strange_logprobs_are_none(value, client):
    with HostileServer(lambda r: choice("ok", logprobs=value)) as server:
        assert client(server).ask([say("a")], lambda a: a, logprobs=True) == [Answer("ok", None)]


def test_minus_infinity_survives_the_cache(client):
    with HostileServer(lambda r: choice("a", logprobs={"content": [{"token": "a", "logprob": 0.0, "top_logprobs": [{"token": "b", "logprob": -math.inf}]}]})) as server:
        c = client(server)
        for _ in range(2):
            assert c.ask([say("a")], lambda a: a.logprobs, logprobs=True) == [(("a", {"a": 0.0, "b": -math.inf}),)]


@pytest.mark.parametrize("status", [400, 422])
def test_falls_back_once_where_logprobs_are_refused(status, client):
    with HostileServer(echo, script=[(status, {}, b"unknown field: top_logprobs")]) as server:
        c = client(server, api_concurrency=1)
        assert c.ask([say("a"), say("b")], lambda a: a, logprobs=True) == [Answer("a"), Answer("b")]
        assert ["logprobs" in entry["body"] for entry in server.log] == [True, False, False]
        assert all("logprobs" not in request for request, _ in stored(c.cfg.api_cache))              # the key is that of the request answered
    with HostileServer(echo, script=[(status, {}, b"top_logprobs?")] * 2) as server, pytest.raises(ApiError, match=f"HTTP {status}"):
        client(server).ask([say("c")], lambda a: a, logprobs=True)                                   # refused for another reason: final


# ---------------------------------------------------------------- the cache

def test_every_part_of_a_request_makes_its_key(client, tmp_path):
    with HostileServer(echo) as server:
        def ask(text="a", model="test-model", base="/v1", **how):
            c = Client(model, ApiConfig(server.url.removesuffix("/v1") + base, api_cache=str(tmp_path / "cache.sqlite")))
            c.ask([say(text)], text_of, **how)
            c.close()
        variants = [{}, {"text": "b"}, {"model": "other"}, {"base": "/v2"}, {"max_tokens": 5}, {"temperature": 1.0}, {"seed": 0}, {"seed": 1}, {"logprobs": True}]
        for how in [*variants, *variants]:
            ask(**how)
        assert len(server.log) == len(variants) == len(stored(tmp_path / "cache.sqlite"))


def test_the_key_is_nowhere_on_disk(client, tmp_path):
    with HostileServer(echo) as server:
        client(server).ask([say("words of a customer")], text_of)
    kept = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert b"words of a customer" in kept and KEY.encode() not in kept and base64.b64encode(KEY.encode()) not in kept


WRITER = """
import sys
sys.path.insert(0, {here!r})
from infra.client import ApiConfig, Client
client = Client("m", ApiConfig({url!r}, api_cache={cache!r}, api_concurrency=2))
first, last, step = int(sys.argv[1]), int(sys.argv[2]), 10
for i in range(first, last, step):
    got = client.ask([[{{"role": "user", "content": f"prompt {{j}}"}}] for j in range(i, i + step)], lambda a: a.text)
    assert got == [f"prompt {{j}}" for j in range(i, i + step)], got
    print(i + step, flush=True)
client.close()
"""


def start(script, *args):
    return subprocess.Popen([sys.executable, "-c", script, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_several_processes_and_kill_9(tmp_path):
    """Three write to one new file at once; one of them is killed on the way and started again.  No answer that was reported is lost."""
    cache = str(tmp_path / "cache.sqlite")
    with HostileServer(echo) as server:
        script = WRITER.format(here=str(HERE), url=server.url, cache=cache)
        processes = [start(script, 0, 100), start(script, 50, 150), start(script, 200, 100000)]       # the first two share 50..99
        done = [int(processes[2].stdout.readline()) for _ in range(5)][-1]
        processes[2].send_signal(signal.SIGKILL)
        processes[2].communicate()
        for p in processes[:2]:
            assert p.communicate(timeout=60)[1] == "" and p.returncode == 0
        with sqlite3.connect(cache) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        kept = {r["messages"][0]["content"]: a["text"] for r, a in stored(cache)}
        assert all(k == v for k, v in kept.items()) and {f"prompt {i}" for i in [*range(150), *range(200, done)]} <= set(kept)
        before = len(server.log)
        again = start(script, 200, done)
        assert again.communicate(timeout=60)[1] == "" and len(server.log) == before                   # nothing is sent twice


@pytest.mark.parametrize("content", [b"my shopping list, which is longer than a header of sqlite: " * 40, b"SQLite format 3\0" + b"\xff" * 5000, "tables", "folder", "missing"])
def test_a_damaged_or_foreign_cache_is_named(content, client, tmp_path):
    path = tmp_path / "cache.sqlite"
    if content == "tables":
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE photos (id INTEGER)")
    elif content == "folder":
        path.mkdir()
    elif content == "missing":
        path = tmp_path / "nowhere" / "cache.sqlite"
    else:
        path.write_bytes(content)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(DataError, match=rf"--api_cache {re.escape(str(path))}: .*(delete it|name another file)"):
        client("http://127.0.0.1:1/v1", api_cache=str(path))
    assert before is None or path.read_bytes() == before                 # somebody's file is left as it was


def test_a_cache_damaged_on_the_way_is_named(client, tmp_path):
    with HostileServer(echo) as server:
        c = client(server)
        c.ask([say("a")], text_of)
        with sqlite3.connect(tmp_path / "cache.sqlite") as db:
            db.execute("UPDATE answers SET answer = '{\"text\": '")
        with pytest.raises(DataError, match="damaged.*delete it"):
            c.ask([say("a")], text_of)


# ---------------------------------------------------------------- stopping

def test_budget(client):
    prompts = [say(str(i)) for i in range(8)]
    with HostileServer(echo, script=["500", None, "garbage"]) as server:
        c = client(server, max_requests=5, api_concurrency=2)
        with pytest.raises(BudgetSpent, match=r"--max_requests 5 reached.*cache\.sqlite and is not sent again"):
            c.ask(prompts, text_of)
        assert c.stats["sent"] == len(server.log) == 5 and len(stored(c.cfg.api_cache)) == 3        # failures count; what came is kept
        second = client(server, max_requests=5)
        assert second.ask(prompts, text_of) == [str(i) for i in range(8)] and second.stats["sent"] == 5 and second.stats["cached"] == 3


def test_one_budget_for_all_clients_of_a_config(client, tmp_path):
    with HostileServer(echo) as server:
        judge = client(server, max_requests=3)
        agent = Client("another-model", judge.cfg)
        assert judge.ask([say("a"), say("b")], text_of) == ["a", "b"] and agent.ask([say("c")], text_of) == ["c"]
        with pytest.raises(BudgetSpent):
            agent.ask([say("d")], text_of)
        assert len(server.log) == 3 and agent.ask([say("c")], text_of) == ["c"]                      # the cache costs nothing
        agent.close()


def test_budget_waits_for_what_is_under_way(client):
    gate = threading.Event()

    def answer(request):
        if request["messages"][0]["content"] == "slow":
            assert gate.wait(20)
        return "ok"
    with HostileServer(answer) as server:
        c = client(server, max_requests=2, api_concurrency=2, api_timeout=30.0)
        threading.Timer(0.3, gate.set).start()   # long after "c" found the budget spent
        with pytest.raises(BudgetSpent):
            c.ask([say("slow"), say("b"), say("c"), say("d")], text_of)
        assert sorted(r["messages"][0]["content"] for r, _ in stored(c.cfg.api_cache)) == ["b", "slow"]


def test_a_final_error_keeps_the_answer_under_way_and_sends_no_more(client):
    def answer(request):
        while len(server.log) < 2:               # the second request is the refused one ..
            time.sleep(0.01)
        time.sleep(0.3)                          # .. and this answer comes after that refusal
        return "ok"
    with HostileServer(answer, script=[None, (401, {}, b"no")]) as server:
        c = client(server, api_concurrency=2)
        with pytest.raises(ApiError, match="401"):
            c.ask([say(str(i)) for i in range(50)], text_of)
        assert len(server.log) == 2 and len(stored(c.cfg.api_cache)) == 1


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)        # a shell that starts tests in the background lets its children ignore it
sys.path.insert(0, {here!r})
from infra import client as llm
llm.GRACE = {grace}
client = llm.Client("m", llm.ApiConfig({url!r}, api_cache={cache!r}, api_concurrency=2, api_timeout=600))
client.ask([[{{"role": "user", "content": str(i)}}] for i in range(10)], lambda a: a.text)
"""


@pytest.mark.parametrize("answered", [True, False])
def test_ctrl_c(answered, tmp_path):
    """Two of ten are under way: if their answers come they are kept, if not the process ends all the same; the other eight are never sent."""
    gate, cache = threading.Event(), str(tmp_path / "cache.sqlite")
    with HostileServer(lambda r: gate.wait(30) and "ok") as server:
        process = start(INTERRUPTED.format(here=str(HERE), url=server.url, cache=cache, grace=30 if answered else 0.2))
        while len(server.log) < 2:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        seen = ""
        while "answers under way" not in seen:   # it has taken notice
            seen += process.stderr.readline()
            assert "answers under way" in seen or process.poll() is None, seen
        if answered:
            gate.set()
        errors = process.communicate(timeout=20)[1]
        gate.set()
        assert "KeyboardInterrupt" in errors and process.returncode != 0
        assert len(server.log) == 2 and len(stored(cache)) == (2 if answered else 0)


# ---------------------------------------------------------------- parse_json

FORM = {"quality": int, "reason": str}


@pytest.mark.parametrize("text", ['{"quality": 4, "reason": "fine"}', ' \n{"reason": "fine", "quality": 4}\n', '```json\n{"quality": 4, "reason": "fine"}\n```',
                                  '```\n{"quality": 4, "reason": "fine"}\n```', '<think>{"quality": 9}, no</think>\n{"quality": 4, "reason": "fine"}',
                                  '<think></think>```json\n{"quality": 4, "reason": "fine"}\n```'])
def test_parse_json_takes(text):
    assert parse_json(text, FORM) == {"quality": 4, "reason": "fine"} and list(parse_json(text, FORM)) == list(FORM)


@pytest.mark.parametrize(("text", "why"), [
    ("", "not one JSON"), ("fine", "not one JSON"), ('{"quality": 4}', "'reason' is missing"), ('{"quality": 4, "reason": "", "extra": 1}', "'extra' was not asked"),
    ('{"quality": 4, "quality": 5, "reason": ""}', "'quality' stands there twice"), ('{"quality": NaN, "reason": ""}', "NaN"), ('{"quality": 1e999, "reason": ""}', "1e999"),
    ('{"quality": -Infinity, "reason": ""}', "-Infinity"), ('[{"quality": 4, "reason": ""}]', "no object"), ('{"quality": "x", "reason": ""}', "'quality': invalid"),
    ('{"quality": null, "reason": ""}', "'quality': int"), ('Sure! {"quality": 4, "reason": ""}', "not one JSON"), ('{"quality": 4, "reason": ""} {"quality": 5, "reason": ""}', "not one JSON"),
    ('<think>x</think>{"quality": 1, "reason": ""}</think>{"quality": 5, "reason": ""}', "not one JSON"), ("[" * 100000, "nested|not one JSON"),
    ('<think>{"quality": 4, "reason": ""}', "not one JSON"), ('{"quality": 4, "reason": ""', "not one JSON"), ('{"quality": ' + "9" * 5000 + ', "reason": ""}', "digits")])
def test_parse_json_refuses(text, why):
    with pytest.raises(ValueError, match=why):
        parse_json(text, FORM)


names = st.text(max_size=5)
values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8)


@given(st.dictionaries(names, values, max_size=4))
def test_parse_json_equals_json(record):
    fields = {name: lambda v: v for name in record}
    assert parse_json(json.dumps(record), fields) == record
    assert parse_json(f"<think>hm</think>\n```json\n{json.dumps(record, indent=1)}\n```", fields) == record


@given(st.text(max_size=60) | st.text('{}[]",:01eEn<think>/` \n\\', max_size=40))
def test_parse_json_never_breaks(text):
    try:
        assert parse_json(text, {"a": int}).keys() == {"a"}
    except ValueError:
        pass


# ---------------------------------------------------------------- the hostile server itself

def test_hostile_server_is_seeded_and_its_answers_depend_on_the_request(tmp_path):
    one, two = (HostileServer(echo, failure_rate=0.3, seed=5) for _ in range(2))
    fates = [one.fate(n) for n in range(2000)]
    assert fates == [two.fate(n) for n in range(2000)] and 0.26 < sum(f is not None for f in fates) / 2000 < 0.34 and set(fates) == {*WAYS, None}
    for server in (one, two):
        server._server.server_close()
    judge = chosen({"marks": [1, 2, 3, 4, 5], "why": "simulated"}, {"other": [0]})
    marks = {judge({"messages": say(f"marks and why {i}")})["marks"] for i in range(100)}
    assert marks == {1, 2, 3, 4, 5} and judge({"messages": say("other")}) == {"other": 0}
    (tmp_path / "form.json").write_text('{"marks": [3]}')
    assert answerer(str(tmp_path / "form.json"))({"messages": say("a")}) == {"marks": 3} and answerer("fixed:hi")({}) == "hi"
    with pytest.raises(SystemExit, match="--answer"):
        answerer("judge")


def test_hostile_server_as_a_script(client):
    process = subprocess.Popen([sys.executable, "-m", "tests.hostile_server", "--failure_rate", "0.3", "--answer", "echo", "--ways", "429", "half"],
                               stdout=subprocess.PIPE, text=True)
    try:
        assert client(process.stdout.readline().strip()).ask([say(str(i)) for i in range(20)], text_of) == [str(i) for i in range(20)]
    finally:
        process.kill()
        process.communicate()


def test_demo():
    out = subprocess.run([sys.executable, "-m", "infra.client"], cwd=HERE, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "-> 429" in out and out.count("'politeness': 4") == 2 and "2 requests sent, 1 of them retries; 1 answers from" in out


# ---------------------------------------------------------------- a real server: transformers serve

SERVING = [name for name in ("fastapi", "uvicorn", "openai", "pydantic") if importlib.util.find_spec(name) is None]
TALKS = [("Where is my lamp?", "It arrives on Monday."), ("Is it red?", "No, the lamp is blue.")]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(address, folder): `transformers serve` of a tiny model that was taught two answers, from a folder, offline."""
    import torch

    from lm.models import build_tiny
    folder, torch_threads = tmp_path_factory.mktemp("model"), torch.get_num_threads()
    torch.set_num_threads(1)
    model, tokenizer = build_tiny([f"{q} {a}" for q, a in TALKS], [], seed=0, width=64, layers=1, vocabulary=320)
    rows = [tokenizer.apply_chat_template([*say(q), {"role": "assistant", "content": a}], return_tensors="pt", return_dict=True)["input_ids"] for q, a in TALKS]
    optimiser = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(40):
        loss = sum(model(input_ids=row, labels=row).loss for row in rows)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.set_num_threads(torch_threads)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    log = (folder / "serve.log").open("w")
    process = subprocess.Popen([str(Path(sys.executable).parent / "transformers"), "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
                               stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"})
    try:
        for _ in range(600):                     # it imports torch and transformers: seconds to a minute
            assert process.poll() is None, (folder / "serve.log").read_text()[-2000:]
            try:
                assert requests.get(f"http://127.0.0.1:{port}/health", timeout=5).json() == {"status": "ok"}
                break
            except requests.ConnectionError:
                time.sleep(0.2)
        else:
            pytest.fail(f"not ready after two minutes: {(folder / 'serve.log').read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}/v1", folder
    finally:
        process.terminate()
        process.wait(20)
        log.close()


@pytest.mark.skipif(bool(SERVING), reason=f"`transformers serve` needs {', '.join(SERVING)}: pip install -r requirements.txt")
def test_transformers_serve(served, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    url, folder = served
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    greedy = []
    for question, _ in TALKS:
        ids = tokenizer.apply_chat_template(say(question), add_generation_prompt=True, return_tensors="pt", return_dict=True)
        out = model.generate(**ids, do_sample=False, max_new_tokens=64)
        greedy.append(tokenizer.decode(out[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))
    assert greedy == [a for _, a in TALKS]       # the oracle has learnt its two answers
    cfg = ApiConfig(url, api_cache=str(tmp_path / "cache.sqlite"), api_concurrency=2)
    first, again, other = Client(str(folder), cfg), Client(str(folder), cfg), Client("no-such-model", cfg)
    assert first.ask([say(q) for q, _ in TALKS], text_of, max_tokens=64, logprobs=True) == greedy and first.stats["sent"] == 2
    assert again.ask([say(q) for q, _ in TALKS], text_of, max_tokens=64, logprobs=True) == greedy and again.stats == {"asked": 2, "cached": 2}
    assert again.ask([say(TALKS[0][0])], text_of, max_tokens=3, attempts=1) == [None] and again.stats["bad_answers"] == 1       # cut off for its length
    with pytest.raises(ApiError, match="HTTP 400.*pinned"):
        other.ask([say("hello")], text_of)
    for c in (first, again, other):
        c.close()
