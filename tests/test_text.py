"""Tests of text.py: what becomes a slot as a whole, and which candidate has it."""
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import load
from text import (
    MARKS,
    SLOT,
    best_candidate,
    clean,
    delexicalise,
    fill,
    fit_of,
    forbidding,
    has_stray_brace,
    nfc,
    sayable,
    slots,
)

# ---------------------------------------------------------------- numbers

# (value, reply, what becomes of it; None: it stays as it is)
NUMBERS = [
    ("500", "$1,500", None),
    ("500", "$1,500 and 500 points", "$1,500 and {x} points"),
    ("500", "1.500,00 Euro", None),
    ("500", "1’500 or 1'500", None),
    ("500", "1 500 Kč, 1\u00a0500, 1\u202f500", None),
    ("500", "12 500,50", None),
    ("112", "112 500 Kč and 112 pieces", "112 500 Kč and {x} pieces"),
    ("500", "order 5302 500 times", "order 5302 {x} times"),
    ("500", "500.00", None),
    ("500", "-500 and −500", None),
    ("500", "500%, €500, #500", "{x}%, €{x}, #{x}"),
    ("500", "500ml, the 500th, A500, 0500", None),
    ("500", "size 4, 500 pieces. 500.", "size 4, {x} pieces. {x}."),
    ("500", "100-500 and 3/500", None),
    ("12.5", "am 12.5.2024", None),
    ("12.", "am 12.5.", None),
    (".50", "12.50", None),
    ("2024", "2024-05-12, 12/5/2024", None),
    ("12:30", "12:30:45", None),
    ("12:30", "12:30-13:45, at 12:30.", "{x}-13:45, at {x}."),
    ("1234", "555-1234", None),
    ("1234567", "+49 30 1234567", None),
    ("123", "0800 123 456", None),
    ("0800 123 456", "call 0800 123 456", "call {x}"),
    ("01223353071", "phone -01223353071", "phone -{x}"),
    ("$500", "$500,000 or $500", "$500,000 or {x}"),
    ("500 points", "1,500 points", None),
    # other digits
    ("٥٠٠", "١٬٥٠٠", None),
    ("五百元", "一千五百元", None),
    ("五百元", "售价五百元整", "售价{x}整"),
    ("150", "150万", None),
    ("150", "150元", "{x}元"),
]


@pytest.mark.parametrize(("value", "reply", "expected"), NUMBERS)
def test_a_number_inside_a_number_stays(value, reply, expected):
    assert delexicalise(reply, {"x": value}) == (expected or reply)


digits = st.text("0123456789", min_size=3, max_size=4)
marks = st.sampled_from(".,:/'’")


@given(digits, marks, digits)
def test_no_part_of_a_longer_number_becomes_a_slot(left, mark, right):
    number = left + mark + right
    assert delexicalise(f"It is {number} now", {"a": left, "b": right}) == f"It is {number} now"
    assert delexicalise(f"It is {number} now", {"c": number}) == "It is {c} now"


# ---------------------------------------------------------------- letters and their marks

WORDS = [
    # Hindi, Tamil, Thai: a vowel sign after the value
    ("कित", "यह किताब है", None),
    ("किताब", "यह किताब है", "यह {x} है"),
    ("தமி", "தமிழ்", None),
    ("ทีน", "ที่นี่ ทีน", "ที่นี่ {x}"),
    # Arabic and Hebrew with vowels, and without
    ("كتب", "كَتَبَ كتب", "كَتَبَ {x}"),
    ("שלו", "שלוֹם", None),
    # e and an accent, as one character and as two
    ("cafe", "Le café", None),
    ("cafe", "Le cafe\u0301", None),
    ("Köln", "nach Ko\u0308ln", "nach {x}"),
    ("Ko\u0308ln", "nach Köln", "nach {x}"),
    # a Persian plural, a hyphen that shows at the end of a line alone
    ("کتاب", "کتاب\u200cها", None),
    ("Köln", "Köln\u00aderin", None),
    # the direction of a text makes no word longer
    ("שלום", "\u2067שלום\u2069", "\u2067{x}\u2069"),
    # a family with and without a son, a hand with a skin tone
    ("👨‍👩‍👧", "👨‍👩‍👧‍👦 👨‍👩‍👧", "👨‍👩‍👧‍👦 {x}"),
    ("👋👋👋", "👋👋👋🏽", None),
    # a dotless i is another letter
    ("isi", "ısı", None),
    # what means nothing stands everywhere
    ("...", "Well... wait", None),
    ("   ", "a   b", None),
]


