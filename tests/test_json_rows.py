"""Tests of corpora/json_rows.py: JSON read strictly, and numbers as they are spelled."""
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora.json_rows import Number, dump, parse_row
from corpora.jsonl import load_jsonl
from data import DataError

# ---------------------------------------------------------------- numbers

SPELLINGS = ["12.50", "3", "-0", "-0.0", "1e3", "1E-7", "12345678901234567.0",
             "123456789012345678901234567890", "9" * 5000, "1e-999", "0.10"]


def logs(tmp_path, *turns):
    """A file of logs with these turns, as JSON, each in a dialogue of its own."""
    path = tmp_path / "logs.jsonl"
    lines = [f'{{"id": "{i}", "turns": [{turn}]}}' for i, turn in enumerate(turns)]
    lines += [json.dumps({"id": f"more {i}", "turns": [{"user": f"u {i}"}]}) for i in range(3)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def turn_of(data, id):
    for dialogue in data.train + data.dev + data.test:
        if dialogue.id == id:
            return dialogue.turns[0]
    raise AssertionError(id)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_number_keeps_its_spelling(tmp_path, spelling):
    turn = f'{{"user": "u", "context": {{"x": {spelling}}}, "reply": "It is {spelling} now"}}'
    read = turn_of(load_jsonl(logs(tmp_path, turn)), "0")
    assert read.context == {"x": spelling}
    wanted = "It is {x} now" if len(spelling) > 2 else f"It is {spelling} now"
    assert read.reply == wanted


ENDLESS = ["1e999", "-1e999", "1" + "0" * 400 + ".5", "Infinity", "-Infinity", "NaN"]
PLACES = [
    ('{{"user": "u", "context": {{"x": {}}}}}', r"turns\[0\]\.context\.x"),
    ('{{"user": "u", "other": [1, {{"a": {}}}]}}', r"turns\[0\]\.other\[1\]\.a"),
    ('{{"user": {}}}', r"turns\[0\]\.user"),
]


@pytest.mark.parametrize("number", ENDLESS)
@pytest.mark.parametrize(("turn", "field"), PLACES)
def test_what_has_no_end_is_refused_wherever_it_stands(tmp_path, number, turn, field):
    with pytest.raises(DataError, match=rf"logs\.jsonl, line 1, field {field}: -?\w+.* no finite"):
        load_jsonl(logs(tmp_path, turn.format(number)))


def test_an_id_may_be_a_whole_number_alone(tmp_path):
    path = logs(tmp_path, '{"user": "u"}')
    text = path.read_text()
    path.write_text(text.replace('"id": "0"', '"id": 007'))
    with pytest.raises(DataError, match="line 1: not valid JSON"):
        load_jsonl(path)
    path.write_text(text.replace('"id": "0"', '"id": 12345678901234567890'))
    assert turn_of(load_jsonl(path), "12345678901234567890").user == "u"
    path.write_text(text.replace('"id": "0"', '"id": 1.0'))
    with pytest.raises(DataError, match="field id: a number where a string"):
        load_jsonl(path)


# ---------------------------------------------------------------- names that stand twice

TWICE = [
    ('{"a": 1, "a": 2}', "field a: stands there twice"),
    ('{"a": 1, "b": 1, "b": 1}', "field b: stands there twice"),
    ('{"turns": [{}, {"user": "x", "user": "x"}]}', r"field turns\[1\]\.user: stands"),
    ('{"goal": {"x": {"y": 1, "y": 1}}}', r"field goal\.x\.y: stands"),
    ('[{"id": "a", "id": "b"}]', "record 1, field id: stands"),
    ('{"": 1, "": 2}', "field '': stands"),
]


@pytest.mark.parametrize(("text", "wrong"), TWICE)
def test_a_name_that_stands_twice_is_refused(text, wrong):
    with pytest.raises(DataError, match="^here, " + wrong):
        parse_row(text, "here")


def test_two_spellings_of_one_slot_are_refused(tmp_path):
    # é as one character, and as two
    turn = '{"user": "u", "context": {"caf\u00e9": "1", "cafe\u0301": "2"}}'
    with pytest.raises(DataError, match=r"context\.café: stands there twice"):
        load_jsonl(logs(tmp_path, turn))
    with pytest.raises(DataError, match=r"context\.fit_01: fit_1 is of the same candidate"):
        load_jsonl(logs(tmp_path, '{"user": "u", "context": {"fit_1": "no", "fit_01": "yes"}}'))


# ---------------------------------------------------------------- half of a character

HALVES = [
    (r'{"a": "\ud83d"}', "field a: holds half"),
    (r'{"turns": [{"user": "hi \uDE00"}]}', r"field turns\[0\]\.user: holds half"),
    (r'{"a": {"\ud83d": 1}}', r"field a\.'\\ud83d': its name holds half"),
    (r'{"a": ["\ud83d \ude00"]}', r"field a\[0\]: holds half"),
]


@pytest.mark.parametrize(("text", "wrong"), HALVES)
def test_half_of_a_character_is_refused_in_every_field(text, wrong):
    with pytest.raises(DataError, match="^here, " + wrong) as error:
        parse_row(text, "here")
    # a terminal can print the message
    str(error.value).encode()


def test_both_halves_are_a_character():
    assert parse_row(r'{"a": "\ud83d\ude00"}', "here") == {"a": "😀"}


# ---------------------------------------------------------------- depth, and writing

def test_what_is_deep_is_refused_and_not_a_traceback():
    for deep in (150, 5000, 100_000):
        with pytest.raises(DataError, match="^here: "):
            parse_row('{"a":' + "[" * deep + "]" * deep + "}", "here")
    long = [{"user": "u", "context": {}}] * 500
    assert len(parse_row(json.dumps({"turns": long}), "here")["turns"]) == 500


def test_a_number_is_no_string():
    value = parse_row('{"a": 12.50}', "here")["a"]
    assert type(value) is Number
    assert dump({"a": [value, "12.50", True, None]}) == '{"a": [12.50, "12.50", true, null]}'


def values(inside):
    return st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=3), inside, max_size=3)


atoms = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False,
                                                                          allow_infinity=False)


@given(st.recursive(atoms, values, max_leaves=12))
def test_what_was_read_is_written_as_it_was(value):
    text = json.dumps(value, ensure_ascii=False)
    assert dump(parse_row(text, "here")) == text
