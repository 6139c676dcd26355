"""serve.py: a trained pair behind HTTP answers as `respond` does, and keeps its limits."""
import asyncio
import json
import socket
import threading

import pytest

import serve
from data import Dataset
from gopo import load
from shop.mgshop import Shop
from tests.conftest import small_shops
from tests.load import Load, quantile
from tests.serving import MISSING, needs_packages, said, served, session

if MISSING:
    pytest.skip(needs_packages.kwargs["reason"], allow_module_level=True)

from serving import app as app_module
from serving import server as server_module
from serving.app import Limits
from serving.customers import look
from serving.line import Line
from serving.pair import load_pair
from serving.wire import Answered, Chat, Refused

KEY = "a-key-of-twenty-letters"


@pytest.fixture(scope="module")
def pairs(lm_run, strategy_run):
    """Run -> pair: with the language model, and with the phrase book."""
    with small_shops():
        return {run: load_pair(run) for run in (lm_run, strategy_run)}


@pytest.fixture(scope="module")
def pair(pairs, lm_run):
    return pairs[lm_run]


@pytest.fixture(scope="module")
def url(pair):
    with served(pair) as address:
        yield address


@pytest.fixture(scope="module")
def http():
    with session() as client:
        yield client


def ask(http, url, value, **how):
    return http.post(f"{url}/v1/chat/completions", json=value, timeout=60, **how)


def reply_of(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]


def error_of(answer):
    line = answer.json()["error"]["message"]
    assert line
    assert "\n" not in line
    return line


# --- the server is `respond` --------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["lm_run", "strategy_run"])
@pytest.mark.parametrize("customer", [0, 3])
def test_the_server_answers_as_respond_does(pairs, http, request, kind, customer):
    """A whole dialogue, for which the client sends bare messages: no context and no skills."""
    run = request.getfixturevalue(kind)
    with small_shops():
        trained = load(run)
    shop = Shop(0, "test", customer)
    seen = shop.reset()
    history, previous = [], ()
    with served(pairs[run]) as url:
        while not (seen.terminated or seen.truncated):
            history.append(seen.user)
            roles = ("user", "assistant") * len(history)
            messages = [{"role": r, "content": text} for r, text in zip(roles, history)]
            got = reply_of(ask(http, url, {"messages": messages}))
            strategy = got["gopo"]
            assert strategy["context"] == seen.context
            assert strategy["previous"]["skills"] == list(previous)
            previous, reply = trained.respond(history, seen.context, previous)
            assert (strategy["skills"], got["content"]) == (list(previous), reply)
            assert strategy["violations"] == []
            history.append(reply)
            seen = shop.step(reply)
    assert len(history) > 4


def test_requests_answered_together_are_answered_as_alone(pair):
    texts = ["Hi", "I want a quiet kettle for at most 40 euros.", "Where is my order 3447?", ""]
    chats = [Chat((text,)) for text in texts]
    chats.append(Chat(("Hi", "Hello.", "A kettle, please."), (None,), (None, None)))
    together = pair.answer(chats)
    assert together == [pair.answer([chat])[0] for chat in chats]
    assert all(isinstance(answered, Answered) for answered in together)


def test_one_request_that_fails_does_not_harm_the_others(pair):
    bad = Chat(("Hi", "Hello.", "Price?"), (("no such skill",),), (None, None))
    first, error, last = pair.answer([Chat(("Hi",)), bad, Chat(("Bye",))])
    assert isinstance(error, ValueError)
    assert first == pair.answer([Chat(("Hi",))])[0]
    assert last == pair.answer([Chat(("Bye",))])[0]


# --- what the client sends back -----------------------------------------------------------------

TURNS = ("I want a kettle.", "Which one?", "A quiet one.", "This one.", "What does it cost?")


def test_returned_skills_count_and_later_ones_are_chosen_again(pair, monkeypatch):
    seen = []
    act = pair.gopo.expert.act

    def look_at(states, *args, **kwargs):
        seen.extend(states)
        return act(states, *args, **kwargs)

    monkeypatch.setattr(pair.gopo.expert, "act", look_at)
    none, both = (None, None), (("close",), ("greet", "close"))
    assert pair.previous(Chat(TURNS, both, (None,) * 3)) == (("greet", "close"), "returned")
    assert seen == []
    skills, source = pair.previous(Chat(TURNS, (("close",), None), (None,) * 3))
    assert source == "chosen again"
    assert [(state.user, state.previous) for state in seen] == [(TURNS[2], ("close",))]
    assert skills == act(seen, greedy=True)[0]
    pair.previous(Chat(TURNS, none, (None,) * 3))
    assert [state.user for state in seen[1:]] == [TURNS[0], TURNS[2]]
    assert seen[2].previous == act([seen[1]], greedy=True)[0]
    assert pair.previous(Chat(("Hi",)))[0] == ()


