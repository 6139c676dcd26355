"""Inform, Success and richness of MultiWOZ, on dialogues made by hand and a database of ten rows.
"""
import json
import sys

import pytest

from corpora import woz_score
from corpora.woz_score import (
    Goal,
    Talk,
    goals_of,
    gold,
    judge_dialogue,
    reference,
    richness,
    score,
    words,
)
from corpora.woz_venues import Venues, alike, clock, plain_slot, plain_slots
from data import DataError


class Tables:
    """A database of five restaurants, two hotels and three trains."""
    tables = {
        "restaurant": [
            {"name": "golden wok", "food": "chinese", "area": "north", "pricerange": "moderate"},
            {"name": "ask restaurant", "food": "italian", "area": "centre", "pricerange": "cheap"},
            {"name": "da vinci", "food": "italian", "area": "north", "pricerange": "cheap"},
            {"name": "zizzi", "food": "italian", "area": "centre", "pricerange": "expensive"},
            {"name": "nandos", "food": "portuguese", "area": "south", "pricerange": "cheap"},
        ],
        "hotel": [
            {"name": "allenbell", "type": "guesthouse", "area": "east", "parking": "yes"},
            {"name": "cityroomz", "type": "hotel", "area": "centre"},        # parking not known
        ],
        "train": [
            {"departure": "ely", "destination": "cambridge", "leave": "09:35", "arrive": "09:52"},
            {"departure": "ely", "destination": "cambridge", "leave": "11:35", "arrive": "11:52"},
            {"departure": "ely", "destination": "norwich", "leave": "11:35", "arrive": "12:40"},
        ],
    }


VENUES = Venues(Tables())
ITALIAN = {"restaurant": {"food": "italian"}}
CHEAP = {"restaurant": {"food": "italian", "pricerange": "cheap"}}
WANTED = Goal({"food": "italian", "pricerange": "cheap"}, frozenset({"phone"}))


def judged(turns, goal, booked=()):
    """(Inform, Success); a turn is (state, reply), `booked` the domains booked from a turn on."""
    predictions = [{"response": reply, "state": state} for state, reply in turns]
    done = []
    for i in range(len(turns)):
        done.append([domain for domain, turn in booked if turn <= i])
    return judge_dialogue(predictions, goal, [{}] * len(turns), done, VENUES)


# --- slots and values ---------------------------------------------------------------------------

def test_slots_of_every_style_have_one_name():
    assert plain_slots("{trainid} [value_id] [train_trainID] [id]") == {"trainid"}
    assert plain_slots("[hotel_post] {postcode} [arrive by] [train_leaveAt]") == {
        "postcode", "arrive", "leave"}
    assert plain_slot("restaurant_ref") == "reference"
    assert plain_slots("no slot (here)") == frozenset()


@pytest.mark.parametrize("value, time", [
    ("17 : 15", "17:15"), ("0905", "09:05"), ("after 9:05", "09:05"), ("by", None),
    ("around 5", None)])
def test_clock(value, time):
    assert clock(value) == time


@pytest.mark.parametrize("one, other, same", [
    ("ask", "ask restaurant", True), ("cafe uno", "caffe uno", True),
    ("portugese", "portuguese", True), ("thai", "indian", False), ("", "nandos", False)])
def test_names_may_be_misspelt_or_half_said(one, other, same):
    assert alike(one, other) is same
    assert alike(other, one) is same


@pytest.mark.parametrize("domain, wanted, rows", [
    ("restaurant", {}, {0, 1, 2, 3, 4}),
    ("restaurant", {"food": "italian", "area": "dontcare"}, {1, 2, 3}),
    ("restaurant", {"area": "center"}, set()),   # only names, food and places are read kindly
    ("restaurant", {"food": "none"}, set()),
    ("restaurant", {"name": "ask", "food": "italian"}, {1}),
    ("hotel", {"type": "guest house"}, {0}),
    ("hotel", {"parking": "free"}, {0, 1}),      # what is not known fits
    ("train", {"leave": "10:00"}, {1, 2}),
    ("train", {"arrive": "11 : 52", "destination": "cambridge"}, {0, 1}),
    ("train", {"arrive": "by"}, set()),
])
def test_which_venues_fit(domain, wanted, rows):
    assert VENUES.search(domain, wanted) == rows


# --- what a turn is about -----------------------------------------------------------------------

def test_the_domain_of_a_turn_is_the_one_that_changed():
    talk = Talk()
    hotel, food = {"hotel": {"area": "north"}}, {"restaurant": {"food": "thai"}}
    assert talk.about({}) == ""
    assert talk.about(hotel) == "hotel"
    assert talk.about(hotel) == "hotel"          # nothing changed: it goes on
    assert talk.about(food | hotel) == "restaurant"
    assert talk.about(hotel) == "restaurant"     # what was dropped is no change


