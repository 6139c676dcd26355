"""Tests of infra/client.py against servers that fail: what is sent again, and what is final."""
import collections
import json
import socket
import threading
import time

import pytest

from data import DataError
from infra import client as client_module
from infra import transport
from infra.client import ApiConfig, ApiError, BudgetSpent, Client
from tests.asking import KEY, choice, said, say, stored, text_of
from tests.hostile_server import WAYS, HostileServer, echo

pytestmark = pytest.mark.usefixtures("quick")


# --- failures that pass -------------------------------------------------------------------------

@pytest.mark.parametrize("way", [*WAYS, "slow head"])
def test_recovers_from(way, make_client):
    timeout = 0.3 if "slow" in way else 5.0
    # 0.02 s a byte, 80 bytes and more: over a second
    with HostileServer(echo, script=[way, way], drip=0.02) as server:
        client = make_client(server, api_timeout=timeout)
        assert client.ask([say("hello")], text_of) == ["hello"]
        assert server.did() == [way, way, "ok"]
        assert client.stats["sent"] == 3
        assert client.stats["retried"] == 2


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_statuses_that_pass(status, make_client):
    with HostileServer(echo, script=[(status, {}, b"busy")]) as server:
        assert make_client(server).ask([say("hello")], text_of) == ["hello"]


@pytest.mark.parametrize("body", [
    b"",
    b"[]",
    b"null",
    b"{}",
    b'{"choices": []}',
    b'{"choices": [{}]}',
    b'{"choices": [{"message": null}]}',
    b'{"choices": "no"}',
    b'{"choices": [{"message": {"content": 7}}]}',
    b'{"error": {"message": "overloaded"}}',
    b"[" * 100000,
])
def test_bodies_that_are_no_completion(body, make_client):
    with HostileServer(echo, script=[(200, {}, body)]) as server:
        client = make_client(server)
        assert client.ask([say("hello")], text_of) == ["hello"]
        assert client.stats["retried"] == 1
    assert len(stored(client.cfg.api_cache)) == 1


def serve_bytes(listener: socket.socket, replies: list[bytes]) -> None:
    """One reply for each connection, byte for byte: no HTTP library in between."""
    for reply in replies:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(reply)


OK = b"HTTP/1.1 200 OK\r\n"


