"""The two ears of the food-delivery store, and the reading of its customers."""
import random

import pytest

from data import fill
from shop import fds_ear, fds_second_ear
from shop.catalogue import book, phrasings, skill_pool, template
from shop.fds_catalogue import Focus, search
from shop.fds_reading import ValueReader, kind_of, kinds_of

EARS = pytest.mark.parametrize(
    "listen", [fds_ear.hear, fds_second_ear.hear], ids=["patterns", "exemplars"])
CONTEXT = {
    "order_1": "4711", "report_1": "nothing unusual",
    "order_2": "5302", "report_2": "courier fell on the way"}


def kinds(listen, text: str) -> list[str]:
    return [act.kind for act in listen(text, CONTEXT)]


@EARS
@pytest.mark.parametrize("text, heard", [
    ("Would a voucher help?", ["propose_voucher"]),
    ("I could offer you a voucher.", ["propose_voucher"]),
    ("The voucher is in your account.", ["issue_voucher"]),
    ("I have added a voucher to your account.", ["issue_voucher"]),
    ("I cannot offer you a voucher.", []),
    ("The voucher is not in your account.", []),
    ("I cannot refund this order.", ["decline_refund"]),
    ("A refund is not possible.", ["decline_refund"]),
    ("Your order is 5302.", ["confirm_order"]),
    ("This is not order 5302.", []),
    ("Sorry for what went wrong!", ["apologise"]),
    ("", []),
    ("谢谢 🎉", []),
])
def test_by_hand(listen, text, heard):
    assert kinds(listen, text) == heard


@EARS
def test_a_record_is_told_by_its_value(listen):
    act, = listen("The record says: courier fell on the way.", CONTEXT)
    assert (act.kind, act.candidates) == ("state_report", {"2"})
    assert listen("It is order 47110.", CONTEXT) == []


# a table of paraphrases and negations, written by hand
@EARS
def test_ears_on_held_out_sentences(listen):
    rates = fds_ear.examine(listen)
    assert rates["sentences"] >= 100
    assert rates["hit"] >= 0.8
    assert rates["false_alarm"] <= 0.05


@pytest.mark.parametrize("skill", list(skill_pool("fds")))
@EARS
def test_the_ears_hear_the_phrase_book(listen, skill):
    context = search(Focus("tagine"), "test")
    for seed in range(12):
        wording = fill(template([skill], context, random.Random(seed), "fds"), context)
        assert [act.kind for act in listen(wording, context)] == [skill]


# sentences of dev and test, which the reader was not made from
@pytest.mark.parametrize("split", ["dev", "test"])
def test_sentences_never_met_are_recognised(split):
    right = []
    for kind in book("fds")["customer"]:
        for variants in phrasings(split, kind, "fds"):
            right += [kind_of(line) == kind for line in variants]
    assert sum(right) / len(right) >= 0.9


def test_a_message_is_read_sentence_by_sentence():
    said = "I am furious! My pizza arrived cold. I insist on a refund."
    assert kinds_of(said) == ["mark.angry", "need.cold", "wish.rigid"]
    assert kinds_of("") == []


# v of who says "much" is 2, of who says "little" 0: the two words are all that differs
def test_v_is_read_from_the_words():
    talks = ["it means much to me", "it means little to me"] * 20
    reader = ValueReader(talks, [2.0, 0.0] * 20)
    much, little = reader.read(talks[:2])
    assert much > 1.6 and little < 0.4
    assert reader.read(["quite another thing"])[0] == pytest.approx(1.0, abs=0.5)
