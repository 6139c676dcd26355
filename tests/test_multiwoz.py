"""Tests of multiwoz.py on the real files; skipped where GOPO_DATA (or data/) does not hold them.  Nothing is downloaded."""
import json
import os
import shutil
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest

from corpora import multiwoz
from data import MAX_SKILLS, DataError, slots

DATA = Path(os.environ.get("GOPO_DATA", "data"))
FOLDER = DATA / "multiwoz"
LACKING = [f for f in multiwoz.FILES if not (FOLDER / f).exists()]
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"{FOLDER} lacks {', '.join(LACKING[:2])} ..: set GOPO_DATA, or run python multiwoz.py --download")


@pytest.fixture(scope="module")
def raw():
    return multiwoz._unzip(FOLDER / "val.json.zip")


@pytest.fixture(scope="module")
def database():
    return multiwoz.Database(FOLDER / "db")


@pytest.fixture(scope="module")
def data():
    with pytest.MonkeyPatch.context() as patch:  # no network is tried where the files are
        patch.setattr(multiwoz, "fetch", lambda url, sha256, path, description: path if path.exists() else pytest.fail(f"tried to fetch {path}"))
        return multiwoz.load(DATA)


def turns(data):
    return [t for d in data.train + data.dev + data.test for t in d.turns]


# ---------------------------------------------------------------- by hand

def test_counts(data):
    assert len(data.test) == 1000 and len(turns(data)) >= 14737
    if (FOLDER / multiwoz.TRAIN).exists():
        assert (len(data.train), len(data.dev)) == (8434, 999)
    else:                                        # the validation dialogues, the last 10 % of them as dev; and it says so
        assert (len(data.train), len(data.dev)) == (899, 100) and "899 validation dialogues" in data.note


def test_T_follows_the_text_not_the_keys(raw):
    # PMUL0287: "There are no hotels that fit .. in the South, but there are two Guesthouses. Would you like to book one of those?"
    entry = raw["PMUL0287"]["log"][7]
    assert list(entry["dialog_act"]) == ["Booking-Inform", "Hotel-NoOffer", "Hotel-Inform"]
    assert multiwoz.teacher(entry["dialog_act"], entry["span_info"]) == ("nooffer", "inform", "offerbook")
    # PMUL4399: "You are all booked at Hobsons House at 96 barton road. You're welcome."
    entry = raw["PMUL4399"]["log"][11]
    assert list(entry["dialog_act"]) == ["general-welcome", "Hotel-Inform", "Booking-Book"]
    assert multiwoz.teacher(entry["dialog_act"], entry["span_info"]) == ("book", "inform", "welcome")


@pytest.mark.parametrize(("begins", "expected"), [                   # where each act's spans begin; none = spanless
    ({"Hotel-Inform": [9, 2], "Hotel-Recommend": [5], "general-greet": []}, ("greet", "inform", "recommend")),
    ({"Hotel-Inform": [2, 9], "Hotel-Recommend": [1], "Hotel-NoOffer": [7]}, ("recommend", "inform", "nooffer")),
    ({"Hotel-Request": [], "Hotel-Recommend": [5], "Booking-Book": [3], "Booking-NoBook": []}, ("nobook", "book", "recommend", "request")),
    ({"Hotel-Inform": [5], "Train-Inform": [1], "Booking-Book": [3]}, ("inform", "book")),       # one skill, two domains
])
def test_T_by_first_span(begins, expected):
    spans = [[act, "Name", "x", begin, begin] for act, where in begins.items() for begin in where]
    assert multiwoz.teacher(begins, spans) == multiwoz.teacher(dict(reversed(begins.items())), spans[::-1]) == expected


def test_T_of_spanless_acts():
    acts = {a: [] for a in ("general-bye", "general-reqmore", "Hotel-Request", "Booking-NoBook", "general-greet", "general-welcome")}
    assert multiwoz.teacher(acts, []) == ("greet", "nobook", "request", "reqmore", "welcome")    # the sixth, bye, is cut
    assert multiwoz.teacher({}, []) is None


