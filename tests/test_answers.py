"""Tests of infra/answers.py: one JSON object in a model's text."""
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.answers import parse_json

FORM = {"quality": int, "reason": str}
GOOD = '{"quality": 4, "reason": "fine"}'


@pytest.mark.parametrize("text", [
    GOOD,
    ' \n{"reason": "fine", "quality": 4}\n',
    f"```json\n{GOOD}\n```",
    f"```\n{GOOD}\n```",
    f'<think>{{"quality": 9}}, no</think>\n{GOOD}',
    f"<think></think>```json\n{GOOD}\n```",
])
def test_parse_json_takes(text):
    assert parse_json(text, FORM) == {"quality": 4, "reason": "fine"}
    assert list(parse_json(text, FORM)) == list(FORM)


@pytest.mark.parametrize(("text", "why"), [
    ("", "not one JSON"),
    ("fine", "not one JSON"),
    ('Sure! {"quality": 4, "reason": ""}', "not one JSON"),
    ('{"quality": 4, "reason": ""} {"quality": 5, "reason": ""}', "not one JSON"),
    ('{"quality": 4, "reason": ""', "not one JSON"),
    ('<think>{"quality": 4, "reason": ""}', "not one JSON"),
    ('<think>x</think>{"quality": 1, "reason": ""}</think>{"quality": 5, "reason": ""}',
     "not one JSON"),
    ("[" * 100000, "nested|not one JSON"),
    ('[{"quality": 4, "reason": ""}]', "no object"),
    ('{"quality": 4}', "'reason' is missing"),
    ('{"quality": 4, "reason": "", "extra": 1}', "'extra' was not asked"),
    ('{"quality": 4, "quality": 5, "reason": ""}', "'quality' stands there twice"),
    ('{"quality": NaN, "reason": ""}', "NaN"),
    ('{"quality": 1e999, "reason": ""}', "1e999"),
    ('{"quality": -Infinity, "reason": ""}', "-Infinity"),
    ('{"quality": "x", "reason": ""}', "'quality': invalid"),
    ('{"quality": null, "reason": ""}', "'quality': int"),
    ('{"quality": ' + "9" * 5000 + ', "reason": ""}', "digits"),
])
def test_parse_json_refuses(text, why):
    with pytest.raises(ValueError, match=why):
        parse_json(text, FORM)


names = st.text(max_size=5)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | numbers | st.text(max_size=8)


def nested(inner):
    return st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)


values = st.recursive(leaves, nested, max_leaves=8)


def unchanged(value):
    return value


@given(st.dictionaries(names, values, max_size=4))
def test_parse_json_equals_json(record):
    fields = dict.fromkeys(record, unchanged)
    assert parse_json(json.dumps(record), fields) == record
    fenced = f"<think>hm</think>\n```json\n{json.dumps(record, indent=1)}\n```"
    assert parse_json(fenced, fields) == record


@given(st.text(max_size=60) | st.text('{}[]",:01eEn<think>/` \n\\', max_size=40))
def test_parse_json_never_breaks(text):
    try:
        assert parse_json(text, {"a": int}).keys() == {"a"}
    except ValueError:
        pass
