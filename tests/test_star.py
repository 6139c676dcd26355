"""Tests of star.py: a hand-made corpus for the parser, the files and the cache; the real one, where GOPO_DATA (or data/) holds it, for the rest.
Nothing is downloaded."""
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora import sop, star
from data import MAX_SKILLS, DataError, Labels, base, slots

DATA = Path(os.environ.get("GOPO_DATA", "data"))
FOLDER = DATA / "star"
LACKING = [f for f in star.ARCHIVES if not (FOLDER / f).exists()]
real = pytest.mark.skipif(bool(LACKING), reason=f"{FOLDER} lacks {', '.join(LACKING)}: set GOPO_DATA; the zip of python star.py --download is not tested here")

BALANCE = {"APIName": "bank_balance", "BankBalance": 42, "BankName": "PNC", "id": 978}
BANK = {"hello": "ask_name", "ask_name": "bank_ask_account_number", "bank_ask_account_number": "bank_ask_pin", "bank_ask_pin": "query",
        "info_missing": "bank_ask_dob", "bank_ask_dob": "bank_ask_mothers_maiden_name", "bank_ask_mothers_maiden_name": "bank_ask_childhood_pets_name",
        "info_missing2": "bank_inform_cannot_authenticate", "query_failure": "bank_inform_cannot_authenticate",
        "query_success": "bank_inform_balance", "bank_inform_balance": "anything_else", "bank_ask_childhood_pets_name": "query"}
REPLIES = {"hello": "Hello, how can I help?", "ask_name": "Could I get your full name, please?", "bank_ask_pin": "Right, and your PIN as well please.",
           "bank_inform_balance": "Your current balance is {balance:d} in credit.", "goodbye_1": "Thank you\nand goodbye."}


def says(text):
    return {"Agent": "User", "Action": "utter", "Text": text}


def picks(label, text, item=None):
    return {"Agent": "Wizard", "Action": "pick_suggestion", "ActionLabel": label, "Text": text} | ({"PrimaryItem": item} if item else {})


def types(text, item=None):
    return {"Agent": "Wizard", "Action": "utter", "Text": text} | ({"PrimaryItem": item} if item else {})


def drafts(item=None):
    return {"Agent": "Wizard", "Action": "request_suggestions", "Text": "the draft"} | ({"PrimaryItem": item} if item else {})


def selects(task):
    return {"Agent": "Wizard", "Action": "select_task", "Task": task}


def asks(api, item, **constraints):
    query = {"Agent": "Wizard", "Action": "query", "APIName": api, "Constraints": [{k: v} for k, v in constraints.items()]}
    return [query, {"Agent": "KnowledgeBase", "Action": "return_item", "APIName": api, "TotalItems": -1 if item else 0} | ({"Item": item} if item else {})]


def raw(*events, tasks=("bank_balance",), id=7, level="Complete"):
    return {"DialogueID": id, "CompletionLevel": level, "Events": list(events),
            "Scenario": {"Happy": True, "MultiTask": len(tasks) > 1, "UserTask": "Ask.", "WizardCapabilities": [{"Task": t, "Domain": t[:4]} for t in tasks]},
            "UserQuestionnaire": [], "WizardQuestionnaire": [{"Question": "Did the user become aggressive or annoyed during the dialogue?", "Answer": True}]}


TALK = raw(says("Hi"), picks("hello", "Hello, how can I help?"), says("My  balance."), says("I am Jo, 123, pin 9"),
           *asks("bank_balance", None, FullName='"Jo"', PIN="8"), *asks("bank_balance", BALANCE, FullName='"Jo"', AccountNumber='api.is_at_least(3)', PIN="9"),
           drafts(BALANCE), picks("bank_inform_balance", "Your current balance is 42 in credit.", BALANCE), says("Nice"), types("It is, Jo!", BALANCE),
           says("Bye"), picks("custom", "Bye Jo", BALANCE), picks("goodbye_1", "Thank you and goodbye.", BALANCE), says("hello?"))


