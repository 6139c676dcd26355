"""Tests of corpora/jsonl.py: people's own logs, and what is refused with file, line and field."""
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora.dialogues import turns_of
from corpora.jsonl import load_jsonl
from data import DataError, load


def write(tmp_path, rows, name="logs.jsonl"):
    path = tmp_path / name
    lines = []
    for value in rows:
        if not isinstance(value, bytes):
            value = json.dumps(value, ensure_ascii=False).encode()
        lines.append(value)
    path.write_bytes(b"\n".join(lines))
    return path


def row(id, **turn):
    return {"id": id, "turns": [{"user": "hello", **turn}]}


FIRST = row(
    "a",
    skills=["greet", "ask"],
    reply="Hi, it costs 30 euros.",
    context={"price": "30 euros"},
    intent="buy",
    emotion=None,
)
SECOND = row("b", skills=["ask"], intent="ask")
GOOD = [FIRST, SECOND, row("c", user="bye", skills=None, reply=None, context=None)]


def everything(data):
    return data.train + data.dev + data.test


# ---------------------------------------------------------------- what is read

def test_logs_by_hand(tmp_path):
    data = load(str(write(tmp_path, GOOD)))
    # in order of first appearance
    assert list(data.skills) == ["greet", "ask"]
    assert data.intents == ("ask", "buy")
    assert data.emotions == ()
    assert data.note == ""
    assert (len(data.train), len(data.dev), len(data.test)) == (1, 1, 1)
    assert data.horizon == 2
    turns = {dialogue.id: dialogue.turns[0] for dialogue in everything(data)}
    assert turns["a"].reply == "Hi, it costs {price}."
    assert turns["c"].skills is None
    assert turns["c"].context == {}


def test_nulls_are_unknown(tmp_path):
    context = {"price": 12.5, "n": 3, "eta": None}
    data = load_jsonl(write(tmp_path, [row(i, context=context) for i in range(3)]))
    assert data.train[0].turns[0].context == {"price": "12.5", "n": "3"}


def test_any_language_windows_mark_and_blank_lines(tmp_path):
    chinese = json.dumps(row("一", skills=["问候"], reply="您好")).encode()
    data = load_jsonl(write(tmp_path, [b"\xef\xbb\xbf" + chinese, b"", *GOOD[1:], b"   "]))
    assert "问候" in data.skills
    assert len(everything(data)) == 3


def test_examples_come_from_training_replies_alone(tmp_path):
    rows = []
    for i in range(60):
        skills = ["ask"] if i % 2 else ["greet", "ask"]
        rows.append(row(str(i), skills=skills, reply=f"reply {i}"))
    data = load_jsonl(write(tmp_path, rows))
    alone = {turn.reply for turn in turns_of(data.train) if turn.skills == ("ask",)}
    # replies that used it with others come later
    found = data.skills["ask"].examples
    assert len(found) == 8
    assert set(found) <= alone


def test_notes_say_what_cannot_train(tmp_path):
    note = load_jsonl(write(tmp_path, [row(i, timestamp=1) for i in "abc"])).note
    assert '"skills": ["..."]' in note
    assert "only the Expert" in note
    assert "timestamp" in note


# ---------------------------------------------------------------- the skill pool

def write_skills(tmp_path, text):
    (tmp_path / "logs.skills.json").write_text(text)


def test_skills_next_to_the_log(tmp_path):
    ask = {"description": "ask", "task": 1, "examples": ["Which?"]}
    write_skills(tmp_path, json.dumps({"ask": ask, "greet": {"must_say": ["Hi"]}}))
    data = load_jsonl(write(tmp_path, GOOD))
    assert list(data.skills) == ["ask", "greet"]
    assert data.skills["ask"].examples == ("Which?",)
    assert data.skills["greet"].must_say == ("Hi",)
    write_skills(tmp_path, '[{"id": "ask"}]')
    wrong = (
        r"logs\.jsonl, line 1, field turns\[0\]\.skills: "
        r"'greet' is not in .*logs\.skills\.json")
    with pytest.raises(DataError, match=wrong):
        load_jsonl(tmp_path / "logs.jsonl")