def test_of_two_that_changed_the_present_one_goes_on_and_the_other_waits():
    talk = Talk()
    hotel = {"hotel": {"area": "north"}}
    both = {"restaurant": {"food": "thai"}, "hotel": {"area": "north", "stars": "4"}}
    assert [talk.about(hotel), talk.about(both), talk.about(both)] == [
        "hotel", "hotel", "restaurant"]


# --- six dialogues ------------------------------------------------------------------------------

def test_the_right_offer_and_everything_given():
    turns = [(ITALIAN, "which price ?"), (CHEAP, "[name] is nice ."), (CHEAP, "call [phone] .")]
    assert judged(turns, {"restaurant": WANTED}) == (True, True)
    assert judged(turns[:2], {"restaurant": WANTED}) == (True, False)


def test_an_offer_before_the_state_is_complete_is_a_superset():
    # 3 italian restaurants are not all cheap, and nothing is offered later
    turns = [(ITALIAN, "[name] ."), (CHEAP, "[phone] .")]
    assert judged(turns, {"restaurant": WANTED}) == (False, False)
    # offered anew it is right
    assert judged([*turns, (CHEAP, "[name] .")], {"restaurant": WANTED}) == (True, True)


def test_a_narrow_offer_is_kept_while_the_state_widens():
    turns = [(CHEAP, "[name] [phone]"), ({"restaurant": {"food": "italian", "area": "dontcare"}},
                                         "[name]")]
    assert judged(turns, {"restaurant": WANTED}) == (True, True)


def test_an_offer_of_nothing_informs_nobody():
    turns = [({"restaurant": {"food": "thai"}}, "[name] [phone]")]
    assert judged(turns, {"restaurant": WANTED}) == (False, False)


def test_a_reference_counts_once_it_is_booked():
    goal = {"restaurant": Goal({"name": "nandos"}, frozenset({"reference"}))}
    turns = [({"restaurant": {"name": "nandos"}}, "booked : [reference] ."), (CHEAP, "bye")]
    assert judged(turns, goal, [("restaurant", 1)]) == (True, False)
    assert judged(turns, goal, [("restaurant", 0)]) == (True, True)


def test_two_domains_each_need_their_own():
    goal = {"restaurant": WANTED, "hotel": Goal({"area": "east"}, frozenset({"phone"}))}
    hotel = CHEAP | {"hotel": {"area": "east"}}
    turns = [(CHEAP, "[name] [phone]"), (hotel, "[name]")]
    assert judged(turns, goal) == (True, False)  # the phone was the restaurant's
    assert judged([*turns, (hotel, "[phone]")], goal) == (True, True)


def test_a_train_is_free_unless_its_number_is_asked_for():
    fits = {"departure": "ely", "destination": "cambridge", "leave": "11:00"}
    late = [({"train": fits}, "[trainid] .")]
    early = [({"train": {"departure": "ely", "destination": "cambridge"}}, "[trainid] .")]
    for asks, never in ((frozenset(), True), (frozenset({"trainid"}), False)):
        goal = {"train": Goal(fits, asks)}
        assert judged([({"train": fits}, "a train leaves .")], goal)[0] is never
        assert judged(late, goal) == (True, True)
        assert judged(early, goal) == (False, False)         # an offer that does not fit


def test_a_taxi_has_no_venue_but_its_phone_must_be_given():
    goal = {"taxi": Goal({}, frozenset({"phone"}))}
    state = {"taxi": {"leave": "10:00"}}
    assert judged([(state, "a car comes .")], goal) == (True, False)
    assert judged([(state, "a car comes , [phone] .")], goal) == (True, True)


def test_predicted_domains_come_before_guessed_ones():
    turn = {"response": "[name] [phone]", "state": CHEAP, "active_domains": ["hotel"]}
    goal = {"restaurant": WANTED}
    assert judge_dialogue([turn], goal, [{}], [[]], VENUES) == (False, False)
    turn["active_domains"] = ["hotel", "restaurant"]
    assert judge_dialogue([turn], goal, [{}], [[]], VENUES) == (True, True)


def test_without_a_predicted_state_the_annotators_serves():
    turn = {"response": "[name] [phone]"}
    assert judge_dialogue([turn], {"restaurant": WANTED}, [CHEAP], [[]], VENUES) == (True, True)


# --- how rich the language is -------------------------------------------------------------------

def test_words_are_without_marks_and_slots_are_words():
    assert words("I do n't know , sir : [hotel_name] -s !") == ["i", "dont", "know", "sir", "name"]
    # corpora tell different times apart
    assert words("[value_leave] {arrive} [train_duration]") == ["time"] * 3