def parse(talk, needs=None):
    return star.dialogue(talk, {"bank_inform_balance": ("balance",)} if needs is None else needs)


# ---------------------------------------------------------------- the parser, by hand

def test_a_dialogue_by_hand():
    got = parse(TALK)
    assert [t.user for t in got.turns] == ["Hi", "My balance. I am Jo, 123, pin 9", "Nice", "Bye"]           # two messages are one U_t; the last has no reply
    assert [t.skills for t in got.turns] == [("hello",), ("bank_inform_balance",), None, None]               # typed, and typed in part: nobody labelled them
    assert [t.reply for t in got.turns] == ["Hello, how can I help?", "Your current balance is {balance} in credit.", "It is, Jo!",     # two letters: too short
                                            "Bye Jo Thank you and goodbye."]
    assert got.turns[0].context == {"_task": "bank_balance"}
    screen = {"balance": "42", "bank_name": "PNC", "id": "978", "full_name": "Jo", "pin": "9"}              # a limit is known, but no value
    assert got.turns[1].context == screen | {"_task": "bank_balance", "_query": "query success", "_known": "account_number full_name pin"}
    assert got.turns[2].context == screen | {"_task": "bank_balance", "_known": "account_number full_name pin"}     # nothing asked in this turn
    assert {t.intent for t in got.turns} == {t.emotion for t in got.turns} == {None}
    assert got.id == "7" and got.goal["annoyed"] is True and got.goal["tasks"] == ["bank_balance"]


def test_slots_by_hand():
    B = {"balance": "5", "price": "5", "city": "Ab", "day": "Monday", "weather": "sunny", "_task": "weather", "simple_instruction_2": "Turn left."}
    assert star.with_slots("On monday: 5 and 5 and 5, 15, in Ab, sunny.", B, ("price", "balance")) == "On {day}: {price} and {balance} and 5, 15, in Ab, sunny."
    assert star.with_slots("It is sunny in Ab, weather", B, ("weather", "city")) == "It is {weather} in {city}, weather"
    assert star.with_slots("Turn left. Ok?", B, ("simple_instruction",)) == "{simple_instruction_2} Ok?"


def test_intent_is_the_task_that_the_wizard_turned_to():
    talk = raw(says("Hi"), picks("hello", "Hello"), says("my balance"), selects("trivia"), selects("bank_balance"), drafts(), picks("ask_name", "Name?"),
               says("Jo"), selects("trivia"), selects("bank_balance"), picks("bank_ask_pin", "PIN?"), says("9"), selects("bank_balance"), types("ok"),
               says("a quiz"), selects("trivia"), types("yes"), tasks=("bank_balance", "trivia"))
    got = parse(talk).turns
    assert [t.context.get("_task") for t in got] == [None, "bank_balance", "bank_balance", "bank_balance", "trivia"]
    assert [t.intent for t in got] == [None, "bank_balance", None, None, "trivia"]       # there and back again is no change, nor is the same again


def test_a_wizard_who_speaks_first_answers_nobody():
    got = parse(raw(picks("hello", "Hello"), picks("ask_name", "Name?"), picks("hello", "Hello"), says("Jo"), picks("bank_ask_pin", "PIN?")))
    assert [(t.user, t.skills, t.reply) for t in got.turns] == [("", ("hello", "ask_name"), "Hello Name? Hello"), ("Jo", ("bank_ask_pin",), "PIN?")]


@pytest.mark.parametrize(("value", "expected"), [
    ('"Jo"', "Jo"), ("93103", "93103"), ("-2.5", "-2.5"), ("True", "True"), ('"9 pm "', "9 pm"), ('api.is_equal_to("Hyatt")', "Hyatt"), ("api.is_equal_to(4)", "4"),
    ('api.is_equal_to(["8 pm"])', "8 pm"), ('api.is_one_of(["a","b"])', None), ('api.is_equal_to(["a","b"])', None), ("api.is_at_least(4)", None),
    ("api.is_equal_to()", None), ('"a" or "b"', None), ('""', None)])
def test_only_exact_values_become_slots(value, expected):
    assert star.asked("weather", [{"City": value}]) == ({} if expected is None else {"city": expected}, ["city"])