def test_a_dialogue_by_hand(data):
    turn = {d.id: d for d in data.train}["PMUL1635"].turns
    assert turn[0].user == "I need to book a hotel in the east that has 4 stars." and turn[0].intent == "hotel-inform"
    assert turn[0].context["_known"] == "area stars" and turn[0].context["choice"] == "6" and "ref" not in turn[0].context
    assert turn[3].skills == ("book", "reqmore")                     # day, people and nights are known: a reference is there
    assert turn[3].reply == "Booking was successful. Reference number is: {ref}. Can I help you with anything else today?"
    assert turn[5].context["before"] == "19:45" and turn[5].context["arrive"] == "18:07"         # the last train that makes it
    assert turn[5].reply.startswith("Okay! The latest train you can take leaves at {leave}, and arrives by {arrive}.")


def test_slots_for_another_match_and_words_for_none(database):
    matches = database.search("hotel", {"area": "east", "stars": "4", "parking": "yes"})
    B = {"choice": str(len(matches.entities)), **matches.entities[0]}
    second = matches.entities[1]["name"]
    spans = [["Hotel-Recommend", "Name", second, 0, len(second.split()) - 1]]
    assert multiwoz.with_slots(second + " it is", spans, B, matches) == "{name} it is"           # any match may be offered
    spans = [["Hotel-Recommend", "Name", "the ritz", 0, 1]]
    assert multiwoz.with_slots("The Ritz it is", spans, B, matches) == "The Ritz it is"          # no match
    both = f"{B['name']} or {second}"
    begin = len(B["name"].split()) + 1
    spans = [["x", "Name", B["name"], 0, begin - 2], ["x", "Name", second, begin, begin + len(second.split()) - 1]]
    assert multiwoz.with_slots(both, spans, B, matches) == "{name} or " + second                 # one value a slot


def test_search_by_hand(database):
    trains = database.search("train", {"departure": "cambridge", "destination": "bishops stortford", "day": "friday", "after": "09:00", "before": "12:00"})
    assert [(t["leave"], t["arrive"]) for t in trains.entities] == [("09:29", "10:07"), ("11:29", "12:07")][:1]
    assert database.search("restaurant", {"food": "klingon"}).entities == []
    assert len(database.search("restaurant", {"food": "dontcare"}).entities) == 110


# ---------------------------------------------------------------- properties

def test_nothing_leaks_from_this_reply_or_a_later_one(raw, database):
    """B_t, u_t and U_t stay as they are when the reply of turn t and all that follows is another dialogue's."""
    for id, other in pairwise(list(raw)[:120]):
        whole, strange = multiwoz.dialogue(id, raw[id], database).turns, raw[other]["log"]
        for t, turn in enumerate(whole):
            reply = strange[(2 * t + 1) % len(strange)] | {"metadata": raw[id]["log"][2 * t + 1]["metadata"]}   # the belief *before* it
            got = multiwoz.dialogue(id, raw[id] | {"log": [*raw[id]["log"][:2 * t + 1], reply]}, database).turns[t]
            assert (got.context, got.intent, got.user) == (turn.context, turn.intent, turn.user)


def test_a_name_nobody_has_said_is_not_in_the_belief(database):
    belief = {"restaurant": {"semi": {"name": "the gandhi", "area": "centre"}, "book": {"booked": [{"name": "the gandhi", "reference": "X"}]}}}
    B, _ = multiwoz.context("restaurant", belief, "somewhereinthecentre", [], database, "x")
    assert B["_known"] == "area" and int(B["choice"]) > 1 and "ref" not in B
    B, _ = multiwoz.context("restaurant", belief, "isthegandhigood", [], database, "x")
    assert B["_known"] == "area name" and B["name"] == "the gandhi"


def test_every_turn_keeps_the_schema(data):
    for turn in turns(data):
        assert turn.skills is None or (len(turn.skills) <= MAX_SKILLS and len(set(turn.skills)) == len(turn.skills) and set(turn.skills) <= set(data.skills))
        assert set(slots(turn.reply)) <= set(turn.context)           # a reply names no slot that B_t lacks
        assert turn.emotion is None and all(isinstance(v, str) for v in turn.context.values())
    assert len(data.intents) <= 30 and data.emotions == ()
    assert all(s.task in (None, 1, 2, 3) and 0 < len(s.examples) <= 8 for s in data.skills.values())