def test_context_is_given_or_found(pair, http, url):
    given = {"order_1": "4711", "refund_1": "39 euros", "fit_1": "yes"}
    value = said("Where is my money?", context=given)
    assert reply_of(ask(http, url, value))["gopo"]["context"] == given
    tool = {"role": "tool", "tool_call_id": "x", "content": json.dumps(given)}
    value["messages"].append(tool)
    del value["context"]
    assert reply_of(ask(http, url, value))["gopo"]["context"] == given
    assert reply_of(ask(http, url, said("A kettle?")))["gopo"]["context"]["product_1"]
    # of a turn that nobody gave facts for, in a dataset without a catalogue: those known now
    chat = Chat(TURNS, (None, None), ({"a": "1"}, None, {"b": "2"}))
    bare = type(pair)(pair.gopo, "bare")
    found, pair.gopo.dataset.context = pair.gopo.dataset.context, None
    contexts = [bare.context(chat, turn) for turn in range(3)]
    pair.gopo.dataset.context = found
    assert contexts == [{"a": "1"}, {"b": "2"}, {"b": "2"}]


# --- the wire -----------------------------------------------------------------------------------

def test_a_stream_carries_the_same_reply(http, url):
    value = said("I want a quiet kettle.")
    whole = reply_of(ask(http, url, value))
    more = {"stream": True, "stream_options": {"include_usage": True}}
    answer = ask(http, url, value | more)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [event.removeprefix("data: ") for event in answer.text.split("\n\n")[:-1]]
    assert events.pop() == "[DONE]"
    *parts, usage = map(json.loads, events)
    deltas = [part["choices"][0]["delta"] for part in parts]
    assert "".join(delta.get("content", "") for delta in deltas) == whole["content"]
    assert deltas[-1]["gopo"] == whole["gopo"]
    assert usage["usage"]["completion_tokens"] > 0


def test_the_official_client_sends_the_strategy_back_by_itself(pair, url, monkeypatch):
    """What docs/serving.md shows: the reply is appended as it came."""
    openai = pytest.importorskip("openai", reason="openai is not installed: pip install openai")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        model = client.models.list().data[0].id
        messages = [{"role": "user", "content": "Is there a kettle in stock?"}]
        first = client.chat.completions.create(model=model, messages=messages).choices[0].message
        messages += [first, {"role": "user", "content": "And what does it cost?"}]
        reply = client.chat.completions.create(model=model, messages=messages).choices[0].message
        pieces = list(client.chat.completions.create(model=model, messages=messages, stream=True))
    assert reply.gopo["previous"] == {"skills": first.gopo["skills"], "source": "returned"}
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == reply.content
    assert pieces[-1].choices[0].delta.gopo["skills"] == reply.gopo["skills"]


def test_models_and_health(pair, http, url):
    listed = http.get(f"{url}/v1/models", timeout=60).json()["data"]
    assert [model["id"] for model in listed] == [pair.name]
    assert listed[0]["gopo"]["simulated"]
    assert http.get(f"{url}/v1/models/{pair.name}", timeout=60).json() == listed[0]
    assert http.get(f"{url}/v1/models/other", timeout=60).status_code == 404
    assert http.get(f"{url}/health", timeout=60).json() == {"status": "ok"}


def test_bad_bodies_get_a_line(http, url):
    path = f"{url}/v1/chat/completions"
    kind = {"Content-Type": "application/json"}
    assert "no JSON" in error_of(http.post(path, data="{", headers=kind, timeout=60))
    assert http.post(path, data="{}", headers=kind, timeout=60).status_code == 400
    typed = http.post(path, data="{}", headers={"Content-Type": "text/plain"}, timeout=60)
    assert (typed.status_code, error_of(typed)) == (
        415, "send the header 'Content-Type: application/json'")
    wrong = ask(http, url, said("Hi", model="gpt"))
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (404, "invalid_request_error")
    for answer, status in (
        (http.get(path, timeout=60), 405), (http.get(f"{url}/nothing", timeout=60), 404),
        (http.get(f"{url}/docs", timeout=60), 404),
    ):
        assert answer.status_code == status
        error_of(answer)