def test_what_was_left_open_is_not_known():
    assert star.asked("bank_balance", [{"PIN": "null"}, {"DateOfBirth": None}, {"RequestType": '"Check"'}]) == ({}, [])


@pytest.mark.parametrize(("item", "kind", "expected"), [
    (None, None, "query nothing"), (BALANCE, None, "query success"), ({"APIName": "x", "Message": "You must .. We cannot authenticate the user."}, None, "query failure"),
    ({"APIName": "hotel_book", "Message": "Unavailable"}, "Check", "check failure"), ({"APIName": "hotel_book", "Message": "Available"}, "Check", "check success"),
    ({"APIName": "hotel_book", "Message": "Reservation Failed"}, "Book", "book failure"), ({"APIName": "ride_change", "ChangeStatus": "We are unable to."}, None, "query failure"),
    ({"APIName": "trivia", "Question": "Who failed?"}, None, "query success")])
def test_outcomes(item, kind, expected):
    events = asks("hotel_book", item, **({"RequestType": f'"{kind}"'} if kind else {}))
    assert parse(raw(says("x"), *events, types("y"))).turns[0].context["_query"] == expected


def test_facts_of_a_flat_and_of_a_way():
    flat = star.facts({"APIName": "apartment_search", "HasBalcony": True, "BalconySide": "east", "HasElevator": False, "NearbyPOIs": ["Park", "School"], "Level": 3, "Price": None})
    assert flat == {"has_balcony": "has a east facing balcony", "balcony_side": "east", "has_elevator": "does not have an elevator", "pois": "a Park and a School", "floor": "3"}
    way = star.facts({"APIName": "trip_directions", "WalkingInstructions": ["Go", "Turn"], "DetailedWalkingInstructions": ["Go on"], "TravelMode": "Walking", "id": 3})
    assert way == {"simple_instruction_1": "Go", "simple_instruction_2": "Turn", "detailed_instruction_1": "Go on", "travel_mode": "Walking", "id": "3"}


# ---------------------------------------------------------------- nothing of this reply or a later one

EVENTS = st.one_of(st.builds(says, st.sampled_from(["Hi", "Jo", "42"])), st.builds(picks, st.sampled_from(["hello", "custom"]), st.sampled_from(["Hi", "42"]), st.just(BALANCE)),
                   st.builds(types, st.just("ok")), st.just(drafts(BALANCE)), st.just(drafts()), st.builds(selects, st.sampled_from(["trivia", "bank_balance"])),
                   st.sampled_from(asks("bank_balance", BALANCE, PIN="9") + asks("trivia", None, QuestionNum="2")))


@given(st.lists(EVENTS, max_size=14), st.lists(EVENTS, max_size=6), st.sampled_from([("bank_balance",), ("bank_balance", "trivia")]))
def test_a_prefix_has_the_same_states(events, others, tasks):
    """Cut after the first message of each reply, with another reply and other events behind it: U_t, u_t and B_t stay."""
    whole = parse(raw(*events, tasks=tasks)).turns
    spoken = [i for i, e in enumerate(events) if e["Agent"] == "Wizard" and e["Action"] in ("utter", "pick_suggestion")]
    heard = [i for i, e in enumerate(events) if e["Agent"] == "User"]
    first = [i for i in spoken if not [j for j in spoken if j < i] or any(max(j for j in spoken if j < i) < u < i for u in heard)]
    assert len(first) == len(whole)
    for i, turn in zip(first, whole):
        got = parse(raw(*events[:i], types("something else", {"APIName": "trivia", "Question": "?", "Answer": "!"}), says("so"), *others, tasks=tasks)).turns
        same = next(t for t in got[len([j for j in first if j < i]):])
        assert (same.user, same.intent, same.context) == (turn.user, turn.intent, turn.context)


# ---------------------------------------------------------------- the SOP, by hand

