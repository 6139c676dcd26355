"""Tests of corpora/star_turns.py and the tasks of corpora/star.py, on dialogues made by hand."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora import star
from corpora.star_turns import asked, dialogue, facts, with_slots
from data import DataError
from tests.star_talks import BALANCE, TALK, asks, drafts, is_reply, picks, raw, says, selects, types


def parse(talk):
    return dialogue(talk, {"bank_inform_balance": ("balance",)})


# ---------------------------------------------------------------- a dialogue

def test_a_dialogue_by_hand():
    got = parse(TALK)
    # two messages are one U_t; the last has no reply
    users = ["Hi", "My balance. I am Jo, 123, pin 9", "Nice", "Bye"]
    assert [turn.user for turn in got.turns] == users
    # typed, and typed in part: nobody labelled these two
    skills = [("hello",), ("bank_inform_balance",), None, None]
    assert [turn.skills for turn in got.turns] == skills
    assert [turn.reply for turn in got.turns] == [
        "Hello, how can I help?",
        "Your current balance is {balance} in credit.",
        # "Jo" has two letters: too short
        "It is, Jo!",
        "Bye Jo Thank you and goodbye.",
    ]
    assert {turn.intent for turn in got.turns} == {None}
    assert {turn.emotion for turn in got.turns} == {None}
    assert got.id == "7"
    assert got.goal["annoyed"] is True
    assert got.goal["tasks"] == ["bank_balance"]


def test_the_screen_by_hand():
    got = parse(TALK)
    assert got.turns[0].context == {"_task": "bank_balance"}
    # a limit is known, but no value
    screen = {"balance": "42", "bank_name": "PNC", "id": "978", "full_name": "Jo", "pin": "9"}
    screen |= {"_task": "bank_balance", "_known": "account_number full_name pin"}
    assert got.turns[1].context == screen | {"_query": "query success"}
    # nothing asked in this turn
    assert got.turns[2].context == screen


def test_slots_by_hand():
    B = {
        "balance": "5",
        "price": "5",
        "city": "Ab",
        "day": "Monday",
        "weather": "sunny",
        "_task": "weather",
        "simple_instruction_2": "Turn left.",
    }
    assert with_slots("On monday: 5 and 5 and 5, 15, in Ab, sunny.", B, ("price", "balance")) == (
        "On {day}: {price} and {balance} and 5, 15, in Ab, sunny.")
    assert with_slots("It is sunny in Ab, weather", B, ("weather", "city")) == (
        "It is {weather} in {city}, weather")
    assert with_slots("Turn left. Ok?", B, ("simple_instruction",)) == (
        "{simple_instruction_2} Ok?")


def test_intent_is_the_task_that_the_wizard_turned_to():
    talk = raw(
        says("Hi"),
        picks("hello", "Hello"),
        says("my balance"),
        selects("trivia"),
        selects("bank_balance"),
        drafts(),
        picks("ask_name", "Name?"),
        says("Jo"),
        selects("trivia"),
        selects("bank_balance"),
        picks("bank_ask_pin", "PIN?"),
        says("9"),
        selects("bank_balance"),
        types("ok"),
        says("a quiz"),
        selects("trivia"),
        types("yes"),
        tasks=("bank_balance", "trivia"),
    )
    turns = parse(talk).turns
    tasks = [None, "bank_balance", "bank_balance", "bank_balance", "trivia"]
    assert [turn.context.get("_task") for turn in turns] == tasks
    # there and back again is no change, nor is the same again
    intents = [None, "bank_balance", None, None, "trivia"]
    assert [turn.intent for turn in turns] == intents


def test_a_wizard_who_speaks_first_answers_nobody():
    first, second = parse(raw(
        picks("hello", "Hello"),
        picks("ask_name", "Name?"),
        picks("hello", "Hello"),
        says("Jo"),
        picks("bank_ask_pin", "PIN?"),
    )).turns
    assert (first.user, first.reply) == ("", "Hello Name? Hello")
    assert first.skills == ("hello", "ask_name")
    assert (second.user, second.reply) == ("Jo", "PIN?")
    assert second.skills == ("bank_ask_pin",)


# ---------------------------------------------------------------- the knowledge base

@pytest.mark.parametrize(("value", "expected"), [
    ('"Jo"', "Jo"),
    ("93103", "93103"),
    ("-2.5", "-2.5"),
    ("True", "True"),
    ('"9 pm "', "9 pm"),
    ('api.is_equal_to("Hyatt")', "Hyatt"),
    ("api.is_equal_to(4)", "4"),
    ('api.is_equal_to(["8 pm"])', "8 pm"),
])
def test_exact_values_become_slots(value, expected):
    assert asked("weather", [{"City": value}]) == ({"city": expected}, ["city"])


@pytest.mark.parametrize("value", [
    'api.is_one_of(["a","b"])',
    'api.is_equal_to(["a","b"])',
    "api.is_at_least(4)",
    "api.is_equal_to()",
    '"a" or "b"',
    '""',
])
def test_what_is_not_exact_is_known_and_no_slot(value):
    assert asked("weather", [{"City": value}]) == ({}, ["city"])


def test_what_was_left_open_is_not_known():
    query = [{"PIN": "null"}, {"DateOfBirth": None}, {"RequestType": '"Check"'}]
    assert asked("bank_balance", query) == ({}, [])


def refused(message):
    return {"APIName": "x", "Message": message}


@pytest.mark.parametrize(("item", "kind", "expected"), [
    (None, None, "query nothing"),
    (BALANCE, None, "query success"),
    (refused("You must .. We cannot authenticate the user."), None, "query failure"),
    ({"APIName": "hotel_book", "Message": "Unavailable"}, "Check", "check failure"),
    ({"APIName": "hotel_book", "Message": "Available"}, "Check", "check success"),
    ({"APIName": "hotel_book", "Message": "Reservation Failed"}, "Book", "book failure"),
    ({"APIName": "ride_change", "ChangeStatus": "We are unable to."}, None, "query failure"),
    ({"APIName": "trivia", "Question": "Who failed?"}, None, "query success"),
])
def test_outcomes(item, kind, expected):
    constraints = {"RequestType": f'"{kind}"'} if kind else {}
    events = asks("hotel_book", item, **constraints)
    turns = parse(raw(says("x"), *events, types("y"))).turns
    assert turns[0].context["_query"] == expected


def test_facts_of_a_flat():
    item = {
        "APIName": "apartment_search",
        "HasBalcony": True,
        "BalconySide": "east",
        "HasElevator": False,
        "NearbyPOIs": ["Park", "School"],
        "Level": 3,
        "Price": None,
    }
    assert facts(item) == {
        "has_balcony": "has a east facing balcony",
        "balcony_side": "east",
        "has_elevator": "does not have an elevator",
        "pois": "a Park and a School",
        "floor": "3",
    }


def test_facts_of_a_way():
    item = {
        "APIName": "trip_directions",
        "WalkingInstructions": ["Go", "Turn"],
        "DetailedWalkingInstructions": ["Go on"],
        "TravelMode": "Walking",
        "id": 3,
    }
    assert facts(item) == {
        "simple_instruction_1": "Go",
        "simple_instruction_2": "Turn",
        "detailed_instruction_1": "Go on",
        "travel_mode": "Walking",
        "id": "3",
    }


# ---------------------------------------------------------------- nothing of this reply or later

QUERIES = asks("bank_balance", BALANCE, PIN="9") + asks("trivia", None, QuestionNum="2")
EVENTS = st.one_of(
    st.builds(says, st.sampled_from(["Hi", "Jo", "42"])),
    st.builds(
        picks, st.sampled_from(["hello", "custom"]), st.sampled_from(["Hi", "42"]),
        st.just(BALANCE)),
    st.builds(types, st.just("ok")),
    st.just(drafts(BALANCE)),
    st.just(drafts()),
    st.builds(selects, st.sampled_from(["trivia", "bank_balance"])),
    st.sampled_from(QUERIES),
)
OTHER_REPLY = types("something else", {"APIName": "trivia", "Question": "?", "Answer": "!"})
ONE_OR_TWO_TASKS = st.sampled_from([("bank_balance",), ("bank_balance", "trivia")])


def first_messages(events):
    """The places of the replies' first messages: a reply begins after the customer has spoken."""
    places = []
    begun = False
    for i, event in enumerate(events):
        if event["Agent"] == "User":
            begun = False
        elif is_reply(event) and not begun:
            places.append(i)
            begun = True
    return places


