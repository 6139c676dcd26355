"""Tests of data.delexicalise and of what every corpus needs (corpora/dialogues.py)."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora.dialogues import count_skills, examples, horizon, show_dialogue, split, used_skills
from data import Dialogue, Turn, delexicalise, fill

# ---------------------------------------------------------------- delexicalise

TWO_OFFERS = {"price_1": "30 euros", "price_2": "30 euros", "fit_1": "no", "fit_2": "yes"}
BY_HAND = [
    ("The mug is 12.50.", {"price": "12.50"}, "The mug is {price}."),
    # the longest first
    ("The red mug", {"colour": "red", "product": "red mug"}, "The {product}"),
    # whole words
    ("redder, red", {"colour": "red"}, "redder, {colour}"),
    ("infrared red", {"colour": "red"}, "infrared {colour}"),
    # too short to be sure
    ("It takes 2 days", {"days": "2"}, "It takes 2 days"),
    ("Yes, it fits", {"fit_1": "Yes"}, "Yes, it fits"),
    # a slot stays
    ("{name} is red", {"x": "name", "colour": "red"}, "{name} is {colour}"),
    # no spaces in Chinese
    ("杯子售价是三十元整", {"price": "三十元"}, "杯子售价是{price}整"),
    ("型号ABC12好", {"model": "ABC12"}, "型号{model}好"),
    ("30 euros", TWO_OFFERS, "{price_2}"),
    # values are no patterns
    ("a.c abc mug (L)", {"code": "a.c", "product": "mug (L)"}, "{code} abc {product}"),
]


@pytest.mark.parametrize(("reply", "context", "expected"), BY_HAND)
def test_delexicalise_by_hand(reply, context, expected):
    assert delexicalise(reply, context) == expected


replies = st.text("ab {}.3杯", min_size=0, max_size=6)
names = st.sampled_from(["a", "b", "c_1", "c_2", "fit_1"])
values = st.text("ab 3.杯", min_size=1, max_size=5)


@given(replies, st.dictionaries(names, values, max_size=4))
def test_fill_undoes_delexicalise(reply, context):
    # no slot of B_t stood there before
    if fill(reply, context) == reply:
        assert fill(delexicalise(reply, context), context) == reply


# ---------------------------------------------------------------- splits and the horizon

def dialogues_of(ids):
    return [Dialogue(id, (Turn("u"),)) for id in ids]


def ids_of(part):
    return {dialogue.id for dialogue in part}


@given(st.lists(st.text(max_size=5), min_size=3, max_size=40, unique=True))
def test_split_is_a_partition_without_empty_parts(ids):
    dialogues = dialogues_of(ids)
    parts = split(dialogues)
    assert all(parts)
    found = [*parts[0], *parts[1], *parts[2]]
    assert sorted(dialogue.id for dialogue in found) == sorted(ids)
    # the order of lines plays no part
    reversed_parts = split(dialogues[::-1])
    for part, other in zip(parts, reversed_parts, strict=True):
        assert ids_of(part) == ids_of(other)


def test_split_shares_and_growth():
    dialogues = dialogues_of(str(i) for i in range(4000))
    _, dev, test = split(dialogues)
    assert 0.08 < len(dev) / 4000 < 0.12
    assert 0.08 < len(test) / 4000 < 0.12
    # half the file, the same split
    assert ids_of(split(dialogues[:2000])[2]) <= ids_of(test)


def test_horizon_by_hand():
    # lengths 1..10: nine of ten are at most 9
    assert horizon([Dialogue(str(n), (Turn("u"),) * n) for n in range(1, 11)]) == 9
    assert horizon([Dialogue("a", (Turn("u"),))]) == 2


# ---------------------------------------------------------------- skills

def test_the_most_frequent_reply_is_the_first_example():
    turns = (
        Turn("u", skills=("s",), reply="rare"),
        Turn("u", skills=("s",), reply="often"),
        Turn("u", skills=("s",), reply="often"),
    )
    assert examples("s", [Dialogue("x", turns)]) == ("often", "rare")


def test_skills_are_counted_and_listed_once():
    turns = (Turn("u", skills=("b",)), Turn("u"), Turn("u", skills=("a", "b")))
    assert used_skills(turns) == ["b", "a"]
    assert count_skills([Dialogue("x", turns)]) == [("b", 2), ("a", 1)]


def test_a_dialogue_is_shown_with_the_symbols_of_the_paper(capsys):
    show_dialogue(Dialogue("x", (Turn("hello", "greeting", skills=("greet",), reply="Hi"),)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1  U_t   hello"
    assert lines[1] == "   u_t   greeting"
    assert lines[3:5] == ["   T     ('greet',)", "   reply Hi"]