@pytest.mark.parametrize(("last", "event", "expected"), [
    (None, "", ("hello",)), ("hello", "", ("ask_name",)), ("ask_name", "", ("bank_ask_account_number",)), ("bank_ask_account_number", "", ("bank_ask_pin",)),
    ("bank_ask_pin", "", ("bank_inform_balance", "bank_inform_cannot_authenticate")),                # the query decides
    ("bank_ask_pin", "query success", ("bank_inform_balance",)), ("bank_ask_pin", "query failure", ("bank_inform_cannot_authenticate",)),
    ("bank_ask_pin", "info_missing", ("bank_ask_dob",)), ("bank_ask_dob", "", ("bank_ask_mothers_maiden_name",)),
    ("bank_ask_childhood_pets_name", "query success", ("bank_inform_balance",)), ("bank_ask_mothers_maiden_name", "info_missing2", ("bank_inform_cannot_authenticate",)),
    ("bank_inform_balance", "", ("anything_else",)), ("anything_else", "", ()), ("something unknown", "", ())])
def test_the_graph_of_bank_balance(last, event, expected):
    assert sop.sop_next(BANK, last, event) == expected


def test_the_graph_of_a_booking():
    graph = {"hello": "ask", "ask": "query_check", "available": "offer", "unavailable": "sorry", "yes": "query_book", "no": "ask", "query_success": "booked", "query_failure": "failed"}
    assert sop.sop_next(graph, "ask") == ("offer", "sorry") and sop.sop_next(graph, "ask", "check failure") == ("sorry",)
    assert sop.sop_next(graph, "offer") == ("ask", "booked", "failed") and sop.sop_next(graph, "offer", "no") == ("ask",)
    assert sop.sop_next(graph | {"booked": "anything_else"}, "anything_else") == ()                 # another wish begins anew
    assert sop.sop_next(graph, "offer", "book success") == ("booked",) and sop.sop_next(graph, "offer", "yes") == ("booked", "failed")


def test_the_sop_as_a_policy():
    """It goes by the logged labels, B_t and the customer's words; never by the teacher of this turn."""
    labels = ["hello", "ask_name", "bank_ask_account_number", "bank_ask_pin", "bank_inform_balance", "bank_ask_dob", "anything_else", "goodbye_1"]
    dataset = SimpleNamespace(sops={"bank_balance": BANK}, skills=dict.fromkeys(labels))

    def act(user, past, **B):
        steps = [SimpleNamespace(teacher=t) for t in past]
        env = SimpleNamespace(context={"_task": "bank_balance"} | B, labels=Labels(teacher=("bank_ask_dob",)))
        return sop.by_sop(dataset)([SimpleNamespace(user=user)], [SimpleNamespace(steps=steps, seen=env)])
    assert act("Hello!", []) == [("hello",)] and act("I want my balance please", []) == [("ask_name",)]
    assert act("my balance", [("hello",)]) == [("ask_name",)] and act("Jo", [("ask_name",), None]) == [("bank_ask_account_number",)]
    assert act("123", [("ask_name",), ("bank_ask_account_number",)]) == [("bank_ask_pin",)]
    assert act("I forgot it", [("ask_name",), ("bank_ask_account_number",)]) == [("bank_ask_dob",)]
    assert act("9", [("bank_ask_pin",)], _query="query success") == [("bank_inform_balance",)]
    assert act("lovely", [("bank_inform_balance",)]) == [("anything_else",)]
    assert act("no thanks", [("bank_inform_balance",), ("anything_else",)]) == [("goodbye_1",)]


def test_claims_before_the_query_and_on_the_other_branch():
    banned = sop.prohibitions({"bank_balance": BANK})
    claim = ("your current balance is",)
    assert banned == dict.fromkeys(["bank_ask_account_number", "bank_ask_pin", "bank_ask_dob", "bank_ask_mothers_maiden_name", "bank_ask_childhood_pets_name",
                                    "bank_inform_cannot_authenticate"], claim)           # not its own action, nor ask_name, which serves other tasks too