def test_a_long_body_is_refused(http, url, monkeypatch):
    monkeypatch.setattr(app_module, "MAX_BODY", 1000)
    long = said("x" * 1000)
    announced = ask(http, url, long)
    assert (announced.status_code, error_of(announced)) == (
        413, "the body is longer than 1000 bytes")
    # without a length, piece by piece
    pieces = iter([json.dumps(long).encode()])
    kind = {"Content-Type": "application/json"}
    dripped = http.post(f"{url}/v1/chat/completions", data=pieces, headers=kind, timeout=60)
    assert dripped.status_code == 413


def test_an_error_of_ours_is_one_line_too(pair, http, url, monkeypatch):
    def break_down(begun):
        raise KeyError("secret")

    monkeypatch.setattr(pair.trained, "take", break_down, raising=False)
    answer = ask(http, url, said("Hi"))
    assert answer.status_code == 500
    assert error_of(answer) == "the pair failed (KeyError); the server's log says why"


# --- who may ask --------------------------------------------------------------------------------

def test_without_a_key_only_this_machine_is_answered(http, url):
    """A page of another site that makes its name point here sends its own name as Host."""
    elsewhere = {"Host": "evil.example"}
    assert ask(http, url, said("Hi"), headers=elsewhere).status_code == 403
    assert http.get(f"{url}/v1/models", headers=elsewhere, timeout=60).status_code == 403
    port = url.rpartition(":")[2]
    named = {"Host": f"localhost:{port}"}
    assert http.get(f"{url}/v1/models", headers=named, timeout=60).status_code == 200


def test_with_a_key_every_request_must_show_it(pair, http):
    with served(pair, key=KEY) as url:
        assert http.get(f"{url}/", timeout=60).status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY},
                        {"Authorization": "Bearer ü".encode("latin-1")}):
            answer = ask(http, url, said("Hi"), headers=headers)
            assert answer.status_code == 401
            assert KEY not in error_of(answer)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert http.get(f"{url}/v1/models", headers=headers, timeout=60).status_code == 401
        shown = {"Authorization": f"Bearer {KEY}", "Host": "shop.example"}
        assert ask(http, url, said("Hi"), headers=shown).status_code == 200


@pytest.mark.parametrize("key", ["", "short", "with a blank in its middle", "nürnberger-lebkuchen"])
def test_weak_keys_are_refused(key):
    with pytest.raises(ValueError, match="GOPO_SERVE_KEY must be at least 16 printable ASCII"):
        serve.key_for("0.0.0.0", key, alone=False)


def test_beyond_this_machine_a_key_is_needed(capsys, monkeypatch):
    monkeypatch.delenv(serve.KEY, raising=False)
    assert serve.key_for("127.0.0.1", None, alone=True) is None
    assert serve.key_for("127.0.0.1", KEY, alone=True) == KEY
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        assert not server_module.is_this_machine(host)
        assert serve.main(["--run", "runs/none", "--host", host]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"serve.py: --host {host} can be reached from other machines")
        assert line.count("\n") == 1


# --- limits -------------------------------------------------------------------------------------

def test_the_line_is_bounded_and_patience_ends():
    """Two may wait; who waits too long is told so, and is not answered any more."""
    asked, go_on = [], threading.Event()

    def answer(batch):
        asked.append(batch)
        assert go_on.wait(60)
        return [text.upper() for text in batch]

    async def play():
        line = Line(answer, waiting=2, at_once=2)
        worker = asyncio.create_task(line.work())
        first = asyncio.create_task(line.ask("a", 60))
        while not asked:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(line.ask("b", 60))
        with pytest.raises(Refused, match="no answer within 0.01 seconds") as late:
            await line.ask("c", 0.01)
        with pytest.raises(Refused, match="too many requests") as refused:
            await line.ask("d", 60)
        go_on.set()
        assert (late.value.status, refused.value.status) == (504, 503)
        assert await asyncio.gather(first, second) == ["A", "B"]
        worker.cancel()

    asyncio.run(play())
    assert asked == [["a"], ["b"]]


