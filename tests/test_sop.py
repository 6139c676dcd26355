"""Tests of corpora/sop.py on charts made by hand: walking, the policy, prohibitions."""
from types import SimpleNamespace

import pytest

from corpora import sop
from data import Labels
from tests.star_talks import BANK

AUTHENTICATE = "bank_inform_cannot_authenticate"


# ---------------------------------------------------------------- walking

@pytest.mark.parametrize(("last", "event", "expected"), [
    (None, "", ("hello",)),
    ("hello", "", ("ask_name",)),
    ("ask_name", "", ("bank_ask_account_number",)),
    ("bank_ask_account_number", "", ("bank_ask_pin",)),
    # the query decides
    ("bank_ask_pin", "", ("bank_inform_balance", AUTHENTICATE)),
    ("bank_ask_pin", "query success", ("bank_inform_balance",)),
    ("bank_ask_pin", "query failure", (AUTHENTICATE,)),
    ("bank_ask_pin", "info_missing", ("bank_ask_dob",)),
    ("bank_ask_dob", "", ("bank_ask_mothers_maiden_name",)),
    ("bank_ask_childhood_pets_name", "query success", ("bank_inform_balance",)),
    ("bank_ask_mothers_maiden_name", "info_missing2", (AUTHENTICATE,)),
    ("bank_inform_balance", "", ("anything_else",)),
    ("anything_else", "", ()),
    ("something unknown", "", ()),
])
def test_the_chart_of_bank_balance(last, event, expected):
    assert sop.sop_next(BANK, last, event) == expected


BOOKING = {
    "hello": "ask",
    "ask": "query_check",
    "available": "offer",
    "unavailable": "sorry",
    "yes": "query_book",
    "no": "ask",
    "query_success": "booked",
    "query_failure": "failed",
}


@pytest.mark.parametrize(("last", "event", "expected"), [
    ("ask", "", ("offer", "sorry")),
    ("ask", "check failure", ("sorry",)),
    ("offer", "", ("ask", "booked", "failed")),
    ("offer", "no", ("ask",)),
    ("offer", "yes", ("booked", "failed")),
    ("offer", "book success", ("booked",)),
])
def test_the_chart_of_a_booking(last, event, expected):
    assert sop.sop_next(BOOKING, last, event) == expected


def test_another_wish_begins_anew():
    assert sop.sop_next(BOOKING | {"booked": "anything_else"}, "anything_else") == ()


# ---------------------------------------------------------------- the policy

LABELS = [
    "hello", "ask_name", "bank_ask_account_number", "bank_ask_pin", "bank_inform_balance",
    "bank_ask_dob", "anything_else", "goodbye_1",
]


@pytest.mark.parametrize(("user", "past", "expected"), [
    ("Hello!", [], "hello"),
    ("I want my balance please", [], "ask_name"),
    ("my balance", ["hello"], "ask_name"),
    # a turn without a label
    ("Jo", ["ask_name", None], "bank_ask_account_number"),
    ("123", ["ask_name", "bank_ask_account_number"], "bank_ask_pin"),
    ("I forgot it", ["ask_name", "bank_ask_account_number"], "bank_ask_dob"),
    ("lovely", ["bank_inform_balance"], "anything_else"),
    ("no thanks", ["bank_inform_balance", "anything_else"], "goodbye_1"),
])
def test_the_sop_as_a_policy(user, past, expected):
    """It goes by the logged labels, B_t and the customer's words."""
    assert chosen(user, past) == [(expected,)]


def test_the_policy_reads_the_outcome_of_a_query():
    assert chosen("9", ["bank_ask_pin"], _query="query success") == [("bank_inform_balance",)]


def chosen(user, past, **B):
    dataset = SimpleNamespace(sops={"bank_balance": BANK}, skills=dict.fromkeys(LABELS))
    steps = []
    for label in past:
        teacher = (label,) if label else None
        steps.append(SimpleNamespace(teacher=teacher))
    # the policy must not go by the teacher of this turn
    labels = Labels(teacher=("bank_ask_dob",))
    seen = SimpleNamespace(context={"_task": "bank_balance"} | B, labels=labels)
    episode = SimpleNamespace(steps=steps, seen=seen)
    return sop.by_sop(dataset)([SimpleNamespace(user=user)], [episode])


# ---------------------------------------------------------------- prohibitions

def test_claims_before_the_query_and_on_the_other_branch():
    # not its own action, nor ask_name, which serves other tasks as well
    skills = [
        "bank_ask_account_number", "bank_ask_pin", "bank_ask_dob",
        "bank_ask_mothers_maiden_name", "bank_ask_childhood_pets_name", AUTHENTICATE,
    ]
    banned = sop.prohibitions({"bank_balance": BANK})
    assert banned == dict.fromkeys(skills, ("your current balance is",))
