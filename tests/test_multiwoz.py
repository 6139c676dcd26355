"""Tests of corpora/multiwoz*.py on the real files; nothing is downloaded.

Skipped where GOPO_DATA (or data/) does not hold the files."""
import json
import os
import shutil
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest

from corpora import multiwoz, multiwoz_turns
from corpora.dialogues import turns_of
from corpora.multiwoz_database import Database
from corpora.woz_score import reference
from corpora.woz_tally import SAME_KIND
from corpora.woz_venues import plain_slot, plain_slots
from data import MAX_SKILLS, DataError, slots

DATA = Path(os.environ.get("GOPO_DATA", "data"))
FOLDER = DATA / "multiwoz"
LACKING = [name for name in multiwoz.FILES if not (FOLDER / name).exists()]
WHY = f"{FOLDER} lacks {', '.join(LACKING[:2])} ..: set GOPO_DATA, or run {multiwoz.DOWNLOAD}"
pytestmark = pytest.mark.skipif(bool(LACKING), reason=WHY)


@pytest.fixture(scope="module")
def raw():
    return multiwoz.unzip(FOLDER / "val.json.zip")


@pytest.fixture(scope="module")
def database():
    return Database(FOLDER / "db")


def there(url, sha256, path, description):
    """In place of `fetch`: no network is tried where the files are."""
    if not path.exists():
        pytest.fail(f"tried to fetch {path}")
    return path


@pytest.fixture(scope="module")
def data():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiwoz, "fetch", there)
        return multiwoz.load(DATA)


@pytest.fixture(scope="module")
def turns(data):
    return turns_of(data.train + data.dev + data.test)