def test_answers_against_http(make_client):
    good = json.dumps(choice("ok")).encode()
    replies = [
        # a chunk that is cut off
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{\"cho",
        # a connection that is closed at once
        b"",
        # a length that is no number
        OK + b"Content-Length: many\r\n\r\n{}",
        b"nonsense\r\n\r\n",
        # an endless header
        OK + b"X: " + b"x" * 70000 + b"\r\n\r\n",
        # a body that is not compressed as announced
        OK + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        OK + b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(good), good),
    ]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve_bytes, args=(listener, replies), daemon=True).start()
        client = make_client(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        assert client.ask([say("hello")], text_of) == ["ok"]
        assert client.stats["sent"] == len(replies)


def test_answer_without_an_end(make_client, monkeypatch):
    monkeypatch.setattr(transport, "LARGEST_BODY", 1000)
    long = json.dumps(choice("x" * 2000)).encode()
    with HostileServer(echo, script=[(200, {}, long)]) as server:
        assert make_client(server).ask([say("hello")], text_of) == ["hello"]


def test_unanswered_is_none_and_counted_and_never_stored(make_client):
    with HostileServer(echo, script=[None]) as server:
        client = make_client(server, api_retries=2)
        assert client.ask([say("good")], text_of) == ["good"]
        server.failure_rate = 1.0
        server.ways = ("500",)
        assert client.ask([say("bad"), say("good")], text_of) == [None, "good"]
        assert client.stats == {"asked": 3, "sent": 4, "retried": 2, "unanswered": 1, "cached": 1}
        report = client.report()
        assert "1 (33.3%) none" in report
        assert "HTTP 500" in report
        assert "\n" not in report
        assert [said(request) for request, _ in stored(client.cfg.api_cache)] == ["good"]
        # an unanswered prompt is asked anew
        server.failure_rate = 0.0
        assert client.ask([say("bad")], text_of) == ["bad"]


def test_thirty_percent_in_five_ways_then_nothing_is_sent_twice(make_client):
    """All prompts are answered; the same run again needs no server at all."""
    words = [f"prompt {i}" for i in range(60)]
    prompts = [say(w) for w in words]
    with HostileServer(echo, failure_rate=0.3, seed=1, drip=0.02) as server:
        client = make_client(server, api_timeout=0.6, api_retries=9)
        assert client.ask(prompts, text_of) == words
        seen = collections.Counter(server.did())
    assert set(seen) == {*WAYS, "ok"}
    assert seen["ok"] == 60
    assert client.stats["sent"] - 60 == client.stats["retried"] == sum(seen[way] for way in WAYS)
    again = make_client(server, max_requests=0)
    assert again.ask(prompts, text_of) == words
    assert again.stats["sent"] == 0
    assert again.stats["cached"] == 60


def test_retry_after_reaches_the_pause(make_client, monkeypatch):
    paused = []

    def pause(attempt, after, rng):
        paused.append((attempt, after))
        return 0.0

    monkeypatch.setattr(client_module, "pause", pause)
    dated = (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"")
    with HostileServer(echo, script=["429", "500", dated], retry_after="17") as server:
        make_client(server).ask([say("hello")], text_of)
    assert paused == [(0, 17.0), (1, None), (2, 0.0)]


def test_the_pause_is_waited(make_client, monkeypatch):
    monkeypatch.setattr(client_module, "pause", lambda *_: 0.25)
    with HostileServer(echo, script=["500", "500"]) as server:
        start = time.monotonic()
        make_client(server).ask([say("hello")], text_of)
    # a lower bound holds on any machine
    assert time.monotonic() - start >= 0.5


# --- failures that stay -------------------------------------------------------------------------

@pytest.mark.parametrize(("status", "words"), [
    (401, "GOPO_API_KEY is refused"),
    (402, "refuses the request"),
    (403, "may not do this"),
    (404, "no model 'test-model'"),
    (405, "refuses the request"),
])
def test_final_errors(status, words, make_client):
    body = f"{KEY} of no\nuse {'x' * 500}".encode()
    with HostileServer(echo, script=[(status, {}, body)]) as server:
        client = make_client(server, api_concurrency=1)
        with pytest.raises(ApiError) as error:
            client.ask([say("a"), say("b")], text_of)
        assert len(server.log) == 1
    text = str(error.value)
    assert server.url in text
    assert f"HTTP {status}" in text
    assert words in text
    # the server's words in one line, without the key and without an end of letters
    assert "*** of no use xxx" in text
    assert KEY not in text
    assert "\n" not in text
    assert text.count("x") < 200
    assert isinstance(error.value, DataError)
    assert not isinstance(error.value, BudgetSpent)
    assert stored(client.cfg.api_cache) == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status, make_client):
    with HostileServer(echo) as other:
        headers = {"Location": f"{other.url}/chat/completions"}
        with HostileServer(echo, script=[(status, headers, b"")]) as server:
            with pytest.raises(ApiError, match=f"redirects to {other.url}"):
                make_client(server).ask([say("a")], text_of)
        assert other.log == []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_no_server(make_client):
    address = f"http://127.0.0.1:{free_port()}/v1"
    client = make_client(address)
    with pytest.raises(ApiError, match=f"--api_base {address}: no server answers there .*refused"):
        client.ask([say("a")], text_of)
    assert client.stats["sent"] == 1 + client_module.FIRST_RETRIES
    nowhere = "http://" + "a" * 70 + ".invalid/v1"
    with pytest.raises(ApiError, match="--api_base"):
        make_client(nowhere, api_retries=0).ask([say("a")], text_of)


def test_no_address():
    with pytest.raises(ApiError, match="--api_base is missing"):
        Client("m", ApiConfig())


@pytest.mark.parametrize("key", ["two words", "two\nlines", "zwei Schlüssel", "двa"])
def test_no_key(key, make_client, monkeypatch):
    monkeypatch.setenv("GOPO_API_KEY", key)
    with pytest.raises(ApiError, match="GOPO_API_KEY") as error:
        make_client("http://127.0.0.1:1/v1")
    assert key not in str(error.value)


def test_server_gone(make_client):
    """20 prompts in a row without an answer end the run; an answer starts the count anew."""
    with HostileServer(echo, failure_rate=1.0, ways=("500",)) as server:
        client = make_client(server, api_retries=0, api_concurrency=1)
        assert client.ask([say(f"a{i}") for i in range(19)], text_of) == [None] * 19
        server.failure_rate = 0.0
        assert client.ask([say("good")], text_of) == ["good"]
        server.failure_rate = 1.0
        assert client.ask([say(f"b{i}") for i in range(19)], text_of) == [None] * 19
        why = r"server gone: 20 prompts in a row.*HTTP 500.*cache\.sqlite; run again"
        with pytest.raises(ApiError, match=why):
            client.ask([say("c0"), say("c1"), say("c2")], text_of)
        assert client.stats["unanswered"] == 19 + 20
        assert [said(request) for request, _ in stored(client.cfg.api_cache)] == ["good"]