@given(st.lists(EVENTS, max_size=14), st.lists(EVENTS, max_size=6), ONE_OR_TWO_TASKS)
def test_a_prefix_has_the_same_states(events, others, tasks):
    """U_t, u_t and B_t stay when another reply and other events stand in place of a reply."""
    whole = parse(raw(*events, tasks=tasks)).turns
    first = first_messages(events)
    assert len(first) == len(whole)
    for t, place in enumerate(first):
        cut = raw(*events[:place], OTHER_REPLY, says("so"), *others, tasks=tasks)
        same = parse(cut).turns[t]
        assert (same.user, same.intent) == (whole[t].user, whole[t].intent)
        assert same.context == whole[t].context


# ---------------------------------------------------------------- tasks of Eq. 11

@pytest.mark.parametrize(("task", "labels"), [
    (None, ["hello", "out_of_scope"]),
    (1, ["ask_name", "hotel_inform_search_criteria", "trivia_ask_question_number"]),
    (1, ["plane_inform_nothing_found", "meeting_inform_unavailable_ask_different_time"]),
    (1, ["party_venue_not_available", "doctor_inform_booking_unavailable"]),
    (1, ["bank_ask_pin"]),
    (2, ["trivia_ask_question", "weather_inform_forecast", "bank_inform_balance"]),
    (2, ["trip_inform_simple_step_ask_proceed", "hotel_provide_search_result"]),
    (2, ["ride_inform_changes_failed"]),
    (3, ["doctor_inform_booking_available", "ride_ask_confirm_booking"]),
    (3, ["hotel_ask_search_more", "party_confirm_rsvp", "anything_else", "ride_bye"]),
    (3, ["meeting_inform_confirmed", "hotel_reservation_succeeded"]),
    (3, ["party_booking_successful"]),
])
def test_tasks_of_eq_11(task, labels):
    for label in labels:
        assert star.task_of(label) == task


def test_a_new_label_is_named():
    with pytest.raises(DataError, match="'bank_sing'; add one"):
        star.task_of("bank_sing")
