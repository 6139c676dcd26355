"""Tests of data.py: delexicalise, people's own logs, downloads.  The web server is on 127.0.0.1; nothing leaves the machine."""
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora.download import fetch
from corpora.jsonl import examples, horizon, load_jsonl, split
from data import DataError, Dialogue, Turn, delexicalise, fill, load

BODY = b"forty-two bytes of a file that is public.\n"
SHA = hashlib.sha256(BODY).hexdigest()


# ---------------------------------------------------------------- delexicalise

@pytest.mark.parametrize(("reply", "context", "expected"), [
    ("The mug is 12.50.", {"price": "12.50"}, "The mug is {price}."),
    ("The red mug", {"colour": "red", "product": "red mug"}, "The {product}"),                   # the longest first
    ("redder, red", {"colour": "red"}, "redder, {colour}"),                                      # whole words
    ("It takes 2 days", {"days": "2"}, "It takes 2 days"),                                       # too short to be sure
    ("Yes, it fits", {"fit_1": "Yes"}, "Yes, it fits"),
    ("{name} is red", {"x": "name", "colour": "red"}, "{name} is {colour}"),                     # a slot stays
    ("杯子售价是三十元整", {"price": "三十元"}, "杯子售价是{price}整"),                                # no spaces in Chinese
    ("型号ABC12好", {"model": "ABC12"}, "型号{model}好"),
    ("30 euros", {"price_1": "30 euros", "price_2": "30 euros", "fit_1": "no", "fit_2": "yes"}, "{price_2}"),
    ("infrared red", {"colour": "red"}, "infrared {colour}"),
    ("a.c abc mug (L)", {"code": "a.c", "product": "mug (L)"}, "{code} abc {product}"),          # values are no patterns
])
def test_delexicalise_by_hand(reply, context, expected):
    assert delexicalise(reply, context) == expected


words = st.text("ab {}.3杯", min_size=0, max_size=6)


@given(words, st.dictionaries(st.sampled_from(["a", "b", "c_1", "c_2", "fit_1"]), st.text("ab 3.杯", min_size=1, max_size=5), max_size=4))
def test_fill_undoes_delexicalise(reply, context):
    if fill(reply, context) == reply:            # no slot of B_t stood there before
        assert fill(delexicalise(reply, context), context) == reply


# ---------------------------------------------------------------- people's own logs

def write(tmp_path, rows, name="logs.jsonl"):
    path = tmp_path / name
    path.write_bytes(b"\n".join(r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() for r in rows))
    return path


def row(id, **turn):
    return {"id": id, "turns": [{"user": "hello", **turn}]}


GOOD = [row("a", skills=["greet", "ask"], reply="Hi, it costs 30 euros.", context={"price": "30 euros"}, intent="buy", emotion=None),
        row("b", skills=["ask"], intent="ask"), row("c", skills=None, reply=None, context=None)]


def test_logs_by_hand(tmp_path):
    data = load(str(write(tmp_path, GOOD)))
    assert list(data.skills) == ["greet", "ask"]                     # order of first appearance
    assert data.intents == ("ask", "buy") and data.emotions == () and data.note == ""
    assert (len(data.train), len(data.dev), len(data.test)) == (1, 1, 1) and data.horizon == 2
    turns = {d.id: d.turns[0] for d in data.train + data.dev + data.test}
    assert turns["a"].reply == "Hi, it costs {price}." and turns["c"].skills is None and turns["c"].context == {}


def test_numbers_become_text_and_nulls_are_unknown(tmp_path):
    data = load_jsonl(write(tmp_path, [row(i, context={"price": 12.5, "n": 3, "eta": None}) for i in range(3)]))
    assert data.train[0].turns[0].context == {"price": "12.5", "n": "3"}


def test_any_language_windows_mark_and_blank_lines(tmp_path):
    rows = [b"\xef\xbb\xbf" + json.dumps(row("一", skills=["问候"], reply="您好")).encode(), b"", *GOOD[1:], b"   "]
    data = load_jsonl(write(tmp_path, rows))
    assert "问候" in data.skills and len(data.train + data.dev + data.test) == 3