@pytest.fixture(scope="module")
def every():
    """The same with every annotated value as a slot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiwoz, "fetch", there)
        return multiwoz.load(DATA, slots="every")


# ---------------------------------------------------------------- T by hand

def test_counts(data, turns):
    assert len(data.test) == 1000
    assert len(turns) >= 14737
    if (FOLDER / multiwoz.TRAIN).exists():
        assert (len(data.train), len(data.dev)) == (8434, 999)
    else:
        # the validation dialogues, the last 10 % of them as dev; and it says so
        assert (len(data.train), len(data.dev)) == (899, 100)
        assert "899 validation dialogues" in data.note


def teacher_of(entry):
    return multiwoz_turns.teacher(entry["dialog_act"], entry["span_info"])


def test_T_follows_the_text_not_the_keys(raw):
    # PMUL0287: "There are no hotels that fit .. in the South, but there are two Guesthouses.
    # Would you like to book one of those?"
    entry = raw["PMUL0287"]["log"][7]
    assert list(entry["dialog_act"]) == ["Booking-Inform", "Hotel-NoOffer", "Hotel-Inform"]
    assert teacher_of(entry) == ("nooffer", "inform", "offerbook")
    # PMUL4399: "You are all booked at Hobsons House at 96 barton road. You're welcome."
    entry = raw["PMUL4399"]["log"][11]
    assert list(entry["dialog_act"]) == ["general-welcome", "Hotel-Inform", "Booking-Book"]
    assert teacher_of(entry) == ("book", "inform", "welcome")


FOUR_ACTS = {
    "Hotel-Request": [],
    "Hotel-Recommend": [5],
    "Booking-Book": [3],
    "Booking-NoBook": [],
}


# act -> where its spans begin; none: it has no span
@pytest.mark.parametrize(("begins", "expected"), [
    ({"Hotel-Inform": [9, 2], "Hotel-Recommend": [5], "general-greet": []},
     ("greet", "inform", "recommend")),
    ({"Hotel-Inform": [2, 9], "Hotel-Recommend": [1], "Hotel-NoOffer": [7]},
     ("recommend", "inform", "nooffer")),
    (FOUR_ACTS, ("nobook", "book", "recommend", "request")),
    # one skill, two domains
    ({"Hotel-Inform": [5], "Train-Inform": [1], "Booking-Book": [3]}, ("inform", "book")),
])
def test_T_by_first_span(begins, expected):
    spans = []
    for act, places in begins.items():
        spans += [[act, "Name", "x", begin, begin] for begin in places]
    assert multiwoz_turns.teacher(begins, spans) == expected
    reversed_acts = dict(reversed(begins.items()))
    assert multiwoz_turns.teacher(reversed_acts, spans[::-1]) == expected


def test_T_of_spanless_acts():
    acts = ("general-bye", "general-reqmore", "Hotel-Request", "Booking-NoBook",
            "general-greet", "general-welcome")
    # the sixth, bye, is cut
    expected = ("greet", "nobook", "request", "reqmore", "welcome")
    assert multiwoz_turns.teacher({act: [] for act in acts}, []) == expected
    assert multiwoz_turns.teacher({}, []) is None


# ---------------------------------------------------------------- dialogues by hand

def test_a_dialogue_by_hand(data):
    talks = {dialogue.id: dialogue for dialogue in data.train}
    turns = talks["PMUL1635"].turns
    assert turns[0].user == "I need to book a hotel in the east that has 4 stars."
    assert turns[0].intent == "hotel-inform"
    assert turns[0].context["_known"] == "area stars"
    assert turns[0].context["choice"] == "6"
    assert "ref" not in turns[0].context
    # day, people and nights are known: a reference is there
    assert turns[3].skills == ("book", "reqmore")
    assert turns[3].reply == (
        "Booking was successful. Reference number is: {ref}. "
        "Can I help you with anything else today?")
    # the last train that makes it
    assert turns[5].context["before"] == "19:45"
    assert turns[5].context["arrive"] == "18:07"
    begins = "Okay! The latest train you can take leaves at {leave}, and arrives by {arrive}."
    assert turns[5].reply.startswith(begins)


def name_span(name, begin):
    return ["Hotel-Recommend", "Name", name, begin, begin + len(name.split()) - 1]


def test_slots_for_another_match_and_words_for_none(database):
    matches = database.search("hotel", {"area": "east", "stars": "4", "parking": "yes"})
    B = {"choice": str(len(matches.entities)), **matches.entities[0]}

    def with_slots(text, *spans):
        return multiwoz_turns.with_slots(text, list(spans), B, matches)

    # any match may be offered
    second = matches.entities[1]["name"]
    assert with_slots(f"{second} it is", name_span(second, 0)) == "{name} it is"
    # no match
    assert with_slots("The Ritz it is", name_span("the ritz", 0)) == "The Ritz it is"
    # one value a slot
    first = B["name"]
    behind_or = len(first.split()) + 1
    spans = (name_span(first, 0), name_span(second, behind_or))
    assert with_slots(f"{first} or {second}", *spans) == "{name} or " + second


def test_every_annotated_value_becomes_a_slot(database):
    matches = database.search("hotel", {"area": "east", "stars": "4", "parking": "yes"})
    B = multiwoz_turns.with_offered({"choice": "9", "people": "2", **matches.entities[0]})
    first = B["name"]

    def with_slots(text, *spans):
        return multiwoz_turns.with_slots(text, list(spans), B, matches, every=True)

    # what no match has, and a second value of one slot
    text = f"{first} or The Ritz"
    behind_or = len(first.split()) + 1
    spans = (name_span(first, 0), name_span("the ritz", behind_or))
    assert with_slots(text, *spans) == "{name} or {name}"
    # a slot that B_t has no value of; of two slots the one that B_t knows
    train = [["Train-Inform", "Leave", "9:30", 0, 0], ["Train-Inform", "Ticket", "20", 2, 2]]
    assert with_slots("9:30 costs 20", *train) == "{leave} costs {price}"
    assert "price" not in matches.values
    B |= {"total": "40.40 pounds"}
    assert with_slots("9:30 costs 20", *train) == "{leave} costs {total}"
    # values of a kind that is no slot
    assert with_slots("wifi is free", ["Hotel-Inform", "Internet", "free", 2, 2]) == "wifi is free"


def test_search_by_hand(database):
    way = {"departure": "cambridge", "destination": "bishops stortford", "day": "friday"}
    trains = database.search("train", way | {"after": "09:00", "before": "12:00"})
    # the next one, at 11:29, arrives at 12:07
    assert [(t["leave"], t["arrive"]) for t in trains.entities] == [("09:29", "10:07")]
    assert database.search("restaurant", {"food": "klingon"}).entities == []
    assert len(database.search("restaurant", {"food": "dontcare"}).entities) == 110


# ---------------------------------------------------------------- properties

@pytest.mark.parametrize("every", [False, True])
def test_nothing_leaks_from_this_reply_or_a_later_one(raw, database, every):
    """B_t, u_t and U_t stay when another dialogue's reply stands at turn t, and nothing behind."""
    def read(id, raw):
        return multiwoz_turns.dialogue(id, raw, database, every=every).turns

    for id, other in pairwise(list(raw)[:120]):
        log = raw[id]["log"]
        strange = raw[other]["log"]
        for t, turn in enumerate(read(id, raw[id])):
            place = 2 * t + 1
            # the belief is that *before* the reply
            before = {"metadata": log[place]["metadata"]}
            cut = [*log[:place], strange[place % len(strange)] | before]
            got = read(id, raw[id] | {"log": cut})[t]
            assert (got.context, got.intent) == (turn.context, turn.intent)
            assert got.user == turn.user