def test_richness_by_hand():
    # a b, a b, b c, b d: after a comes b for certain; after b c or d, 1 bit each; 2 of 6 words
    found = richness(["a b c .", "A b d"])
    assert found == {"cbe": pytest.approx(1 / 3), "words": 4, "trigrams": 2, "length": 3}


# --- a whole split ------------------------------------------------------------------------------

def raw_dialogue():
    """One dialogue of MultiWOZ 2.1's form."""
    empty = {"restaurant": {"semi": {"food": "", "name": "not mentioned"}, "book": {"booked": []}},
             "taxi": {"semi": {}, "book": {"booked": [{"phone": "1"}]}}}
    full = {"restaurant": {"semi": {"food": "italian", "pricerange": "cheap"},
                           "book": {"booked": [{"name": "ask"}], "people": "2"}}}
    spans = [["Restaurant-Inform", "Name", "golden wok", 1, 2],
             ["Restaurant-Recommend", "Name", "golden wok", 1, 2],
             ["Restaurant-Inform", "Phone", "0123", 5, 5]]
    return {
        "goal": {
            "restaurant": {
                "info": {"food": "italian", "leaveAt": "x"}, "reqt": ["phone", "area"],
                "book": {"people": "2"}},
            "hotel": {}, "message": ["..."], "topic": {}},
        "log": [
            {"text": "hello"}, {"text": "hello !", "metadata": empty, "span_info": []},
            {"text": "italian"},
            {"text": "the golden wok , phone 0123 .", "metadata": full, "span_info": spans}],
    }


def test_gold_is_read_from_the_corpus():
    known = gold({"SNG1.json": raw_dialogue()})
    assert known.goals == {
        "sng1": {"restaurant": Goal({"food": "italian"}, frozenset({"phone", "reference"}))}}
    assert known.states["sng1"] == [
        {}, {"restaurant": {"food": "italian", "pricerange": "cheap", "people": "2"}}]
    # a taxi is never booked
    assert known.booked["sng1"] == [[], ["restaurant"]]
    assert known.references["sng1"] == ["hello!", "the [name], phone [phone]."]


def test_every_span_becomes_a_slot_once():
    entry = {"text": "from ely at 9 : 35", "span_info": [
        ["Train-Inform", "Depart", "ely", 1, 1], ["Train-Inform", "Leave", "9 : 35", 3, 5],
        ["Train-Inform", "none", "none", 0, 0]]}
    assert reference(entry) == "from [departure] at [leave]"


def test_score_of_a_split():
    known = gold({"SNG1.json": raw_dialogue()})
    said = {"sng1": [{"response": "hello !"}, {"response": "[name] , [phone] [ref]"}]}
    arguments = known.goals, known.states, known.booked, Tables()
    found = score(said, *arguments)
    assert (found["inform"], found["success"]) == (100, 100)
    assert found["bleu"] is found["combined"] is None
    people = {"sng1": [{"response": text} for text in known.references["sng1"]]}
    found = score(people, *arguments, known.references)
    assert found["bleu"] == pytest.approx(100)
    # people did not give the reference
    assert found["combined"] == pytest.approx(100 + (100 + 0) / 2)


def test_goals_ask_only_for_what_can_be_given():
    wish = {"train": {"info": {"leaveAt": "9:00", "day": "monday"}, "reqt": ["trainID", "price"]}}
    assert goals_of(wish) == {
        "train": Goal({"leave": "9:00", "day": "monday"}, frozenset({"trainid"}))}


@pytest.mark.parametrize("said, reason", [
    ({}, "no dialogue"),
    ({"sng2": []}, "unknown dialogue 'sng2'"),
    ({"sng1": [{"response": "x"}]}, "has 1 turns, the corpus 2"),
    ({"sng1": [{"response": "x"}, {"text": "x"}]}, 'turn 2: no text under "response"'),
])
def test_unfit_predictions_are_refused(said, reason):
    known = gold({"SNG1.json": raw_dialogue()})
    with pytest.raises(DataError, match=reason):
        score(said, known.goals, known.states, known.booked, Tables())


@pytest.mark.parametrize("text, reason", [("[1]", "an object"), ("{", "cannot be read")])
def test_unreadable_predictions_are_refused(tmp_path, text, reason):
    path = tmp_path / "said.json"
    path.write_text(text)
    with pytest.raises(DataError, match=reason):
        woz_score.read_predictions(path)


def test_trivial_rows_have_every_turn():
    known = gold({"SNG1.json": raw_dialogue()})
    rows = woz_score.trivial(known)
    assert rows["human"]["sng1"][0] == {"response": "hello!"}
    assert {len(row["sng1"]) for row in rows.values()} == {2}
    json.dumps(rows)


def test_command_line_knows_its_flags(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["woz_score", "--help"])
    with pytest.raises(SystemExit):
        woz_score.arguments()
    assert "--predictions" in capsys.readouterr().out