def test_examples_come_from_training_replies_alone(tmp_path):
    rows = [row(str(i), skills=["ask"] if i % 2 else ["greet", "ask"], reply=f"reply {i}") for i in range(60)]
    data = load_jsonl(write(tmp_path, rows))
    given_ = data.skills["ask"].examples
    alone = {t.reply for d in data.train for t in d.turns if t.skills == ("ask",)}
    assert len(given_) == 8 and set(given_) <= alone                 # replies that used it with others come later
    train = [Dialogue("x", (Turn("u", skills=("s",), reply="rare"), Turn("u", skills=("s",), reply="often"), Turn("u", skills=("s",), reply="often")))]
    assert examples("s", train) == ("often", "rare")


def test_notes_say_what_cannot_train(tmp_path):
    note = load_jsonl(write(tmp_path, [row(i, timestamp=1) for i in "abc"])).note
    assert '"skills": ["..."]' in note and "only the Expert" in note and "timestamp" in note


def test_skills_beside_the_log(tmp_path):
    (tmp_path / "logs.skills.json").write_text(json.dumps({"ask": {"description": "ask", "task": 1, "examples": ["Which?"]}, "greet": {"must_say": ["Hi"]}}))
    data = load_jsonl(write(tmp_path, GOOD))
    assert list(data.skills) == ["ask", "greet"] and data.skills["ask"].examples == ("Which?",) and data.skills["greet"].must_say == ("Hi",)
    (tmp_path / "logs.skills.json").write_text('[{"id": "ask"}]')
    with pytest.raises(DataError, match=r"logs\.jsonl, line 1, field turns\[0\]\.skills: 'greet' is not in .*logs\.skills\.json"):
        load_jsonl(tmp_path / "logs.jsonl")


@pytest.mark.parametrize(("text", "wrong"), [
    ("[]", "without a record"), ("{", "not valid JSON"), ('[{"description": "x"}]', "id is missing"), ('[{"id": "a", "must": []}]', "unknown field 'must'"),
    ('[{"id": "a", "must_say": "Hi"}]', "field must_say: a string"), ('[{"id": "a", "task": 4}]', "field task"), ('[{"id": "a"}, {"id": "a"}]', "stands there"),
])
def test_broken_skills_file_is_refused(tmp_path, text, wrong):
    (tmp_path / "logs.skills.json").write_text(text)
    with pytest.raises(DataError, match="logs.skills.json.*" + wrong):
        load_jsonl(write(tmp_path, GOOD))


BROKEN = [
    (b'{"id": "x", ', "not valid JSON"), (b'{"id": "x", "turns": [{"user": NaN}]}', "not valid JSON"), (b"[" * 100_000, "not valid JSON"),
    ([1], "a list where an object"), ({"id": "x"}, "field turns: missing"), ({"id": "x", "turns": []}, "field turns: empty"),
    ({"id": "x", "turns": {}}, "field turns: an object, not a list"), ({"id": "x", "turns": ["hi"]}, r"field turns\[0\]: a string"),
    ({"id": "x", "turns": [{"reply": "hi"}]}, r"field turns\[0\]\.user: missing"), (row("x", user=3), r"turns\[0\]\.user: a number"),
    ({"id": "x", "turns": [{"user": "a"}, {"user": None}]}, r"turns\[1\]\.user"), (row("x", intent=3), r"turns\[0\]\.intent: a number"),
    (row("x", reply=["a"]), r"turns\[0\]\.reply: a list"), (row("x", skills="ask"), r"turns\[0\]\.skills: a string"),
    (row("x", skills=[1]), r"turns\[0\]\.skills: a number"), (row("x", skills=list("abcdef")), r"turns\[0\]\.skills: 6 skills"),
    (row("x", skills=["a", "a"]), r"turns\[0\]\.skills: an empty or repeated"), (row("x", context=["a"]), r"turns\[0\]\.context: a list"),
    (row("x", context={"a": {"b": 1}}), r"turns\[0\]\.context\.a: an object"), (row("x", context={"a": True}), r"context\.a: true or false"),
    (row("x", context={"unit price": "1"}), "cannot be a slot"), ({"id": "x", "turns": [{"user": "a"}], "goal": "buy"}, "field goal: a string"),
    ({"id": [], "turns": [{"user": "a"}]}, "field id: a list"), (row("b"), "field id: 'b' stands in line 2"),
    (b'{"id": "x", "turns": [{"user": "\xff"}]}', "byte 33 is not UTF-8"), (b'{"id": "\0"}', "NUL byte"),
    (row("x", user="a\0"), r"turns\[0\]\.user: holds a NUL"), (b'{"id": "x", "turns": [{"user": "\\ud800"}]}', "half of a character"),
]