@pytest.mark.parametrize(("label", "task"), [
    ("hello", None), ("out_of_scope", None), ("ask_name", 1), ("hotel_inform_search_criteria", 1), ("trivia_ask_question_number", 1), ("plane_inform_nothing_found", 1),
    ("meeting_inform_unavailable_ask_different_time", 1), ("party_venue_not_available", 1), ("doctor_inform_booking_unavailable", 1), ("trivia_ask_question", 2),
    ("weather_inform_forecast", 2), ("trip_inform_simple_step_ask_proceed", 2), ("hotel_provide_search_result", 2), ("ride_inform_changes_failed", 2),
    ("doctor_inform_booking_available", 3), ("ride_ask_confirm_booking", 3), ("hotel_ask_search_more", 3), ("party_confirm_rsvp", 3), ("anything_else", 3),
    ("ride_bye", 3), ("meeting_inform_confirmed", 3), ("hotel_reservation_succeeded", 3)])
def test_tasks_of_eq_11(label, task):
    assert star.task_of(label) == task


def test_a_new_label_is_named():
    with pytest.raises(DataError, match="'bank_sing'; add one"):
        star.task_of("bank_sing")


# ---------------------------------------------------------------- files: a corpus of three dialogues

def made(dialogues=None, replies=REPLIES):
    talks = dialogues if dialogues is not None else [raw(*TALK["Events"], id=i) for i in (10, 9, 2)]
    talks = [*talks, raw(says("x"), types("y"), id=50, level="EarlyDisconnectDuringDialogue"), raw({"Agent": "User", "Action": "complete"}, id=51)]
    files = {f"dialogues/{t['DialogueID']}.json": json.dumps(t) for t in talks}
    files |= {"tasks/bank_balance/responses.json": json.dumps(replies), "tasks/bank_balance/bank_balance.json": json.dumps({"graph": BANK, "replies": {"query": "Query"}})}
    return {name: text.encode() for name, text in files.items()}