@pytest.mark.parametrize(("text", "wrong"), [
    ("[]", "without a record"),
    ("{", "not valid JSON"),
    ('[{"description": "x"}]', "id is missing"),
    ('[{"id": "a", "must": []}]', "unknown field 'must'"),
    ('[{"id": "a", "must_say": "Hi"}]', "field must_say: a string"),
    ('[{"id": "a", "task": 4}]', "field task"),
    ('[{"id": "a"}, {"id": "a"}]', "stands there"),
])
def test_broken_skills_file_is_refused(tmp_path, text, wrong):
    write_skills(tmp_path, text)
    with pytest.raises(DataError, match="logs.skills.json.*" + wrong):
        load_jsonl(write(tmp_path, GOOD))


# ---------------------------------------------------------------- what is refused

BROKEN = [
    (b'{"id": "x", ', "not valid JSON"),
    (b'{"id": "x", "turns": [{"user": NaN}]}', r"turns\[0\]\.user: NaN is no finite number"),
    (b"[" * 100_000, "not valid JSON"),
    ([1], "a list where an object"),
    # the dialogue
    ({"id": "x"}, "field turns: missing"),
    ({"id": "x", "turns": []}, "field turns: empty"),
    ({"id": "x", "turns": {}}, "field turns: an object, not a list"),
    ({"id": "x", "turns": ["hi"]}, r"field turns\[0\]: a string"),
    ({"id": "x", "turns": [{"user": "a"}], "goal": "buy"}, "field goal: a string"),
    ({"id": [], "turns": [{"user": "a"}]}, "field id: a list"),
    (row("b"), "field id: 'b' stands in line 2"),
    # the turn
    ({"id": "x", "turns": [{"reply": "hi"}]}, r"field turns\[0\]\.user: missing"),
    (row("x", user=3), r"turns\[0\]\.user: a number"),
    ({"id": "x", "turns": [{"user": "a"}, {"user": None}]}, r"turns\[1\]\.user"),
    (row("x", intent=3), r"turns\[0\]\.intent: a number"),
    (row("x", reply=["a"]), r"turns\[0\]\.reply: a list"),
    (row("x", skills="ask"), r"turns\[0\]\.skills: a string"),
    (row("x", skills=[1]), r"turns\[0\]\.skills: a number"),
    (row("x", skills=list("abcdef")), r"turns\[0\]\.skills: 6 skills"),
    (row("x", skills=["a", "a"]), r"turns\[0\]\.skills: an empty or repeated"),
    (row("x", context=["a"]), r"turns\[0\]\.context: a list"),
    (row("x", context={"a": {"b": 1}}), r"turns\[0\]\.context\.a: an object"),
    (row("x", context={"a": True}), r"context\.a: true or false"),
    (row("x", context={"unit price": "1"}), "cannot be a slot"),
    # the bytes
    (b'{"id": "x", "turns": [{"user": "\xff"}]}', "byte 33 is not UTF-8"),
    (b'{"id": "\0"}', "NUL byte"),
    (row("x", user="a\0"), r"turns\[0\]\.user: holds a NUL"),
    (b'{"id": "x", "turns": [{"user": "\\ud800"}]}', r"turns\[0\]\.user: holds half of a char"),
]


@pytest.mark.parametrize(("line", "wrong"), BROKEN)
def test_a_broken_line_is_named(tmp_path, line, wrong):
    with pytest.raises(DataError, match=rf"logs\.jsonl, line 4\b.*{wrong}") as error:
        load_jsonl(write(tmp_path, [*GOOD, line]))
    assert "\n" not in str(error.value)


atoms = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
fields = ["id", "turns", "user", "skills", "context", "reply", "intent", "goal"]
keys = st.sampled_from(fields) | st.text()


def lists_and_objects(inside):
    return st.lists(inside, max_size=3) | st.dictionaries(keys, inside, max_size=4)


@given(st.recursive(atoms, lists_and_objects, max_leaves=12))
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
