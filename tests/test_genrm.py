"""The process judge by rule: marks by hand, and nothing of the hidden type."""
import pytest

from data import Judged
from rewards import PRINCIPLES, process_credit
from shop.catalogue import skill_pool
from shop.genrm import RuleGenRM

GENRM = RuleGenRM(skill_pool("fds"))
CONTEXT = {
    "order_1": "4711", "report_1": "handed over 38 minutes late", "fit_1": "yes",
    "order_2": "5302", "report_2": "nothing unusual", "fit_2": "no"}
COMPLAINT = "My pizza arrived cold. The order number is 4711."
CONFIRMED = ("I have your order {order_1} in front of me.", "Yes, 4711 is mine.")
TOLD = ("Our delivery record says: {report_1}.", "So the report says it too.")
EXPLAINED = (
    "This happened because the rush hour was badly planned.",
    "I see, that explains it. I insist on a refund.")
PROPOSED = ("Would a voucher for your next order help?", "Yes, a voucher would be welcome.")


def marks(reply: str, *turns: tuple[str, str], first: str = COMPLAINT):
    """Marks of a reply after some (reply, answer)."""
    said = [first, *(answer for _, answer in turns)]
    history = tuple((user, reply) for user, (reply, _) in zip(said, turns))
    previous = tuple(reply for reply, _ in turns)
    item = Judged(said[-1], CONTEXT, (), reply, previous, history=history)
    return dict(zip(PRINCIPLES, GENRM.score([item])[0]))


def test_eq_6_takes_the_marks_as_they_come():
    item = Judged(COMPLAINT, CONTEXT, (), CONFIRMED[0])
    given, = GENRM.score([item])
    assert len(given) == len(PRINCIPLES)
    # the opener fits, the order was due, no rule is broken, and the reply has the shape of one
    assert process_credit(given) == 1
    # a refund declined that nobody asked for: persona 1, stage 0, quality 1, scenario 0 of 5
    item = Judged(COMPLAINT, CONTEXT, (), "I cannot refund this order.")
    assert process_credit(GENRM.score([item])[0]) == 0.4


def test_what_is_due_moves_on_with_the_talk():
    due = [CONFIRMED[0], TOLD[0], EXPLAINED[0], "I cannot refund this order."]
    turns = [CONFIRMED, TOLD, EXPLAINED]
    for n, reply in enumerate(due):
        assert marks(reply, *turns[:n])["stage"] == 1, reply
        for other in due:
            if other != reply:
                assert marks(other, *turns[:n])["stage"] == 0, (reply, other)


def test_stalling_scores_nothing_on_stage():
    assert marks("One moment, please.")["stage"] == 0
    assert marks("I have your order {order_1} in front of me. Goodbye.")["stage"] == 0.5


@pytest.mark.parametrize("said, opener, other", [
    ("I am furious!", "I am very sorry for the trouble.", "Please do not worry."),
    ("I am really nervous now.", "You are in good hands.", "I am very sorry for the trouble."),
])
def test_the_opener_must_fit_the_emotion(said, opener, other):
    first = f"{said} {COMPLAINT}"
    assert marks(f"{opener} {CONFIRMED[0]}", first=first)["persona"] == 1
    assert marks(f"{other} {CONFIRMED[0]}", first=first)["persona"] == 0
    # deaf for business: nothing is due but the opener
    assert marks(CONFIRMED[0], first=first)["stage"] == 0
    assert marks(f"{opener} {CONFIRMED[0]}")["persona"] == 0


@pytest.mark.parametrize("reply, turns, scenario", [
    # before the cause is clear
    ("The voucher has now been credited to you.", [CONFIRMED], 0),
    # without asking, and after asking
    ("The voucher has now been credited to you.", [CONFIRMED, TOLD, EXPLAINED], 0.5),
    ("The voucher has now been credited to you.", [CONFIRMED, TOLD, EXPLAINED, PROPOSED], 1),
    # nobody asked for a refund
    ("I cannot refund this order.", [CONFIRMED], 0),
    # a promise is open
    ("Is there anything else I can do for you?", [CONFIRMED, TOLD, EXPLAINED, PROPOSED], 0),
    ("We guarantee that it was our fault.", [CONFIRMED], 0),
])
def test_rules_of_the_store(reply, turns, scenario):
    assert marks(reply, *turns)["scenario"] == scenario


def test_what_was_said_before_has_no_quality():
    assert marks(CONFIRMED[0])["quality"] == 1
    assert marks(CONFIRMED[0], CONFIRMED)["quality"] == 0


def test_an_act_that_was_refused_is_still_due():
    refused = (CONFIRMED[0], "That is not my order.")
    assert marks("I found your order {order_1}.", refused)["stage"] == 1
