"""Tests of corpora/skill_file.py: the skill pool, and rules that could never hold."""
import json

import pytest

from corpora.jsonl import load_jsonl
from corpora.skill_file import read_skills
from data import DataError


def write(tmp_path, records, turns=()):
    """logs.jsonl with these turns, and its skills file."""
    path = tmp_path / "logs.jsonl"
    more = [{"user": f"u {i}", "skills": ["greet"]} for i in range(3)]
    lines = [json.dumps({"turns": [turn]}) for turn in [*turns, *more]]
    path.write_text("\n".join(lines))
    text = records if isinstance(records, str) else json.dumps(records)
    (tmp_path / "logs.skills.json").write_text(text)
    return path


def greet(**fields):
    return [{"id": "greet", **fields}]


# ---------------------------------------------------------------- refused by the file alone

CANNOT_HOLD = [
    # must_not_say
    (greet(must_not_say=["only {price} euros"]), "must_not_say: 'only {price} euros' cannot be"),
    (greet(must_not_say=["{price"]), "must_not_say: '{price' cannot be matched"),
    (greet(must_not_say=["free", " \u200b "]), "must_not_say: ' .*' cannot be matched"),
    # must_say
    (greet(must_say=[""]), "must_say: '' holds nothing visible"),
    (greet(must_say=["Within {days days."]), "must_say: 'Within {days days.' holds a brace"),
    (greet(must_say=["It is {{price}}."]), "must_say: .* holds a brace"),
    (greet(must_say=["It {fit_1}."]), "must_say: .* names {fit_1}, which no reply may say"),
    (greet(must_say=["It {_id}."]), "must_say: .* names {_id}, which no reply may say"),
    # they contradict each other, as matching sees them
    (greet(must_say=["Terms apply."], must_not_say=["TERMS"]),
     "must_say: 'Terms apply.' is forbidden by must_not_say 'TERMS' of the same skill"),
    (greet(must_say=["FREE  ship"], must_not_say=["free ship"]), "must_say: .* is forbidden by"),
    (greet(must_say=["Due {eta}."], must_not_say=["{eta}"]),
     "must_say: .* is forbidden by must_not_say '{eta}'"),
    (greet(needs=["eta"], otherwise=["No terms."], must_not_say=["terms"]),
     "otherwise: 'No terms.' is forbidden by"),
    # otherwise and needs
    (greet(otherwise=["I cannot find it."]), "otherwise: takes the place of must_say"),
    (greet(needs=["price_1"]), "needs: 'price_1' is no slot without its number"),
    (greet(needs=["unit price"]), "needs: 'unit price' is no slot"),
    (greet(needs=["fit_1"]), "needs: 'fit_1' is no slot"),
]


@pytest.mark.parametrize(("records", "wrong"), CANNOT_HOLD)
def test_a_rule_that_cannot_hold_is_refused_when_the_file_is_read(tmp_path, records, wrong):
    write(tmp_path, records)
    wrong = wrong.replace("{", r"\{")
    with pytest.raises(DataError, match=rf"logs\.skills\.json, record 1, field {wrong}"):
        read_skills(tmp_path / "logs.skills.json")


def test_another_skill_may_forbid_it(tmp_path):
    records = [*greet(must_say=["Terms apply."]), {"id": "joke", "must_not_say": ["terms"]}]
    write(tmp_path, records)
    assert list(read_skills(tmp_path / "logs.skills.json")) == ["greet", "joke"]


WRONG_FILES = [
    ('[{"id": "a", "must_say": ["x"], "must_say": []}]', "record 1, field must_say: stands"),
    ('{"a": {"task": 1}, "a": {}}', "field a: stands there twice"),
    ('{"a": {"id": "b"}}', "record 1, field id: 'b' under the name 'a'"),
    ('[{"id": "a", "task": 1e999}]', "record 1, field task: 1e999 is no finite"),
    ('[{"id": "a", "task": 1.0}]', r"record 1, field task: 1\.0; write 1"),
    ('[{"id": "a", "task": "1"}]', "record 1, field task: '1'; write 1"),
    (r'[{"id": "a"}, {"id": "\ud83d"}]', "record 2, field id: holds half"),
    ('[{"id": "a"}, {"id": " a "}]', "record 2, field id: 'a' stands there already"),
    ('[{"id": "café"}, {"id": "cafe\u0301"}]', "record 2, field id: 'café' stands there already"),
    ('[{"id": " "}]', "record 1, field id: blank"),
    ('[{"id": "a", "description": false}]', "record 1, field description: true or false"),
]


@pytest.mark.parametrize(("text", "wrong"), WRONG_FILES)
def test_what_a_file_would_lose_in_silence_is_refused(tmp_path, text, wrong):
    write(tmp_path, text)
    with pytest.raises(DataError, match=rf"logs\.skills\.json, {wrong}"):
        load_jsonl(tmp_path / "logs.jsonl")


# ---------------------------------------------------------------- refused or said with the logs

def with_days(days, **fields):
    return {"user": "hi", "reply": "hello", "context": {days: "14"}, **fields}


def test_a_slot_that_no_turn_has_is_refused(tmp_path):
    terms = greet(must_say=["Within {dayz} days."])
    path = write(tmp_path, terms, [with_days("days", skills=["greet"])])
    wrong = r"logs\.skills\.json, record 1, field must_say: \{dayz\} stands in no context of the"
    with pytest.raises(DataError, match=wrong + r".* write \{days\}\?"):
        load_jsonl(path)
    path = write(tmp_path, terms, [with_days("dayz", skills=["greet"])])
    assert "dropped" not in load_jsonl(path).note


def test_a_slot_is_named_with_its_number(tmp_path):
    path = write(tmp_path, greet(must_say=["It costs {price}."]),
                 [with_days("price_1", skills=["greet"])])
    with pytest.raises(DataError, match=r"must_say: \{price\} stands in no context"):
        load_jsonl(path)


def test_a_rule_that_the_logs_never_meet_is_said(tmp_path):
    pool = [*greet(), {"id": "terms", "must_say": ["Within {dayz} days."], "needs": ["eta"]}]
    note = load_jsonl(write(tmp_path, pool)).note
    assert "record 2, field must_say: {dayz} stands in no context" in note
    assert "record 2, field needs: 'eta' stands in no context" in note
    # turns with the skill lack it, others have it
    pool = greet(must_say=["Within {days} days."])
    note = load_jsonl(write(tmp_path, pool, [with_days("days")])).note
    assert "record 1, field must_say: {days} stands in no context of its turns" in note