@pytest.mark.parametrize(("line", "wrong"), BROKEN)
def test_a_broken_line_is_named(tmp_path, line, wrong):
    with pytest.raises(DataError, match=rf"logs\.jsonl, line 4\b.*{wrong}") as error:
        load_jsonl(write(tmp_path, [*GOOD, line]))
    assert "\n" not in str(error.value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda s: st.lists(s, max_size=3) | st.dictionaries(
    st.sampled_from(["id", "turns", "user", "skills", "context", "reply", "intent", "goal"]) | st.text(), s, max_size=4), max_leaves=12))
def test_any_json_loads_or_is_refused_by_name(tmp_path_factory, value):
    path = write(tmp_path_factory.mktemp("any"), [*GOOD, value])
    try:
        load_jsonl(path)
    except DataError as error:
        assert "line 4" in str(error)


@pytest.mark.parametrize("rows", [[], GOOD[:1], GOOD[:2]])
def test_too_few_dialogues(tmp_path, rows):
    with pytest.raises(DataError, match="at least 3"):
        load_jsonl(write(tmp_path, rows))


def test_missing_file():
    with pytest.raises(DataError, match="no such file"):
        load("nowhere/logs.jsonl")


@given(st.lists(st.text(max_size=5), min_size=3, max_size=40, unique=True))
def test_split_is_a_partition_without_empty_parts(ids):
    dialogues = [Dialogue(i, (Turn("u"),)) for i in ids]
    parts = split(dialogues)
    assert all(parts) and sorted(d.id for part in parts for d in part) == sorted(ids)
    assert [{d.id for d in p} for p in split(dialogues[::-1])] == [{d.id for d in p} for p in parts]          # the order of lines is nothing


def test_split_shares_and_growth():
    dialogues = [Dialogue(str(i), (Turn("u"),)) for i in range(4000)]
    _, dev, test = split(dialogues)
    assert 0.08 < len(dev) / 4000 < 0.12 and 0.08 < len(test) / 4000 < 0.12
    assert {d.id for d in split(dialogues[:2000])[2]} <= {d.id for d in test}                    # half the file, same split


def test_horizon_by_hand():                      # lengths 1..10: nine of ten are at most 9
    assert horizon([Dialogue(str(n), (Turn("u"),) * n) for n in range(1, 11)]) == 9
    assert horizon([Dialogue("a", (Turn("u"),))]) == 2


# ---------------------------------------------------------------- downloads

@pytest.fixture
def server(monkeypatch):
    """A web server whose `.answers` are sent one after the other: "ok", "wrong" bytes, "short" (breaks off), "gone" (404)."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            kind = web.answers.pop(0)
            self.send_response(404 if kind == "gone" else 200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write({"ok": BODY, "wrong": BODY.upper(), "short": BODY[:9], "gone": BODY}[kind])

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    web = HTTPServer(("127.0.0.1", 0), Handler)
    web.answers, web.url = [], f"http://127.0.0.1:{web.server_port}/file"
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    yield web
    web.shutdown()
    thread.join()
    web.server_close()


def test_fetch_once(server, tmp_path):
    server.answers = ["ok"]
    path = tmp_path / "new" / "file"
    assert fetch(server.url, SHA, path, "a file").read_bytes() == BODY
    fetch(server.url, SHA, path, "a file")       # the server has no second answer
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_fetch_replaces_a_broken_download(server, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(BODY[:5])
    server.answers = ["ok"]
    assert fetch(server.url, SHA, path, "a file").read_bytes() == BODY


@pytest.mark.parametrize(("answer", "sha256"), [("wrong", SHA), ("short", SHA), ("short", None), ("gone", SHA), ("gone", None)])
def test_fetch_refuses_and_leaves_nothing(server, tmp_path, answer, sha256):
    server.answers = [answer]
    with pytest.raises(DataError) as error:
        fetch(server.url, sha256, tmp_path / "file", "a file")
    said = str(error.value)
    assert server.url in said and str(tmp_path / "file") in said and "GOPO_DATA" in said and "\n" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_failed_fetch_keeps_the_old_file(server, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    server.answers = ["wrong"]
    with pytest.raises(DataError, match="sha256"):
        fetch(server.url, SHA, path, "a file")
    assert path.read_bytes() == b"old"


def test_fetch_without_a_server(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DataError, match="get it by hand"):
        fetch("http://127.0.0.1:9/file", SHA, tmp_path / "file", "a file")