def test_bookings_have_their_reference(data):
    booked = [t for t in turns(data) if {"book", "offerbooked"} & set(t.skills or ())]
    assert sum("{ref}" in t.reply for t in booked) / len(booked) > 0.85                          # 91 %: the others give none or come too early
    held = [t for t in turns(data) if "ref" in t.context]
    assert sum(not {"book", "offerbooked"} & set(t.skills or ()) for t in held) / len(held) > 0.3             # so `ref` does not tell T


def test_conduct_leads_T(raw, database):
    if not (FOLDER / "emowoz_2.0.json").exists():
        pytest.skip(f"{FOLDER} lacks emowoz_2.0.json")
    tones, found = json.loads((FOLDER / "emowoz_2.0.json").read_text()), set()
    for id in list(raw)[:200]:
        plain, toned = multiwoz.dialogue(id, raw[id], database).turns, multiwoz.dialogue(id, raw[id], database, tones).turns
        for i, (a, b) in enumerate(zip(plain, toned, strict=True)):
            tone = [multiwoz.TONES[tones[f"{id}.json-{2 * i + 1}"]]]
            lead = tone if tone[0] and a.skills is not None else []
            assert b.skills == (a.skills if a.skills is None else (*lead, *a.skills)[:MAX_SKILLS])
            found.update(lead)
    assert found >= {"apologetic", "enthusiastic", "appreciative"}   # "compassionate" is 1 in 1000


# ---------------------------------------------------------------- refusal and smoke

def copy_of_data(tmp_path, leave=()):
    shutil.copytree(FOLDER, tmp_path / "multiwoz", ignore=lambda _, names: [n for n in names if n in leave or n == multiwoz.TRAIN])
    for path in [tmp_path / "multiwoz", *(tmp_path / "multiwoz").rglob("*")]:
        path.chmod(0o755)                        # the shared folder is read-only, and copies keep that
    return tmp_path / "multiwoz"


def test_a_damaged_file_is_named(tmp_path):
    folder = copy_of_data(tmp_path)
    (folder / "val.json.zip").write_bytes((FOLDER / "val.json.zip").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"val\.json\.zip: cannot be read .*--download"):
        multiwoz.load(tmp_path)


def test_a_missing_file_is_fetched_and_train_is_optional(tmp_path, monkeypatch, capsys):
    folder, asked = copy_of_data(tmp_path, leave=["val.json.zip"]), []

    def offline(url, sha256, path, description):
        asked.append(path.name)
        if path.name == "val.json.zip":
            shutil.copy(FOLDER / path.name, path)
        elif path.name == multiwoz.TRAIN:
            raise DataError("no such host")
        return path
    monkeypatch.setattr(multiwoz, "fetch", offline)
    multiwoz.download(folder)
    assert asked[0] == "val.json.zip" and asked[-1] == multiwoz.TRAIN and "no such host" in capsys.readouterr().err


def test_train_counts_only_with_the_listed_ids(tmp_path):
    folder = copy_of_data(tmp_path)
    ids = (folder / "trainListFile").read_text().split()
    for names, good in ((ids, True), (ids[:-1], False), ([*ids[:-1], "other"], False)):
        with zipfile.ZipFile(folder / multiwoz.TRAIN, "w") as archive:
            archive.writestr("train.json", json.dumps({n: {} for n in names}))
        if good:
            assert len(multiwoz._train(folder)) == 8434
        else:
            with pytest.raises(DataError, match="trainListFile; remove the file"):
                multiwoz._train(folder)


def test_the_demo_prints_one_dialogue(data, monkeypatch, capsys):
    monkeypatch.setattr(multiwoz, "load", lambda *_: data)
    monkeypatch.setattr("sys.argv", ["multiwoz.py", "--data_dir", str(DATA), "--number", "3"])
    multiwoz.main()
    said = capsys.readouterr().out
    assert "U_t" in said and "B_t" in said and "offerbooked" in said