def pack(folder, files, monkeypatch):
    """The two archives in `folder`, with their checksums in star.ARCHIVES."""
    folder.mkdir(parents=True, exist_ok=True)
    sums = {}
    for name, part in (("star_dialogues.tar.xz", "dialogues/"), ("star_tasks_apis.tar.xz", "tasks/")):
        with tarfile.open(folder / name, "w:xz") as archive:
            for path, content in files.items():
                if path.startswith(part):
                    info = tarfile.TarInfo(path)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        sums[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(star, "ARCHIVES", sums)


def zipped(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in ({"README.md": b"x", "tasks/bank_balance/bank_balance.jpg": b"jpg"} | files).items():
            archive.writestr(f"STAR-{star.COMMIT}/{name}", content)


def trees(files, monkeypatch):
    inside = lambda part: {n.partition("/")[2]: c for n, c in files.items() if n.startswith(part + "/")}
    monkeypatch.setattr(star, "TREES", {part: star.git_tree(inside(part)) for part in ("dialogues", "tasks")})


@pytest.fixture
def mini(tmp_path, monkeypatch):
    monkeypatch.setenv("GOPO_CACHE", str(tmp_path / "user"))
    monkeypatch.setattr(star, "fetch", lambda url, sha256, path, description: path if path.exists() else pytest.fail(f"tried to fetch {path}"))
    pack(tmp_path / "star", made(), monkeypatch)
    return tmp_path


def unread(*_):
    pytest.fail("read the archives again")


def test_load_by_hand_and_from_the_cache(mini, monkeypatch):
    data = star.load(mini)
    got = sorted(data.train + data.dev + data.test, key=lambda d: int(d.id))
    assert [d.id for d in got] == ["2", "9", "10"]                   # the broken-off one and the one without a word are no dialogues
    assert list(data.skills) == ["bank_inform_balance", "hello"] and data.sops == {"bank_balance": BANK}     # "custom" is no skill
    skill = data.skills["bank_inform_balance"]
    assert skill.needs == ("balance",) and skill.task == 2 and skill.examples == ("Your current balance is {balance} in credit.",)
    assert got[0].turns[1] == parse(TALK).turns[1] and "no labels" in data.note.lower()
    assert (mini / "star" / star.CACHE).exists() and not (mini / "user").exists() and not list((mini / "star").glob("*.part"))
    monkeypatch.setattr(star, "contents", unread)
    assert star.load(mini) == data


@pytest.mark.parametrize("damage", [lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b"not gzip", lambda b: b[:-20] + b"\0" * 12 + b[-8:]])
def test_a_damaged_cache_is_made_again(mini, damage):
    whole, cache = star.load(mini), mini / "star" / star.CACHE
    good = cache.read_bytes()
    cache.write_bytes(damage(good))
    assert star.load(mini) == whole
    assert star.read_cache(cache, json.loads(gzip.decompress(good))["key"]) is not None


def test_the_cache_knows_its_files(mini, monkeypatch):
    star.load(mini)
    pack(mini / "star", made([raw(says("Hi"), picks("hello", "Hello"), id=i) for i in (1, 2, 3)]), monkeypatch)
    assert {t.user for d in star.load(mini).train for t in d.turns} == {"Hi"}


def test_a_read_only_folder_is_left_alone(mini, monkeypatch):
    (mini / "star").chmod(0o555)
    whole = star.load(mini)
    assert sorted(p.name for p in (mini / "star").iterdir()) == sorted(star.ARCHIVES) and (mini / "user" / star.CACHE).exists()
    monkeypatch.setattr(star, "contents", unread)
    assert star.load(mini) == whole
    (mini / "star").chmod(0o755)


def test_no_place_for_a_cache_is_no_error(mini, monkeypatch):
    (mini / "star").chmod(0o555)
    (mini / "file").write_text("")
    monkeypatch.setenv("GOPO_CACHE", str(mini / "file"))
    assert len(star.load(mini).train) == 1
    (mini / "star").chmod(0o755)


def test_a_damaged_archive_is_named(mini, monkeypatch):
    path = mini / "star" / "star_dialogues.tar.xz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"star_dialogues\.tar\.xz: damaged.*remove it and run python star\.py --download"):
        star.load(mini)
    monkeypatch.setitem(star.ARCHIVES, path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(DataError, match=r"star_dialogues\.tar\.xz: cannot be read .*--download"):
        star.load(mini)


def test_a_zip_counts_by_its_content(mini, monkeypatch):
    for name in star.ARCHIVES:
        (mini / "star" / name).unlink()
    path, files = mini / "star" / star.ZIP, made()
    trees(files, monkeypatch)
    zipped(path, files)
    assert len(star.load(mini).sops) == 1                            # the drawing is not asked for
    for wrong in (files | {"dialogues/9.json": b"{}"}, {k: v for k, v in files.items() if k != "dialogues/9.json"}, files | {"tasks/bank_balance/responses.json": b"{}"}):
        zipped(path, wrong)
        with pytest.raises(DataError, match=r"is not that of commit 305897509.*remove it and run python star\.py --download"):
            star.load(mini)
        assert path.exists()                                         # put there by hand
    path.write_bytes(b"PK but no more")
    with pytest.raises(DataError, match=r"STAR-.*\.zip: cannot be read"):
        star.load(mini)


def test_a_download_is_checked_and_a_wrong_one_removed(tmp_path, monkeypatch):
    files, wrong = made(), made([raw(says("x"), types("y"), id=i) for i in (1, 2, 3)])
    trees(files, monkeypatch)
    monkeypatch.setattr(star, "ARCHIVES", {"no.tar.xz": ""})
    came = []
    monkeypatch.setattr(star, "fetch", lambda url, sha256, path, description: zipped(path, came[-1]))
    came.append(wrong)
    with pytest.raises(DataError, match="its dialogues/ is not that of commit"):
        star.load(tmp_path)
    assert not (tmp_path / "star" / star.ZIP).exists()
    came.append(files)
    assert len(star.load(tmp_path).train) == 1


def test_no_network_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(star, "URL", "http://127.0.0.1:9/star.zip")
    with pytest.raises(DataError, match=r"STAR-.*\.zip: cannot fetch STAR from http://127\.0\.0\.1:9/star\.zip .*GOPO_DATA or --data_dir"):
        star.load(tmp_path)


def test_an_unknown_split_is_refused(mini):
    with pytest.raises(DataError, match="by dialogue or by task"):
        star.load(mini, "domain")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the oracle")
def test_the_tree_hash_is_that_of_git(tmp_path):
    files = {"b.json": b"{}", "a/x.json": b"1\0\n", "a/deep/y": b"", "a.json": b"a", "a0": b"z", "10.json": b"", "1.json": "é".encode()}       # git sorts a/ after a.json, before a0
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    git = lambda *words: subprocess.run(["git", "-c", "core.autocrlf=false", "-C", tmp_path, *words], check=True, capture_output=True, text=True).stdout.strip()
    git("init", "-q")
    git("add", "-A")
    assert star.git_tree(files) == git("write-tree")


# ---------------------------------------------------------------- the real corpus

@pytest.fixture(scope="module")
def data():
    return star.load(DATA)


@pytest.fixture(scope="module")
def files():
    return dict(star.contents([FOLDER / name for name in star.ARCHIVES]))


def turns(data):
    return [t for d in data.train + data.dev + data.test for t in d.turns]


@real
def test_counts(data, files):
    levels = [json.loads(c)["CompletionLevel"] for n, c in files.items() if n.startswith("dialogues/")]
    assert len(levels) == 6652 and levels.count("Complete") == 5820
    parts = [data.train, data.dev, data.test]
    assert sum(map(len, parts)) == 5818 and [len(p) for p in parts] == [4636, 612, 570]              # 3096 and 3109 hold no word
    assert len(turns(data)) == 53032 and sum(t.skills is None for t in turns(data)) == 7759 and len(data.skills) == 164
    assert len(data.sops) == 24 and len(data.intents) == 22 and data.emotions == () and data.horizon == 19


@real
def test_the_archives_hold_the_commit(files):
    star.verify(files, FOLDER)


@real
def test_no_dialogue_is_in_two_splits(data):
    ids = [{d.id for d in part} for part in (data.train, data.dev, data.test)]
    assert all(not a & b for a, b in [(ids[0], ids[1]), (ids[0], ids[2]), (ids[1], ids[2])])


@real
def test_zero_shot_means_never_seen(data):
    other = star.load(DATA, "task")
    parts = (other.train, other.dev, other.test)
    tasks = [{t for d in p for t in d.goal["tasks"]} | {t.context["_task"] for d in p for t in d.turns if "_task" in t.context} for p in parts]
    used = [{s for d in p for t in d.turns for s in t.skills or ()} for p in parts]
    assert tasks[0] and all(not a & b for a, b in [(tasks[0], tasks[1]), (tasks[0], tasks[2]), (tasks[1], tasks[2])])
    assert tasks[2] == {"plane_book", "plane_search", "apartment_schedule", "apartment_search"}
    assert not any(s.startswith(("plane_", "apartment_")) for s in used[0] | used[1]) and len(used[2] - used[0]) > 30
    assert min(map(len, parts)) >= 600 and f"{5818 - sum(map(len, parts))} dialogues" in other.note
    assert all(other.skills[s].examples for s in used[2] - {"goodbye_2"})                            # zero-shot, but the SOP's wording is given


@real
def test_every_turn_keeps_the_schema(data):
    for turn in turns(data):
        assert turn.user and turn.reply and turn.emotion is None
        assert turn.skills is None or (len(turn.skills) == 1 <= MAX_SKILLS and turn.skills[0] in data.skills)
        assert set(slots(turn.reply)) <= set(turn.context) and all(isinstance(v, str) and v for v in turn.context.values())
    assert all(s.task in (None, 1, 2, 3) and 0 < len(s.examples) <= 8 and not s.must_say for s in data.skills.values())


@real
def test_the_screen_is_what_the_file_says_it_was(files):
    """STAR notes the item in view with every reply: our B_t, built from earlier events alone, has it."""
    right = total = 0
    for name in [n for n in files if n.startswith("dialogues/")][::9]:
        talk = json.loads(files[name])
        replies = [e for e in talk["Events"] if e["Agent"] == "Wizard" and e["Action"] in ("utter", "pick_suggestion")]
        for turn, event in zip(star.dialogue(talk, {}).turns, replies):
            wanted = star.facts(event.get("PrimaryItem") or {"APIName": ""})
            right, total = right + (wanted.items() <= turn.context.items()), total + 1
    assert total > 5000 and right / total > .995


@real
def test_nothing_leaks_from_this_reply_or_a_later_one(files):
    names = [n for n in files if n.startswith("dialogues/")][:120]
    for name, other in pairwise(names):
        talk, strange = json.loads(files[name]), json.loads(files[other])["Events"]
        whole = star.dialogue(talk, {}).turns
        spoken = [i for i, e in enumerate(talk["Events"]) if e["Agent"] == "Wizard" and e["Action"] in ("utter", "pick_suggestion")]
        for t, i in enumerate(spoken[:len(whole)]):
            got = star.dialogue(talk | {"Events": talk["Events"][:i] + [types("42", BALANCE)] + [says("x")] + strange}, {}).turns[t]
            assert (got.context, got.intent, got.user) == (whole[t].context, whole[t].intent, whole[t].user)


@real
def test_replies_state_what_their_template_needs(data):
    """What the knowledge base returned stands in the reply as a slot; the people's own rounding and wording apart."""
    found = total = 0
    for t in turns(data):
        available = {base(k) for k in t.context}
        for need in (n for s in t.skills or () for n in data.skills[s].needs if n in available):
            found, total = found + (need in {base(k) for k in slots(t.reply)}), total + 1
    assert total > 15000 and found / total > .97


@real
def test_people_kept_the_prohibitions(data):
    own = dict.fromkeys(sop.CLAIMS.values(), 0)
    for t in turns(data):
        for s in t.skills or ():
            assert not [p for p in data.skills[s].must_not_say if p in t.reply.lower()], t
            if s in sop.CLAIMS:
                own[sop.CLAIMS[s]] += sop.CLAIMS[s] in t.reply.lower()
    assert min(own.values()) > 20                                    # and each claim is one that its own action makes
    assert sum(bool(s.must_not_say) for s in data.skills.values()) > 50


@real
def test_the_sop_beats_the_most_frequent_action_on_every_task(data):
    right, often, total = {}, {}, {}
    for d in data.test:
        done = []
        for t in d.turns:
            task = t.context.get("_task")
            if t.skills:
                total[task] = total.get(task, 0) + 1
                right[task] = right.get(task, 0) + (sop.sop_action(data, t.user, t.context, done) == t.skills[0])
                often[task] = often.get(task, 0) + (t.skills[0] == "anything_else")
                done += t.skills
    assert sum(right.values()) / sum(total.values()) > .6 and sum(often.values()) / sum(total.values()) < .1
    assert all(right[k] > often[k] for k in total if total[k] > 50 and k)


@real
def test_the_sop_ends_on_any_history(data):
    for task, graph in data.sops.items():
        everything = [n for n in {*graph, *graph.values()} - sop.BRANCHES if n in data.skills]
        for last in everything:
            for user in ("yes", "no", "I forgot", "bye", ""):
                assert sop.sop_action(data, user, {"_task": task}, [*everything, last]) in data.skills
                assert sop.sop_action(data, user, {"_task": task, "_query": "book failure"}, [last]) in data.skills


@real
def test_the_demo_prints_a_dialogue_and_an_sop(data, monkeypatch, capsys):
    monkeypatch.setattr(star, "load", lambda *_: data)
    monkeypatch.setattr("sys.argv", ["star.py", "--data_dir", str(DATA), "--task", "weather"])
    star.main()
    said = capsys.readouterr().out
    assert "U_t" in said and "SOP of weather" in said and "weather_ask_location             -> query" in said and "anything_else" in said
    monkeypatch.setattr("sys.argv", ["star.py", "--task", "whether"])
    with pytest.raises(DataError, match="--task whether: STAR has apartment_schedule"):
        star.main()
