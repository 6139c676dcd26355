"""Tests of what the logs know of themselves: copies, ids, names and braces (corpora/jsonl.py)."""
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora.dialogues import split
from corpora.jsonl import load_jsonl
from data import DataError, Dialogue, Turn


def talk(user, reply="yes", **turn):
    return {"turns": [{"user": user, "reply": reply, **turn}]}


def load_rows(tmp_path, rows):
    path = tmp_path / "logs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return load_jsonl(path)


def words(part):
    """What was said in each dialogue, in small letters and without spaces."""
    said = []
    for dialogue in part:
        heard = " ".join(turn.user for turn in dialogue.turns)
        said.append("".join(heard.lower().split()))
    return set(said)


def split_of(data):
    """id -> the name of its part."""
    names = {}
    for name in ("train", "dev", "test"):
        names |= {dialogue.id: name for dialogue in getattr(data, name)}
    return names


# ---------------------------------------------------------------- copies

def test_copies_stay_in_one_split(tmp_path):
    rows = []
    for i in range(200):
        # in another case, with other spaces, labels and ids
        user = [f"question {i % 20}", f"Question  {i % 20} "][i % 2]
        rows.append({"id": f"d{i}", **talk(user, intent=str(i % 3))})
    random.Random(0).shuffle(rows)
    data = load_rows(tmp_path, rows)
    parts = [words(data.train), words(data.dev), words(data.test)]
    assert sum(map(len, parts)) == 20
    assert all(parts)
    assert "180 of 200 dialogues are copies of others, word for word" in data.note
    assert len({d.id for d in data.train + data.dev + data.test}) == 200


def test_a_value_makes_no_new_dialogue(tmp_path):
    rows = []
    for i in range(30):
        rows.append(talk("where is it", f"It is {1000 + i}.", context={"order": str(1000 + i)}))
    rows += [talk(f"hello {i}") for i in range(30)]
    data = load_rows(tmp_path, rows)
    assert "29 of 60 dialogues are copies" in data.note
    # so many would be the whole test: they train
    assert "whereisit" in words(data.train)
    assert "whereisit" not in words(data.dev) | words(data.test)


def test_the_order_of_words_and_speakers_makes_another(tmp_path):
    rows = [talk("a b", "c"), talk("b a", "c"), talk("a", "b c"), talk("c", "a b")]
    assert "copies" not in load_rows(tmp_path, rows).note


@pytest.mark.parametrize("different", [1, 2])
def test_too_few_different_dialogues_are_said(tmp_path, different):
    rows = [talk(f"question {i % different}") for i in range(6)]
    data = load_rows(tmp_path, rows)
    assert f"only {different} of 6 dialogues are different" in data.note
    assert data.train and data.dev and data.test


@given(st.lists(st.integers(0, 9), min_size=3, max_size=40))
def test_dialogues_with_one_key_stand_in_one_part(keys):
    dialogues = [Dialogue(f"{key}-{i}", (Turn("u"),)) for i, key in enumerate(keys)]
    if len(set(keys)) < 3:
        return
    parts = split(dialogues, lambda dialogue: dialogue.id[0])
    assert all(parts)
    found = []
    for part in parts:
        found += {dialogue.id[0] for dialogue in part}
    assert sorted(found) == sorted(map(str, set(keys)))


def test_what_stands_there_often_trains():
    for number in range(20):
        ids = ["often"] * 30 + [str(i) for i in range(30)]
        dialogues = [Dialogue(f"{id} {number}", (Turn("u"),)) for id in ids]
        train, _, _ = split(dialogues)
        assert sum(dialogue.id.startswith("often") for dialogue in train) == 30


# ---------------------------------------------------------------- ids

def test_a_line_on_top_moves_no_dialogue(tmp_path):
    rows = [talk(f"question {i}") for i in range(300)]
    before = split_of(load_rows(tmp_path, rows))
    after = split_of(load_rows(tmp_path, [talk("a new one"), *rows]))
    assert len(before) == 300
    assert before.items() <= after.items()


def test_ids_are_given_where_they_are_missing(tmp_path):
    rows = [{"id": None, **talk("a")}, {"id": " ", **talk("a")}, talk("A ")]
    rows += [{"id": " x ", **talk("b")}, talk("c"), talk("d")]
    ids = sorted(split_of(load_rows(tmp_path, rows)))
    assert ids[-1] == "x"
    assert ids[0].startswith("dialogue-")
    assert len(ids) == 6
    assert sum(id.endswith(("-2", "-3")) for id in ids) == 2
    with pytest.raises(DataError, match="line 7, field id: 'x' stands in line 4 already"):
        load_rows(tmp_path, [*rows, {"id": "x", **talk("e")}])


# ---------------------------------------------------------------- names and braces

def test_names_are_read_without_blanks_around_them(tmp_path):
    rows = [
        talk("a", skills=["greet "], intent="Refund ", emotion="\u00a0angry"),
        talk("b", skills=[" greet"], intent="refund", emotion="angry"),
        talk("c", skills=["greet"], intent="  ", emotion=None),
        talk("d"),
    ]
    data = load_rows(tmp_path, rows)
    assert list(data.skills) == ["greet"]
    assert data.intents == ("Refund", "refund")
    assert data.emotions == ("angry",)
    assert "intents that look alike and are different ones: 'Refund' and 'refund'" in data.note
    assert "names read without the blanks around them: " in data.note
    assert "'greet '" in data.note


@pytest.mark.parametrize(("turn", "wrong"), [
    ({"skills": ["greet", "greet "]}, "skills: an empty or repeated skill"),
    ({"skills": [" "]}, "skills: an empty or repeated skill"),
    ({"context": {" price": "1"}}, "' price' cannot be a slot"),
    ({"reply ": "x"}, "field 'reply ' has blanks around it; write 'reply'"),
])
def test_names_that_become_the_same_are_refused(tmp_path, turn, wrong):
    with pytest.raises(DataError, match=r"line 1, field turns\[0\].*" + wrong):
        load_rows(tmp_path, [talk("a", **turn), talk("b"), talk("c")])


def test_replies_with_braces_that_no_reply_may_say_are_named(tmp_path):
    rows = [
        talk("a", "Your order {{Order Number}} is on its way."),
        talk("b", "It costs {price}.", context={"price": "30"}),
        talk("c", "It costs {price}."),
        talk("d", "Half a } brace."),
        talk("e", "It {fit_1}.", context={"fit_1": "yes"}),
    ]
    note = load_rows(tmp_path, rows).note
    assert "4 replies hold braces that no reply may say, the first in " in note
    assert "line 1, field turns[0].reply, 'Your order {{Order Number}}" in note
    assert "hold braces" not in load_rows(tmp_path, [rows[1], talk("x"), talk("y")]).note


def test_a_slot_may_bear_a_name_of_any_script(tmp_path):
    rows = [talk("a", "कीमत 500 है", context={"कीमत": "500"}), talk("b"), talk("c")]
    data = load_rows(tmp_path, rows)
    replies = {d.turns[0].reply for d in data.train + data.dev + data.test}
    assert "कीमत {कीमत} है" in replies