def test_a_name_nobody_has_said_is_not_in_the_belief(database):
    semi = {"name": "the gandhi", "area": "centre"}
    booked = {"name": "the gandhi", "reference": "X"}
    belief = {"restaurant": {"semi": semi, "book": {"booked": [booked]}}}

    def context(heard):
        B, _ = multiwoz_turns.context("restaurant", belief, heard, [], database, "x")
        return B

    B = context("somewhereinthecentre")
    assert B["_known"] == "area"
    assert int(B["choice"]) > 1
    assert "ref" not in B
    B = context("isthegandhigood")
    assert B["_known"] == "area name"
    assert B["name"] == "the gandhi"


def test_every_turn_keeps_the_schema(data, turns):
    for turn in turns:
        if turn.skills is not None:
            assert len(turn.skills) <= MAX_SKILLS
            assert len(set(turn.skills)) == len(turn.skills)
            assert set(turn.skills) <= set(data.skills)
        # a reply names no slot that B_t lacks
        assert set(slots(turn.reply)) <= set(turn.context)
        assert turn.emotion is None
        assert all(isinstance(value, str) for value in turn.context.values())
    assert len(data.intents) <= 30
    assert data.emotions == ()
    for skill in data.skills.values():
        assert skill.task in (None, 1, 2, 3)
        assert 0 < len(skill.examples) <= 8


def annotated(entry):
    """The slots of a system turn by its spans alone; one span of the corpus ends before it begins.
    """
    entry = multiwoz_turns.UNANNOTATED | entry
    spans = [span for span in entry["span_info"] if span[3] <= span[4]]
    return plain_slots(reference(entry | {"span_info": spans}))


def test_with_every_slot_nothing_that_was_annotated_stays_in_words(raw, every):
    count = 0
    talks = [talk for talk in every.train + every.dev if talk.id in raw]
    for talk in talks:
        for turn, entry in zip(talk.turns, raw[talk.id]["log"][1::2], strict=True):
            # one kind of annotation has several slots: a time of leaving may be `after`
            told = {plain_slot(SAME_KIND.get(slot, slot)) for slot in slots(turn.reply)}
            assert annotated(entry) <= told
            count += len(told)
    assert count > 10_000


def test_every_slot_of_a_reply_can_be_said_and_nothing_else_changes(data, every):
    for known, all_slots in zip(turns_of(data.test), turns_of(every.test), strict=True):
        assert set(slots(all_slots.reply)) <= set(all_slots.context)
        assert set(multiwoz_turns.OFFERED) <= set(all_slots.context)
        # what is known is the same; what is offered besides has no value
        assert known.context.items() <= all_slots.context.items()
        more = all_slots.context.keys() - known.context.keys()
        assert {all_slots.context[slot] for slot in more} <= {"?"}
        assert (known.user, known.intent, known.skills) == (
            all_slots.user, all_slots.intent, all_slots.skills)
    assert data.test != every.test