def test_a_full_line_tells_when_to_come_again(pair, http, monkeypatch):
    entered, go_on = threading.Event(), threading.Event()

    def slow(chats):
        entered.set()
        assert go_on.wait(60)
        return [Answered("done", {}) for _ in chats]

    monkeypatch.setattr(pair, "answer", slow, raising=False)
    with served(pair, limits=Limits(seconds=0.2, waiting=1, at_once=1)) as url:
        found = []

        def first():
            with session() as other:
                found.append(ask(other, url, said("a")).status_code)

        thread = threading.Thread(target=first)
        thread.start()
        assert entered.wait(60)
        waiting = threading.Thread(target=first)
        waiting.start()
        thread.join()
        waiting.join()
        # the one that waits has given up, but still stands in the line
        answer = ask(http, url, said("b"))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        go_on.set()
    assert found == [504, 504]


def test_a_connection_that_asks_nothing_is_closed(pair, monkeypatch):
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(app_module, "BODY_SECONDS", 0.05)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    json_of = b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    with served(pair) as url:
        place = ("127.0.0.1", int(url.rpartition(":")[2]))
        for sent in (b"", head):
            with socket.create_connection(place, 60) as half:
                half.sendall(sent)
                assert half.recv(1000) == b""
        with socket.create_connection(place, 60) as half:
            half.sendall(head + json_of)
            assert half.recv(1000).startswith(b"HTTP/1.1 408")


def test_load_is_borne(pair):
    """The short form of `python -m tests.load`; the long one has 64 clients and 1,000 requests."""
    with served(pair, limits=Limits(waiting=8, at_once=4)) as url:
        report = Load(url, clients=8, requests=24).run()
    assert report.lost == []
    assert len(report.seconds) == 24
    assert "24 answered, 0 lost" in str(report)
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.95) == 4.0


# --- a simulated customer to watch --------------------------------------------------------------

def test_a_customer_is_the_shops_own(pair, http, url):
    shop = Shop(0, "test", 3)
    seen = shop.reset()
    replies = ["Please accept our apologies for this. I found your order 3447.", "Hm."]
    for given in range(3):
        value = {"customer": 3, "replies": replies[:given]}
        got = http.post(f"{url}/v1/customers", json=value, timeout=60).json()
        assert got["message"] == seen.user
        assert got["teacher"] == list(seen.labels.teacher)
        assert got["truth"] == {"intent": seen.labels.intent, "emotion": seen.labels.emotion}
        assert (got["mood"], got["over"]) == (seen.outcome.mood, False)
        assert got["completed"] == list(seen.outcome.completed)
        if given < 2:
            seen = shop.step(replies[given])
    over = http.post(f"{url}/v1/customers", json={"customer": 3, "replies": ["Hm."] * 13},
                     timeout=60)
    assert over.status_code == 400
    assert "the dialogue was over after" in error_of(over)


@pytest.mark.parametrize("value", [
    {}, {"customer": -1}, {"customer": True}, {"customer": 1e3}, {"customer": 10_000},
    {"customer": 1, "replies": "Hi"}, {"customer": 1, "replies": [1]}])
def test_a_bad_customer_is_refused(pair, value):
    with pytest.raises(Refused, match=r"customer: must be a number|replies: must be a list"):
        look(value, pair.dataset, 0.9)


def test_logs_have_no_customers():
    logs = Dataset("logs", {}, (), (), [], [], [])
    with pytest.raises(Refused, match="logs has no simulated customers") as refused:
        look({"customer": 1}, logs, 0.9)
    assert refused.value.status == 404


# --- the command --------------------------------------------------------------------------------

def test_the_command_refuses_in_one_line(capsys, strategy_run, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert serve.main(["--run", str(strategy_run), "--port", port]) == 2
    said_so = capsys.readouterr().err
    assert f"--port {port} of 127.0.0.1 cannot be had" in said_so
    assert serve.main(["--run", "runs/none", "--port", "0"]) == 2
    assert "is runs/none a run directory of train.py?" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "fastapi", None)
    assert serve.main(["--run", str(strategy_run)]) == 2
    assert capsys.readouterr().err == (
        "serve.py: serving needs the package fastapi: pip install fastapi uvicorn\n")


@pytest.mark.parametrize("flags, message", [
    ([], "name a run directory"),
    (["--run", "x", "--port", "70000"], "--port must lie in"),
    (["--run", "x", "--waiting", "0"], "--waiting must be at least 1"),
    (["--run", "x", "--timeout", "0"], "--timeout must be positive"),
    (["--rum", "x"], "did you mean --run?"),
])
def test_bad_flags_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        serve.main(flags)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