@pytest.mark.parametrize(("value", "reply", "expected"), WORDS)
def test_a_word_keeps_its_marks(value, reply, expected):
    assert delexicalise(reply, {"x": value}) == (expected or nfc(reply))


def test_a_turkish_capital_moves_no_place():
    # "İ".lower() has two characters
    context = {"city": "İstanbul", "word": "ısı"}
    assert delexicalise("İİ İSTANBUL ve ısı", context, ignore_case=True) == "İİ {city} ve {word}"


def test_marks_are_those_of_letters():
    for char in "ािी்ָَุ่\u0301":
        assert delexicalise(f"abc{char}", {"x": "abc"}) == nfc(f"abc{char}")
        assert SLOT.fullmatch(nfc(f"{{क{char}}}"))
    assert "\ufe0f" not in MARKS


letters = st.text(st.characters(categories=["Ll", "Lo", "Mn", "Mc", "Nd"]), min_size=1, max_size=8)


@given(letters, st.characters(categories=["Mn", "Mc"]))
def test_no_mark_is_torn_from_its_letter(value, mark):
    reply = nfc(f"abc{value}{mark}")
    left = delexicalise(reply, {"x": value, "y": f"abc{value}"})
    assert left == reply or unicodedata.category(left[left.index("}") + 1:][:1] or "a")[0] != "M"


replies = st.text("ab1.5,-0 +{}é\u0301कि", max_size=12)
facts = st.text("ab1.5,-0 é\u0301कि", min_size=1, max_size=5)


@given(replies, st.dictionaries(st.sampled_from("xyz"), facts))
def test_filling_gives_the_reply_back(reply, context):
    context = {slot: nfc(value) for slot, value in context.items()}
    # no slot of B_t stood there before
    if fill(nfc(reply), context) == nfc(reply):
        assert fill(delexicalise(reply, context), context) == nfc(reply)


# ---------------------------------------------------------------- candidates

def test_candidates_compare_by_number():
    fits = {f"fit_{i}": "no" for i in range(1, 11)} | {"fit_2": "yes", "fit_10": "yes"}
    prices = {"price_2": "30 euros", "price_10": "30 euros"}
    assert best_candidate(fits) == "2"
    assert delexicalise("It costs 30 euros.", fits | prices) == "It costs {price_2}."


def test_a_zero_in_front_is_the_same_number():
    context = {"fit_01": "no", "fit_02": "yes", "price_01": "30 euros", "price_02": "30 euros"}
    assert best_candidate(context) == "02"
    assert delexicalise("30 euros", context) == "{price_02}"
    assert fit_of("price_1", context) == "no"
    assert fit_of("price", context) is None
    assert fit_of("price_3", context) is None


def test_only_fit_with_a_number_is_special():
    for name in ("fit_type", "fit_", "fit", "fit_1a", "slim_fit", "fit__1x"):
        assert sayable(name)
        assert delexicalise("slim fit", {name: "slim fit"}) == f"{{{name}}}"
        assert best_candidate({name: "yes"}) == "1"
    for name in ("fit_1", "fit_01", "fit_10", "_domain"):
        assert not sayable(name)
    # a price is no candidate "type"
    assert fit_of("price_type", {"fit_type": "slim fit"}) is None


# ---------------------------------------------------------------- names and braces

def test_names_lose_blanks_at_their_ends():
    assert clean(" greet\u00a0") == clean("greet\u200b") == clean("\ufeffgreet\n") == "greet"
    assert clean("say sorry") == "say sorry"
    assert clean("cafe\u0301 ") == "café"


def test_slots_of_any_script():
    assert slots("{कीमत} {ราคา} {цена_2} {a b} {x") == ["कीमत", "ราคา", "цена_2"]
    assert fill("{कीमत}", {"कीमत": "500"}) == "500"
    assert has_stray_brace("{a b}")
    assert not has_stray_brace("{ราคา}")


@pytest.mark.parametrize("name", ["mgshop", "tmallbrand-a", "tmallbrand-b"])
def test_no_shop_forbids_what_it_demands(name):
    shop = load(name)
    for skill in shop.skills.values():
        for phrase in (*skill.must_say, *skill.otherwise):
            assert forbidding(phrase, (*shop.must_not_say, *skill.must_not_say)) is None