def books(turn):
    return bool({"book", "offerbooked"} & set(turn.skills or ()))


def test_bookings_have_their_reference(turns):
    booked = [turn for turn in turns if books(turn)]
    # 91 %: the others give none or come too early
    assert sum("{ref}" in turn.reply for turn in booked) / len(booked) > 0.85
    held = [turn for turn in turns if "ref" in turn.context]
    # so that `ref` does not tell T
    assert sum(not books(turn) for turn in held) / len(held) > 0.3


def test_conduct_leads_T(raw, database):
    if not (FOLDER / multiwoz.CONDUCT).exists():
        pytest.skip(f"{FOLDER} lacks {multiwoz.CONDUCT}")
    tones = json.loads((FOLDER / multiwoz.CONDUCT).read_text())
    found = set()
    for id in list(raw)[:200]:
        plain = multiwoz_turns.dialogue(id, raw[id], database).turns
        toned = multiwoz_turns.dialogue(id, raw[id], database, tones).turns
        for i, (a, b) in enumerate(zip(plain, toned, strict=True)):
            tone = multiwoz.TONES[tones[f"{id}.json-{2 * i + 1}"]]
            if a.skills is None:
                assert b.skills is None
                continue
            lead = [tone] if tone else []
            assert b.skills == (*lead, *a.skills)[:MAX_SKILLS]
            found.update(lead)
    # "compassionate" is 1 in 1000
    assert found >= {"apologetic", "enthusiastic", "appreciative"}


# ---------------------------------------------------------------- refusal and smoke

def copy_of_data(tmp_path, leave=()):
    def left(_, names):
        return [name for name in names if name in leave or name == multiwoz.TRAIN]

    folder = tmp_path / "multiwoz"
    shutil.copytree(FOLDER, folder, ignore=left)
    # the data folder may be read-only, and copies keep that
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    return folder


def test_a_damaged_file_is_named(tmp_path):
    folder = copy_of_data(tmp_path)
    whole = (FOLDER / "val.json.zip").read_bytes()
    (folder / "val.json.zip").write_bytes(whole[:5000])
    with pytest.raises(DataError, match=r"val\.json\.zip: cannot be read .*--download"):
        multiwoz.load(tmp_path)


def test_a_missing_file_is_fetched_and_train_is_optional(tmp_path, monkeypatch, capsys):
    folder = copy_of_data(tmp_path, leave=["val.json.zip"])
    asked = []

    def offline(url, sha256, path, description):
        asked.append(path.name)
        if path.name == "val.json.zip":
            shutil.copy(FOLDER / path.name, path)
        elif path.name == multiwoz.TRAIN:
            raise DataError("no such host")
        return path

    monkeypatch.setattr(multiwoz, "fetch", offline)
    multiwoz.download(folder)
    assert asked[0] == "val.json.zip"
    assert asked[-1] == multiwoz.TRAIN
    assert "no such host" in capsys.readouterr().err


def test_train_counts_only_with_the_listed_ids(tmp_path):
    folder = copy_of_data(tmp_path)
    ids = (folder / "trainListFile").read_text().split()

    def put(names):
        talks = {name: {} for name in names}
        with zipfile.ZipFile(folder / multiwoz.TRAIN, "w") as archive:
            archive.writestr("train.json", json.dumps(talks))

    put(ids)
    assert len(multiwoz._train(folder)) == 8434
    for names in (ids[:-1], [*ids[:-1], "other"]):
        put(names)
        with pytest.raises(DataError, match="trainListFile; remove the file"):
            multiwoz._train(folder)


def test_the_demo_prints_one_dialogue(data, monkeypatch, capsys):
    monkeypatch.setattr(multiwoz, "load", lambda *_: data)
    argv = ["multiwoz.py", "--data_dir", str(DATA), "--number", "3"]
    monkeypatch.setattr("sys.argv", argv)
    multiwoz.main()
    said = capsys.readouterr().out
    for part in ("U_t", "B_t", "offerbooked"):
        assert part in said
